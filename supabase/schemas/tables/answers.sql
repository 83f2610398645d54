-- Stored answers: valid, paid, and without a session so far. The only foreign key leads to our own table: one to
-- auth.users would wait for a user's row that the app has locked.

create table public.ai_retry_answers (
  generation_id uuid not null,
  number integer not null,
  answer jsonb not null,
  stored_at timestamptz not null,
  primary key (generation_id, number),
  foreign key (generation_id, number) references public.ai_retry_attempts (generation_id, number) on delete cascade
);

alter table public.ai_retry_answers enable row level security;
revoke all on table public.ai_retry_answers from public, anon, authenticated, service_role;
grant select, insert, delete on table public.ai_retry_answers to service_role;

comment on table public.ai_retry_answers is 'ai-retry: paid answers that have no session yet; the next attempt uses the newest. Operators only.';
comment on column public.ai_retry_answers.generation_id is 'Generation that it is for.';
comment on column public.ai_retry_answers.number is 'The attempt that paid for it, or that was open when it came.';
comment on column public.ai_retry_answers.answer is 'Output, model, usage and the provider''s id.';
comment on column public.ai_retry_answers.stored_at is 'When it was stored.';
