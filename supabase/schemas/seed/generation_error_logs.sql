-- Failed attempts, for the app, where it has no such table.

create table public.generation_error_logs (
  id uuid primary key default gen_random_uuid(),
  generation_id uuid not null references public.generations (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  error_type text not null,
  error_message text not null,
  created_at timestamptz not null default statement_timestamp()
);

create index generation_error_logs_generation_id_idx on public.generation_error_logs (generation_id);
create index generation_error_logs_user_id_idx on public.generation_error_logs (user_id);

alter table public.generation_error_logs enable row level security;
create policy "Users read their own error logs" on public.generation_error_logs
  for select to authenticated using ((select auth.uid()) = user_id);
revoke all on table public.generation_error_logs from public, anon, authenticated;
grant select on table public.generation_error_logs to authenticated;

comment on table public.generation_error_logs is 'Created by ai-retry: one row per attempt that failed.';
