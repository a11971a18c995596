-- The sweep runs in the workers. Where pg_cron exists it runs there too, so that lost runs are found even while no
-- worker lives; and retention runs there, if the project has set it (runhold.settings). On Supabase, enable the
-- extension first; if it comes later, select runhold.schedule_jobs(). A job of the same name is replaced.

create or replace function runhold.jobs() returns table (name text, schedule text, command text)
language sql immutable set search_path = ''
begin atomic
  select j.name, j.schedule, j.command
  from (values ('runhold-sweep', '30 seconds', 'select runhold.sweep()'),
               ('runhold-prune', '*/10 * * * *', 'select runhold.prune_as_set()')) j(name, schedule, command);
end;

create or replace function runhold.schedule_jobs() returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_job record;
begin
  if not exists (select from pg_catalog.pg_proc p
                 where p.pronamespace = to_regnamespace('cron') and p.proname = 'schedule' and p.pronargs = 3) then
    raise notice 'runhold: no pg_cron here; workers sweep';
    return;
  end if;
  for v_job in select j.name, j.schedule, j.command from runhold.jobs() j loop
    begin
      perform cron.schedule(v_job.name, v_job.schedule, v_job.command);
    exception when others then
      if v_job.schedule !~ 'seconds' then
        raise;
      end if;
      perform cron.schedule(v_job.name, '* * * * *', v_job.command);
      raise notice 'runhold: pg_cron runs % every minute, as it refuses seconds: %', v_job.name, sqlerrm;
    end;
  end loop;
end;
$$;

revoke execute on function runhold.jobs(), runhold.schedule_jobs() from public;

select runhold.schedule_jobs();

notify pgrst, 'reload schema';
