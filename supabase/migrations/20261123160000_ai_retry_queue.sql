-- ai-retry: retries that are accepted now and run later by workers, on Supabase Queues (pgmq).
--
-- The attempt row is the truth, the message a hint that it is time to look at it. A queued attempt holds its unit; the
-- worker's claim turns it to running under a token of its own; whatever closes it deletes the message, or opens the next
-- queued attempt, in the same transaction. At most as many messages of one user stand in line as may run at once: the
-- others wait for one of them to close, so that nobody's hundred retries stand before somebody else's one.
--
-- Locks as before: the user's advisory lock, the generation's row, then anything else, and no long wait for that.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- 1. What an attempt has to say while it waits.

alter table public.ai_retry_attempts
  add column if not exists accepted_at timestamptz,
  add column if not exists expires_at timestamptz,
  add column if not exists status_before text,
  add column if not exists message_id bigint,
  add column if not exists route text;

do $checks$
begin
  if not exists (
    select from pg_catalog.pg_constraint c
    where c.conrelid = 'public.ai_retry_attempts'::regclass and c.conname = 'queued_states_when_and_until_when'
  ) then
    -- Not valid: no older row is queued, and looking at all of them would hold the table.
    alter table public.ai_retry_attempts add constraint queued_states_when_and_until_when check (
      state <> 'queued'
      or accepted_at is not null and expires_at is not null and next_attempt_at is not null and status_before is not null
    ) not valid;
  end if;
end
$checks$;

comment on column public.ai_retry_attempts.started_at is 'When it was claimed; while it is queued, when it was put there.';
comment on column public.ai_retry_attempts.next_attempt_at is
  'When the next attempt is due; while it is queued, when it is due itself; while it runs, when the next would be after abandonment.';
comment on column public.ai_retry_attempts.accepted_at is
  'When the retry that it belongs to was accepted for later; null for one that somebody waits for.';
comment on column public.ai_retry_attempts.expires_at is 'Until when an accepted retry goes on trying.';
comment on column public.ai_retry_attempts.status_before is 'What the generation says again if the queued attempt is taken back.';
comment on column public.ai_retry_attempts.message_id is 'Its message in the queue ai_retry; null: it waits for another one''s.';
comment on column public.ai_retry_attempts.route is 'Provider and model that it asks, or waits for.';

create table if not exists public.ai_retry_outages (
  route text primary key,
  not_before timestamptz not null,
  since timestamptz not null,
  failures integer not null,
  doubts integer not null default 0,
  slots integer not null,
  constraint failures_are_not_negative check (failures >= 0),
  constraint doubts_are_not_negative check (doubts >= 0),
  constraint slots_are_positive check (slots >= 1)
);
alter table public.ai_retry_outages enable row level security;
revoke all on table public.ai_retry_outages from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_outages to service_role;
comment on table public.ai_retry_outages is
  'ai-retry: providers and models that are unavailable, or coming back; queued retries wait for them. Operators only.';
comment on column public.ai_retry_outages.route is 'Provider and model.';
comment on column public.ai_retry_outages.not_before is 'Until when nobody is sent there.';
comment on column public.ai_retry_outages.since is
  'When the latest failure said so; answers to older calls prove nothing. -infinity: none did, there are doubts alone.';
comment on column public.ai_retry_outages.failures is
  'Failures in a row, no answer between them: the longer the outage, the rarer the probes.';
comment on column public.ai_retry_outages.doubts is
  'Failures in a row that each may have been the fault of one request; many of them are an outage.';
comment on column public.ai_retry_outages.slots is
  'Calls that may run at once when it opens again; each answer doubles them. From 64 on there is no limit.';

create index if not exists ai_retry_attempts_route_idx
  on public.ai_retry_attempts (route, state) where outcome is null and route is not null;

-- 2. The queue. Callable again by the migrations' owner when pgmq comes later.

create or replace function public.ai_retry_create_queue()
returns boolean
language plpgsql
volatile
security invoker
set search_path = ''
as $$
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
  end if;
  alter table pgmq.q_ai_retry enable row level security;
  revoke all on table pgmq.q_ai_retry, pgmq.a_ai_retry from public, anon, authenticated;
  grant usage on schema pgmq to service_role;
  grant select, insert, update, delete on table pgmq.q_ai_retry to service_role;
  return true;
end
$$;
comment on function public.ai_retry_create_queue() is
  'Makes the queue ai_retry, and says whether there is one: pgmq (Supabase Queues) must be there. A repeat changes nothing. For the owner.';

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

-- 3. Parts of functions: the next attempt, the next message, the route.

create or replace function public.ai_retry_requeue(
  p_attempt public.ai_retry_attempts, p_due_at timestamptz, p_status_before text, p_at timestamptz
)
returns void
language sql
volatile
security invoker
set search_path = ''
as $$
  insert into public.ai_retry_attempts (
    user_id, generation_id, number, state, token, started_at, next_attempt_at, idempotency_key, charge, waived,
    operator, accepted_at, expires_at, status_before, message_id
  ) values (
    p_attempt.user_id, p_attempt.generation_id, p_attempt.number + 1, 'queued', pg_catalog.gen_random_uuid(), p_at,
    least(p_due_at, p_attempt.expires_at), p_attempt.idempotency_key, p_attempt.charge, p_attempt.waived,
    p_attempt.operator, p_attempt.accepted_at, p_attempt.expires_at, p_status_before, p_attempt.message_id
  )
$$;
comment on function public.ai_retry_requeue(public.ai_retry_attempts, timestamptz, text, timestamptz) is
  'Opens the queued attempt after one that was just closed: the accepted retry goes on, and its unit stays held.';

create or replace function public.ai_retry_abandon(p_tokens uuid[], p_at timestamptz)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_attempt public.ai_retry_attempts%rowtype;
begin
  for v_attempt in
    update public.ai_retry_attempts a
      set state = 'closed', outcome = 'abandoned', code = 'LEASE_LOST', closed_at = p_at
      where a.token = any (p_tokens) and a.outcome is null
      returning a.*
  loop
    if v_attempt.accepted_at is not null then
      perform public.ai_retry_requeue(v_attempt, v_attempt.next_attempt_at, 'timeout', p_at);
    end if;
  end loop;
end
$$;
comment on function public.ai_retry_abandon(uuid[], timestamptz) is
  'Closes attempts whose lease ran out; an accepted retry goes on with the next one, whose message is the old one''s.';

create or replace function public.ai_retry_send_next(p_user_id uuid, p_at timestamptz)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_token uuid;
  v_generation_id uuid;
  v_delay integer;
  v_message_id bigint;
begin
  select a.token, a.generation_id, greatest(0, ceil(extract(epoch from a.next_attempt_at - p_at)))
    into v_token, v_generation_id, v_delay
    from public.ai_retry_attempts a
    where a.user_id = p_user_id and a.outcome is null and a.state = 'queued' and a.message_id is null
    order by a.next_attempt_at, a.accepted_at, a.token
    limit 1;
  if found then
    select pgmq.send('ai_retry', pg_catalog.jsonb_build_object('user_id', p_user_id, 'generation_id', v_generation_id), v_delay)
      into v_message_id;
    update public.ai_retry_attempts a set message_id = v_message_id where a.token = v_token;
  end if;
end
$$;
comment on function public.ai_retry_send_next(uuid, timestamptz) is
  'Sends a message for the user''s queued attempt that is due first and has none, to the end of the line.';

create or replace function public.ai_retry_pass_message(p_user_id uuid, p_message_id bigint, p_at timestamptz)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if p_message_id is null then
    return;  -- who had no place in line leaves none
  end if;
  perform pgmq.delete('ai_retry', p_message_id);
  update public.ai_retry_attempts a set message_id = null
    where a.user_id = p_user_id and a.outcome is null and a.message_id = p_message_id;
  perform public.ai_retry_send_next(p_user_id, p_at);
end
$$;
comment on function public.ai_retry_pass_message(uuid, bigint, timestamptz) is
  'Ends a message; its place goes to the user''s queued attempt that is due first.';

create or replace function public.ai_retry_hide_message(p_attempt public.ai_retry_attempts, p_at timestamptz)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  perform pgmq.set_vt(
    'ai_retry', p_attempt.message_id, greatest(0, ceil(extract(epoch from p_attempt.next_attempt_at - p_at)))::integer);
end
$$;
comment on function public.ai_retry_hide_message(public.ai_retry_attempts, timestamptz) is
  'Hides an attempt''s message until the attempt is due.';

create or replace function public.ai_retry_note_outage(
  p_route text, p_wait_seconds double precision, p_failures integer, p_doubts integer, p_at timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_doubts integer := 1;
begin
  if p_route is null then
    return;  -- nobody was asked
  end if;
  if p_doubts > 1 then
    insert into public.ai_retry_outages as o (route, not_before, since, failures, doubts, slots)
    values (p_route, p_at, '-infinity', 0, 1, 64)
    on conflict (route) do update set doubts = o.doubts + 1
    returning o.doubts into v_doubts;
  end if;
  if v_doubts >= p_doubts then
    insert into public.ai_retry_outages as o (route, not_before, since, failures, slots)
    values (p_route, p_at + pg_catalog.make_interval(secs => p_wait_seconds), p_at, p_failures, 1)
    on conflict (route) do update
      set not_before = greatest(o.not_before, excluded.not_before), since = excluded.since,
        failures = greatest(o.failures, excluded.failures), doubts = 0, slots = 1;
  end if;
end
$$;
comment on function public.ai_retry_note_outage(text, double precision, integer, integer, timestamptz) is
  'Closes a route for a while, once so many failures came since its last answer. Those of calls that ran side by side '
  'count as one.';

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
  -- Wakes as many as may run now: every user's first one before anybody's second.
  update pgmq.q_ai_retry q set vt = p_at
    where q.msg_id in (
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
      for update of w skip locked);
  if v_slots >= 64 and not found then
    delete from public.ai_retry_outages o where o.route = p_route;
  else
    update public.ai_retry_outages o set slots = least(o.slots * 2, 64), failures = 0, doubts = 0 where o.route = p_route;
  end if;
end
$$;
comment on function public.ai_retry_note_answer(text, timestamptz, timestamptz) is
  'A provider that was away answered: twice as many calls may run, and those who wait for it are woken; after the '
  'seventh doubling, when nobody waits any more, the outage is over.';

create or replace function public.ai_retry_route_wait(p_route text, p_at timestamptz)
returns double precision
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_outage public.ai_retry_outages%rowtype;
begin
  select * into v_outage from public.ai_retry_outages o where o.route = p_route;
  if not found then
    return null;
  elsif v_outage.not_before > p_at then
    return extract(epoch from v_outage.not_before - p_at);
  elsif v_outage.slots >= 64 then
    return null;
  elsif v_outage.slots = 1
    and not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('ai_retry_route:' || p_route, 0))
  then
    return 0;
  elsif (
    select count(*) from public.ai_retry_attempts a
    where a.outcome is null and a.state = 'running' and a.route = p_route and a.lease_expires_at > p_at
  ) >= v_outage.slots then
    return 0;
  end if;
  return null;
end
$$;
comment on function public.ai_retry_route_wait(text, timestamptz) is
  'How many seconds a route stays closed; 0 when all its slots are taken; null when it is open. One claim at a time may '
  'become its only probe.';

create or replace function public.ai_retry_leave_queue(
  p_attempt public.ai_retry_attempts, p_due_at timestamptz, p_status_before text, p_at timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if p_due_at is not null then
    perform public.ai_retry_requeue(p_attempt, p_due_at, p_status_before, p_at);
  end if;
  perform public.ai_retry_pass_message(p_attempt.user_id, p_attempt.message_id, p_at);
end
$$;
comment on function public.ai_retry_leave_queue(public.ai_retry_attempts, timestamptz, text, timestamptz) is
  'What follows the closing of an accepted retry''s attempt: its next one, due then, unless that is null; and the message.';

-- 4. What every attempt calls, in PL/pgSQL, which keeps its plans: PostgreSQL up to 17 plans functions in SQL at each call.

create or replace function public.ai_retry_version(p_user_id uuid, p_generation_id uuid, p_status text)
returns text
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return (
    select pg_catalog.format('%s/%s/%s/%s/%s', p_status, coalesce(max(a.number), 1),
      (array_agg(extract(epoch from a.next_attempt_at) order by a.number desc))[1],
      max(a.number) filter (where a.stored_answer is not null),
      (select (q.quota_limit, q.window_seconds) from public.ai_retry_quotas q where q.user_id = p_user_id))
    from public.ai_retry_attempts a
    where a.generation_id = p_generation_id
  );
end
$$;

create or replace function public.ai_retry_used(
  p_user_id uuid, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean, p_at timestamptz
)
returns table (captured integer, held integer, resets_at timestamptz)
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return query
  with windowed as (
    select u.spent_at
    from (
      select a.captured_at as spent_at
      from public.ai_retry_attempts a
      where a.user_id = p_user_id and a.captured_at > p_at - pg_catalog.make_interval(secs => p_window_seconds)
      union all
      select least(g.created_at, p_at)  -- the app's instants may be any, also infinite
      from public.generations g
      where p_count_own_successes
        and g.user_id = p_user_id and g.created_at > p_at - pg_catalog.make_interval(secs => p_window_seconds)
        and g.status = 'success'
        and not exists (
          select from public.ai_retry_attempts a where a.generation_id = g.id and a.outcome = 'succeeded'
        )
    ) u
    order by u.spent_at desc
    limit p_limit
  ),
  holds as (
    select count(*)::integer as held, min(a.lease_expires_at) as first_end
    from public.ai_retry_attempts a
    where a.user_id = p_user_id and a.outcome is null and a.charge
      and (a.state = 'queued' or a.lease_expires_at > p_at)
  ),
  counted as (
    select count(*)::integer as captured, min(w.spent_at) as oldest from windowed w
  )
  select c.captured, h.held,
    case
      when p_limit = 0 then null
      when h.held >= p_limit then h.first_end
      when c.captured + h.held >= p_limit then pg_catalog.make_interval(secs => p_window_seconds) + (
        select w.spent_at from windowed w order by w.spent_at desc offset p_limit - h.held - 1 limit 1
      )
      else c.oldest + pg_catalog.make_interval(secs => p_window_seconds)
    end
  from counted c, holds h;
end
$$;

create or replace function public.ai_retry_quota(
  p_user_id uuid, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean, p_at timestamptz
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return (
    select pg_catalog.jsonb_build_object(
      'limit', r.quota_limit, 'window_seconds', r.window_seconds,
      'captured', u.captured, 'held', u.held, 'resets_at', u.resets_at)
    from (
      select coalesce(q.quota_limit, p_limit) as quota_limit, coalesce(q.window_seconds, p_window_seconds) as window_seconds
      from (select) nothing
      left join public.ai_retry_quotas q on q.user_id = p_user_id
    ) r,
    lateral public.ai_retry_used(p_user_id, r.quota_limit, r.window_seconds, p_count_own_successes, p_at) u
  );
end
$$;

create or replace function public.ai_retry_generation(p_generation public.generations)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return (
    select pg_catalog.jsonb_build_object(
      'id', p_generation.id, 'user_id', p_generation.user_id, 'status', p_generation.status,
      'model', p_generation.model, 'prompt_data', p_generation.prompt_data, 'session_id', p_generation.session_id,
      'duration_ms', p_generation.duration_ms, 'created_at', p_generation.created_at,
      'updated_at', p_generation.updated_at)
  );
end
$$;

create or replace function public.ai_retry_session(p_session_id uuid, p_user_id uuid)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return (
    -- Users may be able to write generations.session_id: somebody else's session is none.
    select row_of.session
    from (select pg_catalog.to_jsonb(s) as session from public.sessions s where s.id = p_session_id) row_of
    where coalesce(row_of.session ->> 'user_id', p_user_id::text) = p_user_id::text
  );
end
$$;

create or replace function public.ai_retry_settled(
  p_generation public.generations, p_session jsonb, p_limit integer, p_window_seconds double precision,
  p_count_own_successes boolean, p_at timestamptz
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return (
    select pg_catalog.jsonb_build_object(
      'status', 'succeeded',
      'generation', public.ai_retry_generation(p_generation) - 'prompt_data',
      'session', p_session,
      'quota', public.ai_retry_quota(p_generation.user_id, p_limit, p_window_seconds, p_count_own_successes, p_at))
  );
end
$$;

create or replace function public.ai_retry_has_success(p_generation_id uuid)
returns boolean
language plpgsql
stable
security invoker
set search_path = ''
as $$
begin
  return (
    select exists (
      select from public.ai_retry_attempts a where a.generation_id = p_generation_id and a.outcome = 'succeeded'
    )
  );
end
$$;

create or replace function public.ai_retry_record_event(
  p_generation public.generations, p_number integer, p_event_type text, p_code text, p_at timestamptz
)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  insert into public.events (user_id, event_type, event_data, created_at)
  values (
    p_generation.user_id, p_event_type,
    pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
      'generation_id', p_generation.id, 'session_id', p_generation.session_id, 'attempt', p_number, 'code', p_code)),
    p_at
  );
end
$$;

-- 5. Functions of the first migration that know of queued attempts now. ai_retry_claim and ai_retry_fail keep their
-- arguments; what they share with a worker's claim and failure stands in ai_retry_open and ai_retry_close.

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
          'accepted_at', a.accepted_at, 'expires_at', a.expires_at) order by a.number), '[]')
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

  v_expired := array(
    select a.token from public.ai_retry_attempts a
    where (a.user_id = p_user_id or a.generation_id = p_generation_id)
      and a.outcome is null and a.state = 'running' and a.lease_expires_at <= v_now);
  if v_expired <> '{}' then
    perform public.ai_retry_abandon(v_expired, v_now);
  end if;
  select * into v_attempt from public.ai_retry_attempts a
    where a.generation_id = p_generation_id and a.outcome is null;
  if p_queued and (
      v_attempt.state is distinct from 'queued' or v_attempt.number <> p_number or v_attempt.expires_at <= v_now)
    or not p_queued and v_attempt.state is not null
    or public.ai_retry_version(p_user_id, p_generation_id, v_generation.status) is distinct from p_version
    or (
      select count(*) from public.ai_retry_attempts a
      where a.user_id = p_user_id and a.outcome is null and a.state = 'running'
    ) >= p_max_live
    or p_max_used is not null and (
      select u.captured + u.held
      from public.ai_retry_used(p_user_id, p_max_used, p_window_seconds, p_count_own_successes, v_now) u
    ) >= p_max_used
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
comment on function public.ai_retry_open(
  uuid, uuid, uuid, integer, text, timestamptz, double precision, double precision, integer, integer,
  double precision, boolean, boolean, text, text, text, integer, boolean, text, double precision
) is
  'Opens the admitted attempt under a lease, or turns the queued one to running; answers stale when what admitted it is '
  'no longer true, and parked when its route is closed. Idempotent by token.';

create or replace function public.ai_retry_claim(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_number integer, p_version text, p_as_of timestamptz,
  p_lease_seconds double precision, p_abandoned_wait_seconds double precision, p_max_live integer,
  p_max_used integer, p_window_seconds double precision, p_count_own_successes boolean, p_charge boolean,
  p_idempotency_key text, p_waived text, p_operator text, p_answer_from integer
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  return public.ai_retry_open(
    p_user_id, p_generation_id, p_token, p_number, p_version, p_as_of, p_lease_seconds, p_abandoned_wait_seconds,
    p_max_live, p_max_used, p_window_seconds, p_count_own_successes, p_charge, p_idempotency_key, p_waived, p_operator,
    p_answer_from, false, null, 0);
end
$$;

create or replace function public.ai_retry_succeed(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_answer text, p_answer_from integer, p_wire_requests integer,
  p_duration_ms integer, p_rejected_message text, p_rejected_wait_seconds double precision,
  p_rejected_again_wait_seconds double precision, p_limit integer, p_window_seconds double precision,
  p_count_own_successes boolean
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
  v_answer constant jsonb := p_answer::jsonb;
  v_generation public.generations%rowtype;
  v_attempt public.ai_retry_attempts%rowtype;
  v_found boolean;
  v_ours boolean;
  v_now timestamptz;
  v_status text;
  v_code text;
  v_session jsonb;
  v_sqlstate text;
  v_constraint text;
  v_column text;
  v_wait double precision;
begin
  perform public.ai_retry_lock(p_user_id);
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  v_found := found;
  -- From here on the app may be waiting for us, perhaps while it holds what we ask for next: give way quickly.
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  v_now := pg_catalog.clock_timestamp();
  v_ours := public.ai_retry_has_success(p_generation_id);
  select * into v_attempt from public.ai_retry_attempts a
    where a.token = p_token and a.generation_id = p_generation_id;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  elsif v_found and v_attempt.code = 'SESSION_REJECTED' then
    return pg_catalog.jsonb_build_object(
      'status', 'session_rejected', 'constraint', v_attempt.refused_constraint,
      'retry_after_seconds', extract(epoch from v_attempt.next_attempt_at - v_attempt.closed_at));
  elsif v_found and v_attempt.outcome = 'succeeded' then
    v_session := public.ai_retry_session(v_attempt.session_id, p_user_id);
    return public.ai_retry_settled(
      v_generation, v_session, p_limit, p_window_seconds, p_count_own_successes, v_now);
  elsif v_attempt.outcome = 'succeeded' then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  elsif not v_found then
    v_status := 'not_found';
    v_code := 'GENERATION_NOT_FOUND';
  elsif v_generation.status = 'success' or v_ours then
    v_status := 'already_succeeded';
    v_code := 'ALREADY_SUCCEEDED';
  elsif v_attempt.outcome is not null then
    v_status := 'closed';
  else
    begin
      v_session := public.ai_retry_create_session(v_generation, v_answer -> 'output');
      if v_session ->> 'id' is null then
        raise exception 'ai_retry_create_session returned no row with an id' using errcode = 'null_value_not_allowed';
      end if;
      update public.generations g
        set status = 'success', session_id = (v_session ->> 'id')::uuid, updated_at = v_now,
          duration_ms = coalesce(p_duration_ms, g.duration_ms)
        where g.id = p_generation_id
        returning g.* into v_generation;
      if not found or v_generation.session_id is distinct from (v_session ->> 'id')::uuid then
        raise exception 'a trigger on generations keeps its session_id' using errcode = 'triggered_action_exception';
      end if;
      perform public.ai_retry_record_event(v_generation, v_attempt.number, 'ai_generation_succeeded', null, v_now);
      set constraints all immediate;
      v_status := 'succeeded';
    exception when others or assert_failure then
      get stacked diagnostics
        v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
      if public.ai_retry_passes(v_sqlstate) then
        raise;
      end if;
      v_constraint := coalesce(nullif(v_constraint, ''), nullif(v_column, ''), v_sqlstate);
      v_status := 'session_rejected';
      v_code := 'SESSION_REJECTED';
    end;
  end if;

  if v_status = 'session_rejected' then
    select case when a.refused_constraint = v_constraint then p_rejected_again_wait_seconds end into v_wait
      from public.ai_retry_attempts a
      where a.generation_id = p_generation_id and a.code = 'SESSION_REJECTED'
      order by a.number desc limit 1;
    v_wait := coalesce(v_wait, p_rejected_wait_seconds);
    -- The block above was undone, and with it the row in v_generation.
    select * into v_generation from public.generations g where g.id = p_generation_id;
    perform public.ai_retry_record_failure(
      v_generation, v_attempt.number, case when v_attempt.accepted_at is null then 'error' else 'queued' end,
      'SESSION_REJECTED', p_rejected_message, p_duration_ms, v_now);
  end if;

  -- What the provider did is true whatever became of the attempt; the rest is decided while it is open, once.
  update public.ai_retry_attempts a
    set model = v_answer ->> 'model', usage = nullif(v_answer -> 'usage', 'null'),
      provider_id = v_answer ->> 'provider_id', wire_requests = case when a.outcome is null then a.wire_requests + p_wire_requests
        else greatest(a.wire_requests, p_wire_requests) end,
      provider_outcome = case when p_answer_from is null then 'generated' else 'not_generated' end,
      answer_from = p_answer_from,
      stored_answer = case
        when v_status = 'succeeded' then null
        when v_status <> 'not_found' and not v_ours and p_answer_from is null and a.discarded_at is null then v_answer
        else a.stored_answer end,
      state = 'closed',
      closed_at = coalesce(a.closed_at, v_now),
      outcome = coalesce(a.outcome, case when v_status = 'succeeded' then v_status else 'failed' end),
      code = case when a.outcome is null then v_code else a.code end,
      -- A refused session is not the user's failure. What the app or its user did meanwhile saves no attempt or wait.
      counted = case when v_status = 'session_rejected' then false else a.counted end,
      next_attempt_at = case v_status
        when 'succeeded' then null
        when 'session_rejected' then v_now + pg_catalog.make_interval(secs => v_wait)
        else a.next_attempt_at end,
      refused_constraint = case when a.outcome is null then v_constraint else a.refused_constraint end,
      session_id = case when v_status = 'succeeded' then v_generation.session_id end,
      captured_at = case when v_status = 'succeeded' and a.charge then v_now end
    where a.token = p_token;
  if v_status = 'succeeded' then
    if not found then
      raise exception 'the attempt vanished while it was settled' using errcode = 'serialization_failure';
    end if;
    update public.ai_retry_attempts a set stored_answer = null
      where a.generation_id = p_generation_id and a.user_id = p_user_id and a.stored_answer is not null;
  end if;
  if v_attempt.outcome is null and v_attempt.accepted_at is not null then
    perform public.ai_retry_leave_queue(
      v_attempt, case v_status when 'session_rejected' then v_now + pg_catalog.make_interval(secs => v_wait) end,
      'error', v_now);
    perform public.ai_retry_note_answer(v_attempt.route, v_attempt.started_at, v_now);
  end if;
  if v_status = 'succeeded' then
    return public.ai_retry_settled(
      v_generation, v_session, p_limit, p_window_seconds, p_count_own_successes, v_now);
  end if;
  return pg_catalog.jsonb_build_object(
    'status', v_status, 'session_id', v_generation.session_id, 'answer_kept', v_status <> 'not_found' and not v_ours,
    'constraint', v_constraint, 'retry_after_seconds', v_wait);
end
$$;

create or replace function public.ai_retry_close(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_status text, p_code text, p_message text, p_reason text,
  p_counted boolean, p_provider_outcome text, p_delay_seconds double precision, p_duration_ms integer, p_model text,
  p_usage text, p_provider_id text, p_wire_requests integer,
  p_requeue boolean, p_outage_wait_seconds double precision, p_outage_failures integer, p_outage_doubts integer
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
  boolean, double precision, integer, integer
) is
  'Closes the attempt without a session: gives its unit back, or opens the next attempt of an accepted retry, which '
  'keeps it. Idempotent by token.';

create or replace function public.ai_retry_fail(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_status text, p_code text, p_message text, p_reason text,
  p_counted boolean, p_provider_outcome text, p_delay_seconds double precision, p_duration_ms integer, p_model text,
  p_usage text, p_provider_id text, p_wire_requests integer
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  return public.ai_retry_close(
    p_user_id, p_generation_id, p_token, p_status, p_code, p_message, p_reason, p_counted, p_provider_outcome,
    p_delay_seconds, p_duration_ms, p_model, p_usage, p_provider_id, p_wire_requests, false, null, null, null);
end
$$;

create or replace function public.ai_retry_reap()
returns integer
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_attempt public.ai_retry_attempts%rowtype;
  v_generation public.generations%rowtype;
  v_now timestamptz := pg_catalog.clock_timestamp();
begin
  for v_attempt in
    select * from public.ai_retry_attempts a
    where a.outcome is null and (
      a.state = 'running' and a.lease_expires_at <= v_now or a.state = 'queued' and a.expires_at <= v_now)
    order by coalesce(a.lease_expires_at, a.expires_at)
  loop
    -- Waits for nobody: who is busy now is tidied another time, or by the user's next claim.
    begin
      continue when not pg_catalog.pg_try_advisory_xact_lock(
        pg_catalog.hashtextextended('ai_retry:' || v_attempt.user_id::text, 0));
      v_generation := null;
      perform from public.generations g where g.id = v_attempt.generation_id;
      if found then
        select * into v_generation from public.generations g
          where g.id = v_attempt.generation_id for no key update skip locked;
        continue when not found;
      end if;
      perform pg_catalog.set_config('lock_timeout', '25ms', true);
      select * into v_attempt from public.ai_retry_attempts a
        where a.token = v_attempt.token and a.outcome is null;
      continue when not found;  -- somebody else's since
      if v_attempt.state = 'queued' then
        perform public.ai_retry_cancel(
          v_attempt.user_id, v_attempt.generation_id, 'RETRY_EXPIRED', 'The accepted retry was not finished in time.');
        return 1;
      end if;
      if v_generation.status = 'processing' then
        perform public.ai_retry_record_failure(
          v_generation, v_attempt.number, case when v_attempt.accepted_at is null then 'timeout' else 'queued' end,
          'LEASE_LOST', 'The attempt was not finished in time.', null, v_now);
      end if;
      perform public.ai_retry_abandon(array[v_attempt.token], v_now);
      return 1;  -- one per transaction: nobody waits for more than one row of ours
    exception when lock_not_available then
      continue;  -- the user is just being deleted, say
    end;
  end loop;
  -- Users may name the models: of those that nobody asks any more nothing is kept.
  delete from public.ai_retry_outages o
    where o.route in (
      select r.route from public.ai_retry_outages r where r.not_before < v_now - interval '1 day'
      for update skip locked);
  return 0;
end
$$;
comment on function public.ai_retry_reap() is
  'For pg_cron: closes one attempt whose lease ran out, or one accepted retry whose time is up, and tells the app; '
  'answers how many (0 or 1). Only tidies. Call it in transactions of their own until it answers 0.';

-- 6. Accepting, taking back, and what a worker needs.

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
      where (a.generation_id = p_generation_id or a.user_id = p_user_id and a.accepted_at is not null)
        and a.outcome is null and a.state = 'running' and a.lease_expires_at <= v_now);
    perform public.ai_retry_abandon(v_expired, v_now);
    if v_now > p_as_of + interval '10 seconds'
      or exists (select from public.ai_retry_attempts a where a.generation_id = p_generation_id and a.outcome is null)
      or public.ai_retry_version(p_user_id, p_generation_id, v_generation.status) is distinct from p_version
      or p_max_used is not null and (
        select u.captured + u.held
        from public.ai_retry_used(p_user_id, p_max_used, p_window_seconds, p_count_own_successes, v_now) u
      ) >= p_max_used
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
comment on function public.ai_retry_enqueue(
  uuid, uuid, uuid, integer, text, timestamptz, timestamptz, double precision, integer, integer, integer,
  double precision, boolean, boolean, text, text, text
) is
  'Accepts a retry for later: opens the queued attempt, which holds its unit, and sends its message; answers stale when '
  'what admitted it is no longer true, and not_configured without pgmq. Idempotent by token until a worker claims it.';

create or replace function public.ai_retry_cancel(
  p_user_id uuid, p_generation_id uuid, p_code text default null, p_message text default null
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_generation public.generations%rowtype;
  v_attempt public.ai_retry_attempts%rowtype;
  v_found boolean;
  v_now timestamptz;
  v_constraint text;
begin
  perform public.ai_retry_lock(p_user_id);
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  v_found := found;
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  v_now := pg_catalog.clock_timestamp();
  -- A dead worker's attempt is one that waits for another worker.
  perform public.ai_retry_abandon(array(
    select a.token from public.ai_retry_attempts a
    where a.generation_id = p_generation_id and a.user_id = p_user_id and a.accepted_at is not null
      and a.outcome is null and a.state = 'running' and a.lease_expires_at <= v_now), v_now);
  select * into v_attempt from public.ai_retry_attempts a
    where a.generation_id = p_generation_id and a.user_id = p_user_id and a.outcome is null;
  if not found or v_attempt.lease_expires_at <= v_now then
    return pg_catalog.jsonb_build_object('status', 'nothing');
  elsif v_attempt.state = 'running' then
    return pg_catalog.jsonb_build_object(
      'status', 'running', 'retry_after_seconds', extract(epoch from v_attempt.lease_expires_at - v_now));
  end if;
  if v_found and v_generation.status is distinct from 'success' and not public.ai_retry_has_success(p_generation_id) then
    if p_code is null then
      update public.generations g set status = v_attempt.status_before, updated_at = v_now where g.id = p_generation_id;
    else
      v_constraint := public.ai_retry_record_failure(
        v_generation, v_attempt.number, v_attempt.status_before, p_code, p_message, null, v_now);
    end if;
  end if;
  update public.ai_retry_attempts a
    set state = 'closed', outcome = case when p_code is null then 'cancelled' else 'failed' end, closed_at = v_now,
      code = p_code, counted = false, provider_outcome = 'not_generated', refused_constraint = v_constraint
    where a.token = v_attempt.token;
  perform public.ai_retry_pass_message(p_user_id, v_attempt.message_id, v_now);
  return pg_catalog.jsonb_build_object('status', 'cancelled');
end
$$;
comment on function public.ai_retry_cancel(uuid, uuid, text, text) is
  'Closes a queued attempt and gives its unit back: taken back by its user, or ended for a reason, which the app is told. '
  'Answers running, or nothing, when there is none. A repeat changes nothing.';

create or replace function public.ai_retry_give_back(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_delay_seconds double precision, p_reason text,
  p_wire_requests integer, p_outage_wait_seconds double precision, p_outage_failures integer, p_outage_doubts integer
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_attempt public.ai_retry_attempts%rowtype;
  v_now timestamptz;
begin
  perform public.ai_retry_lock(p_user_id);
  perform from public.generations g where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  v_now := pg_catalog.clock_timestamp();
  -- Under a new token: whoever still holds the old one can settle nothing.
  update public.ai_retry_attempts a
    set state = 'queued', token = pg_catalog.gen_random_uuid(), lease_expires_at = null, reason = p_reason,
      wire_requests = a.wire_requests + p_wire_requests, provider_outcome = 'not_generated',
      route = case when p_outage_wait_seconds is not null then a.route end, next_attempt_at = least(v_now + pg_catalog.make_interval(secs => p_delay_seconds), a.expires_at)
    where a.token = p_token and a.generation_id = p_generation_id and a.state = 'running' and a.accepted_at is not null
    returning * into v_attempt;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'closed');
  end if;
  update public.generations g set status = 'queued', updated_at = v_now
    where g.id = p_generation_id and g.user_id = p_user_id and g.status = 'processing';
  perform public.ai_retry_hide_message(v_attempt, v_now);
  if p_outage_wait_seconds is not null then
    perform public.ai_retry_note_outage(
      v_attempt.route, p_outage_wait_seconds, p_outage_failures, p_outage_doubts, v_now);
  end if;
  return pg_catalog.jsonb_build_object('status', 'given_back');
end
$$;
comment on function public.ai_retry_give_back(
  uuid, uuid, uuid, double precision, text, integer, double precision, integer, integer
) is
  'Turns a running attempt that certainly did not generate back to queued, due after the delay: no attempt is used up. '
  'Closes its route if that is away. A repeat changes nothing.';

create or replace function public.ai_retry_receive(
  p_limit integer, p_visibility_seconds integer, p_poll_seconds integer
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_message record;
  v_received jsonb := '[]'::jsonb;
  c_uuid constant text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
begin
  if to_regclass('pgmq.q_ai_retry') is null then
    return null;
  end if;
  for v_message in
    select m.msg_id, m.message
    from pgmq.read_with_poll('ai_retry', p_visibility_seconds, p_limit, p_poll_seconds, 100) m
    union all  -- who may not wait at all does not even look there
    select m.msg_id, m.message
    from pgmq.read('ai_retry', p_visibility_seconds, p_limit) m where p_poll_seconds = 0
  loop
    if v_message.message ->> 'user_id' ~ c_uuid and v_message.message ->> 'generation_id' ~ c_uuid then
      v_received := v_received || (v_message.message || pg_catalog.jsonb_build_object('message_id', v_message.msg_id));
    else
      perform pgmq.delete('ai_retry', v_message.msg_id);  -- nothing of ours
    end if;
  end loop;
  return v_received;
end
$$;
comment on function public.ai_retry_receive(integer, integer, integer) is
  'Waits for messages and hides them from other workers for a while; null without pgmq. Starts nothing: a claim does.';

create or replace function public.ai_retry_postpone(
  p_user_id uuid, p_generation_id uuid, p_message_id bigint, p_delay_seconds double precision
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_attempt public.ai_retry_attempts%rowtype;
  v_now timestamptz;
begin
  perform public.ai_retry_lock(p_user_id);
  v_now := pg_catalog.clock_timestamp();
  select * into v_attempt from public.ai_retry_attempts a
    where a.generation_id = p_generation_id and a.user_id = p_user_id and a.outcome is null and a.message_id = p_message_id;
  if not found then
    perform pgmq.delete('ai_retry', p_message_id);
    return pg_catalog.jsonb_build_object('status', 'deleted');
  end if;
  if v_attempt.state = 'queued' then
    -- Never sooner than it was due, and in time to end, if that is still to come.
    update public.ai_retry_attempts a
      set next_attempt_at = least(
        greatest(a.next_attempt_at, v_now + pg_catalog.make_interval(secs => p_delay_seconds)),
        case when a.expires_at > v_now then a.expires_at end)
      where a.token = v_attempt.token
      returning * into v_attempt;
  elsif v_attempt.lease_expires_at > v_now then
    v_attempt.next_attempt_at := v_attempt.lease_expires_at;  -- should its worker die
  else
    v_attempt.next_attempt_at := v_now + pg_catalog.make_interval(secs => p_delay_seconds);
  end if;
  perform public.ai_retry_hide_message(v_attempt, v_now);
  return pg_catalog.jsonb_build_object('status', 'postponed');
end
$$;
comment on function public.ai_retry_postpone(uuid, uuid, bigint, double precision) is
  'Puts a message back until its attempt is due again; one that is no open attempt''s is deleted. A repeat is harmless.';

create or replace function public.ai_retry_resend(p_max_live integer, p_limit integer)
returns integer
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '5ms'
as $$
declare
  v_user_id uuid;
  v_now timestamptz := pg_catalog.clock_timestamp();
  v_sent integer := 0;
begin
  if to_regclass('pgmq.q_ai_retry') is null then
    return 0;
  end if;
  for v_user_id in
    select a.user_id from public.ai_retry_attempts a
    where a.outcome is null and (
      a.state = 'queued' and a.next_attempt_at <= v_now - interval '1 minute'
      or a.state = 'running' and a.accepted_at is not null and a.lease_expires_at <= v_now - interval '1 minute')
      and not exists (select from pgmq.q_ai_retry q where q.msg_id = a.message_id)
    group by a.user_id
    -- Who has enough messages in line waits for them; a few more, where these wait for a provider: another may be well.
    having (
      select count(*) filter (where o.state = 'running' or o.next_attempt_at <= v_now) < p_max_live
        and count(*) filter (where o.state = 'queued' and o.route is not null) < 8 * p_max_live
      from public.ai_retry_attempts o join pgmq.q_ai_retry q on q.msg_id = o.message_id
      where o.user_id = a.user_id and o.outcome is null
    )
    order by min(a.next_attempt_at)
    limit p_limit
  loop
    -- Waits for nobody; one user at a time, in the order of the locks.
    begin
      continue when not pg_catalog.pg_try_advisory_xact_lock(
        pg_catalog.hashtextextended('ai_retry:' || v_user_id::text, 0));
      perform public.ai_retry_abandon(array(
        select a.token from public.ai_retry_attempts a
        where a.user_id = v_user_id and a.accepted_at is not null and a.outcome is null and a.state = 'running'
          and a.lease_expires_at <= v_now), v_now);
      update public.ai_retry_attempts a set message_id = null
        where a.user_id = v_user_id and a.outcome is null and a.state = 'queued' and a.message_id is not null
          and not exists (select from pgmq.q_ai_retry q where q.msg_id = a.message_id);
      perform public.ai_retry_send_next(v_user_id, v_now);
      v_sent := v_sent + 1;
    exception when lock_not_available then
      continue;  -- the user is just being deleted, say
    end;
  end loop;
  return v_sent;
end
$$;
comment on function public.ai_retry_resend(integer, integer) is
  'Sends a message to users whose queued attempts have been due for a minute without one; tells to how many. Any worker, '
  'any time: a lost message is a delay.';

create or replace function public.ai_retry_queue()
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select pg_catalog.jsonb_build_object(
    'as_of', t.as_of, 'configured', pg_catalog.to_regclass('pgmq.q_ai_retry') is not null,
    'queued', count(*) filter (where a.state = 'queued'),
    'due', count(*) filter (where a.state = 'queued' and a.route is null and a.next_attempt_at <= t.as_of),
    'parked', count(*) filter (where a.state = 'queued' and a.route is not null),
    'running', count(*) filter (where a.state = 'running'),
    'oldest_accepted_at', min(a.accepted_at),
    'poisoned', (
      select count(*) from public.ai_retry_attempts p
      where p.code = 'RETRY_POISONED' and p.closed_at > t.as_of - interval '24 hours'),
    'outages', (
      select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'route', o.route, 'not_before', o.not_before, 'failures', o.failures, 'slots', o.slots) order by o.route), '[]')
      from public.ai_retry_outages o where o.since > '-infinity'))
  from (select pg_catalog.clock_timestamp() as as_of offset 0) t
  left join public.ai_retry_attempts a on a.outcome is null and a.accepted_at is not null
  group by t.as_of
$$;
comment on function public.ai_retry_queue() is
  'What waits and runs for accepted retries, as JSON; poisoned are those given up in the last 24 hours because their '
  'workers kept dying. Writes nothing.';

create index if not exists ai_retry_attempts_poisoned_idx
  on public.ai_retry_attempts (closed_at) where code = 'RETRY_POISONED';

create or replace function public.ai_retry_publish()
returns boolean
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  if not exists (select from pg_catalog.pg_publication p where p.pubname = 'supabase_realtime') then
    raise exception 'there is no publication supabase_realtime: this is for Supabase projects with Realtime'
      using errcode = 'undefined_object';
  end if;
  if exists (
    select from pg_catalog.pg_publication_tables t
    where t.pubname = 'supabase_realtime' and t.schemaname = 'public' and t.tablename = 'generations'
  ) then
    return false;
  end if;
  alter publication supabase_realtime add table public.generations;
  return true;
end
$$;
comment on function public.ai_retry_publish() is
  'Lets browsers subscribe to generations by Realtime, under the table''s own policies; says whether that was new. For the '
  'owner, when asked for. No table of ours ever joins.';

-- 7. Only the service role may execute ours; the last two are the owner's alone.

do $grants$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure
    from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname in (
      'ai_retry_version', 'ai_retry_used', 'ai_retry_quota', 'ai_retry_generation', 'ai_retry_session',
      'ai_retry_settled', 'ai_retry_has_success', 'ai_retry_record_event', 'ai_retry_requeue', 'ai_retry_abandon', 'ai_retry_send_next', 'ai_retry_pass_message', 'ai_retry_hide_message',
      'ai_retry_note_outage', 'ai_retry_note_answer', 'ai_retry_route_wait',
      'ai_retry_leave_queue', 'ai_retry_load', 'ai_retry_open', 'ai_retry_claim', 'ai_retry_succeed', 'ai_retry_close', 'ai_retry_fail', 'ai_retry_reap',
      'ai_retry_enqueue', 'ai_retry_cancel', 'ai_retry_give_back',
      'ai_retry_receive', 'ai_retry_postpone', 'ai_retry_resend', 'ai_retry_queue', 'ai_retry_create_queue',
      'ai_retry_publish')
  loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    if v_function::text like '%create_queue(%' or v_function::text like '%publish(%' then
      execute format('revoke all on function %s from service_role', v_function);
    else
      execute format('grant execute on function %s to service_role', v_function);
    end if;
  end loop;
end
$grants$;

reset lock_timeout;
reset statement_timeout;
