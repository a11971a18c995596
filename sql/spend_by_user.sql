-- Who spends how much?
--
-- Put the number of days in the first line. Columns: per user and agent type, most expensive first: runs started in that
-- time; tokens and usd, as recorded with every step, without what a fork took over from its source; usd_per_completion;
-- failed_usd, spent on runs that did not complete; share, of all that was spent.
-- Cost: reads every run of that time; 24 s at two million (2 busy cores).
-- Bad answer: one user's share is large → give them a budget (sql/budgets.sql) or agent_types.max_concurrent_per_user. failed_usd
-- near usd → look at such a run by sql/audit_of_a_run.sql. usd is 0 where tokens are not → the model has no price: model_prices.

with asked(days) as (values (30))
select coalesce(u.email, x.user_id::text) as who,
       x.tenant_id,
       x.agent_type,
       count(*) as runs,
       sum(x.token_count - x.copied_tokens) as tokens,
       sum(x.cost_usd) as usd,
       round(sum(x.cost_usd) / nullif(count(*) filter (where x.status = 'completed'), 0), 4) as usd_per_completion,
       coalesce(sum(x.cost_usd) filter (where x.status in ('failed', 'cancelled')), 0) as failed_usd,
       round(sum(x.cost_usd) / nullif(sum(sum(x.cost_usd)) over (), 0), 3) as share
from asked join public.agent_executions x on x.created_at > now() - asked.days * interval '1 day'
left join auth.users u on u.id = x.user_id
group by 1, 2, 3
order by usd desc, tokens desc
limit 100;
