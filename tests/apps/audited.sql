-- A translator with strict logs: its error log needs columns that only the app can fill, its notices count with a serial,
-- a generated column and a partition stand in the way of whoever writes all columns. Nothing is granted to begin with.
--
-- flags: --generations public.translations --sessions public.texts --error-logs public.failures --events public.notices
-- flags: --column prompt_data=source_text,target --column session_id=text_id
-- flags: --status queued=pending --status processing=running --status success=finished --status error=error
-- flags: --set body=output.text --yes
-- privileges: none
-- asks: guten Morgen
-- old: error 1, success 1

-- ## schema
create table public.texts (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  body text not null,
  letters integer generated always as (length(body)) stored
);
create table public.translations (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  user_id uuid not null references auth.users (id) on delete cascade,
  status text not null default 'pending',
  model text,
  source_text text not null,
  target text not null default 'en',
  length integer generated always as (char_length(source_text)) stored,
  duration_ms numeric,
  text_id uuid references public.texts (id),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint words check (status in ('pending', 'running', 'finished', 'error'))
);
create table public.failures (
  id bigint generated always as identity primary key,
  generation_id uuid not null references public.translations (id) on delete cascade,
  user_id uuid not null,
  severity text not null check (severity in ('low', 'high')),
  source text not null,
  error_type text not null,
  error_message text not null,
  created_at timestamptz not null default now()
);
create table public.notices (
  id serial,
  user_id uuid not null,
  event_type text not null,
  event_data jsonb not null default '{}',
  created_at timestamptz not null default now(),
  primary key (id, created_at)
) partition by range (created_at);
create table public.notices_of_now partition of public.notices for values from ('2020-01-01Z') to ('2100-01-01Z');
create schema audit;
create table audit.trail (at timestamptz not null default clock_timestamp(), what text not null, row_id uuid not null);
create function audit.note() returns trigger language plpgsql security definer as $$
begin
  insert into audit.trail (what, row_id) values (old.status || ' -> ' || new.status, new.id);
  return new;
end
$$;
alter function audit.note() set search_path = audit;
create trigger note after update on public.translations for each row execute function audit.note();
alter table public.texts enable row level security;
alter table public.translations enable row level security;
alter table public.failures enable row level security;
alter table public.notices enable row level security;
alter table public.notices_of_now enable row level security;
grant select, insert on public.translations to authenticated;
grant select, update on public.translations to service_role;
create policy "own" on public.translations for all to authenticated using (user_id = auth.uid());

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.texts (id, user_id, body) values
  ('00000000-0000-4000-8000-000000000101', '00000000-0000-4000-8000-00000000000a', 'Good evening');
insert into public.translations (user_id, status, source_text, text_id, created_at) values
  ('00000000-0000-4000-8000-00000000000a', 'finished', 'guten Abend', '00000000-0000-4000-8000-000000000101',
    now() - interval '3 days'),
  ('00000000-0000-4000-8000-00000000000a', 'error', 'gute Nacht', null, now() - interval '2 days');
insert into public.failures (generation_id, user_id, severity, source, error_type, error_message)
  select id, user_id, 'high', 'edge', 'HTTP', '503' from public.translations where status = 'error';

-- ## call as authenticated
insert into public.translations (user_id, status, source_text) values (:user, 'running', 'guten Morgen') returning id;

-- ## fail as service_role
update public.translations set status = 'error' where id = :generation;

-- ## output
{"text": "Good morning"}

-- ## init says
severity
source

-- ## expect migrated
-- The trail holds nothing of the rehearsal.
select count(*) = 0 from audit.trail;
-- Nor has the log more than the app's own failure.
select count(*) = 1 from public.failures;

-- ## expect failed
-- The log that can't be filled is left out, and the retry is none the worse.
select count(*) = 0 from public.failures where generation_id = :generation;
-- Notices go by the app's own sequence.
select count(*) = 2 and bool_and(id > 0) from public.notices where user_id = :user and event_type = 'ai_generation_failed';
-- The trail saw each change of the status.
select count(*) filter (where what = 'running -> error') = 3 from audit.trail where row_id = :generation;

-- ## expect succeeded
-- The text is there, with what the database generates.
select x.body = 'Good morning' and x.letters = 12 and t.status = 'finished'
from public.translations t join public.texts x on x.id = t.text_id where t.id = :generation;
-- The trail saw the success once.
select count(*) = 1 from audit.trail where row_id = :generation and what = 'running -> finished';

-- ## expect accepted
-- It waits, by the app's word.
select status = 'pending' from public.translations where id = :generation;

-- ## expect queued
-- The worker's text is there.
select status = 'finished' and text_id is not null from public.translations where id = :generation;

-- ## expect recovered
-- Twenty texts.
select count(distinct text_id) = 20 from public.translations where id = any(:generations) and status = 'finished';

-- ## break
alter table public.texts add column licence text not null default 'cc0';
alter table public.texts alter column licence drop default;

-- ## doctor names
licence
