-- Budgets: what a run may spend is reserved before each call of its model, and settled when the step is recorded. So a budget
-- is never passed by more than the estimate of one call's input was wrong, however many runs spend from it at once.
--
--   free = cap − used − reserved, of every budget that counts for the run and of each of its caps
--   reserve   the record before a model call sets the most that it may cost aside, in all these budgets or in none
--   settle    the record of the step charges what it did cost where it was reserved, and gives the rest back
--   leave     a run that its worker can't finish is charged as estimated: the provider may have served the call
--
-- Locks: rows of agent_usage are the last that a transaction takes, all at once and in order of their ids (book). Nobody
-- who holds one waits for a run. A claim touches none. Where no budget exists, a record looks once and is done.

-- One budget as it counts for one run now, with the row that counts its use.
create type runhold.budget_line as (
  execution_id uuid,
  scope text,
  scope_key text,
  period text,
  period_start date,
  period_end timestamptz,
  max_tokens bigint,
  max_usd numeric,
  usage_id bigint
);

create type runhold.usage_change as (
  usage_id bigint,
  tokens bigint,
  usd numeric,
  reserved_tokens bigint,
  reserved_usd numeric
);

create function runhold.is_budgeted(p_execution public.agent_executions) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (
    select from public.agent_budgets b
    where (b.scope, b.scope_key) in (
      ('all', ''), ('type', p_execution.agent_type), ('user', p_execution.user_id::text), ('tenant', p_execution.tenant_id)));
end;
$$;

create function runhold.budget_lines(p_execution_ids uuid[]) returns runhold.budget_line[]
language plpgsql stable security definer set search_path = ''
as $$
begin
  return array(
    select (x.id, b.scope, b.scope_key, b.period, p.start::date, (p.start + ('1 ' || b.period)::interval) at time zone 'UTC',
            b.max_tokens, b.max_usd, g.id)::runhold.budget_line
    from public.agent_executions x
    cross join lateral (values ('all', ''), ('type', x.agent_type), ('user', x.user_id::text), ('tenant', x.tenant_id)) k(scope, key)
    join public.agent_budgets b on b.scope = k.scope and b.scope_key = k.key
    cross join lateral (select date_trunc(b.period, runhold.now() at time zone 'UTC') as start) p
    left join public.agent_usage g
      on g.scope = b.scope and g.scope_key = b.scope_key and g.period = b.period and g.period_start = p.start::date
    where x.id = any (p_execution_ids));
end;
$$;

-- The same, with the rows of a period that has just begun. In order of their keys: two who insert the same ones wait for
-- each other in one direction only.
create function runhold.open_lines(p_execution_ids uuid[]) returns runhold.budget_line[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_lines runhold.budget_line[] := runhold.budget_lines(p_execution_ids);
begin
  if exists (select from unnest(v_lines) l where l.usage_id is null) then
    insert into public.agent_usage (scope, scope_key, period, period_start)
    select distinct l.scope, l.scope_key, l.period, l.period_start from unnest(v_lines) l where l.usage_id is null
    order by 1, 2, 3, 4
    on conflict do nothing;
    v_lines := runhold.budget_lines(p_execution_ids);
  end if;
  return v_lines;
end;
$$;

-- Locks all these rows, in order, and changes them. A statement each: the second one must see what the first waited for.
create function runhold.book(p_changes runhold.usage_change[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform from public.agent_usage g
  where g.id = any (array(select distinct c.usage_id from unnest(p_changes) c))
  order by g.id for no key update;

  update public.agent_usage g
  set tokens = g.tokens + c.tokens, usd = g.usd + c.usd,
      reserved_tokens = g.reserved_tokens + c.reserved_tokens, reserved_usd = g.reserved_usd + c.reserved_usd
  from (select m.usage_id, sum(m.tokens) as tokens, sum(m.usd) as usd,
               sum(m.reserved_tokens) as reserved_tokens, sum(m.reserved_usd) as reserved_usd
        from unnest(p_changes) m group by m.usage_id) c
  where g.id = c.usage_id and (c.tokens, c.usd, c.reserved_tokens, c.reserved_usd) <> (0, 0, 0, 0);
end;
$$;

-- Reserving ---------------------------------------------------------------------------------------------------------

-- The answer to an entry that asks for a reservation, in the light of its budgets, whose use its caller has locked.
--
-- A cap grants all that is asked, or, to a run that is alone with it, what is left. A cap that others hold is waited for;
-- one that is used up ends the run, or lets it wait for the next period, as its type says.
create function runhold.judge_reserve(p_entry runhold.judged_entry, p_lines runhold.budget_line[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ask jsonb := p_entry.body -> 'reserve';
  v_worst record;
  v_run public.agent_executions;
  v_then text;
begin
  select j.*, min(j.granted) filter (where j.unit = 'tokens') over () as tokens, min(j.granted) filter (where j.unit = 'usd') over () as usd
  into v_worst
  from (
    select l.scope, l.period, l.period_end, c.unit, c.cap, c.used, c.least, o.granted,
           case when c.least is null then 'no_price'
                when o.granted is not null then null
                when c.cap - c.used >= c.least then 'reserved_by_others'
                else 'exceeded' end as reason
    from unnest(p_lines) l
    join public.agent_usage g on g.id = l.usage_id
    cross join lateral (values
      ('tokens', l.max_tokens::numeric, g.tokens::numeric, g.reserved_tokens::numeric,
       (v_ask ->> 'min_tokens')::numeric, (v_ask ->> 'max_tokens')::numeric),
      ('usd', l.max_usd, g.usd, g.reserved_usd, (v_ask ->> 'min_usd')::numeric, (v_ask ->> 'max_usd')::numeric)
    ) c(unit, cap, used, reserved, least, most)
    cross join lateral (
      select case when c.cap - c.used - c.reserved >= c.most then c.most
                  when c.cap - c.used - c.reserved >= c.least and g.reserved_tokens = 0 then c.cap - c.used - c.reserved end as granted) o
    where l.execution_id = p_entry.execution_id and c.cap is not null) j
  order by j.reason is null, array_position(array['no_price', 'exceeded', 'reserved_by_others'], j.reason),
           j.period_end desc, j.scope = 'user' desc, j.unit
  limit 1;

  if v_worst.reason is null then
    return runhold.compact(jsonb_build_object(
      'granted', true, 'tokens', floor(least(coalesce(v_worst.tokens, (v_ask ->> 'max_tokens')::numeric), 2147483647))::integer,
      'usd', coalesce(v_worst.usd, (v_ask ->> 'max_usd')::numeric)));
  end if;

  select x.* into v_run from public.agent_executions x where x.id = p_entry.execution_id;
  v_then := case v_worst.reason
    when 'no_price' then 'fail'
    when 'exceeded' then (select t.on_budget from public.agent_types t where t.name = v_run.agent_type)
    else 'wait' end;
  return runhold.compact(jsonb_build_object(
    'granted', false, 'then', v_then,
    'delay_ms', case
      when v_then = 'fail' then null
      when v_worst.reason = 'exceeded'
        then ceil(extract(epoch from v_worst.period_end - runhold.now()) * 1000 + random() * 60000)::bigint
      else ceil(5000 + random() * 10000)::bigint end,
    -- what a budget of many holds is not for the owner of one run to see; what they asked of it is
    'detail', runhold.compact(jsonb_build_object(
      'limit', 'budget', 'reason', v_worst.reason, 'scope', v_worst.scope, 'period', v_worst.period,
      'step', v_run.step_count + jsonb_array_length(coalesce(p_entry.body -> 'steps', '[]')),
      'unit', v_worst.unit, 'asked', v_worst.least,
      'allowed', case when v_worst.scope = 'user' then v_worst.cap end,
      'used', case when v_worst.scope = 'user' then v_worst.used end))));
end;
$$;

-- Sets aside what is granted. One entry after the other: each leaves less to the next.
create function runhold.reserve(p_entry runhold.judged_entry, p_lines runhold.budget_line[]) returns runhold.judged_entry
language plpgsql volatile security definer set search_path = ''
as $$
begin
  p_entry.reserved := runhold.judge_reserve(p_entry, p_lines);
  if (p_entry.reserved ->> 'granted')::boolean and p_entry.budgeted then
    p_entry.reserved_in := array(
      select l.usage_id from unnest(p_lines) l where l.execution_id = p_entry.execution_id order by l.usage_id);
    p_entry.reserved_tokens := (p_entry.reserved ->> 'tokens')::integer;
    p_entry.reserved_usd := coalesce((p_entry.reserved ->> 'usd')::numeric, 0);
    update public.agent_usage g
    set reserved_tokens = g.reserved_tokens + p_entry.reserved_tokens, reserved_usd = g.reserved_usd + p_entry.reserved_usd
    where g.id = any (p_entry.reserved_in);
  end if;
  return p_entry;
end;
$$;

create function runhold.check_reserves(p_entries runhold.judged_entry[]) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if exists (
       select from unnest(p_entries) e
       cross join jsonb_to_record(e.body -> 'reserve') r(min_tokens numeric, max_tokens numeric, min_usd numeric, max_usd numeric)
       where e.body ? 'reserve' and (r.min_tokens between 1 and r.max_tokens
                                     and (coalesce(r.min_usd, r.max_usd) is null or r.min_usd between 0 and r.max_usd)) is not true) then
    perform runhold.refuse('RH013', 'reserve needs min_tokens and max_tokens, from 1 on and in this order, and both min_usd and max_usd or neither.');
  end if;
end;
$$;

-- The answer to an entry that comes again: what its run holds. Holding nothing, it may ask anew in a moment.
create function runhold.reserved_before(p_entry runhold.judged_entry) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return case
    when p_entry.reserved_in is not null then jsonb_build_object(
      'granted', true, 'tokens', p_entry.reserved_tokens,
      'usd', case when p_entry.body -> 'reserve' ? 'max_usd' then p_entry.reserved_usd end)
    when not p_entry.budgeted then runhold.judge_reserve(p_entry, '{}')
    else jsonb_build_object('granted', false, 'then', 'wait', 'delay_ms', 1000,
                            'detail', jsonb_build_object('limit', 'budget', 'reason', 'answer_lost')) end;
end;
$$;

revoke execute on all functions in schema runhold from public;
