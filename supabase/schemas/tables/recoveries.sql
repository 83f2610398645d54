-- Runs of recovery plans, and who started them. The app's events belong to users, and an operator is none.

create table public.ai_retry_recoveries (
  run_id uuid primary key,
  plan_id text not null,
  operator text not null,
  plan jsonb not null,
  started_at timestamptz not null,
  ended_at timestamptz,
  counts jsonb,
  events_refused_by text,
  constraint ended_states_its_counts check ((ended_at is null) = (counts is null))
);

alter table public.ai_retry_recoveries enable row level security;
revoke all on table public.ai_retry_recoveries from public, anon, authenticated, service_role;
grant select, insert, update on table public.ai_retry_recoveries to service_role;

comment on table public.ai_retry_recoveries is
  'ai-retry: runs of recovery plans; their attempts carry the idempotency key plan:<plan_id>. Operators only.';
comment on column public.ai_retry_recoveries.run_id is 'Chosen by the run, so that recording can be repeated.';
comment on column public.ai_retry_recoveries.plan_id is 'Hash of filter, policy, waivers, charge and the selected generations.';
comment on column public.ai_retry_recoveries.operator is 'The operator who ran it.';
comment on column public.ai_retry_recoveries.plan is 'Filter, policy, waivers, charge, caps and the number of selected generations.';
comment on column public.ai_retry_recoveries.started_at is 'When it began.';
comment on column public.ai_retry_recoveries.ended_at is 'When it ended; null while it runs, or if it was killed.';
comment on column public.ai_retry_recoveries.counts is 'How the selected generations ended: succeeded, failed, left.';
comment on column public.ai_retry_recoveries.events_refused_by is 'What refused the events for the app, if anything did.';
