-- Attempts that are closed. Rows are appended; only the delay of a report to the app, a late call, the
-- discarding of an answer and the number of attempts that were pruned change one.

create table public.ai_retry_attempts (
  generation_id uuid not null,
  number integer not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  token uuid not null,
  started_at timestamptz not null,
  closed_at timestamptz not null,
  outcome text not null,
  code text,
  reason text,
  counted boolean not null,
  transient boolean,
  operator_fault boolean not null default false,
  next_attempt_at timestamptz,
  cause text,
  session_id text,
  charge boolean not null,
  captured_at timestamptz,
  waived text[] not null default '{}',
  operator text,
  idempotency_key text,
  lease_expires_at timestamptz,
  answer_from integer,
  route text,
  accepted_at timestamptz,
  expires_at timestamptz,
  context_reader text,
  request_id text,
  traceparent text,
  provider_outcome text not null,
  wire_requests integer not null default 0,
  model text,
  usage jsonb,
  provider_id text,
  duration_ms integer,
  calls jsonb,
  discarded_at timestamptz,
  discarded_by text,
  unreported boolean not null default false,
  pruned integer not null default 0,
  request_digest text,
  primary key (generation_id, number),
  constraint outcomes_are_known check (outcome in ('succeeded', 'failed', 'abandoned', 'cancelled')),
  constraint only_success_has_a_session check ((outcome = 'succeeded') = (session_id is not null)),
  constraint only_charged_success_captures check ((captured_at is not null) = (outcome = 'succeeded' and charge)),
  constraint captured_when_closed check (captured_at = closed_at)
);

create unique index ai_retry_attempts_one_success on public.ai_retry_attempts (generation_id) where outcome = 'succeeded';
create unique index ai_retry_attempts_one_generation_per_session on public.ai_retry_attempts (session_id);
create index ai_retry_attempts_captures on public.ai_retry_attempts (user_id, captured_at);
create index ai_retry_attempts_poisoned on public.ai_retry_attempts (closed_at) where code = 'RETRY_POISONED';
create index ai_retry_attempts_unreported on public.ai_retry_attempts (user_id) where unreported;
create index ai_retry_attempts_plan on public.ai_retry_attempts (idempotency_key, generation_id, number)
  where idempotency_key like 'plan:%';
create index ai_retry_attempts_usage on public.ai_retry_attempts (closed_at) where usage is not null;
create index ai_retry_attempts_closed_at on public.ai_retry_attempts (closed_at);

alter table public.ai_retry_attempts enable row level security;
revoke all on table public.ai_retry_attempts from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_attempts to service_role;

comment on table public.ai_retry_attempts is 'ai-retry: closed attempts; one success per generation, one generation per session. Operators only.';
comment on column public.ai_retry_attempts.generation_id is 'Which generation. No foreign key: the books balance after the app has deleted it.';
comment on column public.ai_retry_attempts.number is 'Counts every attempt at the generation; the first call is number 1.';
comment on column public.ai_retry_attempts.user_id is 'Owner at the time of the begin; the rows go with the user.';
comment on column public.ai_retry_attempts.token is 'Fencing token of its process.';
comment on column public.ai_retry_attempts.started_at is 'When it was begun.';
comment on column public.ai_retry_attempts.closed_at is 'When it was closed.';
comment on column public.ai_retry_attempts.outcome is 'succeeded, failed, abandoned (its lease ran out) or cancelled.';
comment on column public.ai_retry_attempts.code is 'Why it has no session.';
comment on column public.ai_retry_attempts.reason is 'The same for operators: one line without prompt, answer or key.';
comment on column public.ai_retry_attempts.counted is 'Whether it uses up one of the attempts.';
comment on column public.ai_retry_attempts.transient is 'Whether the identical request may succeed later; null: it did not fail with that.';
comment on column public.ai_retry_attempts.operator_fault is 'Whether an operator has to act first.';
comment on column public.ai_retry_attempts.next_attempt_at is 'When the next attempt is due.';
comment on column public.ai_retry_attempts.cause is 'Constraint, column or SQLSTATE that rejected its session.';
comment on column public.ai_retry_attempts.session_id is 'The session that its success created.';
comment on column public.ai_retry_attempts.charge is 'Whether it held a unit, and its success captured it.';
comment on column public.ai_retry_attempts.captured_at is 'When its unit was spent.';
comment on column public.ai_retry_attempts.waived is 'Limits that an operator lifted.';
comment on column public.ai_retry_attempts.operator is 'The operator who lifted them.';
comment on column public.ai_retry_attempts.idempotency_key is 'Key of the request that began it; plan:<plan_id> for a recovery.';
comment on column public.ai_retry_attempts.lease_expires_at is 'End of its lease; null: it never ran.';
comment on column public.ai_retry_attempts.answer_from is 'Number of the attempt whose stored answer it used; null: it called.';
comment on column public.ai_retry_attempts.route is 'Provider and model that it asked, or waited for.';
comment on column public.ai_retry_attempts.accepted_at is 'When its retry was accepted; null: its caller waited for it.';
comment on column public.ai_retry_attempts.expires_at is 'Until when its accepted retry was tried.';
comment on column public.ai_retry_attempts.context_reader is 'The reader that the retry was accepted with.';
comment on column public.ai_retry_attempts.request_id is 'Id of the request that asked for it, as logs have it.';
comment on column public.ai_retry_attempts.traceparent is 'The trace that the request belonged to (W3C Trace Context).';
comment on column public.ai_retry_attempts.provider_outcome is 'What is known of its call: generated, not_generated, unknown (it may have cost the operator, never the user).';
comment on column public.ai_retry_attempts.wire_requests is 'Requests that it sent.';
comment on column public.ai_retry_attempts.model is 'The model that answered.';
comment on column public.ai_retry_attempts.usage is 'Tokens and cost, as the provider reported them.';
comment on column public.ai_retry_attempts.provider_id is 'Id of the request or answer at the provider.';
comment on column public.ai_retry_attempts.duration_ms is 'How long the call took.';
comment on column public.ai_retry_attempts.calls is 'Each request: route, provider, model, code (null: it answered), http_status, usage, duration_ms, outcome. Null: nothing is known. Tries that were put back are in wire_requests only.';
comment on column public.ai_retry_attempts.discarded_at is 'When an operator discarded its stored answer.';
comment on column public.ai_retry_attempts.discarded_by is 'The operator who discarded it.';
comment on column public.ai_retry_attempts.unreported is 'The app held the generation''s row: it is informed by a later begin.';
comment on column public.ai_retry_attempts.pruned is 'Attempts before this success that ai_retry_prune has removed.';
comment on column public.ai_retry_attempts.request_digest is 'Digest of the request that created the generation, with this first call.';
