-- What a new Supabase project has before its first migration, as far as migrations and the REST and Auth API can tell.
--
-- Run once per new database cluster, by the superuser supabase_admin, in database postgres. Realtime's part is in
-- realtime/schema.sql, run after this. `%(password)s` stands for the quoted password of the roles that log in.

-- ---------------------------------------------------------------------------------------------------------------- roles

-- Who requests run as. They never log in; the API switches to them. A role that a project grants to them takes effect.
create role anon nologin inherit;
create role authenticated nologin inherit;
create role service_role nologin inherit bypassrls;

-- Whom the REST API logs in as. It owns nothing and inherits nothing: it can only become one of the three.
create role authenticator login noinherit password %(password)s;
grant anon, authenticated, service_role to authenticator;

-- Owners of the schemas that Supabase manages.
create role supabase_auth_admin login noinherit password %(password)s;
create role supabase_realtime_admin nologin noinherit;
create role dashboard_user nologin createdb createrole replication;

-- Who runs migrations. Not a superuser, as on hosted projects, so that what works here works there.
create role postgres login createdb createrole replication bypassrls password %(password)s;
grant anon, authenticated, service_role, authenticator to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend, pg_checkpoint to postgres;

-- On the role and not on the database, so that it also holds in a database made from a template.
alter role postgres set search_path = "$user", public, extensions;
alter role supabase_admin set search_path = "$user", public, auth, extensions;
alter role authenticator set search_path = public, extensions;
alter role supabase_auth_admin set search_path = auth;

-- The API applies the time-out of the role that a request runs as.
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role authenticated set statement_timeout = '8s';
alter role anon set statement_timeout = '3s';
alter role supabase_auth_admin set idle_in_transaction_session_timeout = '60s';

-- A project configures its REST API by `alter role authenticator set pgrst.… = …`, which only superusers may do with a
-- setting that no library defines, unless it is granted.
grant set on parameter
    "pgrst.db_schemas", "pgrst.db_extra_search_path", "pgrst.db_max_rows", "pgrst.db_pre_request", "pgrst.db_tx_end",
    "pgrst.db_plan_enabled", "pgrst.db_aggregates_enabled", "pgrst.db_root_spec", "pgrst.openapi_mode",
    "pgrst.openapi_security_active", "pgrst.server_cors_allowed_origins", "pgrst.server_timing_enabled",
    "pgrst.server_trace_header", "pgrst.jwt_role_claim_key", "pgrst.jwt_aud", "pgrst.jwt_secret_is_base64",
    "pgrst.log_level"
    to postgres;

-- Backups are restored without triggers.
grant set on parameter session_replication_role to postgres;

alter database postgres owner to postgres;

-- -------------------------------------------------------------------------------------------------------------- schemas

-- Schema public belongs to the owner of the database (pg_database_owner). Nothing in it is granted at birth: since
-- October 2026 no new table, sequence or function of a project is, to any of the three roles.
grant usage on schema public to postgres, anon, authenticated, service_role;

create schema extensions authorization postgres;
grant usage on schema extensions to anon, authenticated, service_role;
create extension "pgcrypto" with schema extensions;
create extension "pg_stat_statements" with schema extensions;
grant all on all functions in schema extensions to postgres, dashboard_user;

-- ----------------------------------------------------------------------------------------------------------------- auth

create schema auth authorization supabase_auth_admin;
grant usage on schema auth to postgres, anon, authenticated, service_role, dashboard_user;
grant create on schema auth to supabase_auth_admin;

set role supabase_auth_admin;

-- Columns and types are those of Supabase Auth, as far as its Lite edition uses them: a test compares.
create table auth.users (
    instance_id uuid,
    id uuid primary key,
    aud varchar(255) default 'authenticated',
    role varchar(255) default 'authenticated',
    email varchar(255),
    encrypted_password varchar(255),
    email_confirmed_at timestamptz,
    invited_at timestamptz,
    confirmation_token varchar(255),
    confirmation_sent_at timestamptz,
    recovery_token varchar(255),
    recovery_sent_at timestamptz,
    email_change varchar(255),
    email_change_token_new varchar(255),
    email_change_token_current varchar(255),
    email_change_sent_at timestamptz,
    email_change_confirm_status smallint default 0 check (email_change_confirm_status between 0 and 2),
    last_sign_in_at timestamptz,
    raw_app_meta_data jsonb default '{}',
    raw_user_meta_data jsonb default '{}',
    is_super_admin boolean,
    phone text unique,
    phone_confirmed_at timestamptz,
    phone_change text default '',
    phone_change_token varchar(255) default '',
    phone_change_sent_at timestamptz,
    confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
    reauthentication_token varchar(255) default '',
    reauthentication_sent_at timestamptz,
    banned_until timestamptz,
    deleted_at timestamptz,
    is_sso_user boolean not null default false,
    is_anonymous boolean not null default false,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
create unique index users_email_partial_key on auth.users (email) where is_sso_user = false;
create index users_is_anonymous_idx on auth.users (is_anonymous);
-- A token that was used up is emptied; only living ones must be unique.
create unique index confirmation_token_idx on auth.users (confirmation_token) where length(confirmation_token) > 6;
create unique index recovery_token_idx on auth.users (recovery_token) where length(recovery_token) > 6;
create unique index email_change_token_current_idx on auth.users (email_change_token_current)
    where length(email_change_token_current) > 6;
create unique index email_change_token_new_idx on auth.users (email_change_token_new)
    where length(email_change_token_new) > 6;
create unique index reauthentication_token_idx on auth.users (reauthentication_token)
    where length(reauthentication_token) > 6;

create table auth.sessions (
    id uuid primary key,
    user_id uuid not null references auth.users (id) on delete cascade,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    factor_id uuid,
    aal text check (aal in ('aal1', 'aal2', 'aal3')),
    not_after timestamptz,
    refreshed_at timestamp,
    user_agent text,
    ip inet,
    tag text,
    refresh_token_hmac_key text,
    refresh_token_counter bigint,
    scopes text check (length(scopes) <= 4096)
);
create index sessions_user_id_idx on auth.sessions (user_id);

-- How a session was opened, for the claim amr of its tokens.
create table auth.mfa_amr_claims (
    session_id uuid not null references auth.sessions (id) on delete cascade,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    authentication_method text not null,
    id uuid primary key,
    constraint mfa_amr_claims_session_id_authentication_method_pkey unique (session_id, authentication_method)
);

create table auth.refresh_tokens (
    id text primary key,
    token varchar(255) not null,
    user_id uuid not null,
    session_id uuid references auth.sessions (id) on delete cascade,
    revoked boolean default false,
    parent varchar(255),
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
create index refresh_tokens_token_idx on auth.refresh_tokens (token);
create index refresh_tokens_user_id_idx on auth.refresh_tokens (user_id);
create index refresh_tokens_session_id_revoked_idx on auth.refresh_tokens (session_id, revoked);

create table auth.identities (
    id uuid primary key default gen_random_uuid(),
    provider text not null,
    provider_id text not null,
    user_id uuid not null references auth.users (id) on delete cascade,
    identity_data jsonb not null default '{}',
    email varchar(255) generated always as (lower(identity_data ->> 'email')) stored,
    last_sign_in_at timestamptz,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    unique (provider, provider_id)
);
create index identities_user_id_idx on auth.identities (user_id);
create index identities_email_idx on auth.identities (email);

create table auth.flow_state (
    id uuid primary key,
    user_id uuid,
    auth_code text,
    authentication_method text not null,
    code_challenge_method text check (code_challenge_method in ('s256', 'plain')),
    code_challenge text,
    provider_type text not null,
    provider_access_token text,
    provider_refresh_token text,
    auth_code_issued_at timestamptz,
    invite_token text,
    referrer text,
    oauth_client_state_id uuid,
    linking_target_id uuid,
    email_optional boolean not null default false,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
create index flow_state_auth_code_idx on auth.flow_state (auth_code);
create index flow_state_user_id_method_idx on auth.flow_state (user_id, authentication_method);
create index flow_state_created_at_idx on auth.flow_state (created_at);

create table auth.audit_log_entries (
    id uuid primary key,
    payload json,
    created_at timestamptz default now(),
    ip_address varchar(64) default ''
);

-- Who is asking, for policies and column defaults. Both spellings of the claims are understood, as on hosted projects.
create function auth.jwt() returns jsonb language sql stable as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb
$$;

create function auth.uid() returns uuid language sql stable as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
    )::uuid
$$;

create function auth.role() returns text language sql stable as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.role', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
    )
$$;

create function auth.email() returns text language sql stable as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.email', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
    )
$$;

-- Migrations may refer to users and put triggers on them; tests and seeds may write them.
grant all on all tables in schema auth to postgres, dashboard_user;

reset role;

-- ------------------------------------------------------------------------------------------------------------- realtime

-- Empty. A project adds its tables, so it owns the publication.
create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;

-- ----------------------------------------------------------------------------------------------------- the API's schema cache

-- The API reads the shape of the schema once. Every DDL statement tells it to look again, as on hosted projects.
create function extensions.pgrst_ddl_watch() returns event_trigger language plpgsql set search_path = '' as $$
begin
    if exists (
        select from pg_catalog.pg_event_trigger_ddl_commands() as command
        where command.schema_name is distinct from 'pg_temp'
    ) then
        notify pgrst, 'reload schema';
    end if;
end
$$;

create function extensions.pgrst_drop_watch() returns event_trigger language plpgsql set search_path = '' as $$
begin
    if exists (select from pg_catalog.pg_event_trigger_dropped_objects() as dropped where not dropped.is_temporary) then
        notify pgrst, 'reload schema';
    end if;
end
$$;

create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_drop_watch();
