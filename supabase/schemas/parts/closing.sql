create function ai_retry.close(p_generation_id uuid, p_token uuid, p_end jsonb, p_call jsonb, p_at timestamptz)
returns boolean
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
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
  v_next_at := case
    when v_is_success then null
    when p_end ->> 'wait_seconds' is not null
      then p_at + pg_catalog.make_interval(secs => (p_end ->> 'wait_seconds')::double precision)
    else coalesce(
      v_open.lease_expires_at + pg_catalog.make_interval(secs => v_open.abandoned_wait_seconds), v_open.due_at) end;
  insert into public.ai_retry_attempts (
    generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, transient,
    operator_fault, next_attempt_at, cause, session_id, charge, captured_at, waived, operator, idempotency_key,
    lease_expires_at, answer_from, route, accepted_at, expires_at, context_reader, provider_outcome, wire_requests,
    model, usage, provider_id, duration_ms, calls, untold
  ) values (
    p_generation_id, v_open.number, v_open.user_id, p_token, v_open.started_at, p_at,
    p_end ->> 'outcome', p_end ->> 'code', p_end ->> 'reason', coalesce((p_end ->> 'counted')::boolean, v_open.counted),
    (p_end ->> 'transient')::boolean, coalesce((p_end ->> 'operator_fault')::boolean, false), v_next_at,
    p_end ->> 'cause', p_end ->> 'session_id', v_open.charge, case when v_is_success and v_open.charge then p_at end,
    v_open.waived, v_open.operator, v_open.idempotency_key, v_open.lease_expires_at, v_open.answer_from, v_open.route,
    v_open.accepted_at, v_open.expires_at, v_open.context_reader,
    coalesce(v_call ->> 'provider_outcome', v_open.provider_outcome),
    v_open.wire_requests + coalesce((v_call ->> 'wire_requests')::integer, 0), v_call ->> 'model',
    nullif(v_call -> 'usage', 'null'), v_call ->> 'provider_id', (v_call ->> 'duration_ms')::integer,
    nullif(v_call -> 'calls', 'null'), p_end ? 'untold');
  if v_is_success then
    delete from public.ai_retry_answers a where a.generation_id = p_generation_id;
  elsif v_answer is not null then
    insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    values (p_generation_id, v_open.number, v_answer, p_at);
  end if;
  if v_open.accepted_at is null then
    return true;
  end if;
  -- An accepted retry goes on: its next attempt keeps the unit.
  if (p_end -> 'goes_on')::boolean then
    insert into public.ai_retry_open (
      generation_id, user_id, number, token, started_at, charge, waived, operator, idempotency_key, due_at,
      accepted_at, expires_at, status_before, in_line, context_reader
    ) values (
      p_generation_id, v_open.user_id, v_open.number + 1, pg_catalog.gen_random_uuid(), p_at,
      v_open.charge, v_open.waived, v_open.operator, v_open.idempotency_key,
      least(v_next_at, case when v_open.expires_at > p_at then v_open.expires_at end),
      v_open.accepted_at, v_open.expires_at, coalesce(p_end ->> 'status', v_open.status_before), v_open.in_line,
      v_open.context_reader);
  end if;
  perform ai_retry.move(v_open.message_id, null, p_at);
  perform ai_retry.fill_line(v_open.user_id, p_at);
  return true;
end
$$;
comment on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) is
  'Closes one open attempt, by its token; user, number, hold and key are copied from its row. False: it is not open, or '
  'not over any more. A paid answer without a session is stored. An accepted retry''s next attempt and message follow.';

create function ai_retry.close_over(p_user_id uuid, p_begun_id uuid, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_open public.ai_retry_open%rowtype;
  v_closed public.ai_retry_attempts%rowtype;
  v_row jsonb;
  v_follower record;
  v_is_owned boolean;
  v_is_failure boolean;
begin
  for v_open in
    select o.* from public.ai_retry_open o
    where (o.user_id = p_user_id or o.generation_id = p_begun_id) and o.lease_expires_at <= p_at
    order by o.lease_expires_at
  loop
    perform ai_retry.close(
      v_open.generation_id, v_open.token,
      case when v_open.kept_cause is null
        then '{"outcome": "abandoned", "code": "LEASE_LOST", "status": "timeout", "goes_on": true, "untold": true}'
        else '{"outcome": "failed", "code": "SESSION_REJECTED", "goes_on": true, "untold": true}'::jsonb
          || pg_catalog.jsonb_build_object('cause', v_open.kept_cause) end,
      null, p_at);
  end loop;
  for v_closed in
    select c.* from public.ai_retry_attempts c where (c.user_id = p_user_id or c.generation_id = p_begun_id) and c.untold
  loop
    begin
      v_row := ai_retry.app_lock(v_closed.generation_id, '5ms');
      if v_row ->> 'status' = 'processing' then  -- what the app has decided meanwhile stays
        select o.lease_expires_at is null as is_queued into v_follower
          from public.ai_retry_open o where o.generation_id = v_closed.generation_id;
        perform ai_retry.tell(
          v_closed.user_id, v_closed.generation_id,
          case
            when not v_follower.is_queued then null
            when v_follower.is_queued then 'queued'
            when v_closed.cause is not null then 'error'
            else 'timeout' end,
          null, v_closed.code,
          case
            when (v_row ->> 'user_id')::uuid is distinct from v_closed.user_id then null
            when v_closed.cause is not null then 'The session was rejected; its answer is stored.'
            else 'The attempt was not finished in time.' end,
          v_closed.number, p_at);
      end if;
      update public.ai_retry_attempts c set untold = false
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
        perform ai_retry.tell(
          v_open.user_id, v_open.generation_id, v_open.status_before, null, 'RETRY_EXPIRED',
          case when v_is_failure then 'The accepted retry was not finished in time.' end, v_open.number, p_at);
      end if;
      perform ai_retry.close(
        v_open.generation_id, v_open.token,
        case when v_is_owned then '{"outcome": "failed", "code": "RETRY_EXPIRED", "counted": false}'
          else '{"outcome": "cancelled", "counted": false}'::jsonb end,
        '{"provider_outcome": "not_generated"}', p_at);
    exception when lock_not_available then
      null;  -- the app holds the row: a later begin ends it
    end;
  end loop;
end
$$;
comment on function ai_retry.close_over(uuid, uuid, timestamptz) is
  'Closes every attempt of the user that is over, and one of the generation to be begun, whoever it belonged to; informs '
  'the app; ends accepted retries that are out of time. Where none is begun, queued attempts whose generation is gone, or '
  'another user''s, are cancelled, too.';
