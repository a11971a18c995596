-- Describes every object of this release, so that a restored database can be compared with it.
--
-- Supabase's backup leaves out whatever is in schemas that Supabase manages: the trigger on auth.users, policies on
-- realtime.messages, scheduled jobs, memberships of roles. So the last file of a release describes each object in a
-- row of runhold.release_objects, which the backup's data has. 20261122001910_installation.sql compares.
--
-- Not described, so no faults: what a project adds, rights of its own roles, owners, comments, storage parameters, the
-- times at which jobs run, and the bodies of functions that a project may replace.
--
-- This file may be applied again, to bring back the functions that a database lacks.

create table if not exists runhold.release_objects (
  kind text not null,
  identity text not null,
  place bigint not null,
  parents text[] not null,
  definition text not null,
  create_sql text not null,
  change_sql text,
  constraint release_objects_pkey primary key (kind, identity)
);

comment on table runhold.release_objects is
  'Every object of this release; runhold.installation() compares the database with it.';
comment on column runhold.release_objects.place is 'Order of creation: what others need comes first.';
comment on column runhold.release_objects.parents is
  'Objects (kind and identity) without which this one can not exist.';
comment on column runhold.release_objects.definition is 'What is compared; no more than that.';
comment on column runhold.release_objects.change_sql is
  'Makes an object that differs as it should be; null: create_sql does.';

-- Our names in schema public, which belongs to the project. Everything in schema runhold is ours. A test compares.
create or replace function runhold.release_names() returns text[]
language sql immutable parallel safe set search_path = ''
return array[
  'agent_types', 'agent_definitions', 'agent_executions', 'agent_steps', 'agent_tool_calls', 'agent_messages',
  'agent_reviews', 'agent_review_decisions', 'agent_events', 'agent_budgets', 'agent_usage', 'model_prices',
  'agent_workers', 'agent_metrics_hourly',
  'agent_submit', 'agent_cancel', 'agent_send', 'agent_retry', 'agent_fork', 'agent_disable', 'agent_enable',
  'agent_timeline', 'agent_export', 'agent_decide', 'agent_review_context', 'agent_health_metrics', 'agent_prune',
  'agent_sweep', 'agent_installation',
  'agent_worker_register', 'agent_worker_definitions', 'agent_worker_claim', 'agent_worker_log', 'agent_worker_record',
  'agent_worker_heartbeat', 'agent_worker_release', 'agent_worker_stop', 'agent_worker_notifications',
  'agent_worker_notified', 'agent_worker_prices', 'agent_worker_user_claims'];

-- A project may put a body of its own into these.
create or replace function runhold.replaceable_functions() returns text[]
language sql immutable parallel safe set search_path = ''
return array['may_act'];

-- The roles whose rights and memberships are ours to give. Others are the project's.
create or replace function runhold.release_roles() returns text[]
language sql immutable parallel safe set search_path = ''
return array[
  'public', 'anon', 'authenticated', 'service_role', 'authenticator', 'supabase_realtime_admin', 'runhold_worker'];

create or replace function runhold.release_tables() returns setof oid
language sql stable set search_path = ''
begin atomic
  select c.oid from pg_catalog.pg_class c
  where c.relkind in ('r', 'p') and (
    c.relnamespace = to_regnamespace('runhold')
    or c.relnamespace = to_regnamespace('public') and c.relname = any (runhold.release_names()));
end;

create or replace function runhold.release_functions() returns setof oid
language sql stable set search_path = ''
begin atomic
  select p.oid from pg_catalog.pg_proc p
  where p.prokind in ('f', 'p') and (
    p.pronamespace = to_regnamespace('runhold')
    or p.pronamespace = to_regnamespace('public') and p.proname = any (runhold.release_names()));
end;

-- In stage 2, objects stand as they were made, so each after those that it is made of: identifiers grow.
create or replace function runhold.place_of(p_stage integer, p_oid oid, p_within integer default 0) returns bigint
language sql immutable parallel safe set search_path = ''
return p_stage * 10000000000000 + p_oid::bigint * 2000 + p_within;

create or replace function runhold.describe_tables() returns setof runhold.release_objects
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select 'table', c.oid::regclass::text, runhold.place_of(2, c.oid), '{}'::text[],
    case c.relpersistence when 'p' then 'logged' else 'unlogged' end,
    format('create table %s ()%s;', c.oid::regclass, ' with (' || array_to_string(c.reloptions, ', ') || ')'),
    format('alter table %s set logged;', c.oid::regclass)
  from runhold.release_tables() r(oid) join pg_catalog.pg_class c on c.oid = r.oid;

  return query
  select 'column', format('%s.%I', a.attrelid::regclass, a.attname), runhold.place_of(2, a.attrelid, a.attnum),
    array['table ' || a.attrelid::regclass], concat_ws(' ', x.type, x.made),
    format('alter table %s add column %I %s;', a.attrelid::regclass, a.attname, concat_ws(' ', x.type,
      coalesce(x.made, 'default ' || x.expression), case when a.attnotnull then 'not null' end)),
    case when a.attgenerated <> '' then format('alter table %s drop column %2$I, add column %2$I %3$s %4$s;',
           a.attrelid::regclass, a.attname, x.type, x.made)
         when a.attidentity <> '' then format('alter table %s alter column %I add %s;',
           a.attrelid::regclass, a.attname, x.made)
         else format('alter table %s alter column %2$I type %3$s using %2$I::%3$s;',
           a.attrelid::regclass, a.attname, x.type) end
  from runhold.release_tables() r(oid)
  join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  cross join lateral (
    select format_type(a.atttypid, a.atttypmod) as type, pg_get_expr(d.adbin, d.adrelid) as expression,
      case when a.attgenerated <> '' then
             format('generated always as (%s) stored', pg_get_expr(d.adbin, d.adrelid))
           when a.attidentity = 'a' then 'generated always as identity'
           when a.attidentity = 'd' then 'generated by default as identity' end as made) x;

  return query
  select 'not-null rule', x.name, runhold.place_of(2, a.attrelid, 1000 + a.attnum),
    array['column ' || x.name, 'table ' || a.attrelid::regclass], 'not null',
    format('alter table %s alter column %I set not null;', a.attrelid::regclass, a.attname), null::text
  from runhold.release_tables() r(oid)
  join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  cross join lateral (select format('%s.%I', a.attrelid::regclass, a.attname) as name) x
  where a.attnotnull;

  return query
  select 'default', x.name, runhold.place_of(2, d.oid), array['column ' || x.name, 'table ' || a.attrelid::regclass],
    pg_get_expr(d.adbin, d.adrelid), format('alter table %s alter column %I set default %s;',
      a.attrelid::regclass, a.attname, pg_get_expr(d.adbin, d.adrelid)), null::text
  from runhold.release_tables() r(oid)
  join pg_catalog.pg_attribute a
    on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  cross join lateral (select format('%s.%I', a.attrelid::regclass, a.attname) as name) x;

  return query  -- from PostgreSQL 18 on, not-null rules are constraints, too
  select 'constraint', format('%I on %s', k.conname, k.conrelid::regclass), runhold.place_of(2, k.oid),
    array['table ' || k.conrelid::regclass], x.rule,
    format('alter table %s add constraint %I %s;', k.conrelid::regclass, k.conname, x.rule),
    format('alter table %s drop constraint %2$I, add constraint %2$I %3$s;', k.conrelid::regclass, k.conname, x.rule)
  from runhold.release_tables() r(oid)
  join pg_catalog.pg_constraint k on k.conrelid = r.oid and k.contype in ('c', 'f', 'p', 'u', 'x')
  cross join lateral (select pg_get_constraintdef(k.oid) as rule) x;

  return query
  select 'index', i.indexrelid::regclass::text, runhold.place_of(2, i.indexrelid),
    array['table ' || i.indrelid::regclass], x.sql || case when i.indisvalid then '' else ' (not valid)' end,
    x.sql || ';', format('drop index %s; %s;', i.indexrelid::regclass, x.sql)
  from runhold.release_tables() r(oid) join pg_catalog.pg_index i on i.indrelid = r.oid
  cross join lateral (select pg_get_indexdef(i.indexrelid) as sql) x
  where not exists (
    select from pg_catalog.pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'));

  return query
  select 'type', t.oid::regtype::text, runhold.place_of(2, t.oid), '{}'::text[], x.columns,
    format('create type %s as (%s);', t.oid::regtype, x.columns),
    format('drop type %1$s; create type %1$s as (%2$s);', t.oid::regtype, x.columns)
  from pg_catalog.pg_type t cross join lateral (
    select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
    from pg_catalog.pg_attribute a where a.attrelid = t.typrelid and not a.attisdropped) x(columns)
  where t.typnamespace = to_regnamespace('runhold')
    and exists (select from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c');

  return query  -- sequences of identity columns come with their columns
  select 'sequence', c.oid::regclass::text, runhold.place_of(2, c.oid), '{}'::text[], x.options,
    format('create sequence %s %s;', c.oid::regclass, x.options),
    format('alter sequence %s %s;', c.oid::regclass, x.options)
  from pg_catalog.pg_class c join pg_catalog.pg_sequence s on s.seqrelid = c.oid
  cross join lateral (
    select format('as %s increment %s minvalue %s maxvalue %s start %s cache %s %scycle', s.seqtypid::regtype,
      s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache, case when not s.seqcycle then 'no ' end)) x(options)
  where c.relnamespace = to_regnamespace('runhold') and not exists (
    select from pg_catalog.pg_depend d
    where d.classid = to_regclass('pg_catalog.pg_class') and d.objid = c.oid and d.deptype in ('a', 'i'));
end;
$$;

create or replace function runhold.describe_behaviour() returns setof runhold.release_objects
language plpgsql stable set search_path = ''
as $$
begin
  return query  -- two hashes: of what `create or replace` can't change, and of the rest
  select 'function', p.oid::regprocedure::text, runhold.place_of(2, p.oid), '{}'::text[],
    md5(split_part(d.sql, E'\n LANGUAGE ', 1)) || ' ' || case
      when p.pronamespace = to_regnamespace('runhold') and p.proname = any (runhold.replaceable_functions())
        then 'replaceable'
      -- what PostgreSQL wrote down and read again has names for constants: those of their types
      when p.prosqlbody is not null then md5(regexp_replace(d.sql, '::(\w+) AS "?\1"?', '::\1', 'g'))
      -- Supabase's CLI leaves such lines out of a backup
      else md5(regexp_replace(d.sql, '^--.*\n', '', 'gn')) end,
    d.sql || ';', null::text
  from runhold.release_functions() r(oid) join pg_catalog.pg_proc p on p.oid = r.oid
  cross join lateral (select rtrim(pg_get_functiondef(p.oid), E'\n') as sql) d;

  return query  -- a trigger is ours if it calls a function of ours, on whatever table
  select 'trigger', format('%I on %s', t.tgname, t.tgrelid::regclass), runhold.place_of(2, t.oid),
    array['table ' || t.tgrelid::regclass],
    d.sql || case t.tgenabled when 'O' then '' else ' (enabled: ' || t.tgenabled::text || ')' end, x.sql,
    case when t.tgconstraint <> 0 then format('drop trigger %I on %s; %s', t.tgname, t.tgrelid::regclass, x.sql) end
  from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
  cross join lateral (select pg_get_triggerdef(t.oid) as sql) d
  cross join lateral (
    select regexp_replace(d.sql, '^CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER') || ';' as sql) x
  where not t.tgisinternal and p.pronamespace = to_regnamespace('runhold');

  return query
  select 'policy', format('%I on %s', p.polname, p.polrelid::regclass), runhold.place_of(2, p.oid),
    array['table ' || p.polrelid::regclass], x.rest,
    format('create policy %I on %s %s;', p.polname, p.polrelid::regclass, x.rest),
    format('drop policy %1$I on %2$s; create policy %1$I on %2$s %3$s;', p.polname, p.polrelid::regclass, x.rest)
  from pg_catalog.pg_policy p cross join lateral (
    select concat_ws(' ', case when not p.polpermissive then 'as restrictive' end,
      'for ' || case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
                              when 'd' then 'delete' else 'all' end,
      'to ' || (select string_agg(x.name, ', ' order by x.name) from unnest(p.polroles) r
                cross join lateral (select case r when 0 then 'public' else r::regrole::text end as name) x),
      'using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
      'with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') as rest) x
  where p.polrelid in (select r.oid from runhold.release_tables() r(oid))
    or p.polrelid = to_regclass('realtime.messages') and p.polname like 'runhold: %';

  return query
  select 'row level security', c.oid::regclass::text, runhold.place_of(3, c.oid), array['table ' || c.oid::regclass],
    case when c.relforcerowsecurity then 'forced' else 'enabled' end,
    format('alter table %s enable row level security, %sforce row level security;', c.oid::regclass,
      case when not c.relforcerowsecurity then 'no ' end), null::text
  from runhold.release_tables() r(oid) join pg_catalog.pg_class c on c.oid = r.oid where c.relrowsecurity;
end;
$$;

-- One row per object and role: all its rights there.
create or replace function runhold.describe_rights() returns setof runhold.release_objects
language plpgsql stable set search_path = ''
as $$
begin
  return query
  with object(name, parent, owner, acl) as (
    select x.name, x.name, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    from runhold.release_functions() r(oid) join pg_catalog.pg_proc p on p.oid = r.oid
    cross join lateral (select 'function ' || p.oid::regprocedure as name) x
    union all
    select x.name, x.name, c.relowner, c.relacl
    from runhold.release_tables() r(oid) join pg_catalog.pg_class c on c.oid = r.oid
    cross join lateral (select 'table ' || c.oid::regclass as name) x
    union all
    select x.name, coalesce('table ' || d.refobjid::regclass, x.name), c.relowner, c.relacl
    from pg_catalog.pg_class c cross join lateral (select 'sequence ' || c.oid::regclass as name) x
    left join pg_catalog.pg_depend d
      on d.classid = to_regclass('pg_catalog.pg_class') and d.objid = c.oid and d.deptype in ('a', 'i')
    where c.relkind = 'S' and (
      c.relnamespace = to_regnamespace('runhold') or d.refobjid in (select r.oid from runhold.release_tables() r(oid)))
    union all
    select 'schema ' || n.nspname, 'schema ' || n.nspname, n.nspowner, n.nspacl
    from pg_catalog.pg_namespace n where n.nspname in ('runhold', 'public')
  ), entry(name, parent, owner, grantee, is_grantable, privilege) as (
    select o.name, o.parent, o.owner, a.grantee, a.is_grantable, lower(a.privilege_type)
    from object o cross join lateral aclexplode(o.acl) a
    union all
    select o.name, o.parent, o.owner, a.grantee, a.is_grantable,
      format('%s (%s)', lower(a.privilege_type), string_agg(quote_ident(t.attname), ', ' order by t.attname))
    from runhold.release_tables() r(oid) join object o on o.name = 'table ' || r.oid::regclass
    join pg_catalog.pg_attribute t on t.attrelid = r.oid and not t.attisdropped
    cross join lateral aclexplode(t.attacl) a
    group by o.name, o.parent, o.owner, a.grantee, a.is_grantable, a.privilege_type
  ), granted(name, parent, role, privileges, option) as (
    select e.name, e.parent, case e.grantee when 0 then 'public' else e.grantee::regrole::text end,
      string_agg(distinct e.privilege, ', ' order by e.privilege),
      case when e.is_grantable then ' with grant option' else '' end
    from entry e where e.grantee <> e.owner
    group by e.name, e.parent, e.is_grantable, e.grantee
  )
  select 'rights', g.role || ' on ' || g.name, runhold.place_of(3, '0', 1), array[g.parent, 'role ' || g.role],
    string_agg(g.privileges || g.option, '; ' order by g.option),
    format('revoke all on %s from %s; ', g.name, g.role) || string_agg(
      format('grant %s on %s to %s%s;', g.privileges, g.name, g.role, g.option), ' ' order by g.option), null::text
  from granted g
  where g.role = any (runhold.release_roles()) and (g.name <> 'schema public' or g.role = 'runhold_worker')
  group by g.name, g.parent, g.role;
end;
$$;

-- What is outside of our schema or in rows: the schema itself, the workers' role, jobs, settings.
create or replace function runhold.describe_surroundings() returns setof runhold.release_objects
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select 'schema', n.nspname::text, runhold.place_of(1, '0'), '{}'::text[], 'schema',
    format('create schema %I;', n.nspname), null::text
  from pg_catalog.pg_namespace n where n.nspname = 'runhold';

  return query
  select 'role', r.rolname::text, runhold.place_of(1, '0', 1), '{}'::text[], x.attributes,
    format('create role %I %s;', r.rolname, x.attributes), format('alter role %I %s;', r.rolname, x.attributes)
  from pg_catalog.pg_roles r cross join lateral (
    select concat_ws(' ', case when r.rolcanlogin then 'login' else 'nologin' end,
      case when r.rolinherit then 'inherit' else 'noinherit' end,
      case when r.rolbypassrls then 'bypassrls' else 'nobypassrls' end,
      case when r.rolcreaterole then 'createrole' else 'nocreaterole' end,
      case when r.rolcreatedb then 'createdb' else 'nocreatedb' end) as attributes) x
  where r.rolname = 'runhold_worker';

  return query  -- a project may refuse all but the authenticator's; then workers poll
  select 'role membership', format('%I in %I', w.rolname, o.rolname), runhold.place_of(1, '0', 2), '{}'::text[],
    'member', case w.rolname when 'authenticator' then format('grant %I to %I;', o.rolname, w.rolname) else format(
      'do $do$ begin grant %I to %I; exception when others then raise notice ''runhold: %%'', sqlerrm; end; $do$;',
      o.rolname, w.rolname) end, null::text
  from pg_catalog.pg_auth_members m
  join pg_catalog.pg_roles o on o.oid = m.roleid join pg_catalog.pg_roles w on w.oid = m.member
  where 'runhold_worker' in (o.rolname, w.rolname)
    and o.rolname = any (runhold.release_roles()) and w.rolname = any (runhold.release_roles())
  group by o.rolname, w.rolname;

  if to_regclass('cron.job') is not null then
    return query
    select 'cron job', j.name, runhold.place_of(4, '0'), '{}'::text[], concat_ws(' ', to_jsonb(c) ->> 'command',
        case when to_jsonb(c) ->> 'active' = 'false' then '(not active)' end),
      'select runhold.schedule_jobs();', null::text
    from cron.job c join runhold.jobs() j on j.name = to_jsonb(c) ->> 'jobname';
  end if;

  return query
  select 'setting', s.name, runhold.place_of(3, '0'), array['table runhold.settings'], 'setting', format(
    'insert into runhold.settings (name, value, description) values (%L, %L, %L);', s.name, s.value, s.description),
    null::text
  from runhold.settings s;
end;
$$;

-- The database as it is now. The settings are those on which the texts of expressions depend.
create or replace function runhold.describe_installation() returns setof runhold.release_objects
language plpgsql stable security definer
set search_path = '' set quote_all_identifiers = off set intervalstyle = 'postgres' set datestyle = 'ISO'
set timezone = 'UTC'
as $$
begin
  return query select d.* from runhold.describe_surroundings() d;
  return query select d.* from runhold.describe_tables() d;
  return query select d.* from runhold.describe_behaviour() d;
  return query select d.* from runhold.describe_rights() d;
end;
$$;

-- The last statement of a release.
create or replace function runhold.store_release() returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from runhold.release_objects where true;
  insert into runhold.release_objects select d.* from runhold.describe_installation() d;
end;
$$;

revoke execute on all functions in schema runhold from public;
