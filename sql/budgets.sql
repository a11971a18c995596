-- How far are the budgets used up?
--
-- Columns: per budget, the fullest first: scope and whose it is; period and when it ends (UTC); used, reserved (set aside for model
-- calls under way) and max, of tokens and of USD; share, the larger part that is used or reserved (1 is all); holders, the runs
-- that have something set aside; waiting, the runs that sleep until the period ends or you widen it; problem, why nothing counts against it.
-- Cost: a row per budget and the running and waiting runs by index; milliseconds.
-- Bad answer: share near 1 long before ends_at → widen it: update agent_budgets set max_usd = … where id = …; who waits is woken. One user
-- behind it (sql/spend_by_user.sql) → give them a budget of their own. reserved large beside used → answers are bounded too
-- generously: lower max_completion_tokens. A problem → correct scope_key: nothing holds under a name that nobody has. reserved without holders → a bug: please report it; it ends with the period.

with line as (
  select b.*, p.start as period_start, (p.start + ('1 ' || b.period)::interval) at time zone 'UTC' as ends_at
  from public.agent_budgets b cross join lateral (select date_trunc(b.period, now() at time zone 'UTC') as start) p
)
select l.scope,
       coalesce(u.email, l.scope_key) as whose,
       l.period,
       l.ends_at,
       coalesce(g.tokens, 0) as used_tokens, coalesce(g.reserved_tokens, 0) as reserved_tokens, l.max_tokens,
       coalesce(g.usd, 0) as used_usd, coalesce(g.reserved_usd, 0) as reserved_usd, l.max_usd,
       round(greatest((g.tokens + g.reserved_tokens) * 1.0 / nullif(l.max_tokens, 0), (g.usd + g.reserved_usd) / nullif(l.max_usd, 0), 0), 3) as share,
       (select count(*) from public.agent_executions x where x.status = 'running' and g.id = any (x.reserved_in)) as holders,
       (select count(*) from public.agent_executions x
        where x.status = 'pending' and x.wake_at is not null and x.error_detail ->> 'waiting_for' = 'budget'
          and x.error_detail ->> 'scope' = l.scope and x.error_detail ->> 'period' = l.period
          and l.scope_key = case l.scope when 'user' then x.user_id::text when 'type' then x.agent_type
                                         when 'tenant' then x.tenant_id else '' end) as waiting,
       case when l.scope = 'type' and not exists (select from public.agent_types t where t.name = l.scope_key)
              then 'no agent type has this name' end as problem,
       l.id
from line l
left join public.agent_usage g
  on g.scope = l.scope and g.scope_key = l.scope_key and g.period = l.period and g.period_start = l.period_start::date
left join auth.users u on u.id = l.user_id
order by share desc, l.scope, whose, l.period;
