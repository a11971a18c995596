-- Worker processes: registration, the lease and its heartbeat. The lease is the worker's: one row is renewed, however
-- many runs it holds; a run belongs to (worker_id, fence). Claim, heartbeat and register lock the worker's row first.

create table public.agent_workers (
  id uuid primary key,
  hostname text not null,
  pid integer not null,
  version text not null,
  agent_types text[] not null default '{}',
  definition_ids uuid[] not null default '{}',
  capacity integer not null default 1,
  in_flight integer not null default 0,
  lease interval not null check (lease between interval '1 second' and interval '10 minutes'),
  started_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  lease_expires_at timestamptz not null,
  claim_seq bigint not null default 0,
  draining boolean not null default false,
  dead_at timestamptz
) with (fillfactor = 50);

comment on column public.agent_workers.id is 'New for every process. A dead id never comes back.';
comment on column public.agent_workers.definition_ids is 'What its agents are: rows of agent_definitions.';
comment on column public.agent_workers.dead_at is 'Set by the sweep when the lease ran out, or by the worker''s goodbye.';

-- Changes with every heartbeat: no index on what changes, and living workers are few.
create index agent_workers_living_idx on public.agent_workers (id) where dead_at is null;

alter table public.agent_workers enable row level security;
revoke all on public.agent_workers from public, anon, authenticated, service_role;
grant select on public.agent_workers to service_role;
-- says to the linter, and to readers, that no policy for users is meant (the service passes RLS anyway)
create policy "workers are the service's alone" on public.agent_workers for select to service_role using (true);

-- When did anybody last beat, and since when do they do so without a gap? After an outage of the database every lease
-- has run out; the sweep then gives the workers one lease's time to be heard before it declares anybody dead. Sweeps
-- (pg_cron) are noted too: where they went on while nobody beat, it was not the database that was away.
create table runhold.liveness (
  one boolean primary key default true check (one),
  last_beat_at timestamptz not null default now(),
  beating_since timestamptz not null default now(),
  last_sweep_at timestamptz not null default now(),
  sweeping_since timestamptz not null default now()
) with (fillfactor = 50);

insert into runhold.liveness default values;

-- The longest silence that is no gap: the longest lease of those alive, so that one worker with a short lease can't make
-- every pause of the others look like an outage.
create function runhold.longest_lease() returns interval
language plpgsql stable security definer set search_path = ''
as $$
begin
  return coalesce((select max(w.lease) from public.agent_workers w where w.dead_at is null), interval '30 seconds');
end;
$$;

-- `where true`: Supabase loads pg-safeupdate into API sessions, which refuses an update or delete without a condition, also
-- inside functions (SQLSTATE 21000).
create function runhold.note_beat() returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update runhold.liveness l
  set beating_since = case when runhold.now() - l.last_beat_at > runhold.longest_lease() then runhold.now() else l.beating_since end,
      last_beat_at = runhold.now()
  where true;
end;
$$;

-- The worker's row, locked; refuses the dead.
create function runhold.lock_worker(p_worker_id uuid) returns public.agent_workers
language plpgsql security definer set search_path = ''
as $$
declare
  v_worker public.agent_workers;
begin
  select w.* into v_worker from public.agent_workers w where w.id = p_worker_id for update;
  if not found then
    perform runhold.refuse('RH012', format('Worker %s is not registered.', p_worker_id), 'Call agent_worker_register first.');
  elsif v_worker.dead_at is not null then
    perform runhold.refuse('RH012', format('Worker %s was declared dead at %s; its runs went to others.', p_worker_id, v_worker.dead_at),
      'Drop all runs and register anew under a new id.');
  end if;
  return v_worker;
end;
$$;

create function runhold.types_json(p_names text[]) returns jsonb
language sql stable security definer set search_path = ''
return (
  select coalesce(jsonb_object_agg(t.name, jsonb_build_object('enabled', t.enabled, 'approval_tools', to_jsonb(t.approval_tools))), '{}')
  from public.agent_types t where t.name = any (p_names));

-- Grows with every change that can be seen. The sum, not the maximum: of two changes at once, the one with the smaller
-- number may commit last.
create function runhold.types_version() returns bigint
language sql stable security definer set search_path = ''
return (select coalesce(sum(t.changed), 0)::bigint from public.agent_types t);

-- Of types whose current definition is another one: the newest definition that a living worker runs.
create function runhold.newest_definitions(p_agent_types text[]) returns setof public.agent_definitions
language sql stable security definer set search_path = ''
begin atomic
  select n.*
  from (select distinct on (d.agent_type) d.*
        from public.agent_workers w join public.agent_definitions d on d.id = any (w.definition_ids)
        where w.dead_at is null and not w.draining and d.agent_type = any (p_agent_types)
        order by d.agent_type, d.created_at desc, d.id) n
  join public.agent_types t on t.name = n.agent_type and t.definition_id is distinct from n.id;
end;

-- One definition as registered → the row that holds it, inserted if nobody ever registered the same.
create function runhold.register_definition(p_definition jsonb) returns uuid
language plpgsql security definer set search_path = ''
as $$
declare
  v_type text := p_definition ->> 'agent_type';
  v_hash text;
  v_id uuid;
begin
  p_definition := runhold.compact(p_definition);
  if coalesce(v_type, '') !~ '^[a-z][a-z0-9_]{0,62}$' then
    perform runhold.refuse('RH013', format('%s is no name of an agent type.', coalesce(quote_literal(v_type), 'null')),
      'Use lower-case letters, digits and underscores, starting with a letter, at most 63.');
  end if;
  if not runhold.has_number_limits(p_definition -> 'limits') then
    perform runhold.refuse('RH013', format('The limits of agent type %I are no numbers.', v_type), 'Send {"max_steps": 25}; null is no limit.');
  end if;
  v_hash := encode(sha256(convert_to(p_definition::text, 'UTF8')), 'hex');

  insert into public.agent_definitions
    (hash, agent_type, version, model, instructions, tools, params, description, input_schema, limits, max_attempts, review_ttl)
  values (
    v_hash, v_type, p_definition ->> 'version', p_definition ->> 'model', coalesce(p_definition ->> 'instructions', ''),
    coalesce(p_definition -> 'tools', '[]'), coalesce(p_definition -> 'params', '{}'), coalesce(p_definition ->> 'description', ''),
    coalesce(p_definition -> 'input_schema', '{}'), coalesce(p_definition -> 'limits', '{}'),
    coalesce((p_definition ->> 'max_attempts')::integer, 3),
    make_interval(secs => coalesce((p_definition ->> 'review_ttl_s')::numeric, 604800)::double precision))
  on conflict (hash) do nothing
  returning id into v_id;
  if v_id is null then
    select d.id into v_id from public.agent_definitions d where d.hash = v_hash;
  end if;

  insert into public.agent_types (name, description, input_schema, definition_id)
  values (v_type, coalesce(p_definition ->> 'description', ''), coalesce(p_definition -> 'input_schema', '{}'), v_id)
  on conflict (name) do nothing;
  return v_id;
end;
$$;

-- A type is described by the newest definition that a living worker runs, newest by when it was first registered; while none
-- lives, it stays as it is. So an old worker that restarts beside newer ones changes nothing, and a rollback is done when
-- the last newer worker has left. Two who change workers at once may both miss the other: the sweep calls this too.
create function runhold.adopt_definitions(p_agent_types text[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_changed text[] := array(select n.agent_type from runhold.newest_definitions(p_agent_types) n);
begin
  if v_changed = '{}' then
    return;
  end if;
  perform from public.agent_types t where t.name = any (v_changed) order by t.name for no key update;
  update public.agent_types t
  set description = n.description, input_schema = n.input_schema, definition_id = n.id
  from runhold.newest_definitions(v_changed) n where t.name = n.agent_type;
end;
$$;

-- The worker's row, new, or the one of a registration whose answer was lost: the same process asks for the same. An id that
-- lived as something else, or is dead, was used up.
create function runhold.appear(p_worker public.agent_workers) returns void
language plpgsql security definer set search_path = ''
as $$
declare
  v_known public.agent_workers;
begin
  insert into public.agent_workers (id, hostname, pid, version, agent_types, capacity, lease, started_at, last_seen_at, lease_expires_at)
  values (p_worker.id, p_worker.hostname, p_worker.pid, p_worker.version, p_worker.agent_types, p_worker.capacity, p_worker.lease,
          runhold.now(), runhold.now(), runhold.now() + p_worker.lease)
  on conflict (id) do nothing;
  if found then
    return;
  end if;
  v_known := runhold.lock_worker(p_worker.id);
  if (v_known.hostname, v_known.pid, v_known.version, v_known.agent_types, v_known.capacity, v_known.lease)
     is distinct from (p_worker.hostname, p_worker.pid, p_worker.version, p_worker.agent_types, p_worker.capacity, p_worker.lease) then
    perform runhold.refuse('RH012', format('Worker id %s belongs to another process.', p_worker.id), 'Register under a new id.');
  end if;
  update public.agent_workers w set last_seen_at = runhold.now(), lease_expires_at = runhold.now() + w.lease where w.id = p_worker.id;
end;
$$;

create function runhold.worker_register(p_worker jsonb, p_definitions jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_worker public.agent_workers;
  v_lease interval := make_interval(secs => (p_worker ->> 'lease_ms')::numeric::double precision / 1000);
  v_types text[];
  v_ids jsonb := '{}';
  v_definition jsonb;
begin
  v_types := array(select d ->> 'agent_type' from jsonb_array_elements(p_definitions) d order by 1);
  if cardinality(v_types) <> (select count(*) from (select distinct t from unnest(v_types) t) d) then
    perform runhold.refuse('RH013', 'Two agents of one type were registered.', 'Give each agent a type of its own.');
  end if;

  v_worker.id := (p_worker ->> 'id')::uuid;
  v_worker.hostname := p_worker ->> 'hostname';
  v_worker.pid := (p_worker ->> 'pid')::integer;
  v_worker.version := p_worker ->> 'version';
  v_worker.agent_types := v_types;
  v_worker.capacity := coalesce((p_worker ->> 'capacity')::integer, 1);
  v_worker.lease := v_lease;
  perform runhold.appear(v_worker);

  -- in order of names: two workers that start at once must not wait for each other crosswise
  for v_definition in select d from jsonb_array_elements(p_definitions) d order by d ->> 'agent_type' loop
    v_ids := v_ids || jsonb_build_object(v_definition ->> 'agent_type', runhold.register_definition(v_definition));
  end loop;
  update public.agent_workers w set definition_ids = array(select v.value::uuid from jsonb_each_text(v_ids) v order by 1)
  where w.id = v_worker.id;
  perform runhold.adopt_definitions(v_types);

  perform runhold.note_beat();
  perform runhold.wake_for_worker(v_types);

  return jsonb_build_object(
    'definitions', v_ids,
    'lease_ms', (extract(epoch from v_lease) * 1000)::bigint,
    'now', runhold.clock(),
    'schema_version', runhold.schema_version(),
    'types_version', runhold.types_version(),
    'types', runhold.types_json(v_types));
end;
$$;

create function public.agent_worker_register(worker jsonb, definitions jsonb) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_register(worker, definitions);
end;

create function runhold.worker_definitions(p_ids uuid[]) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', d.id, 'agent_type', d.agent_type, 'version', d.version, 'model', d.model, 'instructions', d.instructions,
      'tools', d.tools, 'params', d.params, 'limits', d.limits)), '[]')
    from public.agent_definitions d where d.id = any (p_ids));
end;
$$;

create function public.agent_worker_definitions(ids uuid[]) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select runhold.worker_definitions(ids);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_worker_register(jsonb, jsonb), public.agent_worker_definitions(uuid[]) from public, anon, authenticated;
grant execute on function runhold.worker_register(jsonb, jsonb), runhold.worker_definitions(uuid[]) to service_role;
grant execute on function public.agent_worker_register(jsonb, jsonb), public.agent_worker_definitions(uuid[]) to service_role;
