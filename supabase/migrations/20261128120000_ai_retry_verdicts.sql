-- ai-retry: an attempt says what its failure means for the next one, and an accepted retry who may read its context.
--
-- To come back helps only after a failure that may pass. What an operator has to cure is not counted against a generation:
-- a key that was revoked locked generations for a day after it was replaced. And a worker that reads contexts in another
-- way than the app ended what the app had accepted.
--
-- Older packages go on: the new arguments have defaults, and ai_retry_fail and ai_retry_enqueue stay as they were.

set lock_timeout = '5s';
set statement_timeout = '60s';

alter table public.ai_retry_attempts
  add column if not exists transient boolean,
  add column if not exists operator_fault boolean not null default false,
  add column if not exists context_reader text;

comment on column public.ai_retry_attempts.transient is
  'Whether the identical request may succeed later; null where it did not fail, or that was not recorded.';
comment on column public.ai_retry_attempts.operator_fault is
  'Whether an operator has to cure what failed: such an attempt does not count towards the hard cap.';
comment on column public.ai_retry_attempts.context_reader is
  'What read the context when the retry was accepted (package.module:function); no other reader may judge it. Null: any may.';

-- Reads.

create or replace function public.ai_retry_load(
  p_user_id uuid, p_generation_id uuid, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
set lock_timeout = '3s'
set plan_cache_mode = 'force_generic_plan'
as $$
begin
  return (
    select pg_catalog.jsonb_build_object(
      'as_of', t.as_of,
      'version', public.ai_retry_version(g.user_id, g.id, g.status),
      'generation', public.ai_retry_generation(g),
      'attempts', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
          'number', a.number, 'started_at', a.started_at, 'lease_expires_at', a.lease_expires_at,
          'outcome', a.outcome, 'closed_at', a.closed_at, 'code', a.code, 'counted', a.counted,
          'next_attempt_at', a.next_attempt_at, 'idempotency_key', a.idempotency_key,
          'refused_constraint', a.refused_constraint, 'provider_outcome', a.provider_outcome,
          'accepted_at', a.accepted_at, 'expires_at', a.expires_at, 'transient', a.transient,
          'operator_fault', a.operator_fault, 'context_reader', a.context_reader) order by a.number), '[]')
        from public.ai_retry_attempts a where a.generation_id = g.id
      ),
      'live', l.live, 'live_until', l.live_until,
      'quota', public.ai_retry_quota(g.user_id, p_limit, p_window_seconds, p_count_own_successes, t.as_of),
      'stored_answer', (
        select a.stored_answer || pg_catalog.jsonb_build_object('number', a.number)
        from public.ai_retry_attempts a
        where a.generation_id = g.id and a.user_id = g.user_id and a.stored_answer is not null
        order by a.number desc limit 1
      ),
      'session', public.ai_retry_session(coalesce(
        (select a.session_id from public.ai_retry_attempts a where a.generation_id = g.id and a.outcome = 'succeeded'),
        g.session_id), g.user_id),
      'can_create_session', exists (
        select from pg_catalog.pg_proc p
        where p.oid = pg_catalog.to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)')
          and p.prorettype = 'jsonb'::pg_catalog.regtype))
    from (select pg_catalog.clock_timestamp() as as_of offset 0) t,
      public.generations g,
      lateral (
        select count(*)::integer as live, min(a.lease_expires_at) as live_until
        from public.ai_retry_attempts a
        where a.user_id = g.user_id and a.outcome is null and a.lease_expires_at > t.as_of
      ) l
    where g.id = p_generation_id and g.user_id = p_user_id
  );
end
$$;

-- Writes. With two more arguments it is a new function: the old one goes. ai_retry_fail, which calls it, stays.

-- squawk-ignore ban-drop-function
drop function if exists public.ai_retry_close(
  uuid, uuid, uuid, text, text, text, text, boolean, text, double precision, integer, text, text, text, integer,
  boolean, double precision, integer, integer
);
create or replace function public.ai_retry_close(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_status text, p_code text, p_message text, p_reason text,
  p_counted boolean, p_provider_outcome text, p_delay_seconds double precision, p_duration_ms integer, p_model text,
  p_usage text, p_provider_id text, p_wire_requests integer,
  p_requeue boolean, p_outage_wait_seconds double precision, p_outage_failures integer, p_outage_doubts integer,
  p_transient boolean default null, p_operator_fault boolean default false
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_generation public.generations%rowtype;
  v_attempt public.ai_retry_attempts%rowtype;
  v_found boolean;
  v_success boolean;
  v_now timestamptz;
  v_constraint text;
begin
  perform public.ai_retry_lock(p_user_id);
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  v_found := found;
  -- From here on the app may be waiting for us, perhaps while it holds what we ask for next: give way quickly.
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  v_now := pg_catalog.clock_timestamp();
  select * into v_attempt from public.ai_retry_attempts a
    where a.token = p_token and a.generation_id = p_generation_id;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  end if;
  v_success := v_generation.status = 'success' or public.ai_retry_has_success(p_generation_id);

  if v_attempt.outcome is null and v_found and v_success is not true then
    v_constraint := public.ai_retry_record_failure(
      v_generation, v_attempt.number, case when p_requeue then 'queued' else p_status end, p_code, p_message,
      p_duration_ms, v_now);
  end if;
  -- What the provider did is true whatever became of the attempt; the rest only while it is open.
  update public.ai_retry_attempts a
    set model = p_model, usage = p_usage::jsonb, provider_id = p_provider_id,
      wire_requests = case when a.outcome is null then a.wire_requests + p_wire_requests
        else greatest(a.wire_requests, p_wire_requests) end, provider_outcome = p_provider_outcome,
      state = 'closed', outcome = coalesce(a.outcome, 'failed'), closed_at = coalesce(a.closed_at, v_now),
      code = case when a.outcome is null then p_code else a.code end,
      reason = case when a.outcome is null then p_reason else a.reason end,
      counted = case when a.outcome is null then p_counted else a.counted end,
      transient = case when a.outcome is null then p_transient else a.transient end,
      operator_fault = case when a.outcome is null then p_operator_fault else a.operator_fault end,
      refused_constraint = case when a.outcome is null then v_constraint else a.refused_constraint end,
      next_attempt_at = case when a.outcome is null
        then v_now + pg_catalog.make_interval(secs => p_delay_seconds) else a.next_attempt_at end
    where a.token = p_token and a.outcome is distinct from 'succeeded' and a.stored_answer is null;
  if v_attempt.outcome is null and v_attempt.accepted_at is not null then
    perform public.ai_retry_leave_queue(
      v_attempt,
      case when p_requeue and v_found and v_success is not true
        then v_now + pg_catalog.make_interval(secs => p_delay_seconds) end,
      p_status, v_now);
    if p_outage_wait_seconds is not null then
      perform public.ai_retry_note_outage(
        v_attempt.route, p_outage_wait_seconds, p_outage_failures, p_outage_doubts, v_now);
    elsif p_provider_outcome <> 'unknown' then
      perform public.ai_retry_note_answer(v_attempt.route, v_attempt.started_at, v_now);
    end if;
  end if;

  return pg_catalog.jsonb_build_object(
    'status', case
      when not v_found then 'not_found'
      when v_success then 'already_succeeded'
      when v_attempt.outcome in ('abandoned', 'cancelled') then 'closed'
      else 'failed' end,
    'session_id', v_generation.session_id, 'answer_kept', false);
end
$$;
comment on function public.ai_retry_close(
  uuid, uuid, uuid, text, text, text, text, boolean, text, double precision, integer, text, text, text, integer,
  boolean, double precision, integer, integer, boolean, boolean
) is
  'Closes the attempt without a session: gives its unit back, or opens the next attempt of an accepted retry, which '
  'keeps it. Idempotent by token.';

create or replace function public.ai_retry_requeue(
  p_attempt public.ai_retry_attempts, p_due_at timestamptz, p_status_before text, p_at timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  insert into public.ai_retry_attempts (
    user_id, generation_id, number, state, token, started_at, next_attempt_at, idempotency_key, charge, waived,
    operator, accepted_at, expires_at, status_before, message_id, context_reader
  ) values (
    p_attempt.user_id, p_attempt.generation_id, p_attempt.number + 1, 'queued', pg_catalog.gen_random_uuid(), p_at,
    least(p_due_at, p_attempt.expires_at), p_attempt.idempotency_key, p_attempt.charge, p_attempt.waived,
    p_attempt.operator, p_attempt.accepted_at, p_attempt.expires_at, p_status_before, p_attempt.message_id,
    p_attempt.context_reader
  );
end
$$;

create or replace function public.ai_retry_accept(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_number integer, p_version text, p_as_of timestamptz,
  p_due_at timestamptz, p_expires_seconds double precision, p_max_live integer, p_max_used integer,
  p_limit integer, p_window_seconds double precision, p_count_own_successes boolean, p_charge boolean,
  p_idempotency_key text, p_waived text, p_operator text, p_context_reader text
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_accepted constant jsonb := public.ai_retry_enqueue(
    p_user_id, p_generation_id, p_token, p_number, p_version, p_as_of, p_due_at, p_expires_seconds, p_max_live,
    p_max_used, p_limit, p_window_seconds, p_count_own_successes, p_charge, p_idempotency_key, p_waived, p_operator);
begin
  if v_accepted ->> 'status' = 'queued' then
    update public.ai_retry_attempts a set context_reader = p_context_reader
      where a.token = p_token and a.generation_id = p_generation_id;
  end if;
  return v_accepted;
end
$$;
comment on function public.ai_retry_accept(
  uuid, uuid, uuid, integer, text, timestamptz, timestamptz, double precision, integer, integer, integer,
  double precision, boolean, boolean, text, text, text, text
) is
  'Accepts a retry for later, as ai_retry_enqueue does, and records what read its context.';

revoke all on function
  public.ai_retry_load, public.ai_retry_close, public.ai_retry_requeue, public.ai_retry_accept
from public, anon, authenticated;
grant execute on function
  public.ai_retry_load, public.ai_retry_close, public.ai_retry_requeue, public.ai_retry_accept
to service_role;

reset lock_timeout;
reset statement_timeout;
