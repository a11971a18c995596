-- Money: what models cost, who may spend how much, and what was spent. How budgets hold: 20261122001060_budgets.sql.

create table public.model_prices (
  model text not null,
  valid_from timestamptz not null default '-infinity',
  input_usd numeric(12, 6) not null check (input_usd >= 0 and input_usd <> 'NaN'),
  cached_input_usd numeric(12, 6) not null check (cached_input_usd >= 0 and cached_input_usd <> 'NaN'),
  output_usd numeric(12, 6) not null check (output_usd >= 0 and output_usd <> 'NaN'),
  primary key (model, valid_from)
);

comment on table public.model_prices is 'USD per million tokens: goes before what workers know of prices (package genai-prices).';

create table public.agent_budgets (
  id uuid primary key default gen_random_uuid(),
  scope text not null check (scope in ('user', 'type', 'tenant', 'all')),
  scope_key text not null default '',
  period text not null check (period in ('day', 'month')),
  max_tokens bigint check (max_tokens >= 0),
  max_usd numeric(14, 6) check (max_usd >= 0 and max_usd <> 'NaN'),  -- which is above all numbers
  -- so that erasing a user takes their rows along
  user_id uuid generated always as (case when scope = 'user' then scope_key::uuid end) stored references auth.users on delete cascade,
  unique (scope, scope_key, period),
  constraint user_key_is_written_as_ids_are check (scope <> 'user' or scope_key = scope_key::uuid::text),
  constraint scope_key_set_unless_all check ((scope = 'all') = (scope_key = '')),
  constraint budget_caps_something check (max_tokens is not null or max_usd is not null)
);

comment on table public.agent_budgets is 'The most that may be spent in a day or month (UTC). Counts from when it was made.';

-- Kept where a budget exists. No foreign key to users: inserting one would lock the user's row, with runs locked already, and an
-- erasure locks the other way round. It deletes these rows by itself.
create table public.agent_usage (
  id bigint generated always as identity unique,
  scope text not null check (scope in ('user', 'type', 'tenant', 'all')),
  scope_key text not null default '',
  period text not null check (period in ('day', 'month')),
  period_start date not null,
  tokens bigint not null default 0,
  usd numeric(14, 6) not null default 0,
  reserved_tokens bigint not null default 0,
  reserved_usd numeric(14, 6) not null default 0,
  primary key (scope, scope_key, period, period_start),
  constraint reserved_never_negative check (reserved_tokens >= 0 and reserved_usd >= 0)
) with (fillfactor = 50);

comment on column public.agent_usage.tokens is 'Used in this period: what steps did cost, and what was charged as estimated.';
comment on column public.agent_usage.reserved_tokens is 'Set aside for model calls under way: the sum over the running runs whose reserved_in lists this row.';

create index agent_budgets_of_user_idx on public.agent_budgets (user_id) where user_id is not null;

alter table public.model_prices enable row level security;
alter table public.agent_budgets enable row level security;
alter table public.agent_usage enable row level security;
revoke all on public.model_prices, public.agent_budgets, public.agent_usage from public, anon, authenticated, service_role;
revoke all on sequence public.agent_usage_id_seq from public, anon, authenticated, service_role;
grant select, insert, update, delete on public.model_prices, public.agent_budgets to service_role;
grant select on public.agent_usage to service_role;
grant select on public.model_prices to authenticated;
create policy "signed-in users see prices" on public.model_prices for select to authenticated using (true);

-- says to the linter, and to readers, that no policy for users is meant (the service passes RLS anyway)
create policy "budgets are the service's alone" on public.agent_budgets for select to service_role using (true);
create policy "usage is the service's alone" on public.agent_usage for select to service_role using (true);
