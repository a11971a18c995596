-- For local databases only; `supabase db reset` and `runhold dev` run it once. People come by signing up.

-- Workers know what models cost (package genai-prices); rows of model_prices go before, from their valid_from on. The
-- scripted model, which no list knows, costs nothing.
insert into public.model_prices (model, input_usd, cached_input_usd, output_usd) values ('scripted', 0, 0, 0)
on conflict do nothing;
