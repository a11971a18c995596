-- How does somebody become a reviewer?
--
-- Put their e-mail address in the first line, and what they may decide in the second; null means all. role: 'reviewer'
-- decides reviews; 'operator' decides what was escalated, too, and may cancel runs within the scope. Safe to repeat; takes effect at once.
-- Columns: who may decide what, all of them. Cost: at once.
-- Bad answer: no row for the person → nobody has signed up with that address. To dismiss someone:
--   delete from runhold.reviewers where user_id = (select id from auth.users where email = '…');

with person(email) as (values ('reviewer@example.com')),
  may(tenant_id, agent_type, tool_name, role) as (values (null::text, null::text, null::text, 'reviewer'))
insert into runhold.reviewers (user_id, tenant_id, agent_type, tool_name, role)
select u.id, may.tenant_id, may.agent_type, may.tool_name, may.role
from may, person join auth.users u on u.email = person.email
on conflict do nothing;

select u.email, r.role, r.tenant_id, r.agent_type, r.tool_name, r.created_at
from runhold.reviewers r join auth.users u on u.id = r.user_id
order by u.email, r.created_at;
