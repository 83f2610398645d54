-- A story teller: rows are never deleted, only marked; restrictive policies ask for a second factor and hide the marked.
--
-- flags: --generations public.stories --sessions public.chapters --error-logs none --events public.story_news
-- flags: --column user_id=author_id --column prompt_data=outline --column session_id=chapter_id
-- flags: --status queued=queued --status processing=running --status success=succeeded --status error=failed
-- flags: --status timeout=timed_out --soft-delete deleted_at --set body=output --yes
-- privileges: legacy
-- asks: a cat who sails
-- old: error 1, timeout 1, success 1

-- ## schema
create table public.chapters (
  id uuid primary key default gen_random_uuid(),
  author_id uuid not null references auth.users (id) on delete cascade,
  body jsonb not null,
  deleted_at timestamptz
);
create table public.stories (
  id uuid primary key default gen_random_uuid(),
  author_id uuid not null references auth.users (id) on delete cascade,
  status text not null default 'queued'
    check (status in ('queued', 'running', 'succeeded', 'failed', 'timed_out')),
  model text,
  outline jsonb not null,
  duration_ms double precision,
  chapter_id uuid references public.chapters (id),
  deleted_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz
);
create table public.story_news (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null,
  event_type text not null,
  event_data jsonb,
  created_at timestamptz default now()
);
alter table public.chapters enable row level security;
alter table public.stories enable row level security;
alter table public.story_news enable row level security;
alter table public.stories force row level security;
create policy "own" on public.stories for all to authenticated
  using (author_id = auth.uid()) with check (author_id = auth.uid());
create policy "two factors" on public.stories as restrictive for all to authenticated
  using (current_setting('request.jwt.claims', true)::jsonb ->> 'aal' = 'aal2');
create policy "marked ones are gone" on public.stories as restrictive for select to authenticated
  using (deleted_at is null);
create policy "own" on public.chapters for select to authenticated using (author_id = auth.uid());

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.stories (author_id, status, outline, created_at, deleted_at)
  select '00000000-0000-4000-8000-00000000000a', s, '{"messages": [{"role": "user", "content": "a dog"}]}',
    now() - interval '3 days', d
  from (values ('failed', null), ('failed', now()), ('timed_out', null), ('succeeded', null), ('failed', now())) r (s, d);

-- ## call as authenticated
insert into public.stories (author_id, status, model, outline)
values (:user, 'running', 'small', '{"messages": [{"role": "user", "content": "a cat who sails"}]}') returning id;

-- ## fail as service_role
update public.stories set status = 'failed', updated_at = now() where id = :generation;

-- ## hide as service_role
update public.stories set deleted_at = now() where id = :generation;

-- ## output
{"title": "The cat who sailed", "pages": 12}

-- ## expect migrated
-- The marked ones stay marked.
select count(*) = 2 from public.stories where deleted_at is not null;

-- ## expect failed
-- The story failed, by the app's word.
select status = 'failed' and updated_at > created_at from public.stories where id = :generation;
-- Two events speak of it.
select count(*) = 2 from public.story_news where user_id = :user and event_type = 'ai_generation_failed';

-- ## expect succeeded
-- The chapter is its author's.
select c.body ->> 'pages' = '12' and s.status = 'succeeded' and c.author_id = :user
from public.stories s join public.chapters c on c.id = s.chapter_id where s.id = :generation;

-- ## expect accepted
-- It waits, by the app's word.
select status = 'queued' from public.stories where id = :generation;

-- ## expect queued
-- The worker's chapter is there.
select chapter_id is not null and status = 'succeeded' from public.stories where id = :generation;

-- ## expect recovered
-- Twenty chapters.
select count(distinct chapter_id) = 20 from public.stories where id = any(:generations) and status = 'succeeded';

-- ## doctor hints
two factors

-- ## break
create function public.slow() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger newcomer before update on public.stories for each row execute function public.slow();

-- ## doctor names
newcomer
