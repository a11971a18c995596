-- What of this release a database lacks: `runhold doctor` asks, and repairs with the SQL that is in the answer.
--
-- Faults are: an object is missing; it is not as the release made it; one of the API's roles has rights on it that the
-- release does not give. This file may be applied again, like the one before it.

-- {"objects": how many the release has, "faults": [{"kind", "identity", "state", "here", "release", "optional",
-- "implied", "sql"}]}, in the order in which their SQL has to run. No objects: the rows of the release are missing.
--
--   state     missing; changed; extra: rights that the release does not give
--   optional  workers do without it
--   implied   missing because another one is, which is named, too
create or replace function runhold.installation() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_faults jsonb;
begin
  with actual as materialized (
    select d.*, d.kind || ' ' || d.identity as key from runhold.describe_installation() d
  ), wanted as materialized (
    select o.*, o.kind || ' ' || o.identity as key from runhold.release_objects o
    union all  -- pg_cron may have come after the release
    select 'cron job', j.name, runhold.place_of(4, '0'), '{}'::text[], j.command, 'select runhold.schedule_jobs();',
      null, 'cron job ' || j.name
    from runhold.jobs() j
    where to_regclass('cron.job') is not null and exists (select from runhold.release_objects)
      and not exists (select from runhold.release_objects o where o.kind = 'cron job' and o.identity = j.name)
  ), compared as materialized (
    select w.*, a.definition as here,
      case when a.key is null then 'missing' when a.definition <> w.definition then 'changed' end as state,
      -- its first hash: `create or replace` does not do
      coalesce(w.kind = 'function' and split_part(a.definition, ' ', 1) <> split_part(w.definition, ' ', 1), false)
        as is_replaced
    from wanted w left join actual a on a.key = w.key
  ), made_anew as materialized (
    select array(select c.key from compared c where c.state = 'missing' or c.is_replaced) as keys
  ), fault(kind, identity, place, state, here, release, implied, sql) as (
    select c.kind, c.identity, c.place, coalesce(c.state, 'missing'), c.here, c.definition, c.parents && m.keys, concat(
      case when c.is_replaced then format('drop function %s; ', c.identity) end,
      case when c.state = 'changed' and not c.is_replaced then coalesce(c.change_sql, c.create_sql)
           else c.create_sql end,
      -- everybody has rights on a new function, and the defaults of a project may give more
      case when c.key = any (m.keys) and c.kind in ('function', 'table', 'sequence') then
        format(' revoke all on %s %s from public, anon, authenticated, service_role, runhold_worker;',
          c.kind, c.identity) end)
    from compared c cross join made_anew m
    where c.state is not null or c.kind = 'rights' and c.parents && m.keys
    union all
    select a.kind, a.identity, a.place, 'extra', a.definition, null, false, split_part(a.create_sql, ';', 1) || ';'
    from actual a
    where a.kind = 'rights' and a.parents[1] in (select w.key from wanted w)
      and a.key not in (select w.key from wanted w)
  )
  select jsonb_agg(jsonb_build_object(
      'kind', f.kind, 'identity', f.identity, 'state', f.state,
      'optional', f.kind = 'cron job' or f.kind = 'role membership' and f.identity not like 'authenticator in %',
      'implied', f.implied, 'sql', f.sql,
      'here', case when f.kind <> 'function' then f.here end,
      'release', case when f.kind <> 'function' then f.release end)
    order by f.place, f.kind, f.identity)
  into v_faults from fault f;
  return jsonb_build_object(
    'objects', (select count(*) from runhold.release_objects), 'faults', coalesce(v_faults, '[]'));
end;
$$;

create or replace function public.agent_installation() returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select runhold.installation();
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_installation() from public, anon, authenticated;
grant execute on function runhold.installation(), public.agent_installation() to service_role, runhold_worker;
