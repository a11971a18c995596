-- For local databases only; `supabase db reset` and `runhold dev` run it once. People come by signing up.

-- What models cost, in USD per million tokens, so that local runs show a price. Check them against your provider's list
-- before you rely on them; a change is a new row with a later valid_from.
insert into public.model_prices (model, input_usd, cached_input_usd, output_usd) values
  ('gpt-5', 1.25, 0.125, 10),
  ('gpt-5-mini', 0.25, 0.025, 2),
  ('gpt-5-nano', 0.05, 0.005, 0.4),
  ('gpt-4.1', 2, 0.5, 8),
  ('gpt-4.1-mini', 0.4, 0.1, 1.6),
  ('gpt-4o', 2.5, 1.25, 10),
  ('gpt-4o-mini', 0.15, 0.075, 0.6),
  ('scripted', 0, 0, 0)
on conflict do nothing;
