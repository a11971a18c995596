-- The sweep runs in the workers. Where pg_cron exists it runs there too, so that lost runs are found even while no worker
-- lives; and retention runs there, if the project has set it (runhold.settings). On Supabase, enable the extension first
-- and apply this file's statement by hand if it was missing; a job of the same name is replaced.

do $$
begin
  if not exists (select from pg_catalog.pg_proc p
                 where p.pronamespace = to_regnamespace('cron') and p.proname = 'schedule' and p.pronargs = 3) then
    raise notice 'runhold: no pg_cron here; workers sweep';
    return;
  end if;
  perform cron.schedule('runhold-sweep', '30 seconds', 'select runhold.sweep()');
  perform cron.schedule('runhold-prune', '*/10 * * * *', 'select runhold.prune_as_set()');
end;
$$;

notify pgrst, 'reload schema';
