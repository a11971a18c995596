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
  -- written by workers when they register
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

-- The smaller of both, name by name; null is "no limit". What is no limit (on_limit, …) stays as p_base says.
create function runhold.tighten(p_base jsonb, p_by jsonb) returns jsonb
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  if p_by is null or p_by = '{}'::jsonb then
    return coalesce(p_base, '{}'::jsonb);
  end if;
  return coalesce(p_base, '{}'::jsonb) || coalesce((
    select jsonb_object_agg(b.key, case
             when jsonb_typeof(p_base -> b.key) = 'number' then least((p_base ->> b.key)::numeric, b.value::numeric)
             else b.value::numeric end)
    from jsonb_each_text(p_by) b
    where b.key = any (runhold.limit_names()) and b.value is not null), '{}'::jsonb);
end;
$$;

-- What holds for runs of a type: the definition's limits, tightened by the operators'.
create function runhold.type_limits(p_agent_type text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select runhold.tighten(d.limits, t.limits)
    from public.agent_types t left join public.agent_definitions d on d.id = t.definition_id
    where t.name = p_agent_type);
end;
$$;

-- What holds for a run: its type's limits, or what an operator allowed it beyond them, tightened by its own.
create function runhold.run_limits(p_agent_type text, p_allowance jsonb, p_limits jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return runhold.tighten(runhold.type_limits(p_agent_type) || coalesce(p_allowance, '{}'), p_limits);
end;
$$;

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
