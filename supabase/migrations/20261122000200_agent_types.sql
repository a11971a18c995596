-- Which agents exist (agent_types), and what each was at the time of a decision (agent_definitions).

create function runhold.limit_names() returns text[]
language sql immutable parallel safe set search_path = ''
return array['max_steps', 'max_tokens', 'max_cost_usd', 'max_tool_calls', 'step_timeout_s', 'total_timeout_s', 'max_output_bytes'];

-- Can every claim reckon with these? One text among a type's limits would stop all its claims and records.
create function runhold.has_number_limits(p_limits jsonb) returns boolean
language plpgsql immutable parallel safe security definer set search_path = ''
as $$
begin
  return coalesce(jsonb_typeof(p_limits), 'null') = 'null' or (jsonb_typeof(p_limits) = 'object' and not exists (
    select from jsonb_each(case when jsonb_typeof(p_limits) = 'object' then p_limits end) l
    where l.key = any (runhold.limit_names())
      and not case jsonb_typeof(l.value) when 'number' then l.value::numeric >= 0 when 'null' then true else false end));
end;
$$;

create function runhold.has_only_limits(p_object jsonb) returns boolean
language plpgsql immutable parallel safe security definer set search_path = ''
as $$
begin
  return p_object - runhold.limit_names() = '{}';
end;
$$;

-- Where reviewers are told: {"webhook": {"url": …, "secret_name": …}}, {"email": {"to": […]}} or both. The secret itself is in the
-- workers' environment; only names made for it are allowed, so that no other secret can be put to use.
create function runhold.is_notify(p_notify jsonb) returns boolean
language plpgsql immutable parallel safe security definer set search_path = ''
as $$
declare
  c_address constant text := '^[A-Za-z0-9.!#$%&''*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$';
  v_webhook jsonb := p_notify -> 'webhook';
  v_email jsonb := p_notify -> 'email';
begin
  return case
    when jsonb_typeof(p_notify) <> 'object' or p_notify = '{}' then false
    when jsonb_typeof(coalesce(v_webhook, '{}')) <> 'object' or jsonb_typeof(coalesce(v_email, '{}')) <> 'object' then false
    when p_notify - array['webhook', 'email'] <> '{}' then false
    when v_webhook - array['url', 'secret_name'] <> '{}' or v_email - 'to' <> '{}' then false
    when v_webhook is not null and not (
      coalesce(v_webhook ->> 'url', '') ~ '^https?://[^\s/@]+(/\S*)?$' and length(v_webhook ->> 'url') <= 2048
      and coalesce(v_webhook ->> 'secret_name', '') ~ '^RUNHOLD_WEBHOOK_SECRET(_[A-Z0-9_]+)?$') then false
    when v_email is null then true
    when jsonb_typeof(v_email -> 'to') is distinct from 'array' then false
    else jsonb_array_length(v_email -> 'to') between 1 and 10 and not exists (
      select from jsonb_array_elements(v_email -> 'to') a
      where jsonb_typeof(a) <> 'string' or a #>> '{}' !~ c_address or length(a #>> '{}') > 254) end;
end;
$$;

create table public.agent_definitions (
  id uuid primary key default gen_random_uuid(),
  hash text not null unique,
  agent_type text not null,
  version text not null,
  model text not null,
  instructions text not null,
  tools jsonb not null default '[]',
  params jsonb not null default '{}',
  description text not null default '',
  input_schema jsonb not null default '{}',
  limits jsonb not null default '{}',
  max_attempts integer not null default 3 check (max_attempts > 0),
  review_ttl interval not null default interval '7 days' check (review_ttl > interval '0'),
  created_at timestamptz not null default now(),
  constraint tools_is_a_list check (jsonb_typeof(tools) = 'array')
);

comment on table public.agent_definitions is
  'Insert-only: one row per distinct definition of an agent that a worker ever registered. Steps point to it.';

create sequence runhold.types_version;

create table public.agent_types (
  name text primary key check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
  -- of the definition that is current (runhold.adopt_definitions)
  description text not null default '',
  input_schema jsonb not null default '{}',
  definition_id uuid references public.agent_definitions,
  -- written by operators; registration never touches these. Null means: as the definition says.
  enabled boolean not null default true,
  approval_tools text[] not null default '{}',
  limits jsonb,
  max_concurrent integer check (max_concurrent >= 0),
  max_concurrent_per_user integer check (max_concurrent_per_user > 0),
  max_attempts integer check (max_attempts > 0),
  on_budget text not null default 'fail' check (on_budget in ('fail', 'wait')),
  review_ttl interval check (review_ttl > interval '0'),
  review_on_expiry text not null default 'reject' check (review_on_expiry in ('reject', 'fail', 'escalate')),
  escalation_ttl interval check (escalation_ttl > interval '0'),
  approvals_needed integer not null default 1 check (approvals_needed between 1 and 10),
  allow_self_review boolean not null default false,
  notify jsonb,
  changed bigint not null default nextval('runhold.types_version'),
  constraint limits_is_an_object check (jsonb_typeof(limits) = 'object'),
  constraint notify_names_channels check (notify is null or runhold.is_notify(notify)),
  constraint limits_are_known_numbers check (runhold.has_number_limits(limits) and runhold.has_only_limits(limits))
);

comment on column public.agent_types.definition_id is
  'The newest definition that a living worker runs; while none lives, the last one. Runs keep the one that claimed them.';
comment on column public.agent_types.enabled is 'The kill switch: false refuses new runs and stops claims.';
comment on column public.agent_types.approval_tools is 'Tools that need a person, whatever the code says.';
comment on column public.agent_types.limits is 'Tightens the definition''s limits; can never widen them.';
comment on column public.agent_types.on_budget is
  'What a run does whose budget is used up: fail (BUDGET_EXCEEDED), or wait for the next period.';
comment on column public.agent_types.escalation_ttl is
  'How long operators have for a review that was handed over to them; then it is rejected. Null: no limit.';
comment on column public.agent_types.notify is
  'Where reviewers are told: {"webhook": {"url": "https://…", "secret_name": "RUNHOLD_WEBHOOK_SECRET"}, "email": {"to": ["a@example.org"]}}, '
  'one or both. Null: nowhere.';
comment on column public.agent_types.changed is 'Grows with every change, so that workers see it in a heartbeat.';

create index agent_types_definition_idx on public.agent_types (definition_id);

create function runhold.agent_types_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  new.changed := nextval('runhold.types_version');
  return new;
end;
$$;

create trigger agent_types_changed before update on public.agent_types
  for each row execute function runhold.agent_types_changed();

-- Limits ------------------------------------------------------------------------------------------------------------

-- What one run may use, limit by limit; a limit that is absent or null does not exist. This is the rule, and the only place where it
-- stands: the smallest of what the definition, the operator and the run itself say. An allowance (agent_retry by an operator)
-- stands in place of what the definition and the operator say. Claims compute it, agent_executions.effective_limits keeps it.
create function runhold.effective_limits(p_definition jsonb, p_operator jsonb, p_allowance jsonb, p_own jsonb) returns jsonb
language plpgsql immutable parallel safe security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_object_agg(l.name, l.value), '{}')
    from (
      select n.name, least(
               coalesce((p_allowance ->> n.name)::numeric,
                        least((p_definition ->> n.name)::numeric, (p_operator ->> n.name)::numeric)),
               (p_own ->> n.name)::numeric) as value
      from unnest(runhold.limit_names()) n(name)) l
    where l.value is not null);
end;
$$;

-- What operators allow runs of a type: all that an insert is checked against, so that no deployment refuses what the one
-- before took.
create function runhold.operator_limits(p_agent_type text) returns jsonb
language sql stable security definer set search_path = ''
return (select coalesce(t.limits, '{}') from public.agent_types t where t.name = p_agent_type);

-- Rights ------------------------------------------------------------------------------------------------------------

alter table public.agent_types enable row level security;
alter table public.agent_definitions enable row level security;
revoke all on public.agent_types, public.agent_definitions from public, anon, authenticated, service_role;

grant select (name, description, input_schema, enabled) on public.agent_types to authenticated;
grant select on public.agent_types, public.agent_definitions to service_role;
grant update (enabled, approval_tools, limits, max_concurrent, max_concurrent_per_user, max_attempts, on_budget, review_ttl,
              review_on_expiry, escalation_ttl, approvals_needed, allow_self_review, notify) on public.agent_types to service_role;

create policy "signed-in users see which agents exist" on public.agent_types
  for select to authenticated using (true);

-- says to the linter, and to readers, that no policy for users is meant (the service passes RLS anyway)
create policy "definitions are the service's alone" on public.agent_definitions
  for select to service_role using (true);

revoke execute on all functions in schema runhold from public;
-- a check calls its functions with the rights of whoever writes the row
grant execute on function runhold.has_number_limits(jsonb), runhold.has_only_limits(jsonb), runhold.is_notify(jsonb) to service_role;
