-- ai-retry: failed AI generations are retried; nothing twice, nothing lost.
--
-- Written by `make migration` from supabase/schemas. Every object is named ai_retry_*, or is in the schema ai_retry.
-- The app's tables are reached only through functions ai_retry.app_*, which the next migration creates. Either
-- migration may be applied first; applied again, they change nothing.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- look

-- Stops before any change where this is no Supabase project.

do $look$
declare
  v_obstacles constant text[] := array(
    select format('there is no role %I', r.name)
    from (values ('anon'), ('authenticated'), ('service_role')) as r (name)
    where not exists (select from pg_catalog.pg_roles where rolname = r.name)
    union all select 'there is no table auth.users' where to_regclass('auth.users') is null);
begin
  if v_obstacles <> '{}' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = E'ai-retry can''t be installed yet; nothing was changed; apply this to a Supabase project:\n  - '
        || array_to_string(v_obstacles, E'\n  - ');
  end if;
end
$look$;

-- schema

-- Decisions are made in Python (ai_retry.domain.decide) and applied here, where they are compared and counted. These
-- rules are decided here, since only the database sees in time what they are about; each has a test that is marked with
-- its name:
--
--   used         units captured in the window; where the change says so, also the app's own successes in it
--   held         units of all open attempts, over or not; a snapshot leaves out what will be released when it is closed
--   live         running attempts whose lease is valid; for a begin all that run, since what is over has been closed
--   override     a user's own limit and window go before the change's; no window is longer than ten years
--   version      status, highest number, queued or not, its wait, stored answer, override
--   age          a snapshot is at most ten seconds old
--   number       one more than the highest, at least 2; 1 where the begin creates the generation
--   creation     a generation that a begin creates is there, as asked and visible, or nothing of it is
--   copied       user, number, hold and key of a closed attempt are those of its open row
--   over         only what is over by the database's clock, under its token, can be abandoned
--   renewal      never shortens a lease, and never exceeds what the begin allowed
--   once         one open attempt and one success per generation, one generation per session
--   passing      which errors undo a settle, that is sent again; any other is the app's rejection
--   conflicting  which rejections their user can cure
--   again        the same cause rejects the same answer: a longer wait, and no second report
--   late         an answer whose attempt is closed is stored with it, once
--   unreported       an app whose row is locked is informed by a later begin
--   line         whose message is next, and how many messages of one user there are
--   hold         a route that an operator holds opens when its time is over, whatever calls show of it
--   outage       how many failures in a row close a route, and how many calls may run when it opens

-- Parts and the binding live in a schema that the Data API does not expose.

create schema if not exists ai_retry;
revoke all on schema ai_retry from public, anon, authenticated;
grant usage on schema ai_retry to service_role;

comment on schema ai_retry is 'ai-retry: parts of its functions, and the binding to the app''s tables (app_*). Operators only.';

-- tables/open

-- Attempts that are open: queued or running. A row is deleted by the one transaction that closes its attempt.

create table if not exists public.ai_retry_open (
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

create index if not exists ai_retry_open_user_idx on public.ai_retry_open (user_id);

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

-- tables/attempts

-- Attempts that are closed. Rows are appended; only the delay of a report to the app, a late call, the
-- discarding of an answer and the number of attempts that were pruned change one.

create table if not exists public.ai_retry_attempts (
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

create unique index if not exists ai_retry_attempts_one_success on public.ai_retry_attempts (generation_id) where outcome = 'succeeded';
create unique index if not exists ai_retry_attempts_one_generation_per_session on public.ai_retry_attempts (session_id);
create index if not exists ai_retry_attempts_captures on public.ai_retry_attempts (user_id, captured_at);
create index if not exists ai_retry_attempts_poisoned on public.ai_retry_attempts (closed_at) where code = 'RETRY_POISONED';
create index if not exists ai_retry_attempts_unreported on public.ai_retry_attempts (user_id) where unreported;
create index if not exists ai_retry_attempts_plan on public.ai_retry_attempts (idempotency_key, generation_id, number)
  where idempotency_key like 'plan:%';
create index if not exists ai_retry_attempts_usage on public.ai_retry_attempts (closed_at) where usage is not null;
create index if not exists ai_retry_attempts_closed_at on public.ai_retry_attempts (closed_at);

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

-- tables/answers

-- Stored answers: valid, paid, and without a session so far. The only foreign key leads to our own table: one to
-- auth.users would wait for a user's row that the app has locked.

create table if not exists public.ai_retry_answers (
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

-- tables/quotas

-- Users whose quota differs from the default.

create table if not exists public.ai_retry_quotas (
  user_id uuid primary key references auth.users (id) on delete cascade,
  quota_limit integer,
  window_seconds double precision default 86400,
  set_at timestamptz,
  constraint quota_limit_is_not_negative check (quota_limit >= 0),
  constraint limit_or_usual check (quota_limit is null or window_seconds is not null),
  constraint window_is_positive_and_finite check (window_seconds > 0 and window_seconds < 'infinity')
);

alter table public.ai_retry_quotas enable row level security;
revoke all on table public.ai_retry_quotas from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_quotas to service_role;

comment on table public.ai_retry_quotas is 'ai-retry: users whose quota differs from the default. Operators only.';
comment on column public.ai_retry_quotas.user_id is 'The user whom the quota is for.';
comment on column public.ai_retry_quotas.quota_limit is 'Units per window; with 0 the user has none; null: the usual ones again.';
comment on column public.ai_retry_quotas.window_seconds is 'Length of the rolling window; more than ten years count as ten years.';
comment on column public.ai_retry_quotas.set_at is
  'When an operator last changed it: the books judge units by it that were admitted since; null: all units.';

-- tables/outages

-- Routes that are unavailable, or coming back.

create table if not exists public.ai_retry_outages (
  route text primary key,
  not_before timestamptz not null,
  since timestamptz not null,
  failures integer not null,
  doubts integer not null default 0,
  slots integer not null,
  began_at timestamptz,
  held_until timestamptz,
  constraint failures_are_not_negative check (failures >= 0),
  constraint doubts_are_not_negative check (doubts >= 0),
  constraint slots_are_positive check (slots >= 1)
);

alter table public.ai_retry_outages enable row level security;
revoke all on table public.ai_retry_outages from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_outages to service_role;

comment on table public.ai_retry_outages is
  'ai-retry: providers and models that are unavailable, held, or coming back; attempts wait for them. Operators only.';
comment on column public.ai_retry_outages.route is 'Provider and model.';
comment on column public.ai_retry_outages.not_before is 'No call is sent there before this instant, nor before held_until.';
comment on column public.ai_retry_outages.since is
  'When the latest failure showed it; answers to older calls prove nothing. -infinity: none did, there are only doubts.';
comment on column public.ai_retry_outages.failures is
  'Failures in a row, no answer between them: the longer the outage, the rarer the probes.';
comment on column public.ai_retry_outages.doubts is
  'Failures in a row that each may have been the fault of one request; many of them are an outage.';
comment on column public.ai_retry_outages.slots is
  'Calls that may run at once when it opens again; each answer doubles them. From 64 on there is no limit.';
comment on column public.ai_retry_outages.began_at is 'When the first of these failures in a row showed it; null: none did.';
comment on column public.ai_retry_outages.held_until is
  'Until then an operator holds it: no call is sent there, not even one that probes, and no answer changes that.';

-- tables/recoveries

-- Runs of recovery plans, and who started them. The app's events belong to users, and an operator is none.

create table if not exists public.ai_retry_recoveries (
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

-- tables/installation

-- The id of this installation, in exactly one row, and whether it has a webhook. Files with answers carry the id: an
-- answer belongs to one database.

create table if not exists public.ai_retry_installation (
  id uuid not null,
  webhook_until timestamptz,
  is_only boolean primary key default true,
  constraint one_row check (is_only)
);

insert into public.ai_retry_installation (id) values (gen_random_uuid()) on conflict do nothing;

alter table public.ai_retry_installation enable row level security;
revoke all on table public.ai_retry_installation from public, anon, authenticated, service_role;
grant select, update (webhook_until) on table public.ai_retry_installation to service_role;

comment on table public.ai_retry_installation is 'ai-retry: the id of this installation. Operators only.';
comment on column public.ai_retry_installation.id is 'Chosen by the migration, and never changed.';
comment on column public.ai_retry_installation.webhook_until is 'Until when messages for the webhook are written; processes that deliver them prolong it.';
comment on column public.ai_retry_installation.is_only is 'Always true: the table has one row.';

-- tables/outbox

-- Messages for the webhook, each until it is delivered or given up. The transaction that makes something true writes the
-- message about it, and only while processes deliver messages: see ai_retry_installation.webhook_until.

create table if not exists public.ai_retry_outbox (
  id uuid primary key default gen_random_uuid(),
  type text not null,
  subject text not null,
  data jsonb not null,
  happened_at timestamptz not null,
  generation_id uuid,
  number integer,
  tries integer not null default 0,
  due_at timestamptz not null,
  foreign key (generation_id, number) references public.ai_retry_attempts (generation_id, number) on delete cascade
);

create index if not exists ai_retry_outbox_in_order on public.ai_retry_outbox (subject, happened_at);
create index if not exists ai_retry_outbox_due on public.ai_retry_outbox (due_at);
create index if not exists ai_retry_outbox_attempt on public.ai_retry_outbox (generation_id, number);

alter table public.ai_retry_outbox enable row level security;
revoke all on table public.ai_retry_outbox from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_outbox to service_role;

comment on table public.ai_retry_outbox is 'ai-retry: messages for the webhook that are not delivered yet; ids and codes, no content. Operators only.';
comment on column public.ai_retry_outbox.id is 'Id of the message, the same at each delivery.';
comment on column public.ai_retry_outbox.type is 'What happened, such as ai_retry.generation.succeeded.';
comment on column public.ai_retry_outbox.subject is 'Generation, route or run that it is about.';
comment on column public.ai_retry_outbox.data is 'What the message says.';
comment on column public.ai_retry_outbox.happened_at is 'When it happened: the messages about one subject are sent in this order.';
comment on column public.ai_retry_outbox.generation_id is 'Generation of the attempt that it is about: the message goes with it, and so with its user.';
comment on column public.ai_retry_outbox.number is 'Number of that attempt.';
comment on column public.ai_retry_outbox.tries is 'How often a process has taken it.';
comment on column public.ai_retry_outbox.due_at is 'No process takes it before this instant.';

-- tables/actions

-- What operators did, and why. The app's events belong to users, and an operator is none.

create table if not exists public.ai_retry_actions (
  id uuid primary key,
  operator text not null,
  role text not null,
  action text not null,
  target text not null,
  user_id uuid references auth.users (id) on delete cascade,
  reason text not null,
  at timestamptz not null,
  ended_at timestamptz,
  outcome text,
  constraint ended_with_an_outcome check ((ended_at is null) = (outcome is null)),
  constraint reasons_are_given check (reason <> '' and length(reason) <= 500)
);

create index if not exists ai_retry_actions_at on public.ai_retry_actions (at);
create index if not exists ai_retry_actions_target on public.ai_retry_actions (target, at);
create index if not exists ai_retry_actions_user on public.ai_retry_actions (user_id);

alter table public.ai_retry_actions enable row level security;
revoke all on table public.ai_retry_actions from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_actions to service_role;

comment on table public.ai_retry_actions is
  'ai-retry: what operators did, by name and with a reason; ai_retry_prune removes old ones. Operators only.';
comment on column public.ai_retry_actions.id is 'Chosen by the caller, so that recording can be repeated.';
comment on column public.ai_retry_actions.operator is 'The operator''s name.';
comment on column public.ai_retry_actions.role is 'The operator''s role then: operator or admin.';
comment on column public.ai_retry_actions.action is 'Such as retry, cancel, hold_route, set_quota or kept_answer.';
comment on column public.ai_retry_actions.target is 'What it was done to, such as generation:<id>, user:<id>, route:<name> or plan:<id>.';
comment on column public.ai_retry_actions.user_id is 'The user whom it concerns; the row goes with the user.';
comment on column public.ai_retry_actions.reason is 'Why, in the operator''s words.';
comment on column public.ai_retry_actions.at is 'When it was begun.';
comment on column public.ai_retry_actions.ended_at is 'When it ended; null while it is under way, or if its process died.';
comment on column public.ai_retry_actions.outcome is 'done, nothing (there was nothing to do), or the code of an error.';

-- parts/attempts

create or replace view ai_retry.attempts with (security_invoker = true) as
  select c.generation_id, c.user_id, c.number, c.token, c.session_id, false as is_open, pg_catalog.jsonb_build_object(
    'number', c.number, 'started_at', c.started_at, 'lease_expires_at', c.lease_expires_at, 'outcome', c.outcome,
    'closed_at', c.closed_at, 'code', c.code, 'counted', c.counted, 'next_attempt_at', c.next_attempt_at,
    'idempotency_key', c.idempotency_key, 'refused_constraint', c.cause, 'provider_outcome', c.provider_outcome,
    'accepted_at', c.accepted_at, 'expires_at', c.expires_at, 'transient', c.transient, 'operator_fault',
    c.operator_fault, 'context_reader', c.context_reader, 'answer_from', c.answer_from,
    'request_digest', c.request_digest, 'in_doubt',
    pg_catalog.jsonb_path_query_array(c.calls, '$[*] ? (@.outcome == "unknown").route'),
    'request_id', c.request_id, 'traceparent', c.traceparent) as attempt,
    null::timestamptz as open_until, c.next_attempt_at, (
      select w.answer || pg_catalog.jsonb_build_object('number', w.number, 'stored_at', w.stored_at)
      from public.ai_retry_answers w where w.generation_id = c.generation_id and w.number = c.number) as stored_answer
  from public.ai_retry_attempts c
  union all
  select o.generation_id, o.user_id, o.number, o.token, null, true, pg_catalog.jsonb_build_object(
    'number', o.number, 'started_at', o.started_at, 'lease_expires_at', o.lease_expires_at, 'outcome', null,
    'closed_at', null, 'code', null, 'counted', o.counted, 'next_attempt_at', coalesce(
      o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at),
    'idempotency_key', o.idempotency_key, 'refused_constraint', null, 'provider_outcome', o.provider_outcome,
    'accepted_at', o.accepted_at, 'expires_at', o.expires_at, 'transient', null, 'operator_fault', false,
    'context_reader', o.context_reader, 'answer_from', o.answer_from, 'request_digest', o.request_digest,
    'request_id', o.request_id, 'traceparent', o.traceparent),
    o.lease_expires_at, coalesce(o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at),
    o.answer || pg_catalog.jsonb_build_object('number', o.number, 'stored_at', o.started_at)
  from public.ai_retry_open o;
revoke all on table ai_retry.attempts from public, anon, authenticated;
grant select on table ai_retry.attempts to service_role;
comment on view ai_retry.attempts is 'ai-retry: attempts, closed and open, as decisions see them.';

-- parts/close

create or replace function ai_retry.close(p_generation_id uuid, p_token uuid, p_end jsonb, p_call jsonb, p_at timestamptz)
returns boolean language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_is_success constant boolean := p_end ->> 'outcome' = 'succeeded';
  v_open public.ai_retry_open%rowtype;
  v_call jsonb;
  v_answer jsonb;
  v_next_at timestamptz;
begin
  -- Only what is open under this token can be closed; only what is over can be abandoned, and a renewal, or an answer
  -- that is kept, may have come.
  delete from public.ai_retry_open o
    where o.generation_id = p_generation_id and o.token = p_token
      and (p_end ->> 'outcome' <> 'abandoned' or o.lease_expires_at <= p_at and o.kept_cause is null)
    returning o.* into v_open;
  if not found then
    return false;
  end if;
  v_call := coalesce(v_open.call, p_call);
  v_answer := coalesce(nullif(p_end -> 'answer', 'null'), v_open.answer);
  v_next_at := coalesce(
    p_at + pg_catalog.make_interval(secs => (p_end ->> 'wait_seconds')::double precision),
    v_open.lease_expires_at + pg_catalog.make_interval(secs => v_open.abandoned_wait_seconds), v_open.due_at);
  insert into public.ai_retry_attempts (
    generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, transient,
    operator_fault, next_attempt_at, cause, session_id, charge, captured_at, waived, operator, idempotency_key,
    lease_expires_at, answer_from, route, accepted_at, expires_at, context_reader, request_id, traceparent,
    provider_outcome, wire_requests, model, usage, provider_id, duration_ms, calls, unreported, request_digest
  ) values (
    p_generation_id, v_open.number, v_open.user_id, p_token, v_open.started_at, p_at, p_end ->> 'outcome',
    p_end ->> 'code', p_end ->> 'reason', coalesce((p_end ->> 'counted')::boolean, v_open.counted),
    (p_end ->> 'transient')::boolean, coalesce((p_end ->> 'operator_fault')::boolean, false),
    case when not v_is_success then v_next_at end, p_end ->> 'cause', p_end ->> 'session_id', v_open.charge,
    case when v_is_success and v_open.charge then p_at end, v_open.waived, v_open.operator, v_open.idempotency_key,
    v_open.lease_expires_at, v_open.answer_from, v_open.route, v_open.accepted_at, v_open.expires_at,
    v_open.context_reader, v_open.request_id, v_open.traceparent, coalesce(v_call ->> 'provider_outcome', v_open.provider_outcome),
    v_open.wire_requests + coalesce((v_call ->> 'wire_requests')::integer, 0), v_call ->> 'model',
    nullif(v_call -> 'usage', 'null'), v_call ->> 'provider_id', (v_call ->> 'duration_ms')::integer,
    nullif(v_call -> 'calls', '[]'), p_end ? 'unreported', v_open.request_digest);
  if v_is_success then
    delete from public.ai_retry_answers a where a.generation_id = p_generation_id;
  elsif v_answer is not null then
    insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    values (p_generation_id, v_open.number, v_answer, p_at);
  end if;
  if v_open.accepted_at is null then
    return true;
  end if;
  if (p_end -> 'goes_on')::boolean then  -- an accepted retry's next attempt keeps the unit
    insert into public.ai_retry_open (
      generation_id, user_id, number, token, started_at, charge, waived, operator, idempotency_key, due_at,
      accepted_at, expires_at, status_before, in_line, context_reader, request_id, traceparent, provider_outcome
    ) values (
      p_generation_id, v_open.user_id, v_open.number + 1, pg_catalog.gen_random_uuid(), p_at, v_open.charge,
      v_open.waived, v_open.operator, v_open.idempotency_key,
      least(v_next_at, case when v_open.expires_at > p_at then v_open.expires_at end), v_open.accepted_at,
      v_open.expires_at, coalesce(p_end ->> 'status', v_open.status_before), v_open.in_line, v_open.context_reader,
      v_open.request_id, v_open.traceparent, 'not_generated');
  else
    perform ai_retry.announce(
      'generation.' || case when p_end ->> 'code' = 'RETRY_EXPIRED' then 'expired' else p_end ->> 'outcome' end,
      p_generation_id::text, pg_catalog.jsonb_build_object(
        'user_id', v_open.user_id, 'generation_id', p_generation_id, 'attempt', v_open.number,
        'session_id', p_end -> 'session_id', 'code', p_end -> 'code', 'request_id', v_open.request_id,
        'accepted_at', v_open.accepted_at), p_at, p_generation_id, v_open.number);
  end if;
  perform ai_retry.line(v_open.user_id, v_open.message_id, null, p_at);
  return true;
end
$$;
revoke all on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) to service_role;
comment on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) is
  'Closes one open attempt, by its token; user, number, hold and key are copied from its row. False: it is not open, or '
  'not over any more. A paid answer without a session is stored. An accepted retry''s next attempt and message follow; '
  'its end is announced.';

-- parts/close_over

create or replace function ai_retry.close_over(p_user_id uuid, p_begun_id uuid, p_at timestamptz) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_open public.ai_retry_open%rowtype;
  v_closed record;
  v_row jsonb;
  v_is_owned boolean;
  v_is_failure boolean;
  v_end jsonb;
  v_ends jsonb := '[]'::jsonb;
begin
  for v_open in
    select o.* from public.ai_retry_open o
    where (o.user_id = p_user_id or o.generation_id = p_begun_id) and o.lease_expires_at <= p_at
    order by o.lease_expires_at
  loop
    v_end := case when v_open.kept_cause is null
      then '{"outcome": "abandoned", "code": "LEASE_LOST", "status": "timeout", "goes_on": true, "unreported": true}'
      else '{"outcome": "failed", "code": "SESSION_REJECTED", "goes_on": true, "unreported": true}'::jsonb
        || pg_catalog.jsonb_build_object('cause', v_open.kept_cause) end;
    if ai_retry.close(v_open.generation_id, v_open.token, v_end, null, p_at) then
      v_ends := v_ends || ai_retry.closed(v_open, v_end);
    end if;
  end loop;
  for v_closed in
    select c.*, case when c.cause is null then 'timeout' else 'error' end as status, (
      select o.lease_expires_at is null from public.ai_retry_open o where o.generation_id = c.generation_id) as is_queued
    from public.ai_retry_attempts c where (c.user_id = p_user_id or c.generation_id = p_begun_id) and c.unreported
  loop
    begin
      v_row := ai_retry.app_lock(v_closed.generation_id, '5ms');
      if v_row ->> 'status' = 'processing' then  -- what the app has decided meanwhile stays
        perform ai_retry.report(
          v_closed.user_id, v_closed.generation_id,
          case v_closed.is_queued when true then 'queued' when false then null else v_closed.status end, null,
          v_closed.code, case
            when (v_row ->> 'user_id')::uuid is distinct from v_closed.user_id then null
            when v_closed.cause is not null then 'The result was rejected; its answer is stored.'
            else 'The attempt was not finished in time.' end,
          v_closed.number, p_at);
      end if;
      update public.ai_retry_attempts c set unreported = false
        where c.generation_id = v_closed.generation_id and c.number = v_closed.number;
    exception when lock_not_available then
      null;  -- the app holds the row, or the table of its events: the report waits for a later begin
    end;
  end loop;
  for v_open in
    select o.* from public.ai_retry_open o
    where o.user_id = p_user_id and o.lease_expires_at is null
      and (o.expires_at <= p_at or p_begun_id is null and o.generation_id in (
        select s.* from ai_retry.app_strangers(
          (select pg_catalog.array_agg(q.generation_id) from public.ai_retry_open q
            where q.user_id = p_user_id and q.lease_expires_at is null), p_user_id) s))
    order by o.expires_at
  loop
    begin
      v_row := ai_retry.app_lock(v_open.generation_id, '5ms');
      v_is_owned := coalesce((v_row ->> 'user_id')::uuid = v_open.user_id, false);
      v_is_failure := v_is_owned and v_row ->> 'status' <> 'success';
      if v_is_failure or v_row ->> 'status' in ('queued', 'processing') then
        perform ai_retry.report(
          v_open.user_id, v_open.generation_id, v_open.status_before, null, 'RETRY_EXPIRED',
          case when v_is_failure then 'The accepted retry was not finished in time.' end, v_open.number, p_at);
      end if;
      v_end := case when v_is_owned then '{"outcome": "failed", "code": "RETRY_EXPIRED", "counted": false}'::jsonb
        else '{"outcome": "cancelled", "counted": false}'::jsonb end;
      if ai_retry.close(v_open.generation_id, v_open.token, v_end, null, p_at) then
        v_ends := v_ends || ai_retry.closed(v_open, v_end);
      end if;
    exception when lock_not_available then
      null;  -- the app holds the row: a later begin ends it
    end;
  end loop;
  return v_ends;
end
$$;
revoke all on function ai_retry.close_over(uuid, uuid, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.close_over(uuid, uuid, timestamptz) to service_role;
comment on function ai_retry.close_over(uuid, uuid, timestamptz) is
  'Closes every attempt of the user that is over, and one of the generation to be begun, even another user''s; informs '
  'the app; ends accepted retries that are out of time. Where none is begun, queued attempts whose generation is gone, or '
  'another user''s, are cancelled, too. Returns what it closed.';

-- parts/closed

create or replace function ai_retry.closed(p_open public.ai_retry_open, p_end jsonb) returns jsonb
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.jsonb_build_object(
    'user_id', p_open.user_id, 'generation_id', p_open.generation_id, 'number', p_open.number,
    'outcome', p_end -> 'outcome', 'code', p_end -> 'code', 'is_accepted', p_open.accepted_at is not null,
    'request_id', p_open.request_id, 'traceparent', p_open.traceparent)
$$;
revoke all on function ai_retry.closed(public.ai_retry_open, jsonb) from public, anon, authenticated;
grant execute on function ai_retry.closed(public.ai_retry_open, jsonb) to service_role;
comment on function ai_retry.closed(public.ai_retry_open, jsonb) is 'What a begin reports of an attempt that it closed in passing.';

-- parts/create_generation

create or replace function ai_retry.create_generation(
  p_user_id uuid, p_generation_id uuid, p_new jsonb, p_status text, p_at timestamptz
) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c_is_there constant text := 'ARDUP';
  v_role constant text := pg_catalog.current_setting('role');
  v_generation jsonb;
  v_sqlstate text;
  v_constraint text;
  v_column text;
begin
  set constraints all deferred;
  if ai_retry.app_create_generation(p_user_id, p_generation_id, (p_new -> 'columns') || pg_catalog.jsonb_build_object(
    'prompt_data', p_new -> 'prompt_data', 'model', p_new -> 'model')) is not true
  then
    raise exception 'ai-retry: there is such a generation' using errcode = c_is_there;
  end if;
  if pg_catalog.current_setting('role') <> v_role then
    perform pg_catalog.set_config('role', v_role, true);  -- the app's function has set one for its own tables
  end if;
  v_generation := ai_retry.app_read(p_generation_id);
  if v_generation ->> 'status' <> p_status then
    perform ai_retry.app_write(p_generation_id, p_status, null, null, p_at);
    v_generation := ai_retry.app_read(p_generation_id);
  end if;
  set constraints all immediate;
  if (v_generation ->> 'id', v_generation ->> 'user_id', v_generation -> 'hidden')
    is distinct from (p_generation_id::text, p_user_id::text, 'false'::jsonb)
  then
    raise exception 'ai-retry: the generation is not as asked' using errcode = 'ARGEN';
  elsif (v_generation -> 'can_create_session')::boolean is not true then
    raise exception 'ai-retry: no session could be created' using errcode = 'ARSES';
  end if;
  return '{"created": true}'::jsonb;
exception when others or assert_failure or query_canceled then
  get stacked diagnostics
    v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
  if pg_catalog.left(v_sqlstate, 2) in ('08', '25', '40', '53', '57', '58', 'XX') or v_sqlstate in ('55006', '55P03') then
    raise;  -- these pass by themselves: nothing is written, and the change is sent again
  elsif v_sqlstate = c_is_there then
    return '{"created": false}'::jsonb;
  end if;
  return pg_catalog.jsonb_build_object('created', false, 'refused', pg_catalog.jsonb_build_object(
    'sqlstate', v_sqlstate, 'name', coalesce(nullif(v_constraint, ''), nullif(v_column, ''))));
end
$$;
revoke all on function ai_retry.create_generation(uuid, uuid, jsonb, text, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.create_generation(uuid, uuid, jsonb, text, timestamptz) to service_role;
comment on function ai_retry.create_generation(uuid, uuid, jsonb, text, timestamptz) is
  'Creates a generation through the binding, for its first call, and writes its status where the app has written another '
  'one. Nothing stays unless it is there as asked: its user''s, visible, and able to get a session. refused: what refused '
  'it, an error or the app''s own rule.';

-- parts/lock_user

create or replace function ai_retry.lock_user(p_user_id uuid) returns timestamptz
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  -- After a lock, the next statement must see what the lock's last holder committed.
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'ai_retry functions need the isolation level read committed'
      using errcode = 'invalid_transaction_state';
  end if;
  -- Later rows of ours are written: the deletion of the user may wait for them while it holds what we need.
  perform pg_catalog.set_config('lock_timeout', '3s', true),
    pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('ai_retry:' || p_user_id::text, 0)),
    pg_catalog.set_config('lock_timeout', '25ms', true);
  return pg_catalog.clock_timestamp();
end
$$;
revoke all on function ai_retry.lock_user(uuid) from public, anon, authenticated;
grant execute on function ai_retry.lock_user(uuid) to service_role;
comment on function ai_retry.lock_user(uuid) is
  'Takes the first lock of every verb that begins or settles, which orders ai-retry''s writes for one user, and returns '
  'the time.';

-- parts/proposal

create or replace function ai_retry.proposal(p_generation_id uuid, p_user_id uuid, p_at timestamptz) returns jsonb
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return pg_catalog.jsonb_build_object(
    'id', p_generation_id, 'user_id', p_user_id, 'status', 'processing', 'exists', false, 'hidden', false, 'model', null,
    'prompt_data', null, 'session_id', null, 'duration_ms', null, 'created_at', p_at, 'updated_at', null, 'session', null,
    'can_create_session', true);
end
$$;
revoke all on function ai_retry.proposal(uuid, uuid, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.proposal(uuid, uuid, timestamptz) to service_role;
comment on function ai_retry.proposal(uuid, uuid, timestamptz) is
  'A generation that is not there, as a begin finds it that creates it, in the words of ai_retry.app_read.';

-- parts/read_change

create or replace function ai_retry.read_change(p_change text, p_keys text[]) returns jsonb
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_change constant jsonb := p_change::jsonb;
  v_success constant jsonb := v_change -> 'success';
  v_calls constant jsonb := coalesce(v_change #> '{call,calls}', '[]');
  v_elsewhere constant jsonb := coalesce(v_change -> 'elsewhere', v_change #> '{put_back,elsewhere}', '[]');
  v_unknown jsonb[];
begin
  if v_change -> 'protocol' is distinct from '2'::jsonb then
    raise exception 'ai-retry: a change of another version; apply the migrations of this one'
      using errcode = 'invalid_parameter_value';
  end if;
  -- What is left of each object without the keys that it may have.
  v_unknown := array[
    v_change - p_keys - 'protocol',
    (v_change -> 'rule') - '{limit,window_seconds,count_own_successes}'::text[],
    (v_change -> 'open') - '{charge,idempotency_key,waived,operator,lease_seconds,longest_seconds,'
      'abandoned_wait_seconds,answer_from,route,wait_seconds,expires_after_seconds,status_before,in_line,'
      'context_reader,create,request_id,traceparent}'::text[],
    nullif(v_change #> '{open,create}', 'null') - '{prompt_data,model,columns,digest}'::text[],
    (v_change -> 'run') - '{number,lease_seconds,longest_seconds,abandoned_wait_seconds,answer_from,route}'::text[],
    v_success - '{answer,answer_from,if_rejected}'::text[],
    (v_success -> 'if_rejected') - '{message,wait_seconds,again_wait_seconds}'::text[],
    (v_change -> 'closing') - '{outcome,code,counted,wait_seconds,status,message,reason,transient,operator_fault,'
      'goes_on,answer}'::text[],
    nullif(coalesce(v_success -> 'answer', v_change #> '{closing,answer}', v_change -> 'answer'), 'null')
      - '{output,model,usage,provider_id}'::text[],
    (v_change -> 'call') - '{provider_outcome,duration_ms,model,usage,provider_id,wire_requests,calls}'::text[],
    coalesce(v_change -> 'outage', v_change #> '{put_back,outage}') - '{wait_seconds,failures,doubts}'::text[],
    (v_change -> 'renew') - '{generation_id,token,lease_seconds}'::text[],
    (v_change -> 'discard') - '{user_id,generation_id,operator}'::text[],
    (v_change -> 'put_back') - '{user_id,generation_id,token,wait_seconds,wire_requests,provider_outcome,outage,'
      'elsewhere}'::text[],
    (v_change -> 'action') - '{id,operator,role,action,target,reason,user_id}'::text[],
    coalesce(v_change -> 'hold_route', v_change -> 'open_route', v_change -> 'set_quota', v_change -> 'reset_quota',
      v_change -> 'read_answer') - '{route,duration_seconds,user_id,limit,window_seconds,generation_id}'::text[],
    (v_change -> 'postpone') - '{user_id,generation_id,message_id,wait_seconds,spread_seconds,route}'::text[]];
  for v_place in 0 .. pg_catalog.jsonb_array_length(v_calls) - 1 loop
    v_unknown := v_unknown
      || ((v_calls -> v_place) - '{route,provider,model,code,http_status,usage,duration_ms,outcome}'::text[]);
  end loop;
  for v_place in 0 .. pg_catalog.jsonb_array_length(v_elsewhere) - 1 loop
    v_unknown := v_unknown || ((v_elsewhere -> v_place) - '{route,outage}'::text[])
      || (nullif(v_elsewhere #> array[v_place::text, 'outage'], 'null') - '{wait_seconds,failures,doubts}'::text[]);
  end loop;
  if '{}' <> any (v_unknown) then
    raise exception 'ai-retry: a change with the unknown key %; apply the migrations of this version',
      (select k from pg_catalog.unnest(v_unknown) u, pg_catalog.jsonb_object_keys(u) k limit 1)
      using errcode = 'invalid_parameter_value';
  end if;
  return v_change;
end
$$;
revoke all on function ai_retry.read_change(text, text[]) from public, anon, authenticated;
grant execute on function ai_retry.read_change(text, text[]) to service_role;
comment on function ai_retry.read_change(text, text[]) is
  'Reads a change, and refuses one of another protocol, or with a key that this version does not know, at any depth, '
  'before any lock.';

-- parts/report

create or replace function ai_retry.report(
  p_user_id uuid, p_generation_id uuid, p_status text, p_duration_ms integer, p_code text, p_message text,
  p_number integer, p_at timestamptz
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_what text;
begin
  foreach v_what in array array[
    case when p_status <> 'success' then 'status' end,
    case when p_status = 'success' then 'succeeded' when p_message is not null then 'failed' end]
  loop
    continue when v_what is null;
    begin
      set constraints all deferred;
      if v_what = 'status' then
        perform ai_retry.app_write(p_generation_id, p_status, null, p_duration_ms, p_at);
      else
        perform ai_retry.app_report(
          p_user_id, p_generation_id, 'ai_generation_' || v_what, p_code, p_message, p_number, p_at);
      end if;
      set constraints all immediate;
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others or assert_failure or query_canceled then
        raise warning 'ai-retry: the app refused % (%): generation %, attempt %',
          case v_what when 'status' then 'the status ' || p_status else 'an event or error log' end,
          sqlstate, p_generation_id, p_number;
    end;
  end loop;
end
$$;
revoke all on function ai_retry.report(uuid, uuid, text, integer, text, text, integer, timestamptz)
  from public, anon, authenticated;
grant execute on function ai_retry.report(uuid, uuid, text, integer, text, text, integer, timestamptz) to service_role;
comment on function ai_retry.report(uuid, uuid, text, integer, text, text, integer, timestamptz) is
  'Informs the app of an attempt that ended: the generation''s status, unless it is null, or success, which its session '
  'has written; and an event, of a failure only with a message, which is an error log, too. What the app refuses, by '
  'whatever error, is noted in the database''s log: it keeps no attempt open, and no answer from its place. Only a lock or '
  'a conflict undoes the transaction, which is sent again.';

-- parts/snapshot

create or replace function ai_retry.snapshot(
  p_generation jsonb, p_rule jsonb, p_token uuid, p_at timestamptz, p_is_whole boolean default true
) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_id constant uuid := (p_generation ->> 'id')::uuid;
  v_user_id constant uuid := (p_generation ->> 'user_id')::uuid;
  v_session jsonb := p_generation -> 'session';
  v_attempts jsonb := '[]'::jsonb;
  v_routes jsonb := '[]'::jsonb;
  v_stored_answer jsonb;
  v_mine integer;
  v_standing jsonb;
  v_user record;
  v_each record;
begin
  if p_generation is null then
    return null;
  end if;
  select q.quota_limit, q.window_seconds, r.*, o.*, array(  -- used: units captured in the window
      select s.at
      from (
        (select c.captured_at as at from public.ai_retry_attempts c
          where c.user_id = v_user_id and c.captured_at > p_at - r.span order by c.captured_at desc limit r.most)
        union all
        select w.* from ai_retry.app_own_successes(v_user_id, p_at - r.span, r.most, p_at) w
        where (p_rule -> 'count_own_successes')::boolean
      ) s
      order by s.at desc limit r.most) as spent,
      p_is_whole and exists (select from public.ai_retry_outages) as has_routes,
      p_is_whole and exists (
        select from public.ai_retry_attempts u where u.user_id = v_user_id and u.unreported) as has_unreported
    into v_user
    from (
      select count(*) filter (where o.holds) as held, min(o.lease_expires_at) filter (where o.holds) as held_until,
        count(*) filter (where o.is_live) as live, min(o.lease_expires_at) filter (where o.is_live) as live_until,
        bool_or(o.is_over) as has_over
      from (
        select o.lease_expires_at, o.lease_expires_at > p_at as is_live,
          -- What stays held when everything that is over is closed. An accepted retry keeps its unit.
          o.charge and (o.accepted_at is not null or o.lease_expires_at > p_at) as holds,
          coalesce(o.lease_expires_at, o.expires_at) <= p_at as is_over
        from public.ai_retry_open o where o.user_id = v_user_id
      ) o
    ) o
    left join public.ai_retry_quotas q on q.user_id = v_user_id
    cross join lateral (
      select coalesce(q.quota_limit, (p_rule -> 'limit')::integer) as most, pg_catalog.make_interval(secs => least(
        coalesce(q.window_seconds, (p_rule -> 'window_seconds')::double precision), 315576000)) as span
    ) r;
  for v_each in
    select u.* from ai_retry.attempts u
    where u.generation_id = v_id and (p_is_whole or u.token = p_token) order by u.number
  loop
    v_attempts := v_attempts || v_each.attempt;
    v_mine := case when v_each.token = p_token then v_each.number else v_mine end;
    v_stored_answer := coalesce(  -- no other user's, who had the id before
      case when v_each.user_id = v_user_id then v_each.stored_answer end, v_stored_answer);
    if v_each.session_id <> coalesce(p_generation ->> 'session_id', '') then  -- the app has changed it since
      v_session := ai_retry.app_session(v_each.session_id, v_user_id);
    end if;
  end loop;
  if p_is_whole and v_user.has_routes then
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'route', r.route, 'not_before', r.not_before, 'failures', r.failures, 'slots', r.slots,
        'running', (
          select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at > p_at),
        'waiting', (
          select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at is null),
        'held_until', case when r.held_until > p_at then r.held_until end
      ) order by r.route), '[]')
      into v_routes
      from (  -- what an operator holds comes first, however many models users invent
        select v.* from ai_retry.outages v order by v.held_until > p_at desc nulls last, v.not_before desc limit 64) r;
  end if;
  v_standing := pg_catalog.jsonb_build_object(
    'live', v_user.live, 'live_until', v_user.live_until, 'routes', v_routes,
    -- The version: everything of one generation that a decision to begin rests on.
    'version', pg_catalog.concat_ws('/', p_generation ->> 'status', coalesce(v_each.number, (not p_generation ? 'exists')::integer),
      v_each.open_until is null, extract(epoch from v_each.next_attempt_at), v_stored_answer ->> 'number',
      v_user.quota_limit::text, v_user.window_seconds::text),
    'quota', pg_catalog.jsonb_build_object(
      'limit', v_user.most, 'window_seconds', extract(epoch from v_user.span),
      'captured', pg_catalog.cardinality(v_user.spent), 'held', v_user.held,
      'resets_at', case
        when v_user.most = 0 then null
        when v_user.held >= v_user.most then v_user.held_until
        else v_user.spent[least(pg_catalog.cardinality(v_user.spent), v_user.most - v_user.held)] + v_user.span end),
    'is_over', v_user.has_unreported or coalesce(v_user.has_over, false) or coalesce(v_each.open_until <= p_at, false));
  if not p_generation ? 'hidden' then  -- a begin has decided already, and compares
    return v_standing;
  end if;
  return v_standing || pg_catalog.jsonb_build_object(
    'as_of', p_at, 'generation', p_generation - '{session,can_create_session,hidden,exists}'::text[],
    'exists', not p_generation ? 'exists',
    'hidden', p_generation -> 'hidden', 'can_create_session', p_generation -> 'can_create_session',
    'session_conflict', case when p_is_whole then ai_retry.app_may_create_session(v_user_id, v_id) end,
    'session', v_session, 'stored_answer', v_stored_answer, 'attempts', v_attempts, 'mine', v_mine,
    'open_token', case when v_each.is_open then v_each.token end,
    'open_is_foreign', coalesce(v_each.is_open and v_each.user_id <> v_user_id, false));
end
$$;
revoke all on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz, boolean) from public, anon, authenticated;
grant execute on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz, boolean) to service_role;
comment on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz, boolean) is
  'What load returns: the generation as the binding read it, its attempts, its owner''s quota, and the time of the reading; '
  'is_over: ai_retry.close_over has something to do. Not whole: what a settle that was applied returns, with no attempt but '
  'the one that was just closed.';

-- parts/store_late

create or replace function ai_retry.store_late(p_change jsonb, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_user_id constant uuid := (p_change ->> 'user_id')::uuid;
  v_generation_id constant uuid := (p_change ->> 'generation_id')::uuid;
  v_token constant uuid := (p_change ->> 'token')::uuid;
  v_answer constant jsonb := coalesce(
    case when p_change #>> '{success,answer_from}' is null then p_change #> '{success,answer}' end,
    nullif(p_change #> '{closing,answer}', 'null'), p_change -> 'answer');
  v_call constant jsonb := p_change -> 'call';
  v_is_gone boolean;
  v_has_session boolean;
begin
  if v_call is null then
    return;
  elsif v_answer is not null then
    begin
      v_is_gone := ai_retry.app_lock(v_generation_id, '25ms') is null;
    exception when others or assert_failure or query_canceled then
      null;  -- whatever the app has locked, a known attempt's answer has its place
    end;
    v_has_session := exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.outcome = 'succeeded');
    if not v_has_session and not exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.token = v_token)
    then
      -- A fail-over has lost the begin: the answer waits with the attempt that is open, or one is recorded for it. Until
      -- then no begin may take its number.
      if v_is_gone then
        return;
      elsif v_is_gone is null then
        raise exception 'ai-retry: the generation is locked' using errcode = 'lock_not_available';
      end if;
      update public.ai_retry_open o set answer = coalesce(o.answer, v_answer)
        where o.generation_id = v_generation_id and o.user_id = v_user_id;
      if found then
        return;
      elsif exists (select from public.ai_retry_open o where o.generation_id = v_generation_id) then
        raise exception 'ai-retry: an attempt of another user is open' using errcode = 'lock_not_available';
      end if;
      begin
        insert into public.ai_retry_attempts (
          generation_id, number, user_id, token, started_at, closed_at, outcome, code, counted, charge, provider_outcome
        ) select
          v_generation_id, 1 + coalesce(max(c.number), 1), v_user_id, v_token, p_at, p_at, 'abandoned', 'LEASE_LOST',
          false, false, 'unknown'
          from public.ai_retry_attempts c where c.generation_id = v_generation_id;
      exception when foreign_key_violation then
        return;  -- the user is gone, and what is a user's goes with them
      end;
    end if;
  end if;
  update public.ai_retry_attempts c  -- what it cost is recorded, whatever became of it
    set provider_outcome = v_call ->> 'provider_outcome', model = v_call ->> 'model',
      usage = nullif(v_call -> 'usage', 'null'), provider_id = v_call ->> 'provider_id',
      duration_ms = (v_call ->> 'duration_ms')::integer, calls = nullif(v_call -> 'calls', '[]'),
      wire_requests = c.wire_requests + (v_call ->> 'wire_requests')::integer
    where c.generation_id = v_generation_id and c.token = v_token and c.provider_outcome = 'unknown'
      and c.calls is null and (v_answer is not null or c.outcome = 'abandoned');
  insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    select v_generation_id, c.number, v_answer, p_at from public.ai_retry_attempts c
    where c.generation_id = v_generation_id and c.token = v_token and c.discarded_at is null
      and v_answer is not null and not v_has_session and v_is_gone is not true
    on conflict do nothing;
end
$$;
revoke all on function ai_retry.store_late(jsonb, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.store_late(jsonb, timestamptz) to service_role;
comment on function ai_retry.store_late(jsonb, timestamptz) is
  'Records what a late call cost, once, and stores its answer, if it has one, with the attempt that paid for it, unless the '
  'generation is gone or has its session, or an operator discarded the answer.';

-- outbox/announce

create or replace function ai_retry.announce(
  p_type text, p_subject text, p_data jsonb, p_at timestamptz, p_generation_id uuid default null,
  p_number integer default null
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  insert into public.ai_retry_outbox (type, subject, data, happened_at, due_at, generation_id, number)
  select 'ai_retry.' || p_type, p_subject, p_data, greatest(p_at, (
      -- After the one before, also where the clock was set back.
      select max(o.happened_at) + interval '1 microsecond' from public.ai_retry_outbox o where o.subject = p_subject)),
    p_at, p_generation_id, p_number
  from public.ai_retry_installation i where i.webhook_until > p_at;
end
$$;
revoke all on function ai_retry.announce(text, text, jsonb, timestamptz, uuid, integer) from public, anon, authenticated;
grant execute on function ai_retry.announce(text, text, jsonb, timestamptz, uuid, integer) to service_role;
comment on function ai_retry.announce(text, text, jsonb, timestamptz, uuid, integer) is
  'Writes a message for the webhook, if processes deliver messages here.';

-- outbox/announce_route

create or replace function ai_retry.announce_route() returns trigger
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_was_closed constant boolean := tg_op <> 'INSERT' and old.failures > 0;
  v_is_closed constant boolean := tg_op <> 'DELETE' and new.failures > 0;
begin
  if v_is_closed and not v_was_closed then
    perform ai_retry.announce('route.closed', new.route, pg_catalog.jsonb_build_object(
      'route', new.route, 'not_before', new.not_before), pg_catalog.clock_timestamp());
  elsif v_was_closed and not v_is_closed then
    perform ai_retry.announce('route.opened', old.route, pg_catalog.jsonb_build_object(
      'route', old.route, 'answered', tg_op = 'UPDATE'), pg_catalog.clock_timestamp());
  end if;
  return null;
end
$$;
revoke all on function ai_retry.announce_route() from public, anon, authenticated;
grant execute on function ai_retry.announce_route() to service_role;
comment on function ai_retry.announce_route() is
  'Announces that a route is closed, whoever closes it, and that it is open again: it has answered, or is forgotten.';

create or replace trigger ai_retry_announce after insert or update or delete on public.ai_retry_outages
  for each row execute function ai_retry.announce_route();

-- outbox/drain

create or replace function public.ai_retry_drain(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{limit,lease_seconds,results}');
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_taken jsonb;
begin
  update public.ai_retry_installation i set webhook_until = v_now + interval '7 days'
    where i.webhook_until is null or i.webhook_until < v_now + interval '167 hours';
  -- What is locked is left alone, to come again: its user is being deleted, or another process has it.
  with known as materialized (
    select l.id, r.wait_seconds
    from pg_catalog.jsonb_to_recordset(v_request -> 'results') r (id uuid, tries integer, wait_seconds double precision)
    join public.ai_retry_outbox l on l.id = r.id and (r.wait_seconds is null or l.tries = r.tries)
    for update of l skip locked
  ),
  ended as (
    delete from public.ai_retry_outbox o using known k where o.id = k.id and k.wait_seconds is null
  )
  update public.ai_retry_outbox o set due_at = v_now + pg_catalog.make_interval(secs => k.wait_seconds)
    from known k where o.id = k.id and k.wait_seconds is not null;
  with due as materialized (
    select d.id from public.ai_retry_outbox d
    where d.due_at <= v_now and not exists (
      select from public.ai_retry_outbox e
      where e.subject = d.subject and (e.happened_at, e.id) < (d.happened_at, d.id))
    order by d.due_at limit (v_request -> 'limit')::integer for update skip locked
  ),
  taken as (
    update public.ai_retry_outbox o
      set tries = o.tries + 1,
        due_at = v_now + pg_catalog.make_interval(secs => (v_request -> 'lease_seconds')::double precision)
      from due where o.id = due.id returning o.*
  )
  select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'id', t.id, 'type', t.type, 'happened_at', t.happened_at, 'data', t.data, 'tries', t.tries) order by t.happened_at), '[]')
    into v_taken from taken t;
  return v_taken;
end
$$;
revoke all on function public.ai_retry_drain(text) from public, anon, authenticated;
grant execute on function public.ai_retry_drain(text) to service_role;
comment on function public.ai_retry_drain(text) is
  'Deletes messages that need no further try, puts back those that do, then takes messages that are due, and hides them '
  'from other processes for a while: one of each subject, the first. From then on, for seven days, messages are written: '
  'processes that deliver them call it all the time.';

-- queue/create_queue

create or replace function public.ai_retry_create_queue() returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if to_regnamespace('pgmq') is null
    and exists (select from pg_catalog.pg_available_extensions e where e.name = 'pgmq')
  then
    create extension pgmq;
  end if;
  if to_regnamespace('pgmq') is null then
    return false;
  end if;
  if to_regclass('pgmq.q_ai_retry') is null then
    perform pgmq.create('ai_retry');
    -- Ids of messages begin anew: one that a dropped queue gave must not be taken for another attempt's.
    update public.ai_retry_open set message_id = null where message_id is not null;
  end if;
  alter table pgmq.q_ai_retry enable row level security;
  revoke all on table pgmq.q_ai_retry, pgmq.a_ai_retry from public, anon, authenticated;
  grant usage on schema pgmq to service_role;
  grant select, insert, update, delete on table pgmq.q_ai_retry to service_role;
  return true;
end
$$;
revoke all on function public.ai_retry_create_queue() from public, anon, authenticated, service_role;
comment on function public.ai_retry_create_queue() is
  'Creates the queue ai_retry, and returns whether there is one: Supabase Queues (pgmq) must be there. A repeat changes '
  'nothing. For the owner, also when pgmq comes later.';

do $queue$
declare
  v_problem text := 'there is no pgmq here';
begin
  begin
    if public.ai_retry_create_queue() then
      return;
    end if;
  exception when insufficient_privilege or undefined_function then
    v_problem := sqlerrm;  -- not this role's, or not pgmq
  end;
  raise notice 'ai-retry: %: queued retries are refused as NOT_CONFIGURED; enable Supabase Queues (or load pgmq.sql), then run, as the owner of schema pgmq: select public.ai_retry_create_queue()', v_problem;
end
$queue$;

-- queue/has_queue

create or replace function ai_retry.has_queue() returns boolean
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return case when pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('pgmq'), 'usage')
    then pg_catalog.to_regclass('pgmq.q_ai_retry') is not null else false end;
end
$$;
revoke all on function ai_retry.has_queue() from public, anon, authenticated;
grant execute on function ai_retry.has_queue() to service_role;
comment on function ai_retry.has_queue() is
  'Whether Supabase Queues (pgmq) and the queue ai_retry are there, and this role may use them.';

-- queue/line

create or replace function ai_retry.line(p_user_id uuid, p_message_id bigint, p_until timestamptz, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '5ms' as $$
declare
  v_open record;
  v_line record;
begin
  if not ai_retry.has_queue() then
    return;
  elsif p_message_id is not null and p_until is null then
    perform pgmq.delete('ai_retry', p_message_id);
  elsif p_message_id is not null then
    perform pgmq.set_vt('ai_retry', p_message_id, greatest(0, ceil(extract(epoch from p_until - p_at)))::integer);
  end if;
  loop
    -- Who is next in line: the user's queued attempt without a message that is due first.
    select o.generation_id, o.in_line, greatest(o.due_at, p_at) as due_at into v_open
      from public.ai_retry_open o
      where o.user_id = p_user_id and o.lease_expires_at is null
        and not exists (select from pgmq.q_ai_retry q where q.msg_id = o.message_id)
      order by o.due_at, o.accepted_at, o.generation_id limit 1;
    exit when not found;
    -- As many messages of one user are due as attempts of theirs may run. Some more may wait for their time.
    select count(*) as all_of_them,
        count(*) filter (where o.lease_expires_at is not null or o.due_at <= v_open.due_at) as due
      into v_line
      from public.ai_retry_open o join pgmq.q_ai_retry q on q.msg_id = o.message_id
      where o.user_id = p_user_id;
    exit when v_line.due >= v_open.in_line or v_line.all_of_them >= 8 * v_open.in_line;
    update public.ai_retry_open o
      set message_id = (
        select s.* from pgmq.send(
          'ai_retry',
          pg_catalog.jsonb_build_object('user_id', p_user_id, 'generation_id', v_open.generation_id),
          greatest(0, ceil(extract(epoch from v_open.due_at - p_at)))::integer) s)
      where o.generation_id = v_open.generation_id;
    -- Workers that found a message just now look again by themselves; who commits a notification waits for others who do,
    -- and fails where the server's queue of them is full, since some session of whatever app does not read.
    if v_open.due_at <= p_at and not exists (select from pgmq.q_ai_retry q where q.vt <= p_at)
        and pg_catalog.pg_notification_queue_usage() < 0.5 then
      perform pg_catalog.pg_notify('ai_retry', '');
    end if;
  end loop;
exception when others then  -- it is locked, or was dropped just now: a message is a hint, and ai_retry_overdue finds who lacks one
  raise warning 'ai-retry: the queue could not be changed (%)', sqlstate;
end
$$;
revoke all on function ai_retry.line(uuid, bigint, timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.line(uuid, bigint, timestamptz, timestamptz) to service_role;
comment on function ai_retry.line(uuid, bigint, timestamptz, timestamptz) is
  'Hides a message until then, or deletes it when that is null. Then sends messages for the user''s queued attempts, the '
  'one that is due first at the front, as many as may be in line; no user: none. Notifies the workers that listen of what '
  'is due now, unless messages wait already. Does nothing where the queue is not there.';

-- queue/note

create or replace function ai_retry.note(p_route text, p_outage jsonb, p_started_at timestamptz, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_doubts integer;
  v_slots integer;
  v_messages bigint[];
begin
  if p_outage is not null then
    delete from public.ai_retry_outages o
      where o.route in (
        select f.route from public.ai_retry_outages f
        where greatest(f.not_before, f.held_until) <= p_at - interval '1 day' for update skip locked);
    insert into public.ai_retry_outages as o (route, not_before, since, failures, doubts, slots)
      values (p_route, p_at, '-infinity', 0, 1, 64)
      on conflict (route) do update set doubts = o.doubts + 1
      returning o.doubts into v_doubts;
    if v_doubts >= (p_outage ->> 'doubts')::integer then
      update public.ai_retry_outages o
        set not_before = greatest(o.not_before, p_at
            + pg_catalog.make_interval(secs => (p_outage ->> 'wait_seconds')::double precision)),
          began_at = case when o.since > '-infinity' and o.failures > 0 then o.began_at else p_at end,
          since = p_at, failures = greatest(o.failures, (p_outage ->> 'failures')::integer), doubts = 0, slots = 1
        where o.route = p_route;
    end if;
    return;
  end if;
  select o.slots into v_slots from public.ai_retry_outages o
    where o.route = p_route and o.since <= p_started_at and coalesce(o.held_until <= p_at, true)
    for update skip locked;  -- whoever notes the same just now needs no help
  if not found then
    return;
  elsif v_slots >= 64 then
    delete from public.ai_retry_outages o where o.route = p_route;
  else
    update public.ai_retry_outages o set slots = least(o.slots * 2, 64), failures = 0, doubts = 0 where o.route = p_route;
  end if;
  if not ai_retry.has_queue() then
    return;
  end if;
  begin
    -- Where any number may run, no attempt waits longer than until it is due; so many at once are no burden.
    v_messages := array(
      select s.message_id
      from (
        select o.message_id, o.accepted_at, row_number() over (partition by o.user_id order by o.accepted_at) as place
        from public.ai_retry_open o join pgmq.q_ai_retry m on m.msg_id = o.message_id
        where o.route = p_route and o.lease_expires_at is null and (v_slots >= 64 or o.due_at <= p_at)
          and m.vt > greatest(o.due_at, p_at)
      ) s
      order by s.place, s.accepted_at
      limit (
        select greatest(0, case when v_slots >= 64 then 1000 else v_slots * 2 end - count(*)) from public.ai_retry_open o
        where o.route = p_route and o.lease_expires_at > p_at));
    perform pgmq.set_vt('ai_retry', w.msg_id, greatest(0, ceil(extract(epoch from o.due_at - p_at)))::integer)
      from (select m.msg_id from pgmq.q_ai_retry m where m.msg_id = any (v_messages) for update skip locked) w
      join public.ai_retry_open o on o.message_id = w.msg_id;
  exception when others then  -- it is locked, or was dropped just now: an attempt that waits looks by itself, later
    raise warning 'ai-retry: messages could not be shown (%)', sqlstate;
  end;
exception when lock_not_available then
  return;  -- another settle notes the same just now
end
$$;
revoke all on function ai_retry.note(text, jsonb, timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.note(text, jsonb, timestamptz, timestamptz) to service_role;
comment on function ai_retry.note(text, jsonb, timestamptz, timestamptz) is
  'Closes a route for a while, once so many failures came since its last answer, and forgets routes that were available '
  'for a day. Without an outage: a provider that was unavailable answered, twice as many calls may run, in the end any '
  'number, and the messages of as many attempts that wait are shown, as soon as they are due: every user''s first one '
  'before any user''s second. No answer ends what an operator holds.';

-- queue/outages

create or replace view ai_retry.outages with (security_invoker = true) as
  select o.route, greatest(o.not_before, o.held_until) as not_before, o.since, o.failures, o.doubts, o.slots, o.began_at,
    o.held_until
  from public.ai_retry_outages o
  where o.since > '-infinity' and o.not_before > pg_catalog.clock_timestamp() - interval '1 day'
    or o.held_until > pg_catalog.clock_timestamp();
revoke all on table ai_retry.outages from public, anon, authenticated;
grant select on table ai_retry.outages to service_role;
comment on view ai_retry.outages is
  'ai-retry: routes that are held or unavailable, or were unavailable within a day. What is older is forgotten, since users may invent models.';

-- queue/overdue

create or replace function public.ai_retry_overdue(p_limit integer) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_lacking uuid[] := '{}'::uuid[];
begin
  if ai_retry.has_queue() then
    v_lacking := array(
      select o.user_id
      from public.ai_retry_open o left join pgmq.q_ai_retry q on q.msg_id = o.message_id
      where o.accepted_at is not null
      group by o.user_id
      having bool_or(o.lease_expires_at is null and o.due_at <= v_now and q.msg_id is null)
        and count(q.msg_id) filter (where o.lease_expires_at is not null or o.due_at <= v_now)
          < min(o.in_line) filter (where o.lease_expires_at is null and o.due_at <= v_now and q.msg_id is null));
  end if;
  return (
    select coalesce(pg_catalog.jsonb_agg(u.user_id), '[]')
    from (
      select s.user_id
      from (
        select o.user_id, coalesce(o.lease_expires_at, o.due_at) as since
        from public.ai_retry_open o
        where o.lease_expires_at <= v_now or o.lease_expires_at is null and (
          o.expires_at <= v_now or o.user_id = any (v_lacking))
        union all
        select q.user_id, v_now
        from (
          select o.user_id, pg_catalog.array_agg(o.generation_id) as ids
          from public.ai_retry_open o where o.lease_expires_at is null group by o.user_id
        ) q
        where exists (select from ai_retry.app_strangers(q.ids, q.user_id))
        union all
        select c.user_id, c.closed_at from public.ai_retry_attempts c where c.unreported
      ) s
      group by s.user_id order by min(s.since) limit p_limit
    ) u
  );
end
$$;
revoke all on function public.ai_retry_overdue(integer) from public, anon, authenticated;
grant execute on function public.ai_retry_overdue(integer) to service_role;
comment on function public.ai_retry_overdue(integer) is
  'Lists users who have attempts that are over or out of time, queued attempts whose generation is no longer theirs, due '
  'attempts that lack a message, or a report that their app has not got: for them ai_retry_begin has something to close. '
  'Reads only.';

-- queue/state

create or replace function public.ai_retry_state() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  return (
    select pg_catalog.jsonb_build_object(
      'as_of', v_now, 'configured', ai_retry.has_queue(),
      'queued', count(*) filter (where o.lease_expires_at is null),
      'due', count(*) filter (where o.lease_expires_at is null and o.route is null and o.due_at <= v_now),
      'parked', count(*) filter (where o.lease_expires_at is null and o.route is not null),
      'running', count(*) filter (where o.lease_expires_at is not null),
      'oldest_accepted_at', min(o.accepted_at),
      'held', (select count(*) from public.ai_retry_open h where h.charge),
      'kept', (select count(*) from public.ai_retry_answers)
        + (select count(*) from public.ai_retry_open k where k.kept_cause is not null),
      'poisoned', (
        select count(*) from public.ai_retry_attempts c
        where c.code = 'RETRY_POISONED' and c.closed_at > v_now - interval '24 hours'),
      'outages', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
          'route', r.route, 'not_before', r.not_before, 'failures', r.failures, 'slots', r.slots) order by r.route), '[]')
        from ai_retry.outages r))
    from public.ai_retry_open o where o.accepted_at is not null
  );
end
$$;
revoke all on function public.ai_retry_state() from public, anon, authenticated;
grant execute on function public.ai_retry_state() to service_role;
comment on function public.ai_retry_state() is 'Counts what waits and what runs of accepted retries, and lists outages.';

-- queue/take

create or replace function public.ai_retry_take(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{limit,visibility_seconds,rule}');
  v_message record;
  v_taken jsonb := '[]'::jsonb;
  c_uuid constant text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
begin
  if not ai_retry.has_queue() then
    return null;
  end if;
  for v_message in
    select m.msg_id, m.message
    from pgmq.read('ai_retry', (v_request ->> 'visibility_seconds')::integer, (v_request ->> 'limit')::integer) m
  loop
    if v_message.message ->> 'user_id' ~ c_uuid and v_message.message ->> 'generation_id' ~ c_uuid then
      begin
        v_taken := v_taken || pg_catalog.jsonb_build_object(
          'message_id', v_message.msg_id, 'user_id', v_message.message -> 'user_id',
          'generation_id', v_message.message -> 'generation_id',
          -- As text: what Python can't hold in one of them, such as 3,000 brackets, must not hide the others.
          'snapshot', ai_retry.snapshot(
            ai_retry.app_read((v_message.message ->> 'generation_id')::uuid), v_request -> 'rule', null,
            pg_catalog.clock_timestamp())::text);
      exception when others or assert_failure then  -- one bad row stops no user's line: its message comes again
        raise warning 'ai-retry: a generation could not be read (%): %', sqlstate, v_message.message ->> 'generation_id';
      end;
    else
      perform pgmq.delete('ai_retry', v_message.msg_id);  -- nothing of ours
    end if;
  end loop;
  return v_taken;
end
$$;
revoke all on function public.ai_retry_take(text) from public, anon, authenticated;
grant execute on function public.ai_retry_take(text) to service_role;
comment on function public.ai_retry_take(text) is
  'Takes messages, hides them from other workers for a while, and returns them with the snapshots of what they are about. '
  'Null without a queue.';

-- verbs/amend

create or replace function public.ai_retry_amend(p_change text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_change constant jsonb := ai_retry.read_change(p_change, '{renew,discard,put_back,postpone}');
  v_what constant jsonb :=
    coalesce(v_change -> 'renew', v_change -> 'put_back', v_change -> 'postpone', v_change -> 'discard');
  v_user_id constant uuid := (v_what ->> 'user_id')::uuid;
  v_generation_id constant uuid := (v_what ->> 'generation_id')::uuid;
  v_message_id constant bigint := (v_what ->> 'message_id')::bigint;
  v_wait constant interval := pg_catalog.make_interval(secs => (v_what ->> 'wait_seconds')::double precision);
  v_now timestamptz := pg_catalog.clock_timestamp();
  v_open public.ai_retry_open%rowtype;
  v_row jsonb;
  v_applied boolean := true;
begin
  if v_change ? 'renew' then
    -- One row, without the user's lock, also of an attempt that is over: closing looks at the lease as it deletes.
    update public.ai_retry_open o
      set lease_expires_at = greatest(o.lease_expires_at, least(
        v_now + pg_catalog.make_interval(secs => (v_what ->> 'lease_seconds')::double precision), o.renewable_until))
      where o.generation_id = v_generation_id and o.token = (v_what ->> 'token')::uuid
        and o.lease_expires_at is not null and o.kept_cause is null;
    return pg_catalog.jsonb_build_object('applied', found);
  end if;
  v_now := ai_retry.lock_user(v_user_id);
  if v_change ? 'put_back' then
    v_row := ai_retry.app_lock(v_generation_id, '25ms');
    -- Under a new token: a worker that still holds the old one can settle nothing.
    update public.ai_retry_open o
      set token = pg_catalog.gen_random_uuid(), lease_expires_at = null, renewable_until = null,
        provider_outcome = v_what ->> 'provider_outcome',
        wire_requests = o.wire_requests + (v_what ->> 'wire_requests')::integer,
        route = case when v_what ? 'outage' then o.route end,
        due_at = least(v_now + v_wait, case when o.expires_at > v_now then o.expires_at end)
      where o.generation_id = v_generation_id and o.token = (v_what ->> 'token')::uuid
        and o.accepted_at is not null and o.lease_expires_at is not null and o.kept_cause is null
      returning * into v_open;
    v_applied := found;
    if v_applied and v_row ->> 'status' = 'processing' and (v_row ->> 'user_id')::uuid = v_open.user_id then
      perform ai_retry.app_write(v_generation_id, 'queued', null, null, v_now);
    end if;
    perform ai_retry.line(null, v_open.message_id, v_open.due_at, v_now);
    if v_open.route is not null then  -- it met an outage
      perform ai_retry.note(v_open.route, v_what -> 'outage', null, v_now);
    end if;
    if v_applied and v_what -> 'elsewhere' <> '[]' then
      perform ai_retry.note(e.route, nullif(e.outage, 'null'), v_open.started_at, v_now)  -- always in the same order
        from (
          select r.* from pg_catalog.jsonb_to_recordset(v_what -> 'elsewhere') r (route text, outage jsonb) order by 1
        ) e;
    end if;
  elsif v_change ? 'postpone' then
    update public.ai_retry_open o
      set route = case when o.lease_expires_at is null then v_what ->> 'route' else o.route end,
        due_at = case when o.lease_expires_at is null then least(
          greatest(o.due_at, v_now + v_wait), case when o.expires_at > v_now then o.expires_at end) else o.due_at end
      where o.generation_id = v_generation_id and o.user_id = v_user_id and o.message_id = v_message_id
      returning * into v_open;
    v_applied := found;
    perform ai_retry.line(null, v_message_id, coalesce(
      greatest(v_open.lease_expires_at, case when v_open.lease_expires_at is not null then v_now + v_wait end),
      least(v_open.due_at + pg_catalog.make_interval(secs => (v_what ->> 'spread_seconds')::double precision),
        case when v_open.expires_at > v_now then v_open.expires_at end)), v_now);
  else
    v_applied := coalesce(
      (ai_retry.app_read(v_generation_id) ->> 'user_id')::uuid = v_user_id, false) and not exists (
      select from public.ai_retry_open o
      where o.generation_id = v_generation_id and (o.answer_from is not null or o.answer is not null));
    if v_applied then
      with gone as (
        delete from public.ai_retry_answers a where a.generation_id = v_generation_id returning a.generation_id, a.number
      )
      update public.ai_retry_attempts c set discarded_at = v_now, discarded_by = v_what ->> 'operator'
        from gone where c.generation_id = gone.generation_id and c.number = gone.number;
      v_applied := found;
    end if;
  end if;
  return pg_catalog.jsonb_build_object('applied', v_applied);
end
$$;
revoke all on function public.ai_retry_amend(text) from public, anon, authenticated;
grant execute on function public.ai_retry_amend(text) to service_role;
comment on function public.ai_retry_amend(text) is
  'Prolongs the lease of a running attempt (renew); turns a running accepted attempt back to queued, due after the wait: no '
  'attempt is used up, and its token ends (put_back); puts a message back, and its queued attempt with it, or deletes one '
  'that belongs to no open attempt (postpone); drops stored answers (discard). Closes nothing.';

-- verbs/begin

create or replace function public.ai_retry_begin(p_change text) returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' as $$
declare
  v_change constant jsonb := ai_retry.read_change(
    p_change, '{user_id,generation_id,token,as_of,version,rule,max_live,max_used,open,run}');
  v_user_id constant uuid := (v_change ->> 'user_id')::uuid;
  v_generation_id constant uuid := (v_change ->> 'generation_id')::uuid;
  v_token constant uuid := (v_change ->> 'token')::uuid;
  v_rule constant jsonb := v_change -> 'rule';
  v_status constant text := pg_catalog.split_part(v_change ->> 'version', '/', 1);
  v_start constant jsonb := coalesce(v_change -> 'run', v_change -> 'open');
  v_route constant text := v_start ->> 'route';
  v_calls constant boolean := v_start ->> 'answer_from' is null;
  v_new constant jsonb := nullif(v_start -> 'create', 'null');
  v_known constant jsonb := pg_catalog.jsonb_build_object('id', v_generation_id, 'user_id', v_user_id, 'status', v_status)
    || case when v_new is not null then '{"exists": false}' else '{}'::jsonb end;
  v_becomes constant text := case when v_start ? 'lease_seconds' then 'processing' else 'queued' end;
  v_now timestamptz;
  v_row jsonb;
  v_stands jsonb;
  v_outage public.ai_retry_outages%rowtype;
  v_applied boolean;
  v_closed jsonb;
begin
  if v_start ? 'expires_after_seconds' and not ai_retry.has_queue() then
    return pg_catalog.jsonb_build_object('applied', false, 'has_queue', false);
  end if;
  v_now := ai_retry.lock_user(v_user_id);
  if v_start is null then
    v_closed := ai_retry.close_over(v_user_id, null, v_now);
    perform ai_retry.line(v_user_id, null, null, v_now);
    return pg_catalog.jsonb_build_object('applied', true, 'closed', v_closed);
  end if;
  v_stands := ai_retry.snapshot(v_known, v_rule, v_token, v_now);
  v_applied := v_now <= (v_change ->> 'as_of')::timestamptz + interval '10 seconds'
    and v_stands -> 'version' = v_change -> 'version';
  if v_applied and v_new is null then
    v_row := ai_retry.app_lock(v_generation_id, '5ms');
    v_applied := (v_row ->> 'user_id')::uuid = v_user_id and v_row ->> 'status' = v_status
      and not (v_row -> 'hidden')::boolean;
  end if;
  if v_applied and (v_stands -> 'is_over')::boolean then
    v_closed := ai_retry.close_over(v_user_id, v_generation_id, v_now);
    v_stands := ai_retry.snapshot(v_known, v_rule, v_token, v_now);
  end if;
  -- What was over has been closed: whatever is open is live, and holds its unit.
  v_applied := v_applied
    and (v_change ->> 'max_live' is null or v_stands -> 'live' < v_change -> 'max_live')
    and (v_change ->> 'max_used' is null
      or (v_stands #> '{quota,captured}')::integer + (v_stands #> '{quota,held}')::integer
        < least((v_change -> 'max_used')::integer, (v_stands #> '{quota,limit}')::integer));
  if v_applied and v_route is not null and v_stands -> 'routes' <> '[]' then
    select * into v_outage from ai_retry.outages o where o.route = v_route;
    if found then
      v_applied := v_outage.not_before <= v_now
        -- One begin at a time may become the only probe.
        and (v_outage.slots > 1 or pg_catalog.pg_try_advisory_xact_lock(
          pg_catalog.hashtextextended('ai_retry_route:' || v_route, 0)));
      v_applied := v_applied and v_outage.slots > (
        select count(*) from public.ai_retry_open o where o.route = v_route and o.lease_expires_at > v_now);
    end if;
  end if;
  if v_applied and v_new is not null then
    v_row := ai_retry.create_generation(v_user_id, v_generation_id, v_new, v_becomes, v_now);
    v_applied := (v_row -> 'created')::boolean;
    if v_row ? 'refused' and coalesce(v_closed, '[]') = '[]' then  -- what was closed is reported first
      return v_row - 'created' || '{"applied": false}';
    end if;
  end if;
  if v_applied and v_change ? 'run' then
    update public.ai_retry_open o
      set token = v_token, started_at = v_now, counted = v_calls, route = v_route,
        lease_expires_at = v_now + pg_catalog.make_interval(secs => (v_start -> 'lease_seconds')::double precision),
        renewable_until = v_now + pg_catalog.make_interval(secs => (v_start -> 'longest_seconds')::double precision),
        abandoned_wait_seconds = (v_start -> 'abandoned_wait_seconds')::double precision,
        answer_from = (v_start ->> 'answer_from')::integer,
        provider_outcome = case when v_calls then 'unknown' else o.provider_outcome end
      where o.generation_id = v_generation_id and o.user_id = v_user_id and o.lease_expires_at is null
        and o.number = (v_start -> 'number')::integer;
    v_applied := found;
  elsif v_applied then
    insert into public.ai_retry_open (
      generation_id, user_id, number, token, started_at, charge, waived, operator, idempotency_key, lease_expires_at,
      renewable_until, abandoned_wait_seconds, answer_from, counted, route, provider_outcome,
      due_at, accepted_at, expires_at, status_before, in_line, context_reader, request_digest, request_id, traceparent
    ) values (
      v_generation_id, v_user_id, 1 + pg_catalog.split_part(v_stands ->> 'version', '/', 2)::integer, v_token, v_now,
      (v_start -> 'charge')::boolean, array(select pg_catalog.jsonb_array_elements_text(v_start -> 'waived')),
      v_start ->> 'operator', v_start ->> 'idempotency_key',
      v_now + pg_catalog.make_interval(secs => (v_start ->> 'lease_seconds')::double precision),
      v_now + pg_catalog.make_interval(secs => (v_start ->> 'longest_seconds')::double precision),
      (v_start ->> 'abandoned_wait_seconds')::double precision, (v_start ->> 'answer_from')::integer, v_calls,
      v_route, case when v_calls and v_start ? 'lease_seconds' then 'unknown' else 'not_generated' end,
      case when v_start ? 'wait_seconds' then greatest(v_now, (v_change ->> 'as_of')::timestamptz
        + pg_catalog.make_interval(secs => (v_start ->> 'wait_seconds')::double precision)) end,
      case when v_start ? 'expires_after_seconds' then v_now end,
      v_now + pg_catalog.make_interval(secs => (v_start ->> 'expires_after_seconds')::double precision),
      v_start ->> 'status_before', (v_start ->> 'in_line')::integer, v_start ->> 'context_reader', v_new ->> 'digest',
      v_start ->> 'request_id', v_start ->> 'traceparent'
    ) on conflict (generation_id) do nothing;  -- another user's attempt
    v_applied := found;
    if v_new is not null and not found then  -- nothing of what was created may stay
      raise exception 'ai-retry: another user''s attempt is open' using errcode = 'serialization_failure';
    end if;
  end if;
  if v_applied then
    if v_new is null then
      perform ai_retry.app_write(v_generation_id, v_becomes, null, null, v_now);
    end if;
    if v_start ? 'lease_seconds' and v_new is null then
      return pg_catalog.jsonb_build_object('applied', true, 'closed', v_closed);
    end if;
    perform ai_retry.line(v_user_id, null, null, v_now);
  end if;
  return pg_catalog.jsonb_build_object('applied', coalesce(v_applied, false), 'closed', v_closed, 'snapshot', ai_retry.snapshot(
    coalesce(ai_retry.app_read(v_generation_id), case when v_new is not null then
      ai_retry.proposal(v_generation_id, v_user_id, v_now) end), v_rule, v_token, v_now));
end
$$;
revoke all on function public.ai_retry_begin(text) from public, anon, authenticated;
grant execute on function public.ai_retry_begin(text) to service_role;
comment on function public.ai_retry_begin(text) is
  'Closes what is over for a user; then opens an attempt, or turns the queued one to running; with create, the first one of '
  'a generation that it creates through the binding: refused says what refused that. An attempt that uses a '
  'stored answer makes no call: abandoned, it has cost nothing. Stale (applied: false, with the fresh snapshot) when the '
  'version, the age, a ceiling or the route is not as the change expects.';

-- verbs/browse

create or replace function public.ai_retry_browse(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
begin
  if ai_retry.read_change(p_request, '{user_id,before,statuses,page,rule}') -> 'user_id' is null then
    raise exception 'ai-retry: a list of no user''s generations' using errcode = 'invalid_parameter_value';
  end if;
  return public.ai_retry_find(p_request);
end
$$;
revoke all on function public.ai_retry_browse(text) from public, anon, authenticated;
grant execute on function public.ai_retry_browse(text) to service_role;
comment on function public.ai_retry_browse(text) is
  'One page of one user''s generations, newest first, as ai_retry_find returns it. Writes nothing.';

-- verbs/installation

create or replace function public.ai_retry_installation() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select pg_catalog.jsonb_build_object('id', i.id, 'database', pg_catalog.current_database())
    from public.ai_retry_installation i
  );
end
$$;
revoke all on function public.ai_retry_installation() from public, anon, authenticated;
grant execute on function public.ai_retry_installation() to service_role;
comment on function public.ai_retry_installation() is
  'Returns the id of this installation and the name of its database: a copy of the database has the same id. Reads only.';

-- verbs/keep

create or replace function public.ai_retry_keep(p_change text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_change constant jsonb := ai_retry.read_change(p_change, '{user_id,generation_id,token,answer,cause,wait_seconds,call}');
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  -- One update of columns in no key: no user lock, no foreign key, no table of the app, no queue can be in its way.
  update public.ai_retry_open o
    set answer = v_change -> 'answer', kept_cause = v_change ->> 'cause', counted = false, lease_expires_at = v_now,
      abandoned_wait_seconds = (v_change ->> 'wait_seconds')::double precision, call = v_change -> 'call',
      provider_outcome = v_change #>> '{call,provider_outcome}'
    where o.generation_id = (v_change ->> 'generation_id')::uuid and o.token = (v_change ->> 'token')::uuid
      and o.kept_cause is null;
  if not found and not exists (
    select from public.ai_retry_open o
    where o.generation_id = (v_change ->> 'generation_id')::uuid and o.token = (v_change ->> 'token')::uuid)
  then
    perform ai_retry.store_late(v_change, v_now);
  end if;
end
$$;
revoke all on function public.ai_retry_keep(text) from public, anon, authenticated;
grant execute on function public.ai_retry_keep(text) to service_role;
comment on function public.ai_retry_keep(text) is
  'The last resort: stores a paid answer that could not be settled with its open attempt, and ends the lease. A later '
  'begin closes the attempt with a rejected session. An attempt that is closed already keeps a late answer.';

-- verbs/load

create or replace function public.ai_retry_load(p_request text) returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s' set plan_cache_mode = 'force_generic_plan' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{user_id,generation_id,rule,token,creating}');
  v_id constant uuid := (v_request ->> 'generation_id')::uuid;
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  return ai_retry.snapshot(
    coalesce(ai_retry.app_read(v_id), case when v_request ? 'creating' then
      ai_retry.proposal(v_id, (v_request ->> 'user_id')::uuid, v_now) end),
    v_request -> 'rule', (v_request ->> 'token')::uuid, v_now);
end
$$;
revoke all on function public.ai_retry_load(text) from public, anon, authenticated;
grant execute on function public.ai_retry_load(text) to service_role;
comment on function public.ai_retry_load(text) is
  'Reads one generation of any user for a decision: see ai_retry.snapshot. Null when it is absent; creating: then what '
  'a begin finds that creates it. Writes nothing.';

-- verbs/settle

create or replace function public.ai_retry_settle(p_change text) returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' as $$
declare
  v_change constant jsonb := ai_retry.read_change(
    p_change, '{user_id,generation_id,token,found,rule,success,closing,call,outage,answered,elsewhere}');
  v_user_id constant uuid := (v_change ->> 'user_id')::uuid;
  v_generation_id constant uuid := (v_change ->> 'generation_id')::uuid;
  v_token constant uuid := (v_change ->> 'token')::uuid;
  v_success constant jsonb := v_change -> 'success';
  v_answer constant jsonb := v_success -> 'answer';
  v_call constant jsonb := v_change -> 'call';
  v_role constant text := pg_catalog.current_setting('role');
  v_now timestamptz;
  v_open record;
  v_row jsonb;
  v_end jsonb := v_change -> 'closing';
  v_generation jsonb;
  v_session_id text;
  v_sqlstate text;
  v_constraint text;
  v_column text;
  v_cause text;
  v_again boolean;
  v_applied boolean := false;
  v_known boolean := true;
begin
  v_now := ai_retry.lock_user(v_user_id);
  v_row := ai_retry.app_lock(v_generation_id, '25ms');
  select o.user_id, o.number, o.started_at, o.accepted_at is not null as is_accepted, o.status_before, o.route, case
      when v_row is null then 'gone'
      when (v_row ->> 'user_id')::uuid is distinct from v_user_id or (v_row -> 'hidden')::boolean then 'foreign'
      when v_row ->> 'status' = 'success' or exists (
        select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.outcome = 'succeeded')
        then 'succeeded'
      else 'ready' end as found,
      exists (select from public.ai_retry_outages r where r.route = o.route) as was_down
    into v_open
    from public.ai_retry_open o where o.generation_id = v_generation_id and o.token = v_token;
  if found then
    v_applied := v_open.found = v_change ->> 'found';
  else
    perform ai_retry.store_late(v_change, v_now);
    v_known := exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.token = v_token);
  end if;
  if v_applied and v_success is not null then
    begin
      set constraints all deferred;
      v_session_id := ai_retry.app_create_session(
        v_open.user_id, v_generation_id, v_answer -> 'output', pg_catalog.jsonb_build_object(
          'number', v_open.number, 'model', v_answer -> 'model', 'usage', v_answer -> 'usage')) ->> 'id';
      if pg_catalog.current_setting('role') <> v_role then
        perform pg_catalog.set_config('role', v_role, true);  -- the app's function has set one for its own tables
      end if;
      if v_session_id is null then
        raise exception 'the session function returned no row with an id' using errcode = 'null_value_not_allowed';
      elsif not pg_catalog.pg_try_advisory_xact_lock(
        pg_catalog.hashtextextended('ai_retry_session:' || v_session_id, 0))
      then
        raise exception 'another settle has this session just now' using errcode = 'lock_not_available';
      elsif exists (select from public.ai_retry_attempts c where c.session_id = v_session_id) then
        raise exception 'the session belongs to another generation' using
          errcode = 'unique_violation', constraint = 'session_reused';
      end if;
      perform ai_retry.app_write(
        v_generation_id, 'success', v_session_id, (v_call ->> 'duration_ms')::integer, v_now);
      set constraints all immediate;
      v_generation := ai_retry.app_read(v_generation_id);
      if (v_generation ->> 'status', v_generation ->> 'session_id', v_generation ->> 'user_id')
        is distinct from ('success', v_session_id, v_open.user_id::text)
      then
        raise exception 'a trigger of the app has undone what was written' using
          errcode = 'triggered_data_change_violation', constraint = 'session_not_linked';
      end if;
      v_end := pg_catalog.jsonb_build_object(
        'outcome', 'succeeded', 'status', 'success', 'session_id', v_session_id);
    exception when others or assert_failure or query_canceled then
      get stacked diagnostics
        v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
      -- These pass by themselves: the transaction is undone and sent again. Links, isolation, deadlocks, resources,
      -- shutdowns, locks, internal faults: PostgreSQL documentation, appendix A. But what has rejected this answer
      -- before, for as long as settling was repeated, does not pass.
      if pg_catalog.left(v_sqlstate, 2) = '40' or v_sqlstate = '55P03'
        or (pg_catalog.left(v_sqlstate, 2) in ('08', '25', '53', '57', '58', 'XX') or v_sqlstate = '55006')
        and not exists (
          select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.cause = v_sqlstate)
      then
        raise;
      end if;
      v_generation := null;
      v_cause := coalesce(nullif(v_constraint, ''), nullif(v_column, ''), v_sqlstate);
      -- The same cause again: the attempt before this one was rejected by it.
      select c.cause = v_cause into v_again
        from public.ai_retry_attempts c
        where c.generation_id = v_generation_id and c.cause is not null order by c.number desc limit 1;
      v_end := pg_catalog.jsonb_build_object(
        'outcome', 'failed', 'counted', false, 'cause', v_cause, 'goes_on', true, 'code', case
          when v_sqlstate in ('23505', '23P01', 'PT409') and v_constraint is distinct from 'session_reused'
            then 'SESSION_CONFLICT'
          else 'SESSION_REJECTED' end,
        'status', case when not v_open.is_accepted then 'error' end,
        'message', case when v_again is not true or v_call is not null then v_success #> '{if_rejected,message}' end,
        'wait_seconds', v_success -> 'if_rejected' -> case when v_again then 'again_wait_seconds' else 'wait_seconds' end,
        'answer', case when v_success ->> 'answer_from' is null then v_answer end);
    end;
  end if;
  if v_applied then
    -- Hidden, or another user's: no attempt works on it any more.
    if v_open.found = 'ready' or v_open.found = 'foreign' and v_row ->> 'status' in ('queued', 'processing') then
      perform ai_retry.report(
        v_user_id, v_generation_id, case when (v_end -> 'goes_on')::boolean and v_open.is_accepted then 'queued'
          else coalesce(v_end ->> 'status', v_open.status_before, 'timeout') end,
        case when v_open.found = 'ready' then (v_call ->> 'duration_ms')::integer end, v_end ->> 'code',
        case when v_open.found = 'ready' then v_end ->> 'message' end, v_open.number, v_now);
    end if;
    -- The open row is touched last: keep must never wait for the app.
    if not ai_retry.close(v_generation_id, v_token, v_end, v_call, v_now) then
      raise exception 'the attempt vanished while it was settled' using errcode = 'serialization_failure';
    end if;
    if v_change ? 'outage' and v_open.route is not null or (v_change -> 'answered')::boolean and v_open.was_down then
      perform ai_retry.note(v_open.route, v_change -> 'outage', v_open.started_at, v_now);
    end if;
    if v_change -> 'elsewhere' <> '[]' then
      perform ai_retry.note(e.route, nullif(e.outage, 'null'), v_open.started_at, v_now)  -- always in the same order
        from (
          select r.* from pg_catalog.jsonb_to_recordset(v_change -> 'elsewhere') r (route text, outage jsonb) order by 1
        ) e;
    end if;
  end if;
  return pg_catalog.jsonb_build_object('applied', v_applied, 'known', v_known, 'snapshot', ai_retry.snapshot(
    coalesce(v_generation, ai_retry.app_read(v_generation_id)) - 'prompt_data', v_change -> 'rule', v_token, v_now,
    not v_applied));
end
$$;
revoke all on function public.ai_retry_settle(text) from public, anon, authenticated;
grant execute on function public.ai_retry_settle(text) to service_role;
comment on function public.ai_retry_settle(text) is
  'Closes one attempt, by its token: with its session, or without, then informing the app where the generation is still '
  'its user''s and not a success. A session that the app''s tables or session function reject closes it without charge, '
  'while the paid answer is stored; the app is informed once for the same cause and the same answer. Stale when the '
  'generation is not as the change expects. A token that is not open changes nothing, but that its paid answer is stored, '
  'once; known: an attempt, open or closed, has it.';

-- recovery/estimate

create or replace function public.ai_retry_estimate() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
begin
  return (
    with calls as materialized (
      select a.generation_id, a.usage from public.ai_retry_attempts a
      where a.usage is not null order by a.closed_at desc limit 1000
    )
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(m)), '[]')
    from (
      select l.model, avg((c.usage ->> 'total_tokens')::numeric) as tokens, avg((c.usage ->> 'cost')::numeric) as cost
      from calls c join ai_retry.app_look_up(array(select x.generation_id from calls x)) l on l.id = c.generation_id
      group by l.model
    ) m
  );
end
$$;
revoke all on function public.ai_retry_estimate() from public, anon, authenticated;
grant execute on function public.ai_retry_estimate() to service_role;
comment on function public.ai_retry_estimate() is
  'Mean tokens and cost of a call for each model that generations name, from the last 1000 attempts that recorded them. '
  'Writes nothing.';

-- recovery/find

create or replace function public.ai_retry_find(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{since,before,user_id,statuses,models,codes,page,most,rule}');
  v_page constant integer := (v_request ->> 'page')::integer;
  v_most constant integer := coalesce((v_request ->> 'most')::integer, v_page);
  c_looks constant integer := 50;  -- times as many are looked at, since most have succeeded
  c_longest constant integer := 4194304;  -- bytes of a page, and one row
  v_each record;
  v_looked integer := 0;
  v_chosen integer := 0;
  v_bytes integer := 0;
  v_error jsonb;
  v_row jsonb;
  v_rows jsonb[] := array[]::jsonb[];
  v_next jsonb;
begin
  for v_each in
    select f.id, f.created_at as at, f.status, f.model from ai_retry.app_find(
      (v_request ->> 'since')::timestamptz, (v_request #>> '{before,at}')::timestamptz,
      (v_request #>> '{before,id}')::uuid, (v_request ->> 'user_id')::uuid, v_page * c_looks) f
  loop
    v_looked := v_looked + 1;
    if v_request -> 'statuses' ? v_each.status and (not v_request ? 'models' or v_request -> 'models' ? v_each.model) then
      v_chosen := v_chosen + 1;
      v_error := ai_retry.last_error(v_each.id);
      if not v_request ? 'codes' or v_request -> 'codes' ? (v_error ->> 'code') then
        v_row := ai_retry.found(v_each.id, v_error, v_request -> 'rule');
        if v_row is not null then
          v_rows := v_rows || v_row;
          v_bytes := v_bytes + pg_catalog.octet_length(v_row::text);
        end if;
      end if;
    end if;
    if v_chosen = v_page or pg_catalog.cardinality(v_rows) = v_most or v_bytes > c_longest or v_looked = v_page * c_looks then
      v_next := pg_catalog.jsonb_build_object('at', v_each.at, 'id', v_each.id);
      exit;
    end if;
  end loop;
  return pg_catalog.jsonb_build_object(
    'as_of', pg_catalog.clock_timestamp(), 'rows', pg_catalog.to_jsonb(v_rows), 'next', v_next);
end
$$;
revoke all on function public.ai_retry_find(text) from public, anon, authenticated;
grant execute on function public.ai_retry_find(text) to service_role;
comment on function public.ai_retry_find(text) is
  'One page of generations created before an instant and id, newest first, each with what a decision needs. It looks at 50 '
  'times as many at most, and returns a few megabytes, or most rows, so that a page may be short; next is null at the end. '
  'Writes nothing.';

-- recovery/find_attempts

create or replace function public.ai_retry_find_attempts(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{key,after,page}');
  v_key constant text := v_request ->> 'key';
  v_after constant uuid := (v_request ->> 'after')::uuid;
  v_page constant integer := (v_request ->> 'page')::integer;
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(
      v.attempt || pg_catalog.jsonb_build_object(
        'generation_id', l.generation_id, 'usage', l.usage, 'calls', coalesce(l.calls, '[]'))
      order by l.generation_id), '[]')
    from (
      select distinct on (u.generation_id) u.*
      from (
        (select distinct on (a.generation_id) a.generation_id, a.number, a.usage, a.calls
          from public.ai_retry_attempts a
          where a.idempotency_key = v_key and a.idempotency_key like 'plan:%' and a.generation_id > v_after
          order by a.generation_id, a.number desc
          limit v_page)
        union all
        (select o.generation_id, o.number, null, null
          from public.ai_retry_open o
          where o.idempotency_key = v_key and o.idempotency_key like 'plan:%' and o.generation_id > v_after
          order by o.generation_id
          limit v_page)
      ) u
      order by u.generation_id, u.number desc
      limit v_page
    ) l
    join ai_retry.attempts v on v.generation_id = l.generation_id and v.number = l.number
  );
end
$$;
revoke all on function public.ai_retry_find_attempts(text) from public, anon, authenticated;
grant execute on function public.ai_retry_find_attempts(text) to service_role;
comment on function public.ai_retry_find_attempts(text) is
  'The last attempt that a plan made at each generation, a page of them by generation. Writes nothing.';

-- recovery/find_one

create or replace function public.ai_retry_find_one(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{generation_id,rule}');
  v_id constant uuid := (v_request ->> 'generation_id')::uuid;
begin
  return ai_retry.found(v_id, ai_retry.last_error(v_id), v_request -> 'rule');
end
$$;
revoke all on function public.ai_retry_find_one(text) from public, anon, authenticated;
grant execute on function public.ai_retry_find_one(text) to service_role;
comment on function public.ai_retry_find_one(text) is
  'A generation of whatever user and status, as ai_retry_find returns it; null when it is absent. For operators. Writes '
  'nothing.';

-- recovery/found

create or replace function ai_retry.found(p_generation_id uuid, p_error jsonb, p_rule jsonb) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  c_longest constant integer := 33554432;  -- bytes of a column; a reader needs several times as many
  v_generation jsonb;
  v_snapshot jsonb;
begin
  v_generation := ai_retry.app_read(p_generation_id);
  if v_generation is null then
    return null;
  end if;
  v_snapshot := ai_retry.snapshot(v_generation - 'prompt_data', p_rule, null, pg_catalog.clock_timestamp());
  return pg_catalog.jsonb_build_object(
    'id', p_generation_id, 'error', p_error,
    'calls', coalesce((
      select c.calls from public.ai_retry_attempts c
      where c.generation_id = p_generation_id and c.calls is not null order by c.number desc limit 1), '[]'),
    'snapshot', v_snapshot - '{generation,session}'::text[] || case
      when v_snapshot -> 'stored_answer' <> 'null' then
        pg_catalog.jsonb_build_object('stored_answer', v_snapshot -> 'stored_answer' || '{"output": null}')
      else '{}' end,
    'generation', (
      select pg_catalog.jsonb_object_agg(
        e.key, case when pg_catalog.octet_length(e.value::text) <= c_longest then e.value::text end)
      from pg_catalog.jsonb_each(v_generation - '{session,can_create_session,hidden}'::text[]) e
    ));
exception
  when data_exception or cardinality_violation or program_limit_exceeded or plpgsql_error then
    return pg_catalog.jsonb_build_object('id', p_generation_id, 'refused_by', sqlstate);
end
$$;
revoke all on function ai_retry.found(uuid, jsonb, jsonb) from public, anon, authenticated;
grant execute on function ai_retry.found(uuid, jsonb, jsonb) to service_role;
comment on function ai_retry.found(uuid, jsonb, jsonb) is
  'A generation as a search returns it: its last error; the snapshot that a decision needs, without session and output; and '
  'each of its columns as JSON in a string, null when it is too long. So one that a reader can''t read spoils no other one. '
  'Where reading it fails, only its id and the SQLSTATE.';

-- recovery/last_error

create or replace function ai_retry.last_error(p_generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(
    (select pg_catalog.jsonb_build_object(
        'code', coalesce(a.code, 'UNKNOWN'), 'reason', a.reason, 'at', a.closed_at, 'ours', true)
      from public.ai_retry_attempts a
      where a.generation_id = p_generation_id and a.outcome in ('failed', 'abandoned')
      order by a.number desc limit 1),
    (select pg_catalog.jsonb_build_object(
        'code', coalesce(e.error ->> 'code', 'UNKNOWN'), 'reason', null, 'at', e.error -> 'at', 'ours', false)
      from ai_retry.app_last_error(p_generation_id) e (error) where e.error is not null));
end
$$;
revoke all on function ai_retry.last_error(uuid) from public, anon, authenticated;
grant execute on function ai_retry.last_error(uuid) to service_role;
comment on function ai_retry.last_error(uuid) is
  'The last error of a generation: of our last attempt that has one, else the app''s last one, without its message.';

-- recovery/record_recovery

create or replace function public.ai_retry_record_recovery(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{run_id,plan_id,operator,plan,counts}');
  v_run_id constant uuid := (v_request ->> 'run_id')::uuid;
  v_plan_id constant text := v_request ->> 'plan_id';
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_started_at timestamptz;
  v_user record;
  v_constraint text;
begin
  insert into public.ai_retry_recoveries (run_id, plan_id, operator, plan, started_at)
    values (v_run_id, v_plan_id, v_request ->> 'operator', v_request -> 'plan', v_now)
    on conflict (run_id) do nothing;
  update public.ai_retry_recoveries r
    set ended_at = v_now, counts = v_request -> 'counts'
    where r.run_id = v_run_id and r.ended_at is null and v_request ? 'counts'
    returning r.started_at into v_started_at;
  if found then
    perform ai_retry.announce('recovery.ended', v_run_id::text, pg_catalog.jsonb_build_object(
      'run_id', v_run_id, 'plan_id', v_plan_id, 'counts', v_request -> 'counts'), v_now);
    begin  -- all events or none; only a lock or a conflict undoes the transaction, which is sent again
      set constraints all deferred;
      for v_user in
        select u.user_id, count(*)::integer as retried, (count(*) filter (where u.succeeded))::integer as succeeded
        from (
          select a.user_id, a.outcome = 'succeeded' as succeeded from public.ai_retry_attempts a
          where a.idempotency_key = 'plan:' || v_plan_id and a.idempotency_key like 'plan:%'
            and a.started_at >= v_started_at
          union all
          select o.user_id, false from public.ai_retry_open o
          where o.idempotency_key = 'plan:' || v_plan_id and o.started_at >= v_started_at
        ) u
        group by u.user_id
      loop
        perform ai_retry.app_report_recovery(
          v_user.user_id, v_run_id, v_plan_id, v_user.retried, v_user.succeeded, v_now);
      end loop;
      set constraints all immediate;
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others or assert_failure or query_canceled then
        get stacked diagnostics v_constraint = constraint_name;
        update public.ai_retry_recoveries r
          set events_refused_by = coalesce(nullif(v_constraint, ''), sqlstate) where r.run_id = v_run_id;
    end;
  end if;
  return (
    select pg_catalog.jsonb_build_object('events_refused_by', r.events_refused_by)
    from public.ai_retry_recoveries r where r.run_id = v_run_id
  );
end
$$;
revoke all on function public.ai_retry_record_recovery(text) from public, anon, authenticated;
grant execute on function public.ai_retry_record_recovery(text) to service_role;
comment on function public.ai_retry_record_recovery(text) is
  'Records that a run of a plan began and, with its counts, that it ended: then also one event per user it concerned. '
  'Returns what refused the events, if the app did. Idempotent by run.';

-- operate/attempt_records

create or replace function public.ai_retry_attempt_records(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{generation_id}');
  v_id constant uuid := (v_request ->> 'generation_id')::uuid;
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(u.attempt order by u.number), '[]')
    from (
      (select c.number, pg_catalog.to_jsonb(c) - '{token,traceparent,request_digest,unreported}'::text[]
          || pg_catalog.jsonb_build_object('calls', coalesce(c.calls, '[]'), 'stored_at', (
            select w.stored_at from public.ai_retry_answers w where w.generation_id = v_id and w.number = c.number)) as attempt
        from public.ai_retry_attempts c where c.generation_id = v_id order by c.number desc limit 200)
      union all
      select o.number, pg_catalog.to_jsonb(o) - '{token,traceparent,request_digest,answer,call}'::text[]
        || coalesce(o.call, '{}') || pg_catalog.jsonb_build_object(
          'calls', coalesce(o.call -> 'calls', '[]'),
          'wire_requests', o.wire_requests + coalesce((o.call ->> 'wire_requests')::integer, 0),
          'stored_at', case when o.answer is not null then o.started_at end,
          'due_at', case when o.lease_expires_at is null then o.due_at end)
      from public.ai_retry_open o where o.generation_id = v_id
    ) u
  );
end
$$;
revoke all on function public.ai_retry_attempt_records(text) from public, anon, authenticated;
grant execute on function public.ai_retry_attempt_records(text) to service_role;
comment on function public.ai_retry_attempt_records(text) is
  'What is recorded of a generation''s newest 200 attempts and of the open one, by number, without answers and tokens. Reads '
  'only.';

-- operate/beyond

create or replace function ai_retry.beyond(p_limit integer, p_window_seconds double precision, p_since timestamptz)
returns table (generation_id uuid)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_window constant interval := pg_catalog.make_interval(secs => p_window_seconds);
begin
  if p_limit is null then
    return;
  end if;
  -- First, by an index only, where more units were captured within a window than the limit; then who was admitted there,
  -- though the limit was used up: by instants of their own, however the clock was set between them.
  return query
    select distinct j.generation_id
    from (
      select c.user_id, c.captured_at, c.first_at, p_limit as quota_limit, v_window as quota_window
      from (
        select a.user_id, a.captured_at, lag(a.captured_at, p_limit) over (
          partition by a.user_id order by a.captured_at) as first_at
        from public.ai_retry_attempts a
        where a.captured_at is not null and (p_since is null or a.closed_at >= p_since - v_window)
      ) c
      where c.captured_at - c.first_at < v_window
        and not exists (select from public.ai_retry_quotas q where q.user_id = c.user_id and q.quota_limit is not null)
      union all
      select q.user_id, c.captured_at, c.first_at, q.quota_limit, c.quota_window
      from public.ai_retry_quotas q,
      lateral (
        select a.captured_at, lag(a.captured_at, q.quota_limit) over (order by a.captured_at) as first_at,
          pg_catalog.make_interval(secs => least(q.window_seconds, 315576000)) as quota_window
        from public.ai_retry_attempts a where a.user_id = q.user_id and a.captured_at is not null
      ) c
      where c.captured_at - c.first_at < c.quota_window
    ) f
    join public.ai_retry_attempts j
      on j.user_id = f.user_id and j.captured_at between f.first_at and f.captured_at and 'quota' <> all (j.waived)
    left join public.ai_retry_quotas s on s.user_id = j.user_id
    where (p_since is null or j.captured_at >= p_since)
      and coalesce(coalesce(j.accepted_at, j.started_at) >= s.set_at, true) and f.quota_limit < (
      select count(*) from public.ai_retry_attempts i
      where i.user_id = j.user_id and i.captured_at > coalesce(j.accepted_at, j.started_at) - f.quota_window
        and coalesce(i.accepted_at, i.started_at) <= coalesce(j.accepted_at, j.started_at));
end
$$;
revoke all on function ai_retry.beyond(integer, double precision, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.beyond(integer, double precision, timestamptz) to service_role;
comment on function ai_retry.beyond(integer, double precision, timestamptz) is
  'Generations whose success spent a unit though, when it was admitted, its user''s limit was used up by others, and no '
  'operator had lifted it. The limit and window given are those of users without their own. What was admitted before an '
  'operator changed a user''s quota is judged by neither.';

-- operate/books

create or replace function public.ai_retry_books(
  p_limit integer default null, p_window_seconds double precision default 86400, p_since timestamptz default null
) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set statement_timeout = '60s'
set plan_cache_mode = 'force_custom_plan' as $$
declare
  c_most constant integer := 1000;  -- violations of a kind
  c_many constant integer := 100000;  -- attempts since then: to read all in their order is faster, and takes no memory
  v_since constant uuid[] := case when p_since is not null then array(
    select a.generation_id from public.ai_retry_attempts a where a.closed_at >= p_since limit c_many) end;
  v_ids constant uuid[] := case when pg_catalog.cardinality(v_since) < c_many then v_since end;
  v_changed constant uuid[] := array(
    select g.id from ai_retry.app_not_succeeded(v_ids) g (id)
    where (
      select a.number from public.ai_retry_attempts a
      where a.generation_id = g.id and a.outcome = 'succeeded') is not null
    limit c_most);
begin
  return (
    with violations (violation, generation_id) as (
      (select 'a number is missing or double', a.generation_id
        from public.ai_retry_attempts a where v_ids is null or a.generation_id = any (v_ids)
        group by a.generation_id
        having count(*) <> max(a.number) - (min(a.number) > 1)::integer and count(*) + coalesce((  -- some before its success were pruned
          select s.pruned from public.ai_retry_attempts s
          where s.generation_id = a.generation_id and s.outcome = 'succeeded'), 0)
          <> max(a.number) - (min(a.number) > 1)::integer
        limit c_most)
      union
      (select 'a number is missing or double', o.generation_id
        from public.ai_retry_open o where o.number <> 1 + coalesce((
          select max(a.number) from public.ai_retry_attempts a where a.generation_id = o.generation_id),
          (o.request_digest is null)::integer) limit c_most)
      union
      (select u.violation, u.generation_id
        from (
          select 'an open attempt beside a success' as violation, o.generation_id from public.ai_retry_open o
          union all
          select 'a stored answer beside a success', o.generation_id from public.ai_retry_open o where o.answer is not null
          union all
          select 'a stored answer beside a success', w.generation_id from public.ai_retry_answers w
        ) u
        where (  -- for each row, since these tables are small: a join might read all attempts
          select a.number from public.ai_retry_attempts a
          where a.generation_id = u.generation_id and a.outcome = 'succeeded') is not null
        limit 3 * c_most)
      union
      (select 'a discarded answer that is stored', w.generation_id
        from public.ai_retry_answers w
        where (
          select a.discarded_at from public.ai_retry_attempts a
          where a.generation_id = w.generation_id and a.number = w.number) is not null
        limit c_most)
      union
      (select 'a unit above the limit', b.generation_id
        from ai_retry.beyond(p_limit, p_window_seconds, case when v_ids is not null then p_since end) b limit c_most)
      union
      select 'a success whose generation says otherwise', c.id from pg_catalog.unnest(v_changed) c (id)
    )
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(v) order by v.violation, v.generation_id), '[]')
    from violations v
  );
end
$$;
revoke all on function public.ai_retry_books(integer, double precision, timestamptz) from public, anon, authenticated;
grant execute on function public.ai_retry_books(integer, double precision, timestamptz) to service_role;
comment on function public.ai_retry_books(integer, double precision, timestamptz) is
  'Proves the quota books: every violation of what is promised and of what no constraint refuses, as JSON, a thousand of '
  'each kind at most; [] when they balance. Given a limit, also units above it, or above a user''s own. Since an instant: of '
  'generations with an attempt that was closed since, and of all that are open; of all where these attempts are many. Safe '
  'on a live project.';

-- operate/count_failures

create or replace function public.ai_retry_count_failures(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{since,until,user_id,statuses,models,codes}');
  c_most constant integer := 1000;
  c_looks constant integer := 20000;
begin
  return (
    with looked as materialized (
      select f.id, f.status, f.model from ai_retry.app_find(
        (v_request ->> 'since')::timestamptz, (v_request ->> 'until')::timestamptz,
        'ffffffff-ffff-ffff-ffff-ffffffffffff', (v_request ->> 'user_id')::uuid, c_looks) f
    ),
    failed as materialized (
      select l.id from looked l
      where v_request -> 'statuses' ? l.status and (not v_request ? 'models' or v_request -> 'models' ? l.model)
      limit c_most
    ),
    counted as (
      select c.code, count(*) as number
      from (select coalesce(ai_retry.last_error(f.id) ->> 'code', 'UNKNOWN') as code from failed f) c
      where not v_request ? 'codes' or v_request -> 'codes' ? c.code
      group by c.code
    )
    select pg_catalog.jsonb_build_object(
      'count', coalesce(sum(c.number), 0), 'codes', coalesce(pg_catalog.jsonb_object_agg(c.code, c.number), '{}'),
      'is_whole', (select count(*) from looked) < c_looks and (select count(*) from failed) < c_most)
    from counted c
  );
end
$$;
revoke all on function public.ai_retry_count_failures(text) from public, anon, authenticated;
grant execute on function public.ai_retry_count_failures(text) to service_role;
comment on function public.ai_retry_count_failures(text) is
  'Counts what a search finds, by the last error''s code: of the newest 20,000 generations, the newest 1000 that failed. '
  'is_whole: there are no more. Reads only.';

-- operate/gone

create or replace function ai_retry.gone(p_generation_ids uuid[]) returns uuid[]
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return array(select i.id from pg_catalog.unnest(p_generation_ids) i (id)
    except select l.id from ai_retry.app_look_up(p_generation_ids) l);
end
$$;
revoke all on function ai_retry.gone(uuid[]) from public, anon, authenticated;
grant execute on function ai_retry.gone(uuid[]) to service_role;
comment on function ai_retry.gone(uuid[]) is 'Returns those of the ids that are no generation of the app.';

-- operate/inspect

create or replace function public.ai_retry_inspect() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_binding jsonb;
  v_session_function regprocedure;
begin
  -- Facts only: what they mean is judged by the package, which knows what it shipped.
  begin
    v_binding := ai_retry.app_describe();
    v_session_function := pg_catalog.to_regprocedure(v_binding ->> 'session_function');
  exception when others or assert_failure then
    null;  -- the function is not there, or fails; or it names a type that is not there
  end;
  return (
    with roles as (select r.oid, r.rolname from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated')),
    tables as (
      select c.oid, c.relkind, c.relrowsecurity, pg_catalog.format('%I.%I', n.nspname, c.relname) as name,
        n.nspname = 'public' and c.relname like 'ai\_retry\_%' as is_ours
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and n.nspname = 'public' and c.relname like 'ai\_retry\_%'
        or c.relkind in ('r', 'p', 'v') and n.nspname = 'ai_retry'
        or c.relkind = any ('{r,p,v,f}') and v_binding -> 'tables' ? pg_catalog.format('%I.%I', n.nspname, c.relname)
    )
    select pg_catalog.jsonb_build_object(
      'as_of', pg_catalog.clock_timestamp(), 'role', current_user,
      'server_version', pg_catalog.current_setting('server_version_num')::integer,
      'isolation', pg_catalog.current_setting('transaction_isolation'),
      'read_only',
        pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('default_transaction_read_only')::boolean,
      'schema', (
        select pg_catalog.jsonb_build_object(
          'usable', pg_catalog.has_schema_privilege(n.oid, 'usage'),
          'end_users', array(
            select r.rolname from roles r where pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')))
        from pg_catalog.pg_namespace n where n.nspname = 'ai_retry'
      ),
      'functions', array(
        select pg_catalog.jsonb_build_object(
          'schema', n.nspname, 'name', p.proname,
          'arguments', pg_catalog.pg_get_function_identity_arguments(p.oid),
          'types', array(
            select pg_catalog.format_type(t.type, null)
            from pg_catalog.unnest(p.proargtypes) with ordinality as t (type, place) order by t.place),
          'result', pg_catalog.pg_get_function_result(p.oid),
          -- Without carriage returns, which an editor may have added.
          'source', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
            pg_catalog.replace(p.prosrc, pg_catalog.chr(13), ''), 'UTF8')), 'hex'),
          'creates_sessions', p.oid is not distinct from v_session_function::oid,
          'security_definer', p.prosecdef,
          'search_path', (
            select pg_catalog.substr(s.setting, 13) from pg_catalog.unnest(p.proconfig) s (setting)
            where s.setting like 'search\_path=%'),
          'executable', pg_catalog.has_function_privilege(p.oid, 'execute'),
          'end_users', array(
            select r.rolname from roles r where pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')))
        from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
        where n.nspname = 'public' and p.proname like 'ai\_retry\_%' or n.nspname = 'ai_retry'
          or p.oid = v_session_function::oid
        order by n.nspname, p.proname, p.oid
      ),
      'binding', v_binding,
      'tables', array(
        select pg_catalog.jsonb_build_object(
          'name', t.name, 'row_level_security', t.relrowsecurity or t.relkind = 'v',
          'filtered', pg_catalog.row_security_active(t.oid),
          'privileges', array(
            select k.name from pg_catalog.unnest('{select,insert,update,delete}'::text[]) k (name)
            where pg_catalog.has_table_privilege(t.oid, k.name)),
          'end_users', array(
            select distinct k.name
            from roles r, pg_catalog.unnest('{select,insert,update,delete,truncate}'::text[]) k (name)
            where case when k.name in ('delete', 'truncate')
              then pg_catalog.has_table_privilege(r.oid, t.oid, k.name)
              else pg_catalog.has_any_column_privilege(r.oid, t.oid, k.name) end))
        from tables t order by t.name
      ),
      'policies', array(
        select pg_catalog.jsonb_build_object(
          'table', t.name, 'name', p.policyname, 'command', pg_catalog.lower(p.cmd))
        from pg_catalog.pg_policies p
        join tables t on t.name = pg_catalog.format('%I.%I', p.schemaname, p.tablename)
        where p.permissive = 'PERMISSIVE' and p.roles && array['public', 'anon', 'authenticated']::name[]
        order by p.policyname
      ),
      'indexes', array(
        select c.relname from pg_catalog.pg_index i
        join tables t on t.oid = i.indrelid and t.is_ours join pg_catalog.pg_class c on c.oid = i.indexrelid
        where i.indisvalid order by c.relname
      ),
      'constraints', array(
        select c.conname from pg_catalog.pg_constraint c join tables t on t.oid = c.conrelid and t.is_ours
        where c.contype <> 'n'  -- their names, and whether they have one, differ between servers
        order by c.conname
      ),
      'queue', (
        select pg_catalog.jsonb_build_object(
          'available', exists (select from pg_catalog.pg_available_extensions e where e.name = 'pgmq'),
          'installed', count(n.oid) > 0, 'made', count(q.oid) > 0,
          'usable', coalesce(bool_and(
            pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(q.oid, k.name)), false))
        -- Not by name: a role that may not use the schema may not even ask.
        from pg_catalog.pg_namespace n
        left join pg_catalog.pg_class q on q.relnamespace = n.oid and q.relname = 'q_ai_retry'
        cross join pg_catalog.unnest('{select,insert,update,delete}'::text[]) k (name)
        where n.nspname = 'pgmq'
      ))
  );
end
$$;
revoke all on function public.ai_retry_inspect() from public, anon, authenticated;
grant execute on function public.ai_retry_inspect() to service_role;
comment on function public.ai_retry_inspect() is
  'For ai-retry doctor: what is in this database, as JSON: functions with a hash of their source, the schema ai_retry, '
  'the binding, tables, grants, policies, queue, time.';

-- operate/list_actions

create or replace function public.ai_retry_list_actions(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
set plan_cache_mode = 'force_custom_plan' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{target,before,page}');
  v_target constant text := v_request ->> 'target';
  v_before constant timestamptz := coalesce((v_request ->> 'before')::timestamptz, 'infinity');
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(l) order by l.at desc, l.id), '[]')
    from (
      select a.* from public.ai_retry_actions a
      where (v_target is null or a.target = v_target) and a.at < v_before
      order by a.at desc limit least((v_request ->> 'page')::integer, 1000)
    ) l
  );
end
$$;
revoke all on function public.ai_retry_list_actions(text) from public, anon, authenticated;
grant execute on function public.ai_retry_list_actions(text) to service_role;
comment on function public.ai_retry_list_actions(text) is
  'A page of what operators did before an instant, the newest first; on one target, if it is given. Reads only.';

-- operate/operate

create or replace function public.ai_retry_operate(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(
    p_request, '{action,hold_route,open_route,set_quota,reset_quota,read_answer}');
  v_what constant jsonb := coalesce(v_request -> 'hold_route', v_request -> 'open_route', v_request -> 'set_quota',
    v_request -> 'reset_quota', v_request -> 'read_answer');
  v_user_id constant uuid := (v_what ->> 'user_id')::uuid;
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_applied boolean;
  v_answer jsonb;
begin
  if not v_request ? 'read_answer' then  -- a repeat does nothing more
    select a.outcome = 'done' into v_applied from public.ai_retry_actions a
      where a.id = (v_request #>> '{action,id}')::uuid and a.outcome is not null;
    if found then
      return pg_catalog.jsonb_build_object('applied', v_applied);
    end if;
  end if;
  if v_request ? 'hold_route' then
    insert into public.ai_retry_outages as o (route, not_before, since, failures, slots, held_until)
      values (v_what ->> 'route', v_now, '-infinity', 0, 64,
        v_now + pg_catalog.make_interval(secs => (v_what ->> 'duration_seconds')::double precision))
      on conflict (route) do update set held_until = excluded.held_until;
  elsif v_request ? 'open_route' then
    perform ai_retry.wake(v_what ->> 'route', v_now);
    delete from public.ai_retry_outages o where o.route = v_what ->> 'route';
  elsif v_request ? 'set_quota' then
    begin
      insert into public.ai_retry_quotas as q (user_id, quota_limit, window_seconds, set_at)
        values (v_user_id, (v_what -> 'limit')::integer, (v_what -> 'window_seconds')::double precision, v_now)
        on conflict (user_id) do update set
          quota_limit = excluded.quota_limit, window_seconds = excluded.window_seconds, set_at = excluded.set_at;
    exception when foreign_key_violation then
      null;  -- there is no such user: not found
    end;
  elsif v_request ? 'reset_quota' then
    update public.ai_retry_quotas q set quota_limit = null, window_seconds = null, set_at = v_now
      where q.user_id = v_user_id and q.quota_limit is not null;
  else
    select k.answer -> 'output' into v_answer
      from (
        select w.number, w.answer
        from public.ai_retry_answers w join public.ai_retry_attempts c using (generation_id, number)
        where w.generation_id = (v_what ->> 'generation_id')::uuid and c.user_id = v_user_id
        union all
        select o.number, o.answer from public.ai_retry_open o
        where o.generation_id = (v_what ->> 'generation_id')::uuid and o.user_id = v_user_id and o.answer is not null
      ) k
      order by k.number desc limit 1;
  end if;
  v_applied := found;
  perform ai_retry.record(v_request -> 'action', case when v_applied then 'done' else 'nothing' end, v_now);
  return pg_catalog.jsonb_build_object('applied', v_applied, 'answer', v_answer::text);
end
$$;
revoke all on function public.ai_retry_operate(text) from public, anon, authenticated;
grant execute on function public.ai_retry_operate(text) to service_role;
comment on function public.ai_retry_operate(text) is
  'Does what an operator orders, and records it in the same transaction: holds a route for a while, whatever calls show of '
  'it (hold_route); forgets that it is held or unavailable, and shows up to 1000 messages that wait for it (open_route); '
  'gives a user a quota, or the usual one (set_quota, reset_quota); returns the output of a kept answer (read_answer). '
  'applied: there was something to do. A repeat with the same id does nothing more.';

-- operate/outdated

create or replace function ai_retry.outdated(p_generation_ids uuid[], p_gone uuid[], p_before timestamptz, p_at timestamptz)
returns table (generation_id uuid, number integer)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select s.generation_id, s.number
    from (
      select a.generation_id, a.number, a.outcome, a.unreported, a.closed_at, a.request_digest, a.generation_id = any (p_gone) as is_gone,
        w.is_awaited,
        max(a.number) over whole as last_number, bool_or(a.outcome = 'succeeded') over whole as has_succeeded,
        -- A unit of an override's window counts; least() would ignore a null.
        bool_or(a.unreported or w.is_awaited or a.closed_at >= p_before or q.window_seconds is not null and coalesce(
          a.captured_at > p_at - pg_catalog.make_interval(secs => least(q.window_seconds, 315576000)), false))
          over whole as is_needed
      from public.ai_retry_attempts a left join public.ai_retry_quotas q on q.user_id = a.user_id
      cross join lateral (
        select exists (
          select from public.ai_retry_outbox b where b.generation_id = a.generation_id and b.number = a.number) as is_awaited
      ) w
      where a.generation_id = any (p_generation_ids)
      window whole as (partition by a.generation_id)
    ) s
    where case
      when s.is_gone then not s.is_needed and not exists (
        select from public.ai_retry_open o where o.generation_id = s.generation_id)
      else s.has_succeeded and s.outcome <> 'succeeded' and s.number < s.last_number and not s.unreported
        and s.request_digest is null and not s.is_awaited
        and s.closed_at < p_before and not exists (
          select from public.ai_retry_answers w where w.generation_id = s.generation_id and w.number = s.number)
      end;
end
$$;
revoke all on function ai_retry.outdated(uuid[], uuid[], timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.outdated(uuid[], uuid[], timestamptz, timestamptz) to service_role;
comment on function ai_retry.outdated(uuid[], uuid[], timestamptz, timestamptz) is
  'Lists the attempts that may be removed: all of a generation that is gone, once none of them counts for its user, is '
  'recent or has still to be reported, to the webhook as well; and those before a success. Never a success or the last '
  'attempt of a generation that is there, nor one with a stored answer or a message that waits, nor a first call by which '
  'its request is recognised.';

-- operate/overview

create or replace function public.ai_retry_overview() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  c_most constant integer := 50000;  -- attempts that are counted
begin
  return (
    with newest as materialized (
      select a.closed_at, a.outcome, a.code, a.route, a.operator_fault, a.wire_requests,
        (a.usage ->> 'total_tokens')::numeric as tokens, (a.usage ->> 'cost')::numeric as cost
      from public.ai_retry_attempts a where a.closed_at > v_now - interval '1 day'
      order by a.closed_at desc limit c_most
    ),
    spans as (
      select s.place, s.name, s.span
      from (values (1, 'last_10_minutes', interval '10 minutes'), (2, 'last_15_minutes', interval '15 minutes'),
        (3, 'last_hour', interval '1 hour'), (4, 'last_day', interval '24 hours')) s (place, name, span)
    ),
    ends as materialized (  -- each attempt once, in the shortest span that it belongs to
      select pg_catalog.width_bucket(v_now - n.closed_at, '{00:10:00,00:15:00,01:00:00}'::interval[]) + 1 as place,
        n.outcome, n.code, count(*) as number, count(*) filter (where n.operator_fault) as faults,
        sum(n.wire_requests) as calls, sum(n.tokens) as tokens, sum(n.cost) as cost
      from newest n group by 1, 2, 3
    ),
    codes as (
      select c.name, pg_catalog.jsonb_object_agg(c.code, c.number) as codes
      from (
        select s.name, e.code, sum(e.number) as number from spans s join ends e on e.place <= s.place
        where e.code is not null group by s.name, e.code
      ) c
      group by c.name
    ),
    periods as (
      select s.name, pg_catalog.jsonb_build_object(
        'span_seconds', extract(epoch from s.span),
        'succeeded', coalesce(sum(e.number) filter (where e.outcome = 'succeeded'), 0),
        'failed', coalesce(sum(e.number) filter (where e.outcome = 'failed'), 0),
        'abandoned', coalesce(sum(e.number) filter (where e.outcome = 'abandoned'), 0),
        'cancelled', coalesce(sum(e.number) filter (where e.outcome = 'cancelled'), 0),
        'codes', coalesce((select c.codes from codes c where c.name = s.name), '{}'),
        'operator_faults', coalesce(sum(e.faults), 0), 'calls', coalesce(sum(e.calls), 0),
        'tokens', sum(e.tokens), 'cost', sum(e.cost),
        'is_whole', w.number < c_most or w.oldest <= v_now - s.span) as period
      from spans s left join ends e on e.place <= s.place
      cross join (select count(*) as number, min(n.closed_at) as oldest from newest n) w
      group by s.name, s.span, w.number, w.oldest
    ),
    known as (
      select v.* from ai_retry.outages v order by v.held_until > v_now desc nulls last, v.not_before desc limit 64),
    failures as (
      select distinct on (n.route) n.route, n.code from newest n
      where n.code is not null and n.route in (select k.route from known k) order by n.route, n.closed_at desc
    ),
    asking as (
      select o.route, count(*) filter (where o.lease_expires_at > v_now) as running,
        count(*) filter (where o.lease_expires_at is null) as waiting
      from public.ai_retry_open o where o.route in (select k.route from known k) group by o.route
    )
    select (select pg_catalog.jsonb_object_agg(p.name, p.period) from periods p) || pg_catalog.jsonb_build_object(
      'as_of', v_now, 'queue', public.ai_retry_state(),
      'routes', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
          'route', k.route, 'not_before', k.not_before, 'began_at', k.began_at, 'failures', k.failures, 'slots', k.slots,
          'running', coalesce(g.running, 0), 'waiting', coalesce(g.waiting, 0), 'code', f.code,
          'held_until', case when k.held_until > v_now then k.held_until end,
          'held_by', case when k.held_until > v_now then (
            select a.operator from public.ai_retry_actions a
            where a.target = 'route:' || k.route and a.action = 'hold_route' order by a.at desc limit 1) end
        ) order by k.route), '[]')
        from known k left join failures f on f.route = k.route left join asking g on g.route = k.route),
      'oldest_due_at', (
        select min(o.due_at) from public.ai_retry_open o
        where o.accepted_at is not null and o.lease_expires_at is null and o.route is null and o.due_at <= v_now),
      'oldest_kept_at', least((select min(w.stored_at) from public.ai_retry_answers w), (
        select min(o.started_at) from public.ai_retry_open o where o.kept_cause is not null)))
  );
end
$$;
revoke all on function public.ai_retry_overview() from public, anon, authenticated;
grant execute on function public.ai_retry_overview() to service_role;
comment on function public.ai_retry_overview() is
  'How things are now: attempts that ended lately, of the newest 50,000; routes that are unavailable or held; what waits; '
  'since when paid answers are kept. Reads only.';

-- operate/prune

create or replace function public.ai_retry_prune(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '25ms' as $$
declare
  v_request constant jsonb := ai_retry.read_change(
    p_request, '{older_than_seconds,window_seconds,after,page,dry_run}');
  v_dry_run constant boolean := (v_request -> 'dry_run')::boolean;
  v_page constant integer := least((v_request ->> 'page')::integer, 1000);
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_before constant timestamptz := v_now - pg_catalog.make_interval(secs => greatest(
    (v_request ->> 'older_than_seconds')::double precision, (v_request ->> 'window_seconds')::double precision, 86400));
  v_rows uuid[];
  v_ids uuid[];
  v_gone uuid[];
  v_busy uuid[];
  v_attempts bigint;
  v_answers bigint;
  v_actions bigint := 0::bigint;
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'ai_retry functions need the isolation level read committed'
      using errcode = 'invalid_transaction_state';
  end if;
  if v_dry_run then
    if not v_request ? 'after' then
      v_actions := (select count(*) from public.ai_retry_actions a where a.at < v_before);
    end if;
  else
    delete from public.ai_retry_actions a where a.id in (
      select o.id from public.ai_retry_actions o where o.at < v_before order by o.at limit v_page for update skip locked);
    get diagnostics v_actions = row_count;
  end if;
  v_rows := array(
    select a.generation_id from public.ai_retry_attempts a
    where a.generation_id > coalesce((v_request ->> 'after')::uuid, '00000000-0000-0000-0000-000000000000')
    order by a.generation_id, a.number limit v_page);
  v_gone := ai_retry.gone(v_rows);
  v_ids := array(
    select o.generation_id from ai_retry.outdated(v_rows, v_gone, v_before, v_now) o
    union
    select w.generation_id from public.ai_retry_answers w where w.generation_id = any (v_gone));
  if not v_dry_run and v_ids <> '{}' then
    -- Whoever begins or settles holds the user's lock: what is theirs is removed another time.
    v_busy := array(
      select u.user_id
      from (select distinct a.user_id from public.ai_retry_attempts a where a.generation_id = any (v_ids)) u
      where not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('ai_retry:' || u.user_id::text, 0)));
    v_ids := array(
      select i.id from pg_catalog.unnest(v_ids) i (id)
      where not exists (
        select from public.ai_retry_attempts a where a.generation_id = i.id and a.user_id = any (v_busy)));
    v_gone := ai_retry.gone(v_ids);
  end if;
  v_attempts := (select count(*) from ai_retry.outdated(v_ids, v_gone, v_before, v_now));
  v_answers := (select count(*) from public.ai_retry_answers w where w.generation_id = any (v_gone));
  if not v_dry_run then
    delete from public.ai_retry_answers w where w.generation_id = any (v_gone);
    with removed as (
      delete from public.ai_retry_attempts a using ai_retry.outdated(v_ids, v_gone, v_before, v_now) o
        where a.generation_id = any (v_ids) and a.generation_id = o.generation_id and a.number = o.number
        returning a.generation_id
    )
    update public.ai_retry_attempts s set pruned = s.pruned + r.number
      from (select m.generation_id, count(*)::integer as number from removed m group by m.generation_id) r
      where s.generation_id = any (v_ids) and s.generation_id = r.generation_id and s.outcome = 'succeeded'
        and s.generation_id <> all (v_gone);
  end if;
  return pg_catalog.jsonb_build_object(
    'attempts', v_attempts, 'answers', v_answers, 'actions', v_actions,
    'next', case when pg_catalog.cardinality(v_rows) = v_page then v_rows[v_page]
      when v_actions = v_page and not v_dry_run then 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid end);
end
$$;
revoke all on function public.ai_retry_prune(text) from public, anon, authenticated;
grant execute on function public.ai_retry_prune(text) to service_role;
comment on function public.ai_retry_prune(text) is
  'Removes history that no decision needs any more, older than older_than_seconds, than window_seconds (the longest of the '
  'policy) and than a day: attempts of generations that are gone, and attempts that failed before their generation '
  'succeeded; stored answers of generations that are gone, however new; and what operators did. One page of attempts and '
  'of actions, to be called again with next as after until next is null. dry_run: counts only.';

-- operate/publish

create or replace function public.ai_retry_publish() returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  execute pg_catalog.format(
    'alter publication supabase_realtime add table %s', (ai_retry.app_describe() ->> 'generations')::regclass);
  return true;
exception when duplicate_object or object_not_in_prerequisite_state then
  return false;  -- it is there, by itself or with all tables
end
$$;
revoke all on function public.ai_retry_publish() from public, anon, authenticated, service_role;
comment on function public.ai_retry_publish() is
  'Lets browsers subscribe to generations by Realtime, under the table''s own policies, and returns whether that is new. For '
  'the owner. No table of ours ever joins.';

-- operate/record

create or replace function ai_retry.record(p_action jsonb, p_outcome text, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  insert into public.ai_retry_actions as a (id, operator, role, action, target, user_id, reason, at, ended_at, outcome)
    values (
      (p_action ->> 'id')::uuid, p_action ->> 'operator', p_action ->> 'role', p_action ->> 'action',
      p_action ->> 'target', (p_action ->> 'user_id')::uuid, p_action ->> 'reason', p_at,
      case when p_outcome is not null then p_at end, p_outcome)
    on conflict (id) do update set ended_at = excluded.ended_at, outcome = excluded.outcome where a.outcome is null;
exception when foreign_key_violation then  -- there is no such user, or no more
  perform ai_retry.record(p_action - 'user_id', p_outcome, p_at);
end
$$;
revoke all on function ai_retry.record(jsonb, text, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.record(jsonb, text, timestamptz) to service_role;
comment on function ai_retry.record(jsonb, text, timestamptz) is
  'Records what an operator is about to do or, with its outcome, what was done. The first outcome stays.';

-- operate/record_action

create or replace function public.ai_retry_record_action(p_request text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{action,outcome}');
begin
  perform ai_retry.record(v_request -> 'action', v_request ->> 'outcome', pg_catalog.clock_timestamp());
end
$$;
revoke all on function public.ai_retry_record_action(text) from public, anon, authenticated;
grant execute on function public.ai_retry_record_action(text) to service_role;
comment on function public.ai_retry_record_action(text) is
  'Records what an operator is about to do, before it is done; then, by the same id, its outcome. Idempotent.';

-- operate/user_quota

create or replace function public.ai_retry_user_quota(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{user_id,rule}');
  v_user_id constant uuid := (v_request ->> 'user_id')::uuid;
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_snapshot constant jsonb := ai_retry.snapshot(
    ai_retry.proposal(pg_catalog.gen_random_uuid(), v_user_id, v_now), v_request -> 'rule', null, v_now, false);
begin
  return pg_catalog.jsonb_build_object(
    'as_of', v_now, 'quota', v_snapshot -> 'quota', 'live', v_snapshot -> 'live',
    'queued', (
      select count(*) from public.ai_retry_open o where o.user_id = v_user_id and o.lease_expires_at is null),
    'override', (
      select pg_catalog.jsonb_build_object('limit', q.quota_limit, 'window_seconds', least(q.window_seconds, 315576000))
      from public.ai_retry_quotas q where q.user_id = v_user_id and q.quota_limit is not null));
end
$$;
revoke all on function public.ai_retry_user_quota(text) from public, anon, authenticated;
grant execute on function public.ai_retry_user_quota(text) to service_role;
comment on function public.ai_retry_user_quota(text) is
  'A user''s quota and what is used of it, the user''s own one if there is one, and how many attempts are open. Reads only.';

-- operate/wake

create or replace function ai_retry.wake(p_route text, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
  v_messages bigint[];
begin
  -- Who is locked just now looks by itself, within a minute or so.
  v_ids := array(
    select s.generation_id
    from (
      select o.generation_id, o.accepted_at, row_number() over (partition by o.user_id order by o.accepted_at) as place
      from public.ai_retry_open o where o.route = p_route and o.lease_expires_at is null
    ) s
    order by s.place, s.accepted_at limit 1000);
  with shown as (
    update public.ai_retry_open o set due_at = least(o.due_at, p_at)
      where o.generation_id in (
        select l.generation_id from public.ai_retry_open l
        where l.generation_id = any (v_ids) and l.lease_expires_at is null for update skip locked)
      returning o.message_id
  )
  select pg_catalog.array_agg(s.message_id) into v_messages from shown s;
  if v_messages is null or not ai_retry.has_queue() then
    return;
  end if;
  begin
    perform pgmq.set_vt('ai_retry', w.msg_id, 0)
      from (select m.msg_id from pgmq.q_ai_retry m where m.msg_id = any (v_messages) for update skip locked) w;
  exception when others then  -- it is locked, or was dropped just now: an attempt that waits looks by itself, later
    raise warning 'ai-retry: messages could not be shown (%)', sqlstate;
  end;
end
$$;
revoke all on function ai_retry.wake(text, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.wake(text, timestamptz) to service_role;
comment on function ai_retry.wake(text, timestamptz) is
  'Lets up to 1000 queued attempts that wait for a route look at once, every user''s first one before any user''s second.';

-- grants

-- Whatever role created a function of the binding, under whatever default privileges, no end user may execute it.

revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;

reset lock_timeout;
reset statement_timeout;
