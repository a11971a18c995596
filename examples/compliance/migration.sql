-- The example's own tables: the company's licence policy, and the documents that agents write for users.
--
-- Both are reached by tools through ctx.supabase, as the run's user: row level security decides, not the agent.

create table public.compliance_policies (
  licence text primary key,
  verdict text not null check (verdict in ('allowed', 'review', 'forbidden')),
  reason text not null
);

comment on column public.compliance_policies.licence is 'An SPDX identifier, or a pattern such as GPL-*; the longest match counts.';

alter table public.compliance_policies enable row level security;
revoke all on public.compliance_policies from public, anon, authenticated, service_role;
grant select on public.compliance_policies to authenticated;
grant select, insert, update, delete on public.compliance_policies to service_role;
create policy "signed-in users read the licence policy" on public.compliance_policies
  for select to authenticated using (true);

insert into public.compliance_policies (licence, verdict, reason) values
  ('MIT*', 'allowed', 'permissive'),
  ('Apache-2.0', 'allowed', 'permissive, with a patent grant'),
  ('BSD*', 'allowed', 'permissive'),
  ('0BSD', 'allowed', 'permissive'),
  ('ISC', 'allowed', 'permissive'),
  ('HPND', 'allowed', 'permissive'),
  ('Zlib', 'allowed', 'permissive'),
  ('PSF-2.0', 'allowed', 'permissive'),
  ('Python-2.0*', 'allowed', 'permissive'),
  ('CNRI-Python*', 'allowed', 'permissive'),
  ('CC0-1.0', 'allowed', 'public domain'),
  ('Unlicense', 'allowed', 'public domain'),
  ('MPL-2.0', 'review', 'weak copyleft: changed files must be published'),
  ('LGPL-*', 'review', 'weak copyleft: users must be able to replace the library'),
  ('EPL-2.0', 'review', 'weak copyleft'),
  ('GPL-*', 'forbidden', 'strong copyleft: what is shipped with it must be published'),
  ('AGPL-*', 'forbidden', 'strong copyleft, also for services'),
  ('SSPL-*', 'forbidden', 'not an open-source licence');

create table public.compliance_documents (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid() references auth.users on delete cascade,
  execution_id uuid not null references public.agent_executions on delete cascade,
  idempotency_key text not null,
  project text not null,
  body text not null,
  created_at timestamptz not null default now(),
  unique (user_id, idempotency_key)
);

comment on column public.compliance_documents.idempotency_key is
  'ctx.idempotency_key of the call that saved it: the same call, run again after a crash, finds its own row.';

create index compliance_documents_of_execution_idx on public.compliance_documents (execution_id);

alter table public.compliance_documents enable row level security;
revoke all on public.compliance_documents from public, anon, authenticated, service_role;
grant select, insert, update on public.compliance_documents to authenticated;
grant select on public.compliance_documents to service_role;

create policy "users read their own documents" on public.compliance_documents
  for select to authenticated using (user_id = (select auth.uid()));
create policy "users save documents of their own runs" on public.compliance_documents
  for insert to authenticated
  with check (user_id = (select auth.uid()) and exists (select from public.agent_executions x where x.id = execution_id));
create policy "users save their own documents again" on public.compliance_documents
  for update to authenticated
  using (user_id = (select auth.uid()))
  with check (user_id = (select auth.uid()) and exists (select from public.agent_executions x where x.id = execution_id));
