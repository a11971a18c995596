-- Questions to people. Who may decide is policy and table (runhold.reviewers); whether it can still be decided, and what
-- follows, is in 20261122000700_review_decisions.sql.

create table runhold.reviewers (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users on delete cascade,
  tenant_id text,
  agent_type text,
  tool_name text,
  role text not null default 'reviewer' check (role in ('reviewer', 'operator')),
  created_at timestamptz not null default now(),
  unique nulls not distinct (user_id, tenant_id, agent_type, tool_name, role)
);

comment on table runhold.reviewers is
  'Who may decide reviews. tenant_id, agent_type and tool_name narrow it; null means all. A change takes effect at once.';

create table public.agent_reviews (
  id uuid primary key default gen_random_uuid(),
  execution_id uuid not null references public.agent_executions on delete cascade,
  tool_call_id uuid references public.agent_tool_calls on delete cascade,
  user_id uuid not null,
  tenant_id text,
  kind text not null check (kind in ('approval', 'unknown_outcome', 'question')),
  agent_type text not null,
  tool_name text,
  summary text not null default '',
  proposed_input jsonb,
  input_hash text,
  edited_input jsonb,
  answer jsonb,
  comment text,
  status text not null default 'pending',
  approvals_needed integer not null default 1 check (approvals_needed >= 1),
  approvals_given integer not null default 0 check (approvals_given >= 0),
  requested_at timestamptz not null default now(),
  expires_at timestamptz,
  escalated_at timestamptz,
  decided_at timestamptz,
  reviewer_id uuid references auth.users on delete set null,
  used_at timestamptz,
  constraint valid_review_status check (status in ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
  constraint decided_at_set_iff_decided check ((decided_at is not null) = (status <> 'pending')),
  constraint used_only_if_approved check (used_at is null or status = 'approved'),
  constraint edit_is_an_object check (edited_input is null or jsonb_typeof(edited_input) = 'object'),
  constraint edit_and_answer_fit_a_call check (octet_length(edited_input::text) <= 1048576 and octet_length(answer::text) <= 1048576),
  constraint comment_is_short check (octet_length(comment) <= 8192)
);

comment on column public.agent_reviews.input_hash is
  'sha256 of exactly what was asked: tool, arguments, step, position and the tool''s schema. Checked when the approval is used.';
comment on column public.agent_reviews.approvals_given is
  'Different people who approved what stands here now, and might still when the last of them did. An edit starts the count anew.';
comment on column public.agent_reviews.escalated_at is 'Since then only operators may decide it; its reviewers still see it.';
comment on column public.agent_reviews.used_at is 'An approval is used once.';

create index agent_reviews_of_execution_idx on public.agent_reviews (execution_id);
create index agent_reviews_of_tool_call_idx on public.agent_reviews (tool_call_id);
create unique index agent_reviews_one_open_per_call_idx on public.agent_reviews (tool_call_id) where status = 'pending';
create index agent_reviews_of_user_idx on public.agent_reviews (user_id, requested_at desc);
create index agent_reviews_of_reviewer_idx on public.agent_reviews (reviewer_id);
create index agent_reviews_pending_idx on public.agent_reviews (agent_type, requested_at) where status = 'pending';
create index agent_reviews_expiring_idx on public.agent_reviews (expires_at) where status = 'pending';

create table public.agent_review_decisions (
  id bigint generated always as identity primary key,
  review_id uuid not null references public.agent_reviews on delete cascade,
  execution_id uuid not null references public.agent_executions on delete cascade,
  user_id uuid not null,
  reviewer_id uuid references auth.users on delete set null,
  decision text not null check (decision in ('approved', 'rejected')),
  edited_input jsonb,
  answer jsonb,
  comment text,
  decided_at timestamptz not null default now()
);

comment on table public.agent_review_decisions is 'Append-only: who said what to which review.';

create index agent_review_decisions_of_review_idx on public.agent_review_decisions (review_id);
create index agent_review_decisions_of_execution_idx on public.agent_review_decisions (execution_id);
create index agent_review_decisions_of_reviewer_idx on public.agent_review_decisions (reviewer_id);

-- Who may see and decide --------------------------------------------------------------------------------------------

-- Asked once per statement: most callers are no reviewers, and then no row costs anything.
create function runhold.is_reviewer() returns boolean
language sql stable security definer set search_path = ''
return exists (select from runhold.reviewers r where r.user_id = auth.uid());

-- p_role: only as that; null: as anything.
create function runhold.may_review(p_tenant_id text, p_agent_type text, p_tool_name text, p_role text default null) returns boolean
language sql stable security definer set search_path = ''
return exists (
  select from runhold.reviewers r
  where r.user_id = auth.uid()
    and (p_role is null or r.role = p_role)
    and (r.tenant_id is null or r.tenant_id = p_tenant_id)
    and (r.agent_type is null or r.agent_type = p_agent_type)
    and (r.tool_name is null or r.tool_name = p_tool_name));

alter table public.agent_reviews enable row level security;
alter table public.agent_review_decisions enable row level security;
revoke all on public.agent_reviews, public.agent_review_decisions from public, anon, authenticated, service_role;
revoke all on sequence public.agent_review_decisions_id_seq from public, anon, authenticated, service_role;
revoke execute on all functions in schema runhold from public;

grant execute on function runhold.is_reviewer(), runhold.may_review(text, text, text, text) to authenticated;
grant select on public.agent_reviews, public.agent_review_decisions to authenticated, service_role;
grant update (status, edited_input, answer, comment) on public.agent_reviews to authenticated;

create policy "owners and reviewers see a review" on public.agent_reviews
  for select to authenticated
  using (user_id = (select auth.uid())
         or ((select runhold.is_reviewer()) and runhold.may_review(tenant_id, agent_type, tool_name)));

-- Never on status: a policy on it would turn a second decision into "0 rows updated" instead of a refusal. The owner
-- passes here for the same reason: whether they may decide about their own run is told by the trigger, in a sentence.
create policy "reviewers decide" on public.agent_reviews
  for update to authenticated
  using (user_id = (select auth.uid())
         or ((select runhold.is_reviewer()) and runhold.may_review(tenant_id, agent_type, tool_name)))
  with check (user_id = (select auth.uid())
         or ((select runhold.is_reviewer()) and runhold.may_review(tenant_id, agent_type, tool_name)));

create policy "owners and deciders see a decision" on public.agent_review_decisions
  for select to authenticated
  using (user_id = (select auth.uid()) or reviewer_id = (select auth.uid()));
