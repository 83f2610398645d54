-- A song maker: a unique index lets each user have one active generation, and the app's words come in many spellings.
--
-- flags: --generations public.song_jobs --sessions public.songs --error-logs none --events none
-- flags: --column user_id=user_id --column prompt_data=input --column session_id=song_id --column duration_ms=elapsed
-- flags: --status queued=pending --status processing=running,generating --status success=done,finished
-- flags: --status error=failed --status timeout=expired --set lyrics=output.lyrics --set tempo=output.tempo --yes
-- privileges: legacy
-- asks: a song about tea
-- old: error 2, timeout 1, success 2, processing 1
-- users: 20

-- ## schema
create table public.songs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  lyrics text not null,
  tempo integer not null check (tempo between 40 and 240)
);
create table public.song_jobs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  status text not null,
  model text,
  input jsonb not null,
  elapsed integer,
  song_id uuid references public.songs (id),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create unique index one_active_job on public.song_jobs (user_id) where status in ('pending', 'running', 'generating');
alter table public.songs enable row level security;
alter table public.song_jobs enable row level security;
create policy "own" on public.song_jobs for all to authenticated using (user_id = auth.uid());
create policy "own" on public.songs for select to authenticated using (user_id = auth.uid());

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.song_jobs (user_id, status, input, created_at)
  select '00000000-0000-4000-8000-00000000000a', s, '{"messages": [{"role": "user", "content": "coffee"}]}',
    now() - interval '3 days'
  from unnest(array['done', 'finished', 'failed', 'failed', 'expired', 'generating']) s;

-- ## call as authenticated
insert into public.song_jobs (user_id, status, model, input)
values (:user, 'running', 'small', '{"messages": [{"role": "user", "content": "a song about tea"}]}') returning id;

-- ## fail as service_role
update public.song_jobs set status = 'failed' where id = :generation;

-- ## busy as authenticated
insert into public.song_jobs (id, user_id, status, input)
values ('00000000-0000-4000-8000-000000000201', :user, 'running', '{"messages": [{"role": "user", "content": "another"}]}');

-- ## free as service_role
delete from public.song_jobs where id = '00000000-0000-4000-8000-000000000201';

-- ## output
{"lyrics": "Tea, tea, tea", "tempo": 96}

-- ## expect migrated
-- The index still guards.
select count(*) = 1 from pg_indexes where indexname = 'one_active_job';

-- ## expect failed
-- The job failed, by the app's word.
select status = 'failed' and song_id is null from public.song_jobs where id = :generation;

-- ## expect succeeded
-- The song has words and tempo.
select s.lyrics = 'Tea, tea, tea' and s.tempo = 96 and j.status = 'done' and j.elapsed >= 0
from public.song_jobs j join public.songs s on s.id = j.song_id and s.user_id = j.user_id where j.id = :generation;

-- ## expect accepted
-- It waits, as the user's only active job.
select count(*) = 1 from public.song_jobs where user_id = :user and status in ('pending', 'running', 'generating');

-- ## expect queued
-- The worker's song is there.
select status = 'done' and song_id is not null from public.song_jobs where id = :generation;

-- ## expect recovered
-- Twenty users have a song each.
select count(distinct song_id) = 20 and count(distinct user_id) = 20 from public.song_jobs
where id = any(:generations) and status = 'done';

-- ## break
insert into public.song_jobs (user_id, status, input)
  select '00000000-0000-4000-8000-00000000000a', 'on hold', '{}' from generate_series(1, 3);

-- ## doctor names
on hold
3
