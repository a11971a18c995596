-- How do frontends get postgres_changes for runs and reviews?
--
-- Paste this once. Off by default: every change of a published row is checked against row level security once per
-- subscriber, in one thread; the broadcasts on execution:<id> and reviews:<user id> scale better. Safe to repeat.
-- Columns: none. Cost: at once.
-- To undo: alter publication supabase_realtime drop table agent_executions, agent_reviews;

do $$
declare
  v_table text;
begin
  foreach v_table in array array['agent_executions', 'agent_reviews'] loop
    if not exists (
      select from pg_publication_tables p
      where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = v_table) then
      execute format('alter publication supabase_realtime add table public.%I', v_table);
    end if;
  end loop;
end;
$$;
