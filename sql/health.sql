-- How are the agents doing?
--
-- Columns: one row per agent type over the last seven days. runs; completion_rate of those that ended; review_rate, the
-- share of runs that asked a person; p95_steps, tokens and USD per completed run; waiting and oldest_s, what is queued now;
-- worst, the most frequent error code.
-- Cost: reads every run of seven days, queued ones too; 13 s at a million ended and a million queued (2 busy cores).
-- agent_health_metrics() answers from hourly roll-ups in a tenth of a second, and has more, as JSON.
-- Bad answer: completion_rate below what you are used to → look at worst, then at such runs by sql/audit_of_a_run.sql.
-- oldest_s of minutes → sql/queue.sql.

select t.name as agent_type,
       t.enabled,
       count(x.id) as runs,
       round(count(*) filter (where x.status = 'completed') * 1.0 / nullif(count(x.completed_at), 0), 3) as completion_rate,
       round(count(*) filter (where x.review_count > 0) * 1.0 / nullif(count(x.id), 0), 3) as review_rate,
       percentile_disc(0.95) within group (order by x.step_count) filter (where x.status = 'completed') as p95_steps,
       round(sum(x.token_count - x.copied_tokens) * 1.0 / nullif(count(*) filter (where x.status = 'completed'), 0)) as tokens_per_completion,
       round(sum(x.cost_usd) / nullif(count(*) filter (where x.status = 'completed'), 0), 4) as usd_per_completion,
       count(*) filter (where x.status = 'pending') as waiting,
       round(extract(epoch from now() - min(x.state_since) filter (where x.status = 'pending' and x.wake_at is null))) as oldest_s,
       mode() within group (order by x.error) as worst
from public.agent_types t
left join public.agent_executions x on x.agent_type = t.name and x.created_at > now() - interval '7 days'
group by t.name
order by t.name;
