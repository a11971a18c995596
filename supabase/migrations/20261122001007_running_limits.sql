-- An operator who changes agent_types.limits changes what holds for the runs that are running, too: their next step is judged by
-- it. Runs that a record holds at this moment are tried again for a fifth of a second, and then left to the sweep, which
-- calls this too: so an operator never waits long, and never deadlocks with whoever erases a user.

-- Running runs of these types whose stored limits are not what the rule says. A claim that was under way when the operator
-- committed leaves some.
create function runhold.runs_with_old_limits(p_agent_types text[]) returns setof uuid
language sql stable security definer set search_path = ''
begin atomic
  select r.id
  from public.agent_executions r
  join public.agent_types t on t.name = r.agent_type
  join public.agent_definitions d on d.id = r.definition_id
  where r.status = 'running' and r.agent_type = any (p_agent_types)
    and r.effective_limits is distinct from runhold.effective_limits(d.limits, t.limits, r.allowance, r.limits);
end;

create function runhold.refresh_limits(p_agent_types text[]) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  update public.agent_executions x
  set effective_limits = runhold.effective_limits(d.limits, t.limits, x.allowance, x.limits)
  from public.agent_types t, public.agent_definitions d
  where x.id in (select r.id from public.agent_executions r
                 where r.id in (select o from runhold.runs_with_old_limits(p_agent_types) o)
                 order by r.id for no key update skip locked)
    and x.status = 'running' and t.name = x.agent_type and d.id = x.definition_id;
  get diagnostics v_count = row_count;
  return v_count;
end;
$$;

create function runhold.after_limits_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  for i in 1 .. 10 loop
    perform runhold.refresh_limits(array[new.name]);
    exit when not exists (select from runhold.runs_with_old_limits(array[new.name]));
    perform pg_sleep(0.02);
  end loop;
  return null;
end;
$$;

create trigger after_limits_change after update of limits on public.agent_types
  for each row when (old.limits is distinct from new.limits) execute function runhold.after_limits_change();

revoke execute on all functions in schema runhold from public;
