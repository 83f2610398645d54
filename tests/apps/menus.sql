-- A meal planner whose instants have no zone: they are Warsaw's clock, as its first developer's machine was.
--
-- flags: --generations public.menus --sessions public.recipes --error-logs public.menu_errors --events none
-- flags: --column prompt_data=request --column session_id=recipe_id --time-zone Europe/Warsaw
-- flags: --status queued=new --status processing=cooking --status success=served --status error=burnt
-- flags: --set name=output.name --set body=output --yes
-- privileges: legacy
-- asks: soup for six
-- old: error 2, success 1, processing 1

-- ## schema
create table public.recipes (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id),
  name text not null,
  body jsonb not null,
  created_at timestamp not null default (now() at time zone 'Europe/Warsaw')
);
create table public.menus (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id),
  status text not null default 'new' check (status in ('new', 'cooking', 'served', 'burnt')),
  model text,
  request json not null,
  duration_ms bigint,
  recipe_id uuid references public.recipes (id),
  created_at timestamp not null default (now() at time zone 'Europe/Warsaw'),
  updated_at timestamp not null default (now() at time zone 'Europe/Warsaw')
);
create table public.menu_errors (
  id uuid primary key default gen_random_uuid(),
  menu_id uuid not null references public.menus (id),
  user_id uuid not null,
  error_code text,
  error_message text,
  created_at timestamp not null default (now() at time zone 'Europe/Warsaw')
);
alter table public.recipes enable row level security;
alter table public.menus enable row level security;
alter table public.menu_errors enable row level security;
create policy "own" on public.menus for all to authenticated using (auth.uid() = user_id);

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.menus (user_id, status, request, created_at, updated_at)
  select '00000000-0000-4000-8000-00000000000a', s, '{"messages": [{"role": "user", "content": "stew"}]}',
    (now() at time zone 'Europe/Warsaw') - interval '3 days', (now() at time zone 'Europe/Warsaw') - interval '3 days'
  from unnest(array['burnt', 'served', 'cooking', 'burnt']) s;

-- ## call as authenticated
insert into public.menus (user_id, status, model, request)
values (:user, 'cooking', 'small', '{"messages": [{"role": "user", "content": "soup for six"}]}') returning id;

-- ## fail as service_role
update public.menus set status = 'burnt' where id = :generation;

-- ## output
{"name": "Barley soup", "serves": 6}

-- ## expect migrated
-- Instants are without zone, as they were.
select data_type = 'timestamp without time zone' from information_schema.columns
where table_schema = 'public' and table_name = 'menus' and column_name = 'updated_at';

-- ## expect failed
-- What a retry writes is Warsaw's clock.
select updated_at between (now() at time zone 'Europe/Warsaw') - interval '5 minutes' and (now() at time zone 'Europe/Warsaw')
from public.menus where id = :generation;
-- So are both error logs.
select count(*) = 2 and bool_and(created_at between (now() at time zone 'Europe/Warsaw') - interval '5 minutes'
  and (now() at time zone 'Europe/Warsaw')) and bool_and(error_code like 'AI_%')
from public.menu_errors where menu_id = :generation;

-- ## expect succeeded
-- The recipe has the user's name for it.
select r.name = 'Barley soup' and r.body ->> 'serves' = '6' and m.status = 'served'
from public.menus m join public.recipes r on r.id = m.recipe_id where m.id = :generation;

-- ## expect accepted
-- A menu that waits is new again.
select status = 'new' from public.menus where id = :generation;

-- ## expect queued
-- The worker's menu is served.
select status = 'served' and recipe_id is not null from public.menus where id = :generation;

-- ## expect recovered
-- Twenty recipes, each of its menu's user.
select count(*) = 20 from public.menus m join public.recipes r on r.id = m.recipe_id and r.user_id = m.user_id
where m.id = any(:generations) and m.status = 'served';

-- ## break
alter table public.menu_errors add column severity text not null default 'low';
alter table public.menu_errors alter column severity drop default;

-- ## doctor names
severity
