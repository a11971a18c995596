-- What waits for people, for how long, and who could decide it?
--
-- Columns: one row per open review, oldest first: waits, since it was asked; expires_in, null without a limit; what it is
-- about; approvals, given of needed; escalated, whether it was handed over to operators; deciders, how many people may decide it
-- now and have not approved it yet, the run's owner only where the agent type allows it (allow_self_review).
-- Cost: reads the open reviews by index; milliseconds at thousands.
-- Bad answer: deciders is 0, or less than approvals still lacks → nobody can approve this, the run waits until it expires:
-- sql/appoint_reviewer.sql. With escalated true it takes an operator. waits of hours → tell the reviewers, or set
-- agent_types.review_ttl and review_on_expiry.

select date_trunc('second', now() - r.requested_at) as waits,
       date_trunc('second', r.expires_at - now()) as expires_in,
       r.agent_type,
       r.tenant_id,
       r.kind,
       r.tool_name,
       r.summary,
       r.approvals_given || ' of ' || r.approvals_needed as approvals,
       r.escalated_at is not null as escalated,
       (select count(*)
        from (select p.user_id from runhold.reviewers p
              where p.user_id <> r.user_id and (r.escalated_at is null or p.role = 'operator')
                and (p.tenant_id is null or p.tenant_id = r.tenant_id)
                and (p.agent_type is null or p.agent_type = r.agent_type)
                and (p.tool_name is null or p.tool_name = r.tool_name)
              union
              select r.user_id where t.allow_self_review and r.escalated_at is null) who
        where not exists (  -- approved what stands here: nothing was changed since
          select from public.agent_review_decisions d
          where d.review_id = r.id and d.reviewer_id = who.user_id
            and not exists (select from public.agent_review_decisions l
                            where l.review_id = r.id and l.id >= d.id and l.edited_input is distinct from r.edited_input))) as deciders,
       r.execution_id,
       r.id as review_id
from public.agent_reviews r join public.agent_types t on t.name = r.agent_type
where r.status = 'pending'
order by r.requested_at
limit 200;
