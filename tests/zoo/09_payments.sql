-- Source: vercel/nextjs-subscription-payments @ bdd0813206e47e6b218d42f15a7976c8a0d3c3eb
create schema zoo_payments;
select zoo.people('zoo_payments');
create type zoo_payments.status as enum ('trialing', 'active', 'canceled', 'past_due');
create table zoo_payments.users(id uuid not null primary key, full_name text, billing_address jsonb);
create table zoo_payments.products(id text primary key, active boolean, metadata jsonb);
create table zoo_payments.subscriptions(id text primary key, user_id uuid not null, status zoo_payments.status, price_id text);
alter table zoo_payments.users enable row level security;
alter table zoo_payments.products enable row level security;
alter table zoo_payments.subscriptions enable row level security;

-- [59] ownership: one's own data: the key is the user.
-- vercel/nextjs-subscription-payments: schema.sql
create policy "own data" on zoo_payments.users for select using (auth.uid() = id);
-- [60] public: everything, for everybody.
-- vercel/nextjs-subscription-payments: schema.sql
create policy "public read-only" on zoo_payments.products for select using (true);
-- [61] ownership: one's own subscriptions, under a text key.
-- vercel/nextjs-subscription-payments: schema.sql
create policy "own subscriptions" on zoo_payments.subscriptions for select using (auth.uid() = user_id);

insert into zoo_payments.users select zoo.id(n), 'person ' || n from generate_series(1, 3) n;
insert into zoo_payments.products select 'prod_' || n, n % 2 = 0, '{}' from generate_series(1, 3) n;
insert into zoo_payments.subscriptions
  select 'sub_' || n || case n % 3 when 0 then ' it''s' else '' end, zoo.id(1 + n % 3),
    (enum_range(null::zoo_payments.status))[1 + n % 4] from generate_series(1, 9) n;
select zoo.expose('zoo_payments');
comment on table zoo_payments.products is 'lopsided: always';
