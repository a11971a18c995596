-- What workers are told of model_prices: the prices in force, and those ahead, which they take up at their time.

create function runhold.worker_prices(p_models text[]) returns jsonb
language sql stable security definer set search_path = ''
begin atomic
  select coalesce(jsonb_agg(jsonb_build_object(
    'model', p.model, 'valid_from', nullif(p.valid_from, '-infinity'), 'input_usd', p.input_usd,
    'cached_input_usd', p.cached_input_usd, 'output_usd', p.output_usd) order by p.model, p.valid_from), '[]')
  from public.model_prices p
  where p.model = any (p_models) and p.valid_from < 'infinity' and not exists (
    select from public.model_prices newer
    where newer.model = p.model and newer.valid_from > p.valid_from and newer.valid_from <= runhold.now());
end;

create function public.agent_worker_prices(models text[]) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select runhold.worker_prices(models);
end;

revoke execute on function runhold.worker_prices(text[]), public.agent_worker_prices(text[])
  from public, anon, authenticated;
grant execute on function runhold.worker_prices(text[]), public.agent_worker_prices(text[]) to service_role;
