-- A running coach: four tables by the names that ai-retry's own have, words of its own choice among ai-retry's.
--
-- flags: --yes
-- privileges: legacy
-- asks: forty easy minutes
-- old: error 2, timeout 1, success 1, processing 1, queued 0

-- ## schema
create table public.sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  title text not null check (title <> ''),
  content jsonb not null,
  created_at timestamptz not null default now()
);
create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  status text not null default 'queued' check (status in ('queued', 'processing', 'success', 'error', 'timeout')),
  model text,
  prompt_data jsonb not null,
  duration_ms integer,
  session_id uuid references public.sessions (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table public.generation_error_logs (
  id bigint generated always as identity primary key,
  generation_id uuid not null references public.generations (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  error_type text not null,
  error_message text not null,
  created_at timestamptz not null default now()
);
create table public.events (
  id bigint generated always as identity primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  event_type text not null,
  event_data jsonb not null default '{}',
  created_at timestamptz not null default now()
);
alter table public.sessions enable row level security;
alter table public.generations enable row level security;
alter table public.generation_error_logs enable row level security;
alter table public.events enable row level security;
create policy "own sessions" on public.sessions for select to authenticated using (auth.uid() = user_id);
create policy "own generations" on public.generations for select to authenticated using (auth.uid() = user_id);
create policy "ask" on public.generations for insert to authenticated with check (auth.uid() = user_id);
create function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)
returns jsonb language sql set search_path = '' as $$
  insert into public.sessions as s (user_id, title, content)
  values (p_generation.user_id, p_output ->> 'title', p_output) returning to_jsonb(s)
$$;
revoke all on function public.ai_retry_create_session(public.generations, jsonb) from public, anon, authenticated;
grant execute on function public.ai_retry_create_session(public.generations, jsonb) to service_role;

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a'), ('00000000-0000-4000-8000-00000000000b');
insert into public.sessions (id, user_id, title, content) values
  ('00000000-0000-4000-8000-000000000101', '00000000-0000-4000-8000-00000000000a', 'Hills', '{"title": "Hills"}');
insert into public.generations (user_id, status, model, prompt_data, session_id, created_at) values
  ('00000000-0000-4000-8000-00000000000a', 'success', 'small', '{"messages": [{"role": "user", "content": "hills"}]}',
    '00000000-0000-4000-8000-000000000101', now() - interval '9 days'),
  ('00000000-0000-4000-8000-00000000000a', 'error', 'small', '{"messages": [{"role": "user", "content": "rest"}]}',
    null, now() - interval '8 days'),
  ('00000000-0000-4000-8000-00000000000b', 'error', null, '{"messages": [{"role": "user", "content": "tempo"}]}',
    null, now() - interval '7 days'),
  ('00000000-0000-4000-8000-00000000000b', 'timeout', null, '{}', null, now() - interval '6 days'),
  ('00000000-0000-4000-8000-00000000000b', 'processing', null, '{}', null, now() - interval '5 days');
insert into public.generation_error_logs (generation_id, user_id, error_type, error_message)
  select id, user_id, 'OVERLOAD', 'the provider was busy' from public.generations where status = 'error';

-- ## call as authenticated
insert into public.generations (user_id, status, model, prompt_data)
values (:user, 'processing', 'small', '{"messages": [{"role": "user", "content": "forty easy minutes"}]}') returning id;

-- ## fail as service_role
update public.generations set status = 'error', updated_at = now() where id = :generation;
insert into public.generation_error_logs (generation_id, user_id, error_type, error_message)
values (:generation, :user, 'UPSTREAM', 'no answer');

-- ## output
{"title": "Forty easy minutes", "steps": [{"minutes": 40, "pace": "easy"}]}

-- ## expect migrated
-- Old sessions and logs are all there.
select (select count(*) from public.sessions) = 1 and (select count(*) from public.generation_error_logs) = 2;

-- ## expect failed
-- The generation says that it failed, and has no session.
select status = 'error' and session_id is null from public.generations where id = :generation;
-- Each of two failed retries is logged beside the app's own failure.
select count(*) filter (where error_type like 'AI_%') = 2 and count(*) = 3
from public.generation_error_logs where generation_id = :generation;

-- ## expect succeeded
-- The app's own function created the session, with its title.
select s.title = 'Forty easy minutes' and g.status = 'success'
from public.generations g join public.sessions s on s.id = g.session_id and s.user_id = g.user_id where g.id = :generation;
-- The user has exactly one session.
select count(*) = 1 from public.sessions where user_id = :user;
-- One event speaks of the success.
select count(*) = 1 from public.events where user_id = :user and event_type = 'ai_generation_succeeded';

-- ## expect accepted
-- A retry that waits for a worker is shown as queued.
select status = 'queued' from public.generations where id = :generation;

-- ## expect queued
-- The worker's session belongs to the generation.
select status = 'success' and session_id is not null from public.generations where id = :generation;

-- ## expect recovered
-- Every user got one session for each generation.
select count(*) = 20 and count(distinct session_id) = 20 from public.generations
where id = any(:generations) and status = 'success';
-- Every user reads of the recovery among their events.
select count(distinct user_id) = (select count(*) from unnest(:users) u) from public.events
where event_type = 'ai_generations_recovered' and user_id = any(:users);

-- ## break
drop function public.ai_retry_create_session(public.generations, jsonb);

-- ## doctor names
ai_retry_create_session
