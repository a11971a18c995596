-- What happens when a person updates a review.
--
-- Row by row, before: may this still be decided, and by this person? Then it is stamped, or, where more people must
-- approve, counted. After the statement: the decisions are written down, the calls and, once per run, the runs moved on.
-- All or nothing.
--
-- Locks: the people first (an eraser begins there, too), then the reviews, which the UPDATE locks; the runs follow, in order
-- of their ids, each lock in a statement of its own, because the next statement must see what the holder of the lock did.
-- Whoever holds a run never waits for a review or a person.

-- Until the end of this transaction nobody erases these people: what is written later may refer to them without waiting.
create function runhold.hold_people(p_user_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform from auth.users u where u.id = any (p_user_ids) order by u.id for key share;
end;
$$;

create function runhold.hold_decider() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if coalesce(current_setting('runhold.closing', true), '') = 'on' then
    return null;  -- whoever closes holds runs already, and signs nothing
  end if;
  perform runhold.hold_people(array[auth.uid()]);
  if auth.uid() is not null and not exists (select from auth.users u where u.id = auth.uid()) then
    perform runhold.refuse('RH010', 'A decision needs a person; this one was erased.', 'Sign in as somebody else.');
  end if;
  perform runhold.require_caller_may_act();
  return null;
end;
$$;

create trigger before_review_decisions_0 before update of status, edited_input, answer, comment on public.agent_reviews
  for each statement execute function runhold.hold_decider();

-- Erasing a person deletes their runs, and each with it its reviews: the wrong way round. So the reviews are taken here.
create function runhold.before_user_delete() returns trigger
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform from public.agent_reviews r where r.user_id = old.id or r.reviewer_id = old.id order by r.id for update;
  return old;
end;
$$;

create trigger runhold_before_user_delete before delete on auth.users
  for each row execute function runhold.before_user_delete();

-- Did this statement name edited_input? Whoever approves after somebody's edit must: they show that they saw it.
create function runhold.note_named_edit() returns trigger
language plpgsql set search_path = ''
as $$
begin
  perform set_config('runhold.edit_named', tg_argv[0], true);
  return null;
end;
$$;

-- in order of their names
create trigger before_review_decisions_1 before update on public.agent_reviews
  for each statement execute function runhold.note_named_edit('');
create trigger before_review_decisions_2 before update of edited_input on public.agent_reviews
  for each statement execute function runhold.note_named_edit('on');

-- May this person decide about it: as a reviewer, or about their own run where its type lets them?
create function runhold.may_decide(p_user_id uuid, p_review public.agent_reviews) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  if (select m.allowed from runhold.may_act(
        p_user_id, case when p_review.user_id = p_user_id then p_review.tenant_id end) m) is not true then
    return false;
  elsif p_review.user_id = p_user_id then
    return coalesce((select t.allow_self_review from public.agent_types t where t.name = p_review.agent_type), false);
  end if;
  return exists (
    select from runhold.reviewers r
    where r.user_id = p_user_id
      and (r.tenant_id is null or r.tenant_id = p_review.tenant_id)
      and (r.agent_type is null or r.agent_type = p_review.agent_type)
      and (r.tool_name is null or r.tool_name = p_review.tool_name));
end;
$$;

-- One more approval by p_uid. Answers how many people have now approved exactly this: those who may still decide, and p_uid.
create function runhold.count_approval(p_old public.agent_reviews, p_new public.agent_reviews, p_uid uuid) returns integer
language plpgsql security definer set search_path = ''
as $$
declare
  v_since bigint;
  v_given integer;
begin
  if p_new.edited_input is distinct from p_old.edited_input then
    return 1;
  end if;
  if p_old.approvals_given > 0 and p_old.edited_input is not null
     and coalesce(current_setting('runhold.edit_named', true), '') <> 'on' then
    perform runhold.refuse('RH011', 'Someone changed the arguments and approved that.',
      'Reload, and send edited_input as you see it together with status.');
  end if;
  -- what was said before the last edit counts no more, also if that edit brought back what had been there
  v_since := coalesce((
    select max(d.id) from public.agent_review_decisions d
    where d.review_id = p_old.id and d.edited_input is distinct from p_old.edited_input), 0);
  v_given := 1 + (
    select count(distinct d.reviewer_id) from public.agent_review_decisions d
    where d.review_id = p_old.id and d.id > v_since and d.reviewer_id <> p_uid and runhold.may_decide(d.reviewer_id, p_old));
  if v_given <= p_old.approvals_given  -- more, though they said it before: somebody was dismissed and appointed again
     and exists (select from public.agent_review_decisions d
                 where d.review_id = p_old.id and d.id > v_since and d.reviewer_id = p_uid) then
    perform runhold.refuse('RH007', 'You have already approved this.',
      format('%s people must approve; ask another one.', p_old.approvals_needed));
  end if;
  return v_given;
end;
$$;

-- Who decides. Refuses keys, and tokens without a person in them.
create function runhold.require_person() returns uuid
language plpgsql stable security definer set search_path = ''
as $$
begin
  if auth.uid() is null then
    perform runhold.refuse('RH010', 'A decision needs a signed-in person.', 'Sign in as a reviewer; keys can not decide.');
  end if;
  return auth.uid();
end;
$$;

create function runhold.before_review_decision() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_uid uuid;
  v_problem text;
begin
  if current_setting('runhold.closing', true) = 'on' then
    new.decided_at := runhold.now();  -- not a person: the run ended, or the sweep found that the time is up
    return new;
  end if;
  if (new.status in ('approved', 'rejected')) is not true then
    perform runhold.refuse('RH011', format('A review can not be set to %s.', quote_nullable(new.status)),
      'Set status to approved or rejected.');
  end if;
  v_uid := runhold.require_person();
  if old.user_id <> v_uid and not runhold.may_decide(v_uid, old) then
    return null;  -- dismissed while this statement waited for the row: the policy could not see that yet
  end if;
  if old.status <> 'pending' then
    perform runhold.refuse('RH007', format('This review is already %s.', old.status), 'Reload: someone was faster.');
  end if;
  if old.expires_at <= runhold.now() then
    perform runhold.refuse('RH008', format('This review expired at %s.', old.expires_at), 'The run is being told so.');
  end if;
  if old.user_id = v_uid then
    perform runhold.require_may_act(v_uid, old.tenant_id);
  end if;
  if not runhold.may_decide(v_uid, old) then
    perform runhold.refuse('RH009', 'You can not decide about your own run.',
      'Ask another reviewer, or have an operator set agent_types.allow_self_review.');
  end if;
  if old.escalated_at is not null and not runhold.may_review(old.tenant_id, old.agent_type, old.tool_name, 'operator') then
    perform runhold.refuse('RH021', 'Nobody decided in time; this review was handed over to the operators.', 'Ask an operator to decide.');
  end if;
  if new.edited_input is not null and (old.kind <> 'approval' or new.status <> 'approved') then
    perform runhold.refuse('RH011', 'edited_input belongs to an approved approval.', 'Leave edited_input out.');
  end if;
  if old.kind = 'unknown_outcome' and new.status = 'approved'
     and coalesce(new.answer ->> 'outcome', '') not in ('happened', 'again') then
    perform runhold.refuse('RH011', 'Say what is known: answer must be {"outcome": "happened", "result": …} or {"outcome": "again"}.',
      'Set status to rejected to stop the run.');
  end if;
  if old.kind = 'question' and new.status = 'approved' and new.answer is null then
    perform runhold.refuse('RH011', 'A question needs an answer.', 'Set answer together with status.');
  end if;

  v_problem := coalesce('edited_input ' || runhold.why_unreadable(new.edited_input), 'answer ' || runhold.why_unreadable(new.answer));
  if v_problem is not null then
    perform runhold.refuse('RH011', format('%s.', v_problem), 'Send what is odd about it as text.');
  end if;

  new.reviewer_id := v_uid;
  if new.status = 'approved' then
    new.approvals_given := runhold.count_approval(old, new, v_uid);
    if new.approvals_given < old.approvals_needed then
      new.status := 'pending';
      return new;
    end if;
  end if;
  new.decided_at := runhold.now();
  return new;
end;
$$;

create trigger before_review_decision before update of status, edited_input, answer, comment on public.agent_reviews
  for each row execute function runhold.before_review_decision();

-- The call behind a decided review: refused calls end, answered ones too; an approved one waits to be taken.
create function runhold.apply_decision(p_review public.agent_reviews) returns void
language plpgsql security definer set search_path = ''
as $$
begin
  if p_review.kind = 'approval' and p_review.status in ('rejected', 'expired') then
    update public.agent_tool_calls c
    set status = 'rejected', finished_at = runhold.now(),
        error = case when p_review.status = 'expired' then 'Nobody decided in time.' else p_review.comment end
    where c.id = p_review.tool_call_id and c.status = 'awaiting_review';
  elsif p_review.kind = 'unknown_outcome' and p_review.status = 'approved' then
    if p_review.answer ->> 'outcome' = 'happened' then
      update public.agent_tool_calls c
      set status = 'succeeded', finished_at = runhold.now(), error = null,
          tool_output = coalesce(p_review.answer -> 'result', '"A person confirmed that this happened."'::jsonb)
      where c.id = p_review.tool_call_id and c.status = 'unknown';
      update public.agent_reviews r set used_at = runhold.now() where r.id = p_review.id;
    else
      -- "run it again": this very review is the fresh, single-use approval
      update public.agent_tool_calls c set status = 'awaiting_review', error = null
      where c.id = p_review.tool_call_id and c.status = 'unknown';
    end if;
  elsif p_review.kind = 'question' and p_review.status = 'approved' then
    update public.agent_tool_calls c
    set status = 'succeeded', finished_at = runhold.now(), tool_output = p_review.answer
    where c.id = p_review.tool_call_id and c.status = 'awaiting_review';
    update public.agent_reviews r set used_at = runhold.now() where r.id = p_review.id;
  elsif p_review.kind = 'question' then
    update public.agent_tool_calls c
    set status = 'rejected', finished_at = runhold.now(), error = coalesce(p_review.comment, 'Nobody answered.')
    where c.id = p_review.tool_call_id and c.status = 'awaiting_review';
  end if;
end;
$$;

-- Puts paused runs with nothing left to decide back into the queue. The caller holds their locks.
create function runhold.resume_decided(p_execution_ids uuid[]) returns integer
language plpgsql security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  update public.agent_executions x
  set status = 'pending', attempt = 0, wake_at = null
  where x.id = any (p_execution_ids) and x.status = 'awaiting_review'
    and not exists (select from public.agent_reviews r where r.execution_id = x.id and r.status = 'pending');
  get diagnostics v_count = row_count;
  return v_count;
end;
$$;

create function runhold.lock_executions(p_execution_ids uuid[]) returns void
language plpgsql security definer set search_path = ''
as $$
begin
  perform from public.agent_executions x where x.id = any (p_execution_ids) order by x.id for no key update;
end;
$$;

create function runhold.after_review_decisions() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_runs uuid[];
  v_review public.agent_reviews;
begin
  -- a status that stays pending is one approval of several
  insert into public.agent_review_decisions
    (review_id, execution_id, user_id, reviewer_id, decision, edited_input, answer, comment, decided_at)
  select n.id, n.execution_id, n.user_id, n.reviewer_id, case n.status when 'rejected' then 'rejected' else 'approved' end,
         n.edited_input, n.answer, n.comment, runhold.now()
  from new_reviews n join old_reviews o using (id)
  where (n.status <> o.status and n.status in ('approved', 'rejected'))
     or n.approvals_given <> o.approvals_given or n.edited_input is distinct from o.edited_input
     or n.reviewer_id <> coalesce(o.reviewer_id, '00000000-0000-0000-0000-000000000000')  -- the count stands where another was dismissed
  order by n.id;

  select array_agg(distinct n.execution_id) into v_runs
  from new_reviews n join old_reviews o using (id)
  where n.status <> o.status and n.status in ('approved', 'rejected', 'expired');
  if v_runs is null then
    return null;
  end if;

  perform runhold.lock_executions(v_runs);

  for v_review in
    select n.* from new_reviews n join old_reviews o using (id)
    where n.status <> o.status and n.status in ('approved', 'rejected', 'expired') order by n.id
  loop
    perform runhold.apply_decision(v_review);
    perform runhold.write_event(v_review.execution_id, v_review.user_id, v_review.tenant_id, 'review_' || v_review.status,
      runhold.compact(jsonb_build_object(
        'review_id', v_review.id, 'kind', v_review.kind, 'tool_name', v_review.tool_name, 'comment', v_review.comment,
        'edited', case when v_review.edited_input is not null then true end)));
  end loop;

  -- unknown outcome answered "stop"; of a run that is being worked on, the worker is told when it pauses
  update public.agent_executions x
  set status = 'failed', error = 'STOPPED_BY_REVIEWER',
      error_detail = runhold.compact(jsonb_build_object('review_id', s.id, 'tool', s.tool_name, 'comment', s.comment))
  from (select distinct on (n.execution_id) n.* from new_reviews n join old_reviews o using (id)
        where n.status = 'rejected' and o.status = 'pending' and n.kind = 'unknown_outcome'
        order by n.execution_id, n.id) s
  where x.id = s.execution_id and x.status = 'awaiting_review';
  perform runhold.close_reviews(v_runs);

  perform runhold.resume_decided(v_runs);
  return null;
end;
$$;

create trigger after_review_decisions after update on public.agent_reviews
  referencing old table as old_reviews new table as new_reviews
  for each statement execute function runhold.after_review_decisions();

-- Closes what nobody needs to decide or run any more: reviews and open calls of those of the runs that have ended. Reviews
-- that someone is deciding at this instant are left to them, and to the sweep.
create function runhold.close_reviews(p_execution_ids uuid[]) returns void
language plpgsql security definer set search_path = ''
as $$
declare
  v_ended uuid[] := array(
    select x.id from public.agent_executions x where x.id = any (p_execution_ids) and runhold.is_final(x.status));
begin
  if v_ended = '{}' then
    return;
  end if;
  perform set_config('runhold.closing', 'on', true);
  update public.agent_reviews r set status = 'cancelled'
  where r.id in (select l.id from public.agent_reviews l
                 where l.execution_id = any (v_ended) and l.status = 'pending' for update skip locked);
  perform set_config('runhold.closing', '', true);
  update public.agent_tool_calls c
  set status = case c.status when 'pending' then 'failed' else 'rejected' end, finished_at = runhold.now(), cut_off = c.status,
      error = format('The run ended before this call was made%s.', case when c.attempt > 0 then ' again' end)
  where c.execution_id = any (v_ended) and c.status in ('pending', 'awaiting_review');
end;
$$;

create function runhold.after_review_insert() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform runhold.write_event(n.execution_id, n.user_id, n.tenant_id, 'review_requested',
    runhold.compact(jsonb_build_object('review_id', n.id, 'kind', n.kind, 'tool_name', n.tool_name)))
  from new_reviews n;
  return null;
end;
$$;

create trigger after_review_insert after insert on public.agent_reviews
  referencing new table as new_reviews
  for each statement execute function runhold.after_review_insert();

revoke execute on all functions in schema runhold from public;
