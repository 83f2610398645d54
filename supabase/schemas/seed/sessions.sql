-- What successful generations create, where the app has no such table.

create table public.sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  content jsonb not null,
  created_at timestamptz not null default statement_timestamp()
);

create index sessions_user_id_idx on public.sessions (user_id);

alter table public.sessions enable row level security;
create policy "Users read their own sessions" on public.sessions
  for select to authenticated using ((select auth.uid()) = user_id);
revoke all on table public.sessions from public, anon, authenticated;
grant select on table public.sessions to authenticated;

comment on table public.sessions is 'Created by ai-retry: what successful generations create.';
comment on column public.sessions.content is 'The output of the AI provider, valid under the context''s response schema.';
