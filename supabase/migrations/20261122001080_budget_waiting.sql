-- Waiting for a budget: who is woken when an operator widens one or takes it away.

-- Wakes runs that wait for the end of a period though what they asked for is free by now, or though their type does not wait any
-- more (they fail then). Their wake_at is the edge; this is the level, for what an operator changes. What others hold is left
-- to the sweep, which calls this too.
create function runhold.wake_waiting() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  update public.agent_executions x set wake_at = runhold.now() + random() * interval '5 seconds'
  where x.id in (
    select w.id from public.agent_executions w
    where w.status = 'pending' and w.wake_at is not null and w.error_detail ->> 'waiting_for' = 'budget'
      and w.wake_at > runhold.now() + interval '15 seconds'
      and (exists (select from public.agent_types t where t.name = w.agent_type and t.on_budget = 'fail') or not exists (
        select from public.agent_budgets b
        left join public.agent_usage g
          on g.scope = b.scope and g.scope_key = b.scope_key and g.period = b.period
          and g.period_start = date_trunc(b.period, runhold.now() at time zone 'UTC')::date
        where b.scope = w.error_detail ->> 'scope' and b.period = w.error_detail ->> 'period'
          and b.scope_key = case b.scope when 'user' then w.user_id::text when 'type' then w.agent_type
                                         when 'tenant' then w.tenant_id else '' end
          and case w.error_detail ->> 'unit' when 'usd' then b.max_usd - coalesce(g.usd, 0) else b.max_tokens - coalesce(g.tokens, 0) end
              < coalesce((w.error_detail ->> 'asked')::numeric, 1)))
    order by w.id for no key update skip locked);
  get diagnostics v_count = row_count;
  return v_count;
end;
$$;

create function runhold.after_budgets_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if runhold.wake_waiting() > 0 then
    perform runhold.wake_workers();
  end if;
  return null;
end;
$$;

create trigger after_budgets_change after insert or update or delete on public.agent_budgets
  for each statement execute function runhold.after_budgets_change();

revoke execute on all functions in schema runhold from public;
