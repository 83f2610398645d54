create function ai_retry.close(p_open public.ai_retry_open, p_end jsonb, p_call jsonb, p_at timestamptz)
returns boolean
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_open public.ai_retry_open%rowtype;
begin
  -- Only what is open under this token can be closed; only what is over can be abandoned, and a renewal, or an answer
  -- that is kept, may have come.
  delete from public.ai_retry_open o
    where o.generation_id = p_open.generation_id and o.token = p_open.token
      and (p_end ->> 'outcome' <> 'abandoned' or o.lease_expires_at <= p_at and o.kept_cause is null)
    returning o.* into v_open;
  if not found then
    return false;
  end if;
  p_call := coalesce(v_open.call, p_call);
  insert into public.ai_retry_attempts (
    generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, transient,
    operator_fault, next_attempt_at, cause, session_id, charge, captured_at, waived, operator, idempotency_key,
    lease_expires_at, answer_from, route, accepted_at, expires_at, context_reader, provider_outcome, wire_requests,
    model, usage, provider_id, duration_ms
  ) values (
    v_open.generation_id, v_open.number, v_open.user_id, v_open.token, v_open.started_at, p_at,
    p_end ->> 'outcome', p_end ->> 'code', p_end ->> 'reason', (p_end ->> 'counted')::boolean,
    (p_end ->> 'transient')::boolean, coalesce((p_end ->> 'operator_fault')::boolean, false),
    (p_end ->> 'next_attempt_at')::timestamptz, p_end ->> 'cause', p_end ->> 'session_id', v_open.charge,
    case when p_end ->> 'outcome' = 'succeeded' and v_open.charge then p_at end,
    v_open.waived, v_open.operator, v_open.idempotency_key, v_open.lease_expires_at, v_open.answer_from, v_open.route,
    v_open.accepted_at, v_open.expires_at, v_open.context_reader,
    coalesce(p_call ->> 'provider_outcome', v_open.provider_outcome),
    v_open.wire_requests + coalesce((p_call ->> 'wire_requests')::integer, 0),
    p_call ->> 'model', nullif(p_call -> 'usage', 'null'), p_call ->> 'provider_id', (p_call ->> 'duration_ms')::integer
  );
  if p_end ->> 'outcome' = 'succeeded' then
    delete from public.ai_retry_answers a where a.generation_id = v_open.generation_id;
  elsif coalesce(nullif(p_end -> 'answer', 'null'), v_open.answer) is not null then
    insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    values (v_open.generation_id, v_open.number, coalesce(nullif(p_end -> 'answer', 'null'), v_open.answer), p_at);
  end if;
  if v_open.accepted_at is not null then
    perform ai_retry.follow(v_open, p_end, p_at);
  end if;
  return true;
end
$$;
comment on function ai_retry.close(public.ai_retry_open, jsonb, jsonb, timestamptz) is
  'Closes one open attempt, by its token; user, number, hold and key are copied from its row. False: it is not open, or '
  'not over any more. A paid answer without a session is stored.';

create function ai_retry.close_over(p_user_id uuid, p_begun_id uuid, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_open public.ai_retry_open%rowtype;
  v_closed record;
begin
  for v_open in
    select o.* from public.ai_retry_open o
    where (o.user_id = p_user_id or o.generation_id = p_begun_id) and o.lease_expires_at <= p_at
    order by o.lease_expires_at
  loop
    if ai_retry.close(
      v_open,
      pg_catalog.jsonb_build_object(
        'counted', v_open.counted, 'goes_on', true,
        'next_attempt_at', v_open.lease_expires_at + pg_catalog.make_interval(secs => v_open.abandoned_wait_seconds))
      || case when v_open.kept_cause is null
        then pg_catalog.jsonb_build_object('outcome', 'abandoned', 'code', 'LEASE_LOST', 'status', 'timeout')
        else pg_catalog.jsonb_build_object(
          'outcome', 'failed', 'code', 'SESSION_REJECTED', 'cause', v_open.kept_cause) end,
      null, p_at)
    then
      perform ai_retry.inform(v_open.generation_id, v_open.number, p_at);
    end if;
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
    perform ai_retry.end_queued(v_open, p_at);
  end loop;
  for v_closed in
    select c.generation_id, c.number from public.ai_retry_attempts c where c.user_id = p_user_id and c.untold
  loop
    perform ai_retry.inform(v_closed.generation_id, v_closed.number, p_at);
  end loop;
end
$$;
comment on function ai_retry.close_over(uuid, uuid, timestamptz) is
  'Closes every attempt of the user that is over, and one of the generation to be begun, whoever it belonged to, and '
  'informs the app. Where none is begun, queued attempts whose generation is gone, or another user''s, are cancelled, too.';

create function ai_retry.end_queued(p_open public.ai_retry_open, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_row jsonb;
  v_is_owned boolean;
  v_is_failure boolean;
begin
  v_row := ai_retry.app_lock(p_open.generation_id, '5ms');
  v_is_owned := coalesce((v_row ->> 'user_id')::uuid = p_open.user_id, false);
  v_is_failure := v_is_owned and v_row ->> 'status' <> 'success';
  if v_is_failure or v_row ->> 'status' in ('queued', 'processing') then
    perform ai_retry.tell(
      p_open.user_id, p_open.generation_id, p_open.status_before, null, 'RETRY_EXPIRED',
      case when v_is_failure then 'The accepted retry was not finished in time.' end, p_open.number, p_at);
  end if;
  perform ai_retry.close(
    p_open,
    pg_catalog.jsonb_build_object(
      'outcome', case when v_is_owned then 'failed' else 'cancelled' end,
      'code', case when v_is_owned then 'RETRY_EXPIRED' end, 'counted', false, 'next_attempt_at', p_open.due_at),
    pg_catalog.jsonb_build_object('provider_outcome', 'not_generated'), p_at);
exception when lock_not_available then
  return;  -- the app holds the row: a later begin ends it
end
$$;
comment on function ai_retry.end_queued(public.ai_retry_open, timestamptz) is
  'Ends an accepted retry that is out of time, and informs the app; cancels one whose generation is gone, or another user''s.';

create function ai_retry.inform(p_generation_id uuid, p_number integer, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_closed record;
  v_row jsonb;
  v_follower record;
  v_untold boolean := false;
begin
  select c.user_id, c.code, c.cause into v_closed
    from public.ai_retry_attempts c where c.generation_id = p_generation_id and c.number = p_number;
  begin
    v_row := ai_retry.app_lock(p_generation_id, '5ms');
    if v_row ->> 'status' = 'processing' then  -- what the app has decided meanwhile stays
      select o.lease_expires_at is null as is_queued into v_follower
        from public.ai_retry_open o where o.generation_id = p_generation_id;
      perform ai_retry.tell(
        v_closed.user_id, p_generation_id,
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
        p_number, p_at);
    end if;
  exception when lock_not_available then
    v_untold := true;
  end;
  update public.ai_retry_attempts c set untold = v_untold
    where c.generation_id = p_generation_id and c.number = p_number and c.untold <> v_untold;
end
$$;
comment on function ai_retry.inform(uuid, integer, timestamptz) is
  'Reports an attempt that was closed in passing to its app; while the app holds the row, or the table of its events, the '
  'report waits for a later begin.';
