-- A coach: everything belongs to a profile, which a trigger makes of Auth's users; nothing refers to Auth directly.
--
-- flags: --generations public.replies --sessions public.advice --error-logs public.reply_errors --events public.activity
-- flags: --column user_id=profile_id --column prompt_data=payload --column session_id=advice_id
-- flags: --column updated_at=none --column duration_ms=none --column model=payload_model
-- flags: --status processing=started --status success=done --status error=failed,null --status queued=created
-- flags: --set content=output --set model=model --yes
-- privileges: legacy
-- asks: my knee hurts
-- old: error 2, success 1

-- ## schema
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  nickname text not null default 'anonymous',
  replies_asked integer not null default 0
);
create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.profiles (id) values (new.id);
  return new;
end
$$;
create trigger on_auth_user_created after insert on auth.users for each row execute function public.handle_new_user();
create table public.advice (
  id uuid primary key default gen_random_uuid(),
  profile_id uuid not null references public.profiles (id) on delete cascade,
  model text,
  content jsonb not null
);
create table public.replies (
  id uuid primary key default gen_random_uuid(),
  profile_id uuid not null references public.profiles (id) on delete cascade,
  status text,
  payload_model text,
  payload jsonb not null,
  advice_id uuid references public.advice (id) on delete set null,
  created_at timestamptz not null default now()
);
create table public.reply_errors (
  id uuid primary key default gen_random_uuid(),
  reply_id uuid not null references public.replies (id) on delete cascade,
  profile_id uuid not null references public.profiles (id) on delete cascade,
  code text not null,
  message text not null,
  created_at timestamptz not null default now()
);
create table public.activity (
  id uuid primary key default gen_random_uuid(),
  profile_id uuid not null references public.profiles (id) on delete cascade,
  type text not null,
  payload jsonb not null default '{}',
  created_at timestamptz not null default now()
);
create function public.count_reply() returns trigger language plpgsql as $$
begin
  update profiles set replies_asked = replies_asked + 1 where id = new.profile_id;
  return new;
end
$$;
create trigger count_reply before insert on public.replies for each row execute function public.count_reply();
alter table public.profiles enable row level security;
alter table public.advice enable row level security;
alter table public.replies enable row level security;
alter table public.reply_errors enable row level security;
alter table public.activity enable row level security;
create policy "self" on public.profiles for all to authenticated using (id = auth.uid());
create policy "own" on public.replies for all to authenticated using (profile_id = auth.uid());
create policy "own" on public.advice for select to authenticated using (profile_id = auth.uid());

-- ## rows
insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');
insert into public.replies (profile_id, status, payload, created_at)
  select '00000000-0000-4000-8000-00000000000a', s, '{"messages": [{"role": "user", "content": "stretching"}]}',
    now() - interval '3 days'
  from unnest(array['done', null, 'failed']) s;

-- ## call as authenticated
insert into public.replies (profile_id, status, payload)
values (:user, 'started', '{"messages": [{"role": "user", "content": "my knee hurts"}]}') returning id;

-- ## fail as service_role
update public.replies set status = null where id = :generation;

-- ## output
{"advice": "Rest, then walk."}

-- ## expect migrated
-- The counter is where it was: the rehearsal left nothing.
select replies_asked = 3 from public.profiles where id = '00000000-0000-4000-8000-00000000000a';
-- No profile was added.
select count(*) = 1 from public.profiles;

-- ## expect failed
-- A failed retry is written by the word that the app writes first.
select status = 'failed' from public.replies where id = :generation;
-- Two error logs of the profile.
select count(*) = 2 and bool_and(code like 'AI_%') from public.reply_errors where profile_id = :user;
-- The profile asked once, whatever was retried.
select replies_asked = 1 from public.profiles where id = :user;

-- ## expect succeeded
-- The advice belongs to the profile, and says which model gave it.
select a.content ->> 'advice' = 'Rest, then walk.' and a.model = 'scripted' and r.status = 'done'
from public.replies r join public.advice a on a.id = r.advice_id and a.profile_id = r.profile_id where r.id = :generation;
-- The activity has the success.
select count(*) = 1 from public.activity where profile_id = :user and type = 'ai_generation_succeeded';

-- ## expect accepted
-- It waits, by the app's word.
select status = 'created' from public.replies where id = :generation;

-- ## expect queued
-- The worker's advice is there.
select status = 'done' and advice_id is not null from public.replies where id = :generation;

-- ## expect recovered
-- Twenty pieces of advice.
select count(distinct advice_id) = 20 from public.replies where id = any(:generations) and status = 'done';
-- The profiles asked as often as they did.
select sum(replies_asked) = 20 from public.profiles where id = any(:users);

-- ## break
insert into public.replies (profile_id, status, payload)
  select id, 'cancelled', '{}' from public.profiles where id = '00000000-0000-4000-8000-00000000000a';

-- ## doctor names
cancelled
