-- ai-retry: what is open is looked up by the index that was made for it.
--
-- Two partial indexes held the open attempts, one by user and one by generation, under the same predicate. Where none was
-- open when the table was last analysed, both look empty, and the planner may take either for either question: then it
-- reads all entries, and while a transaction idles somewhere these are all attempts since (ten times slower after two
-- minutes). Now who asks by user says "outcome is null", who asks by generation "closed_at is null".

set lock_timeout = '5s';
set statement_timeout = '60s';

do $index$
begin
  if not exists (
    select from pg_catalog.pg_index i
    where i.indexrelid = to_regclass('public.ai_retry_attempts_one_open_per_generation_idx')
      and pg_catalog.pg_get_expr(i.indpred, i.indrelid) like '%closed_at%'
  ) then
    drop index if exists public.ai_retry_attempts_one_open_per_generation_idx;
    create unique index ai_retry_attempts_one_open_per_generation_idx
      on public.ai_retry_attempts (generation_id) where closed_at is null;
  end if;
end
$index$;

-- Claim and enqueue compare what an admission rested on in one place.

create or replace function public.ai_retry_still_admitted(
  p_user_id uuid, p_generation public.generations, p_version text, p_max_used integer, p_window_seconds double precision,
  p_count_own_successes boolean, p_at timestamptz
)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return public.ai_retry_version(p_user_id, p_generation.id, p_generation.status) is not distinct from p_version
    and (p_max_used is null or (
      select u.captured + u.held
      from public.ai_retry_used(p_user_id, p_max_used, p_window_seconds, p_count_own_successes, p_at) u
    ) < p_max_used);
end
$$;
comment on function public.ai_retry_still_admitted(
  uuid, public.generations, text, integer, double precision, boolean, timestamptz
) is
  'Whether what an admission rested on is still true: the version, and fewer units captured and held than its ceiling.';

create or replace function public.ai_retry_open(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_number integer, p_version text, p_as_of timestamptz,
  p_lease_seconds double precision, p_abandoned_wait_seconds double precision, p_max_live integer,
  p_max_used integer, p_window_seconds double precision, p_count_own_successes boolean, p_charge boolean,
  p_idempotency_key text, p_waived text, p_operator text, p_answer_from integer,
  p_queued boolean, p_route text, p_spread_seconds double precision
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
  v_expired uuid[];
  v_now timestamptz;
  v_wait double precision;
begin
  perform public.ai_retry_lock(p_user_id);
  select * into v_attempt from public.ai_retry_attempts a
    where a.token = p_token and a.generation_id = p_generation_id;
  if found then
    return pg_catalog.jsonb_build_object(
      'status', 'claimed', 'number', v_attempt.number, 'lease_expires_at', v_attempt.lease_expires_at);
  end if;
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  end if;
  -- From here on the app may be waiting for us, perhaps while it holds what we ask for next: give way quickly.
  -- Who deletes the user meets claims of several generations one after the other: give way to them at once.
  perform pg_catalog.set_config('lock_timeout', '5ms', true);
  v_now := pg_catalog.clock_timestamp();
  if v_now > p_as_of + interval '10 seconds' then
    return pg_catalog.jsonb_build_object('status', 'stale');
  end if;

  select * into v_attempt from public.ai_retry_attempts a
    where a.generation_id = p_generation_id and a.closed_at is null;
  v_expired := array(
    select a.token from public.ai_retry_attempts a
    where a.user_id = p_user_id and a.outcome is null and a.state = 'running' and a.lease_expires_at <= v_now);
  if v_attempt.state = 'running' and v_attempt.lease_expires_at <= v_now then
    v_expired := v_expired || v_attempt.token;  -- also one that another user left, who had the generation before
  end if;
  if v_expired <> '{}' then
    perform public.ai_retry_abandon(v_expired, v_now);
    select * into v_attempt from public.ai_retry_attempts a  -- an accepted retry goes on with the next one
      where a.generation_id = p_generation_id and a.closed_at is null;
  end if;
  if p_queued and (
      v_attempt.state is distinct from 'queued' or v_attempt.number <> p_number or v_attempt.expires_at <= v_now)
    or not p_queued and v_attempt.state is not null
    or (
      select count(*) from public.ai_retry_attempts a
      where a.user_id = p_user_id and a.outcome is null and a.state = 'running'
    ) >= p_max_live
    or not public.ai_retry_still_admitted(
      p_user_id, v_generation, p_version, p_max_used, p_window_seconds, p_count_own_successes, v_now)
  then
    return pg_catalog.jsonb_build_object('status', 'stale');
  end if;

  if p_route is not null then
    v_wait := public.ai_retry_route_wait(p_route, v_now);
    if v_wait is not null then
      update public.ai_retry_attempts a
        set next_attempt_at = least(v_now + pg_catalog.make_interval(secs => v_wait), a.expires_at), route = p_route
        where a.token = v_attempt.token
        returning * into v_attempt;
      -- It is due when the route opens; but the more wait for that, the rarer each of them looks.
      v_wait := v_wait + p_spread_seconds * (
        select count(*) from public.ai_retry_attempts a
        where a.route = p_route and a.outcome is null and a.state = 'queued');
      v_attempt.next_attempt_at := least(v_now + pg_catalog.make_interval(secs => v_wait), v_attempt.expires_at);
      perform public.ai_retry_hide_message(v_attempt, v_now);
      return pg_catalog.jsonb_build_object('status', 'parked', 'retry_after_seconds', v_wait);
    end if;
  end if;
  if p_queued then
    update public.ai_retry_attempts a
      set state = 'running', token = p_token, started_at = v_now, route = p_route, answer_from = p_answer_from,
        lease_expires_at = v_now + pg_catalog.make_interval(secs => p_lease_seconds),
        next_attempt_at = v_now + pg_catalog.make_interval(secs => p_lease_seconds + p_abandoned_wait_seconds),
        counted = p_answer_from is null,
        provider_outcome = case when p_answer_from is null then 'unknown' else 'not_generated' end
      where a.token = v_attempt.token
      returning * into v_attempt;
  else
    insert into public.ai_retry_attempts (
      user_id, generation_id, number, state, token, started_at, lease_expires_at, next_attempt_at,
      idempotency_key, charge, waived, operator, answer_from, counted, provider_outcome
    ) values (
      p_user_id, p_generation_id, p_number, 'running', p_token, v_now,
      v_now + pg_catalog.make_interval(secs => p_lease_seconds),
      v_now + pg_catalog.make_interval(secs => p_lease_seconds + p_abandoned_wait_seconds),
      p_idempotency_key, p_charge, pg_catalog.string_to_array(p_waived, ','), p_operator,
      -- Who uses a stored answer calls nobody: should it be abandoned, it has cost nothing.
      p_answer_from, p_answer_from is null, case when p_answer_from is null then 'unknown' else 'not_generated' end
    ) returning * into v_attempt;
  end if;
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  update public.generations g set status = 'processing', updated_at = v_now where g.id = p_generation_id;
  return pg_catalog.jsonb_build_object(
    'status', 'claimed', 'number', v_attempt.number, 'lease_expires_at', v_attempt.lease_expires_at,
    'outage_failures', case when p_route is null then 0 else
      coalesce((select o.failures from public.ai_retry_outages o where o.route = p_route), 0) end);
end
$$;

create or replace function public.ai_retry_enqueue(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_number integer, p_version text, p_as_of timestamptz,
  p_due_at timestamptz, p_expires_seconds double precision, p_max_live integer, p_max_used integer,
  p_limit integer, p_window_seconds double precision, p_count_own_successes boolean, p_charge boolean,
  p_idempotency_key text, p_waived text, p_operator text
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
  v_expired uuid[];
  v_now timestamptz;
begin
  if to_regclass('pgmq.q_ai_retry') is null then
    return pg_catalog.jsonb_build_object('status', 'not_configured');
  end if;
  perform public.ai_retry_lock(p_user_id);
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  end if;
  perform pg_catalog.set_config('lock_timeout', '5ms', true);  -- as in a claim
  v_now := pg_catalog.clock_timestamp();
  select * into v_attempt from public.ai_retry_attempts a
    where a.token = p_token and a.generation_id = p_generation_id;
  if not found then
    v_expired := array(
      select a.token from public.ai_retry_attempts a
      where a.user_id = p_user_id and a.outcome is null and a.accepted_at is not null
        and a.state = 'running' and a.lease_expires_at <= v_now
      union all
      select a.token from public.ai_retry_attempts a
      where a.generation_id = p_generation_id and a.closed_at is null
        and a.state = 'running' and a.lease_expires_at <= v_now);
    perform public.ai_retry_abandon(v_expired, v_now);
    if v_now > p_as_of + interval '10 seconds'
      or exists (select from public.ai_retry_attempts a where a.generation_id = p_generation_id and a.closed_at is null)
      or not public.ai_retry_still_admitted(
        p_user_id, v_generation, p_version, p_max_used, p_window_seconds, p_count_own_successes, v_now)
    then
      return pg_catalog.jsonb_build_object('status', 'stale');
    end if;
    insert into public.ai_retry_attempts (
      user_id, generation_id, number, state, token, started_at, next_attempt_at, idempotency_key, charge, waived,
      operator, accepted_at, expires_at, status_before
    ) values (
      p_user_id, p_generation_id, p_number, 'queued', p_token, v_now, greatest(p_due_at, v_now), p_idempotency_key,
      p_charge, pg_catalog.string_to_array(p_waived, ','), p_operator, v_now,
      v_now + pg_catalog.make_interval(secs => p_expires_seconds),
      case when v_generation.status in ('error', 'timeout') then v_generation.status else 'timeout' end
    ) returning * into v_attempt;
    -- A message for as many as may run at once, those due first; the user's others wait until one of them is closed.
    if (
      select count(*) from public.ai_retry_attempts a
      where a.user_id = p_user_id and a.outcome is null and a.message_id is not null
        and (a.state = 'running' or a.next_attempt_at <= v_attempt.next_attempt_at)
    ) < p_max_live then
      perform public.ai_retry_send_next(p_user_id, v_now);
    end if;
    perform pg_catalog.set_config('lock_timeout', '25ms', true);
    update public.generations g set status = 'queued', updated_at = v_now where g.id = p_generation_id
      returning g.* into v_generation;
  end if;
  return pg_catalog.jsonb_build_object(
    'status', 'queued', 'as_of', v_now, 'number', v_attempt.number, 'accepted_at', v_attempt.accepted_at,
    'next_attempt_at', v_attempt.next_attempt_at, 'expires_at', v_attempt.expires_at,
    'generation', public.ai_retry_generation(v_generation) - 'prompt_data',
    'quota', public.ai_retry_quota(p_user_id, p_limit, p_window_seconds, p_count_own_successes, v_now));
end
$$;

-- An answer wakes no more than may run, whatever the plan.

create or replace function public.ai_retry_note_answer(p_route text, p_started_at timestamptz, p_at timestamptz)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_slots integer;
  v_free integer;
begin
  select o.slots into v_slots from public.ai_retry_outages o
    where o.route = p_route and o.since <= p_started_at
    for update skip locked;  -- who is just noting the same needs no help
  if not found then
    return;
  end if;
  select case when v_slots < 64 then least(v_slots * 2, 64) - count(*) else 64 end into v_free from public.ai_retry_attempts a
    where a.route = p_route and a.outcome is null and a.state = 'running' and a.lease_expires_at > p_at;
  -- Wakes as many as may run now: every user's first one before anybody's second. An array is selected once; a plan
  -- may run what stands after "in" again and again, and lock others every time.
  update pgmq.q_ai_retry q set vt = p_at
    where q.msg_id = any (array(
      select w.msg_id
      from (
        select m.msg_id, row_number() over (partition by a.user_id order by a.accepted_at) as place, a.accepted_at
        from public.ai_retry_attempts a
        join pgmq.q_ai_retry m on m.msg_id = a.message_id
        where a.route = p_route and a.outcome is null and a.state = 'queued' and a.next_attempt_at <= p_at and m.vt > p_at
      ) s
      join pgmq.q_ai_retry w on w.msg_id = s.msg_id
      order by s.place, s.accepted_at
      limit greatest(0, v_free)
      for update of w skip locked));
  if v_slots >= 64 and not found then
    delete from public.ai_retry_outages o where o.route = p_route;
  else
    update public.ai_retry_outages o set slots = least(o.slots * 2, 64), failures = 0, doubts = 0 where o.route = p_route;
  end if;
end
$$;

revoke all on function
  public.ai_retry_still_admitted, public.ai_retry_open, public.ai_retry_enqueue, public.ai_retry_note_answer
from public, anon, authenticated;
grant execute on function
  public.ai_retry_still_admitted, public.ai_retry_open, public.ai_retry_enqueue, public.ai_retry_note_answer
to service_role;

reset lock_timeout;
reset statement_timeout;
