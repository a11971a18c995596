-- Settling with budgets: what is charged when a step is recorded, a run leaves its worker, or a person is erased.

-- Is what this entry's run holds given back by it? A step settles; so does the run's end, and whoever reserves anew.
create function runhold.is_settling(p_entry runhold.judged_entry) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  return case p_entry.verdict
    when 'ok' then p_entry.body ? 'reserve' or p_entry.body -> 'transition' ->> 'to' is not null
                   or runhold.has_steps(p_entry) or runhold.is_charged(p_entry)
    when 'stop' then runhold.has_steps(p_entry) or runhold.is_charged(p_entry)
    when 'continue' then runhold.has_steps(p_entry) or runhold.is_charged(p_entry)
    else false end;
end;
$$;

create function runhold.has_steps(p_entry runhold.judged_entry) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  return jsonb_array_length(coalesce(p_entry.body -> 'steps', '[]')) > 0;
end;
$$;

-- Was the call that was reserved for begun, and never answered?
create function runhold.is_charged(p_entry runhold.judged_entry) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
  return p_entry.reserved_in is not null and coalesce((p_entry.body ->> 'charge')::boolean, false)
    and not runhold.has_steps(p_entry);
end;
$$;

-- Spending that no step tells of.
create function runhold.note_charge(p_execution_id uuid, p_tokens bigint, p_usd numeric) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.write_event(x.id, x.user_id, x.tenant_id, 'budget_charged', jsonb_build_object('tokens', p_tokens, 'usd', p_usd))
  from public.agent_executions x where x.id = p_execution_id;
end;
$$;

-- What the entries of a record do to budgets. Their runs are locked; what each holds from now on is in the entries, for the
-- update of the runs that follows. "late" entries change nothing: their runs were charged when they left.
create function runhold.settle(p_entries runhold.judged_entry[]) returns runhold.judged_entry[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_lines runhold.budget_line[];
begin
  if not exists (select from public.agent_budgets)
     and not exists (select from unnest(p_entries) e where e.reserved_in is not null or e.body ? 'reserve') then
    return p_entries;
  end if;
  perform runhold.check_reserves(p_entries);
  v_lines := runhold.open_lines(array(
    select e.execution_id from unnest(p_entries) e where e.verdict in ('ok', 'stop', 'continue', 'duplicate')));

  perform runhold.book(array(
    -- what steps did cost: to the period in which they were reserved, as the next one may have been given away by now
    select (coalesce(h.id, l.usage_id), s.tokens, s.usd, 0, 0)::runhold.usage_change
    from unnest(p_entries) e
    join unnest(v_lines) l on l.execution_id = e.execution_id
    left join public.agent_usage h
      on h.id = any (e.reserved_in) and (h.scope, h.scope_key, h.period) = (l.scope, l.scope_key, l.period)
    cross join lateral (
      select coalesce(sum((s ->> 'input_tokens')::bigint + (s ->> 'output_tokens')::bigint), 0) as tokens,
             coalesce(sum((s ->> 'cost_usd')::numeric), 0) as usd
      from jsonb_array_elements(e.body -> 'steps') s) s
    where runhold.is_settling(e)
    union all
    select (h.id, case when c.it then e.reserved_tokens else 0 end, case when c.it then e.reserved_usd else 0 end,
            -e.reserved_tokens, -e.reserved_usd)::runhold.usage_change
    from unnest(p_entries) e
    cross join unnest(e.reserved_in) h(id)
    cross join lateral (select runhold.is_charged(e) as it) c
    where runhold.is_settling(e)
    union all
    -- nothing to add, but locked for what is reserved below
    select (l.usage_id, 0, 0, 0, 0)::runhold.usage_change
    from unnest(p_entries) e join unnest(v_lines) l on l.execution_id = e.execution_id where runhold.is_settling(e)));
  perform runhold.note_charge(e.execution_id, e.reserved_tokens, e.reserved_usd)
  from unnest(p_entries) e where runhold.is_settling(e) and runhold.is_charged(e);

  for i in 1 .. cardinality(p_entries) loop
    p_entries[i].budgeted := exists (select from unnest(v_lines) l where l.execution_id = p_entries[i].execution_id);
    if runhold.is_settling(p_entries[i]) then
      p_entries[i].reserved_in := null;
      p_entries[i].reserved_tokens := 0;
      p_entries[i].reserved_usd := 0;
    end if;
    if p_entries[i].body ? 'reserve' and p_entries[i].verdict = 'ok' and p_entries[i].body -> 'transition' ->> 'to' is null then
      p_entries[i] := runhold.reserve(p_entries[i], v_lines);
    elsif p_entries[i].body ? 'reserve' and p_entries[i].verdict = 'duplicate' then
      p_entries[i].reserved := runhold.reserved_before(p_entries[i]);
    end if;
  end loop;
  return p_entries;
end;
$$;

-- Runs that leave their worker without a word: their model may have been at work. Before they leave; the caller holds them.
create function runhold.charge_as_estimated(p_execution_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if not exists (select from public.agent_executions x where x.id = any (p_execution_ids) and x.reserved_in is not null) then
    return;
  end if;
  perform runhold.book(array(
    select (h.id, x.reserved_tokens, x.reserved_usd, -x.reserved_tokens, -x.reserved_usd)::runhold.usage_change
    from public.agent_executions x cross join unnest(x.reserved_in) h(id) where x.id = any (p_execution_ids)));
  perform runhold.note_charge(x.id, x.reserved_tokens, x.reserved_usd)
  from public.agent_executions x where x.id = any (p_execution_ids) and x.reserved_in is not null;
  update public.agent_executions x set reserved_in = null, reserved_tokens = 0, reserved_usd = 0
  where x.id = any (p_execution_ids) and x.reserved_in is not null;
end;
$$;

-- Deleting runs that hold something, which only happens with their users. What they hold is noted row by row and booked at once when
-- all of them are gone, so that no run is waited for any more: statement triggers come after all that the deletion cascades to.
create function runhold.before_reserved_run_delete() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform set_config('runhold.erased', (
    coalesce(nullif(current_setting('runhold.erased', true), ''), '[]')::jsonb
    || jsonb_build_object('ids', old.reserved_in, 'tokens', old.reserved_tokens, 'usd', old.reserved_usd))::text, true);
  return old;
end;
$$;

create trigger before_reserved_run_delete before delete on public.agent_executions
  for each row when (old.reserved_in is not null) execute function runhold.before_reserved_run_delete();

create function runhold.charge_erased() returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_erased jsonb := nullif(current_setting('runhold.erased', true), '');
begin
  if v_erased is null then
    return;
  end if;
  perform set_config('runhold.erased', '', true);
  perform runhold.book(array(
    select (h.id::bigint, e.tokens, e.usd, -e.tokens, -e.usd)::runhold.usage_change
    from jsonb_to_recordset(v_erased) e(ids jsonb, tokens bigint, usd numeric) cross join jsonb_array_elements_text(e.ids) h(id)));
end;
$$;

create function runhold.after_execution_delete() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform runhold.charge_erased();
  return null;
end;
$$;

create trigger after_execution_delete after delete on public.agent_executions
  for each statement execute function runhold.after_execution_delete();

revoke execute on all functions in schema runhold from public;
