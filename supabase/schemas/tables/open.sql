-- Attempts that are open: queued or running. A row is deleted by the one transaction that closes its attempt.

create table public.ai_retry_open (
  generation_id uuid primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  number integer not null,
  token uuid not null,
  started_at timestamptz not null,
  charge boolean not null,
  waived text[] not null,
  operator text,
  idempotency_key text,
  lease_expires_at timestamptz,
  renewable_until timestamptz,
  abandoned_wait_seconds double precision,
  answer_from integer,
  counted boolean not null default true,
  route text,
  provider_outcome text not null default 'unknown',
  wire_requests integer not null default 0,
  due_at timestamptz,
  accepted_at timestamptz,
  expires_at timestamptz,
  status_before text,
  in_line integer,
  context_reader text,
  request_id text,
  traceparent text,
  message_id bigint,
  answer jsonb,
  kept_cause text,
  call jsonb,
  request_digest text,
  constraint only_a_request_has_the_first_number check (number >= 1 and (number = 1) = (request_digest is not null)),
  constraint running_or_queued check (
    lease_expires_at is not null and renewable_until is not null and abandoned_wait_seconds is not null
    or accepted_at is not null and due_at is not null
  ),
  constraint accepted_until_when check ((accepted_at is null) = (expires_at is null)),
  constraint kept_with_its_answer check (kept_cause is null or answer is not null)
) with (fillfactor = 70);

create index ai_retry_open_user_idx on public.ai_retry_open (user_id);

alter table public.ai_retry_open enable row level security;
revoke all on table public.ai_retry_open from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_open to service_role;

comment on table public.ai_retry_open is 'ai-retry: open attempts, at most one per generation. Operators only.';
comment on column public.ai_retry_open.generation_id is 'Generation that it is for.';
comment on column public.ai_retry_open.user_id is 'Owner at the time of the begin; holds the unit.';
comment on column public.ai_retry_open.number is 'Number of the attempt; the first call is number 1.';
comment on column public.ai_retry_open.token is 'Fencing token: only a settle that carries it closes the attempt.';
comment on column public.ai_retry_open.started_at is 'When it was begun; while it is queued, when it was opened.';
comment on column public.ai_retry_open.charge is 'Whether it holds a unit, and its success captures it.';
comment on column public.ai_retry_open.waived is 'Limits that an operator lifted.';
comment on column public.ai_retry_open.operator is 'The operator who lifted them.';
comment on column public.ai_retry_open.idempotency_key is 'Key of the request that began it.';
comment on column public.ai_retry_open.lease_expires_at is 'End of the lease; null while it is queued.';
comment on column public.ai_retry_open.renewable_until is 'No renewal prolongs the lease beyond this instant.';
comment on column public.ai_retry_open.abandoned_wait_seconds is 'Wait after the lease, if the attempt is abandoned, or its answer is kept.';
comment on column public.ai_retry_open.answer_from is 'Number of the attempt whose stored answer it uses; null: it calls.';
comment on column public.ai_retry_open.counted is 'Whether it uses up an attempt if it is abandoned.';
comment on column public.ai_retry_open.route is 'Provider and model that it asks, or waits for.';
comment on column public.ai_retry_open.provider_outcome is 'What is known of its call: generated, not_generated, unknown.';
comment on column public.ai_retry_open.wire_requests is 'Requests sent before it was put back.';
comment on column public.ai_retry_open.due_at is 'When a queued attempt may run.';
comment on column public.ai_retry_open.accepted_at is 'When its retry was accepted; null: its caller waits for it.';
comment on column public.ai_retry_open.expires_at is 'Until when an accepted retry is tried.';
comment on column public.ai_retry_open.status_before is 'What the generation says again if the retry is cancelled.';
comment on column public.ai_retry_open.in_line is 'Messages of its user that the queue holds at once.';
comment on column public.ai_retry_open.context_reader is 'The reader that the retry was accepted with.';
comment on column public.ai_retry_open.request_id is 'Id of the request that asked for it, as logs have it.';
comment on column public.ai_retry_open.traceparent is 'The trace that the request belonged to (W3C Trace Context).';
comment on column public.ai_retry_open.message_id is 'Its message in the queue ai_retry.';
comment on column public.ai_retry_open.answer is 'A paid answer that waits here until the attempt is closed.';
comment on column public.ai_retry_open.kept_cause is 'Why the answer could not be settled; the attempt is then closed as rejected.';
comment on column public.ai_retry_open.call is 'What is known of the call that the answer came from.';
comment on column public.ai_retry_open.request_digest is 'Digest of the request that created the generation, with this first call.';
