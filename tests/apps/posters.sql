-- A poster maker: the status is an enum, and policies, a view, a partial index and a trigger depend on it.
--
-- flags: --generations studio.posters --sessions none --error-logs none --events none
-- flags: --column user_id=artist --column prompt_data=brief --column model=none --column duration_ms=none
-- flags: --column session_id=none --column updated_at=changed_at
-- flags: --status queued=waiting --status processing=rendering --status success=ready --status error=broken
-- flags: --set picture=output.url --yes
-- privileges: none
-- asks: a lighthouse at dusk
-- old: error 1, success 1, queued 1

-- ## schema
create schema studio;
grant usage on schema studio to authenticated;
create type studio.state as enum ('waiting', 'rendering', 'ready', 'broken');
create table studio.posters (
  id uuid primary key default gen_random_uuid(),
  artist uuid not null references auth.users (id) on delete cascade,
  state studio.state not null default 'waiting',
  brief jsonb not null,
  picture text,
  created_at timestamptz not null default now(),
  changed_at timestamptz not null default now()
);
create view studio.gallery with (security_invoker = true) as
  select id, artist, picture from studio.posters where state = 'ready';
create index posters_in_line on studio.posters (created_at) where state = 'waiting';
create function studio.touch() returns trigger language plpgsql as $$
begin
  new.changed_at := clock_timestamp();
  return new;
end
$$;
create trigger touch before update on studio.posters for each row
  when (old.state is distinct from new.state) execute function studio.touch();
alter table studio.posters enable row level security;
grant select, insert, update on studio.posters to authenticated;
create policy "ready ones are public" on studio.posters for select to authenticated
  using (state = 'ready' or artist = (select auth.uid()));
create policy "commission" on studio.posters for insert to authenticated
  with check (artist = (select auth.uid()) and state = 'waiting');
create policy "edit before it is rendered" on studio.posters for update to authenticated
  using (artist = (select auth.uid()) and state in ('waiting', 'broken'));

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into studio.posters (artist, state, brief, picture, created_at) values
  ('00000000-0000-4000-8000-00000000000a', 'ready', '{"messages": [{"role": "user", "content": "a fox"}]}', '/fox.png',
    now() - interval '3 days'),
  ('00000000-0000-4000-8000-00000000000a', 'broken', '{"messages": [{"role": "user", "content": "a owl"}]}', null,
    now() - interval '2 days'),
  ('00000000-0000-4000-8000-00000000000a', 'waiting', '{"messages": [{"role": "user", "content": "a elk"}]}', null,
    now() - interval '1 day');

-- ## call as authenticated
insert into studio.posters (artist, brief)
values (:user, '{"messages": [{"role": "user", "content": "a lighthouse at dusk"}]}') returning id;

-- ## fail as service_role
update studio.posters set state = 'broken' where id = :generation;

-- ## output
{"url": "/lighthouse.png"}

-- ## expect migrated
-- The status is the enum that it was.
select pg_typeof(state) = 'studio.state'::regtype from studio.posters limit 1;
-- The policies are the app's own three.
select count(*) = 3 from pg_policies where schemaname = 'studio' and tablename = 'posters';

-- ## expect failed
-- The poster says broken, by the app's word.
select state = 'broken' and picture is null from studio.posters where id = :generation;

-- ## expect succeeded
-- The poster is in the gallery.
select picture = '/lighthouse.png' from studio.gallery where id = :generation;

-- ## expect accepted
-- The poster waits again, by the app's word.
select state = 'waiting' from studio.posters where id = :generation;

-- ## expect queued
-- The worker's poster is in the gallery.
select count(*) = 1 from studio.gallery where id = :generation;

-- ## expect recovered
-- Twenty posters are in the gallery.
select count(*) = 20 from studio.gallery where id = any(:generations);

-- ## break
alter type studio.state add value 'archived';

-- ## break
update studio.posters set state = 'archived' where state = 'waiting';

-- ## doctor names
archived
