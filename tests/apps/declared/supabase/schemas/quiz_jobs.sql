create table public.quiz_jobs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  status text not null default 'created' check (status in ('created', 'generating', 'ready', 'failed')),
  model text,
  request jsonb not null,
  duration_ms integer,
  quiz_id uuid references public.quizzes (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
alter table public.quiz_jobs enable row level security;
create policy "own" on public.quiz_jobs for all to authenticated using (user_id = auth.uid());
