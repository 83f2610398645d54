create table public.quizzes (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  questions jsonb not null,
  created_at timestamptz not null default now()
);
alter table public.quizzes enable row level security;
create policy "own" on public.quizzes for select to authenticated using (user_id = auth.uid());
