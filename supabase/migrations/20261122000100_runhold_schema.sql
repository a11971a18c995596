-- Runhold: production AI agents on Supabase. The model, in words:
--
-- An *execution* (a run) is one row of agent_executions, inserted by a signed-in user. Its *agent type* names which
-- agent works on it. A *worker* claims it: the row gets the worker's id and a *fence*, a number that grows with every
-- claim, so that whoever lost the run can no longer write to it.
--
-- The worker lets a model work through tools. Each answer of the model is a *step*, each tool that it asks for a *tool
-- call*. Steps and calls are append-only: together with the agent's *definition* they are the log from which every
-- request to the model can be rebuilt. There is no other state to lose.
--
-- A call that needs a person is stored before anything happens; a *review* row asks the question, the run goes to
-- awaiting_review and holds nothing. A *reviewer* updates that row; a trigger checks whether it may still be decided,
-- writes the decision down and puts the run back in the queue. The approval is used once, for exactly what was seen.
--
-- A worker holds one *lease*, renewed by its heartbeat, however many runs it has. When it ends, anybody's *sweep* gives
-- the runs back to the queue: calls that may have happened become *unknown* and ask a person.
--
--   schema public   what clients reach: tables under RLS, and thin functions (security invoker)
--   schema runhold  never exposed: reviewers, settings, the bodies of functions, triggers
--
-- Refusals use our own SQLSTATEs, RH001…: docs/reference/errors.md. States and who may change them:
-- 20261122000400_state_machine.sql.

create schema if not exists runhold;
revoke all on schema runhold from public;

comment on schema runhold is 'Runhold''s inner parts: never expose this schema through the API.';

-- Workers compare this with what they were built for. Raised by every migration that they must know of.
create function runhold.schema_version() returns integer
language sql immutable parallel safe set search_path = ''
return 1;

-- Every clock read goes through here, so that tests can move time: set runhold.now = '2027-01-01'.
--
-- What workers call often is written in plpgsql, here and below, even where one expression would do: plpgsql keeps its
-- plans for the session, while a function in language sql that can't be inlined is planned anew by every statement.
create function runhold.now() returns timestamptz
language plpgsql stable parallel safe set search_path = ''
as $$
begin
  return coalesce(nullif(current_setting('runhold.now', true), '')::timestamptz, pg_catalog.now());
end;
$$;

-- The same, going on within a transaction: for what is measured, not recorded.
create function runhold.clock() returns timestamptz
language plpgsql volatile parallel safe set search_path = ''
as $$
begin
  return coalesce(nullif(current_setting('runhold.now', true), '')::timestamptz, pg_catalog.clock_timestamp());
end;
$$;

-- What a project may set, by SQL:  update runhold.settings set value = '{app_metadata,org}' where name = 'tenant_claim';
create table runhold.settings (
  name text primary key,
  value text,
  description text not null,
  constraint retention_is_an_hour_at_least check (name <> 'retention' or value::interval >= interval '1 hour')
);

insert into runhold.settings (name, value, description) values
  ('tenant_claim', '{app_metadata,tenant_id}', 'path of the tenant''s id in the user''s JWT; null without'),
  ('retention', null, 'age at which ended runs are deleted, like 90 days, where pg_cron runs; null: never');

create function runhold.setting(p_name text) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (select s.value from runhold.settings s where s.name = p_name);
end;
$$;

-- Has the role that the request runs as the rights of service_role? current_user is the owner inside a definer function;
-- the role setting is not. Asked this way round, a role that a project adds for its users is no service.
create function runhold.caller_is_service() returns boolean
language sql stable set search_path = ''
return pg_has_role(coalesce(nullif(current_setting('role'), 'none'), session_user), 'service_role', 'usage');

-- Who is acting, for the audit: set by the functions of workers and of the sweep, else told from the JWT.
create function runhold.set_actor(p_kind text, p_id uuid default null) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform set_config('runhold.actor', p_kind || ':' || coalesce(p_id::text, ''), true);
end;
$$;

-- Why runs are being changed, for the audit: {"<execution id>": "reason"}, as one statement changes many.
create function runhold.set_reasons(p_reasons jsonb) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  perform set_config('runhold.reasons', coalesce(p_reasons, '{}')::text, true);
end;
$$;

create function runhold.reason_of(p_execution_id uuid) returns text
language plpgsql stable set search_path = ''
as $$
begin
  return nullif(current_setting('runhold.reasons', true), '')::jsonb ->> p_execution_id::text;
end;
$$;

-- The refusal of a domain rule: one sentence, one hint that says what to do.
create function runhold.refuse(p_code text, p_message text, p_hint text default null) returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception using errcode = p_code, message = p_message, hint = coalesce(p_hint, '');
end;
$$;

-- Why a worker could not read this JSON, if so. PostgreSQL takes numbers of any length and nests further than parsers do;
-- one such value in the answer to a claim would make all of that answer unreadable.
create function runhold.why_unreadable(p_value jsonb) returns text
language plpgsql immutable parallel safe security definer set search_path = ''
as $$
begin
  if jsonb_path_exists(p_value, '$.**{101}') then
    return 'is more than 100 levels deep';
  elsif jsonb_path_exists(p_value, '$.** ? (@.type() == "number" && (@ > 1.8e308 || @ < -1.8e308))') then
    return 'has a number beyond 1.8e308';
  end if;
  return null;
end;
$$;

-- An object without the members that are null; what is inside the others stays (jsonb_strip_nulls reaches into it).
create function runhold.compact(p_object jsonb) returns jsonb
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return (select coalesce(jsonb_object_agg(m.key, m.value), '{}') from jsonb_each(p_object) m where m.value <> 'null');
end;
$$;

-- Functions are executable by everybody at birth: each file that creates some in this schema ends like this one.
revoke execute on all functions in schema runhold from public;
