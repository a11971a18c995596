-- Erasure of a person. Deleting their row of auth.users deletes their runs and all that hangs below, their appointments and
-- budgets (on delete cascade), and what they used of them (here, as agent_usage has no foreign key). In the runs of others stays what they did, without who they were: reviewer_id and
-- sender_id are set null by their foreign keys, the actor of events here. Events have no foreign key, as every step of a
-- run would pay for it.

-- Only events of reviewers and operators name somebody who is not the run's user.
create index agent_events_of_others_idx on public.agent_events (actor_id) where actor_kind = 'reviewer';

create function runhold.after_user_delete() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  update public.agent_events e set actor_id = null
  from old_users u where e.actor_id = u.id and e.actor_kind = 'reviewer';
  delete from public.agent_usage g using old_users u where g.scope = 'user' and g.scope_key = u.id::text;
  delete from runhold.lanes l using old_users u where l.user_id = u.id;
  delete from runhold.lane_scans s using old_users u where s.last_user_id = u.id;
  return null;
end;
$$;

create trigger runhold_after_user_delete after delete on auth.users
  referencing old table as old_users
  for each statement execute function runhold.after_user_delete();

revoke execute on all functions in schema runhold from public;
