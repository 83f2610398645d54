create function ai_retry.has_room(p_change jsonb, p_start jsonb, p_at timestamptz)
returns boolean
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id constant uuid := p_change ->> 'user_id';
  v_generation_id constant uuid := p_change ->> 'generation_id';
  v_open record;
  v_outage public.ai_retry_outages%rowtype;
begin
  -- Live and held: every attempt that is open now, since what was over has been closed.
  select count(*) filter (where o.user_id = v_user_id and o.lease_expires_at is not null) as live,
      count(*) filter (where o.user_id = v_user_id and o.charge) as held,
      bool_or(o.generation_id = v_generation_id) as has_one,
      bool_or(o.generation_id = v_generation_id and o.user_id = v_user_id and o.lease_expires_at is null
        and o.number = (p_start ->> 'number')::integer) as has_queued
    into v_open
    from public.ai_retry_open o where o.user_id = v_user_id or o.generation_id = v_generation_id;
  if (case when p_change ? 'run' then v_open.has_queued is not true else v_open.has_one end)
    or v_open.live >= (p_change ->> 'max_live')::integer
    or (p_change ->> 'max_used')::integer <= v_open.held + (
      select count(*) from ai_retry.captures(
        v_user_id, ai_retry.rule(v_user_id, p_change -> 'rule'), (p_change ->> 'max_used')::integer, p_at))
  then
    return false;
  end if;
  select * into v_outage from ai_retry.outages o where o.route = p_start ->> 'route';
  if not found then
    return true;  -- nothing has closed it
  end if;
  return v_outage.not_before <= p_at
    -- One begin at a time may become the only probe.
    and (v_outage.slots > 1 or pg_catalog.pg_try_advisory_xact_lock(
      pg_catalog.hashtextextended('ai_retry_route:' || v_outage.route, 0)))
    and v_outage.slots > (
      select count(*) from public.ai_retry_open o where o.route = v_outage.route and o.lease_expires_at > p_at);
end
$$;
comment on function ai_retry.has_room(jsonb, jsonb, timestamptz) is
  'Whether an attempt may begin: fewer running, and fewer units captured and held, than the ceilings; no other open '
  'attempt of the generation; a route that is available, or comes back and is not probed by as many calls as may.';

create function ai_retry.start(p_change jsonb, p_start jsonb, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_calls constant boolean := p_start ->> 'answer_from' is null;
  v_lease timestamptz := p_at + pg_catalog.make_interval(secs => (p_start ->> 'lease_seconds')::double precision);
begin
  if p_change ? 'run' then
    update public.ai_retry_open o
      set token = (p_change ->> 'token')::uuid, started_at = p_at, lease_expires_at = v_lease,
        renewable_until = p_at + pg_catalog.make_interval(secs => (p_start ->> 'longest_seconds')::double precision),
        abandoned_wait_seconds = (p_start ->> 'abandoned_wait_seconds')::double precision,
        answer_from = (p_start ->> 'answer_from')::integer, route = p_start ->> 'route', counted = v_calls,
        provider_outcome = case when v_calls then 'unknown' else 'not_generated' end
      where o.generation_id = (p_change ->> 'generation_id')::uuid;
    return;
  end if;
  insert into public.ai_retry_open (
    generation_id, user_id, number, token, started_at, charge, waived, operator, idempotency_key, lease_expires_at,
    renewable_until, abandoned_wait_seconds, answer_from, counted, route, provider_outcome,
    due_at, accepted_at, expires_at, status_before, in_line, context_reader
  ) values (
    (p_change ->> 'generation_id')::uuid, (p_change ->> 'user_id')::uuid,
    1 + coalesce((
      select max(c.number) from public.ai_retry_attempts c
      where c.generation_id = (p_change ->> 'generation_id')::uuid), 1),
    (p_change ->> 'token')::uuid, p_at, (p_start ->> 'charge')::boolean,
    array(select pg_catalog.jsonb_array_elements_text(p_start -> 'waived')), p_start ->> 'operator',
    p_start ->> 'idempotency_key', v_lease,
    p_at + pg_catalog.make_interval(secs => (p_start ->> 'longest_seconds')::double precision),
    (p_start ->> 'abandoned_wait_seconds')::double precision, (p_start ->> 'answer_from')::integer, v_calls,
    p_start ->> 'route', case when v_calls then 'unknown' else 'not_generated' end,
    case when p_start ? 'wait_seconds' then greatest(p_at, (p_change ->> 'as_of')::timestamptz
      + pg_catalog.make_interval(secs => (p_start ->> 'wait_seconds')::double precision)) end,
    case when p_start ? 'expires_after_seconds' then p_at end,
    p_at + pg_catalog.make_interval(secs => (p_start ->> 'expires_after_seconds')::double precision),
    p_start ->> 'status_before', (p_start ->> 'in_line')::integer, p_start ->> 'context_reader'
  ) on conflict (generation_id) do nothing;
  if not found then
    raise exception 'another user''s attempt has just begun' using errcode = 'serialization_failure';
  end if;
end
$$;
comment on function ai_retry.start(jsonb, jsonb, timestamptz) is
  'Opens the attempt, under the next number, or gives the queued one a lease and the worker''s token. An attempt that '
  'uses a stored answer calls nobody: abandoned, it has cost nothing.';
