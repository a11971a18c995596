-- The sweep runs in the workers. Where pg_cron exists it runs there too, so that lost runs are found even while no worker
-- lives; on Supabase, enable the extension first and apply this file's statement by hand if it was missing.

do $$
begin
  if not exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
    raise notice 'runhold: no pg_cron here; workers sweep';
    return;
  end if;
  perform cron.schedule('runhold-sweep', '30 seconds', 'select runhold.sweep()');
end;
$$;

notify pgrst, 'reload schema';
