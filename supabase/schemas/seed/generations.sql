-- AI results that users asked for, where the app has no such table.

create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  status text not null default 'queued',
  model text,
  prompt_data jsonb,
  duration_ms integer,
  session_id uuid references public.sessions (id) on delete set null,
  created_at timestamptz not null default statement_timestamp(),
  updated_at timestamptz not null default statement_timestamp(),
  constraint status_is_known check (status in ('queued', 'processing', 'success', 'error', 'timeout'))
);

create index generations_session_id_idx on public.generations (session_id);

alter table public.generations enable row level security;
create policy "Users read their own generations" on public.generations
  for select to authenticated using ((select auth.uid()) = user_id);
revoke all on table public.generations from public, anon, authenticated;
grant select on table public.generations to authenticated;

comment on table public.generations is 'Created by ai-retry: AI results that users asked for.';
comment on column public.generations.prompt_data is
  'The context to ask again: {"messages": [...], "parameters": {...}, "response_schema": {...}}.';
