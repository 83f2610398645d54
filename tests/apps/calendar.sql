-- A fitness diary: `events` is its calendar, `sessions` are log-ins, and the AI's results are workouts. By name all of
-- ai-retry's tables are there, and two of them mean something else.
--
-- flags: --sessions public.workouts --set plan=output --yes
-- privileges: legacy
-- asks: leg day
-- old: error 1, success 1

-- ## schema
create table public.events (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  title text not null,
  starts_at timestamptz not null,
  ends_at timestamptz not null,
  created_at timestamptz not null default now(),
  check (ends_at > starts_at)
);
create table public.sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  device text not null,
  signed_in_at timestamptz not null default now()
);
create table public.workouts (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  plan jsonb not null,
  done boolean not null default false,
  created_at timestamptz not null default now()
);
create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  status text not null default 'pending' check (status in ('pending', 'processing', 'completed', 'failed')),
  model text,
  prompt_data jsonb not null,
  duration_ms integer,
  workout_id uuid references public.workouts (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
alter table public.events enable row level security;
alter table public.sessions enable row level security;
alter table public.workouts enable row level security;
alter table public.generations enable row level security;
create policy "own" on public.events for all to authenticated using (user_id = auth.uid());
create policy "own" on public.workouts for all to authenticated using (user_id = auth.uid());
create policy "own" on public.generations for all to authenticated using (user_id = auth.uid());

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.events (user_id, title, starts_at, ends_at) values
  ('00000000-0000-4000-8000-00000000000a', 'Dentist', '2026-11-02 08:00Z', '2026-11-02 09:00Z');
insert into public.sessions (user_id, device) values ('00000000-0000-4000-8000-00000000000a', 'phone');
insert into public.workouts (id, user_id, plan) values
  ('00000000-0000-4000-8000-000000000101', '00000000-0000-4000-8000-00000000000a', '{"sets": 3}');
insert into public.generations (user_id, status, prompt_data, workout_id, created_at) values
  ('00000000-0000-4000-8000-00000000000a', 'completed', '{"messages": [{"role": "user", "content": "arms"}]}',
    '00000000-0000-4000-8000-000000000101', now() - interval '3 days'),
  ('00000000-0000-4000-8000-00000000000a', 'failed', '{"messages": [{"role": "user", "content": "back"}]}', null,
    now() - interval '2 days');

-- ## call as authenticated
insert into public.generations (user_id, status, model, prompt_data)
values (:user, 'processing', 'small', '{"messages": [{"role": "user", "content": "leg day"}]}') returning id;

-- ## fail as service_role
update public.generations set status = 'failed', updated_at = now() where id = :generation;

-- ## output
{"sets": 5, "exercise": "squat"}

-- ## expect migrated
-- The calendar has the columns that it had.
select count(*) = 6 from information_schema.columns where table_schema = 'public' and table_name = 'events';
-- The log-ins as well.
select count(*) = 4 from information_schema.columns where table_schema = 'public' and table_name = 'sessions';

-- ## expect failed
-- The generation failed, by the app's word.
select status = 'failed' from public.generations where id = :generation;
-- Nothing was put into the calendar, nor among the log-ins.
select (select count(*) from public.events) = 1 and (select count(*) from public.sessions) = 1;

-- ## expect succeeded
-- The workout has its plan.
select w.plan ->> 'exercise' = 'squat' and not w.done and g.status = 'completed'
from public.generations g join public.workouts w on w.id = g.workout_id and w.user_id = g.user_id where g.id = :generation;

-- ## expect accepted
-- It waits, by the app's word.
select status = 'pending' from public.generations where id = :generation;

-- ## expect queued
-- The worker's workout is there.
select status = 'completed' and workout_id is not null from public.generations where id = :generation;

-- ## expect recovered
-- Twenty workouts.
select count(distinct workout_id) = 20 from public.generations where id = any(:generations) and status = 'completed';
-- The calendar is still the calendar.
select count(*) = 1 from public.events;

-- ## break
alter table public.workouts add column coach uuid not null default gen_random_uuid();
alter table public.workouts alter column coach drop default;

-- ## doctor names
coach
