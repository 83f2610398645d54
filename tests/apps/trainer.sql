-- A trainer: each user has one planned session at a time, and a session has five columns that come from the answer.
--
-- flags: --generations public.plan_requests --sessions public.training --error-logs none --events none
-- flags: --column prompt_data=prompt_data --column session_id=training_id
-- flags: --status queued=queued --status processing=processing --status success=success --status error=error
-- flags: --set title=output.title --set kind=output.kind --set minutes=output.minutes --set km=output.distance.km
-- flags: --set steps=output.steps --yes
-- privileges: legacy
-- asks: plan my Tuesday
-- old: error 2, success 1
-- users: 20

-- ## schema
create type public.kind as enum ('run', 'ride', 'swim');
create table public.training (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  state text not null default 'planned' check (state in ('planned', 'done', 'skipped')),
  title text not null,
  kind public.kind not null,
  minutes integer not null check (minutes > 0),
  km numeric(5, 2),
  steps jsonb not null default '[]',
  created_at timestamptz not null default now()
);
create unique index one_planned on public.training (user_id) where state = 'planned';
create table public.plan_requests (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  status text not null default 'queued' check (status in ('queued', 'processing', 'success', 'error')),
  model text,
  prompt_data jsonb not null,
  duration_ms integer,
  training_id uuid unique references public.training (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
alter table public.training enable row level security;
alter table public.plan_requests enable row level security;
create policy "own" on public.training for all to authenticated using (user_id = auth.uid());
create policy "own" on public.plan_requests for select to authenticated using (user_id = auth.uid());

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.training (id, user_id, title, kind, minutes) values
  ('00000000-0000-4000-8000-000000000101', '00000000-0000-4000-8000-00000000000a', 'Long run', 'run', 90);
insert into public.plan_requests (user_id, status, prompt_data, training_id, created_at)
  select '00000000-0000-4000-8000-00000000000a', s, '{"messages": [{"role": "user", "content": "plan my Monday"}]}', t,
    now() - interval '3 days'
  from (values ('success', '00000000-0000-4000-8000-000000000101'::uuid), ('error', null), ('error', null)) r (s, t);

-- ## call as service_role
insert into public.plan_requests (user_id, status, model, prompt_data)
values (:user, 'processing', 'small', '{"messages": [{"role": "user", "content": "plan my Tuesday"}]}') returning id;

-- ## fail as service_role
update public.plan_requests set status = 'error' where id = :generation;

-- ## cure as authenticated
update public.training set state = 'done' where user_id = :user and state = 'planned';

-- ## output
{"title": "Easy ride", "kind": "ride", "minutes": 45, "distance": {"km": 18.5}, "steps": [{"minutes": 45}]}

-- ## expect migrated
-- The planned one stays planned.
select state = 'planned' from public.training;

-- ## expect failed
-- No session was created by what failed.
select status = 'error' and training_id is null from public.plan_requests where id = :generation;

-- ## expect succeeded
-- All five columns come from the answer.
select t.title = 'Easy ride' and t.kind = 'ride' and t.minutes = 45 and t.km = 18.5 and t.steps = '[{"minutes": 45}]'
  and t.state = 'planned' and r.status = 'success'
from public.plan_requests r join public.training t on t.id = r.training_id and t.user_id = r.user_id where r.id = :generation;

-- ## expect conflict
-- The second answer made no second planned session, and its generation says error.
select status = 'error' and training_id is null
  and (select count(*) from public.training where user_id = :user and state = 'planned') = 1
from public.plan_requests where id = :generation;

-- ## expect accepted
-- It waits.
select status = 'queued' from public.plan_requests where id = :generation;

-- ## expect queued
-- The worker's session is planned.
select t.state = 'planned' from public.plan_requests r join public.training t on t.id = r.training_id where r.id = :generation;

-- ## expect recovered
-- Twenty users have a planned session each.
select count(distinct t.user_id) = 20 from public.plan_requests r join public.training t on t.id = r.training_id
where r.id = any(:generations) and r.status = 'success' and t.state = 'planned';

-- ## break
alter table public.training add column place text not null default 'outside';
alter table public.training alter column place drop default;

-- ## doctor names
place
