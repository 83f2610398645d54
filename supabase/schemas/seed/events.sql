-- What happened to a user's generations, where the app has no such table.

create table public.events (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  event_type text not null,
  event_data jsonb not null default '{}',
  created_at timestamptz not null default statement_timestamp()
);

create index events_user_id_idx on public.events (user_id);

alter table public.events enable row level security;
create policy "Users read their own events" on public.events
  for select to authenticated using ((select auth.uid()) = user_id);
revoke all on table public.events from public, anon, authenticated;
grant select on table public.events to authenticated;

comment on table public.events is 'Created by ai-retry: what happened to a user''s generations.';
