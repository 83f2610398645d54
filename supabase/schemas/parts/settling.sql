create function ai_retry.succeed(p_open public.ai_retry_open, p_change jsonb, p_at timestamptz)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_answer constant jsonb := p_change #> '{success,answer}';
  v_call constant jsonb := p_change -> 'call';
  v_role constant text := pg_catalog.current_setting('role');
  v_session jsonb;
  v_row jsonb;
  v_sqlstate text;
  v_constraint text;
  v_column text;
begin
  begin
    set constraints all deferred;
    v_session := ai_retry.app_create_session(p_open.user_id, p_open.generation_id, v_answer -> 'output',
      pg_catalog.jsonb_build_object('number', p_open.number, 'model', v_answer -> 'model', 'usage', v_answer -> 'usage'));
    if pg_catalog.current_setting('role') <> v_role then
      perform pg_catalog.set_config('role', v_role, true);  -- the app's function has set one for its own tables
    end if;
    if v_session ->> 'id' is null then
      raise exception 'the session function returned no row with an id' using errcode = 'null_value_not_allowed';
    end if;
    if not pg_catalog.pg_try_advisory_xact_lock(
      pg_catalog.hashtextextended('ai_retry_session:' || (v_session ->> 'id'), 0))
    then
      raise exception 'another settle has this session just now' using errcode = 'lock_not_available';
    end if;
    if exists (select from public.ai_retry_attempts c where c.session_id = v_session ->> 'id') then
      raise exception 'the session belongs to another generation' using
        errcode = 'unique_violation', constraint = 'session_reused';
    end if;
    perform ai_retry.app_write(
      p_open.generation_id, 'success', v_session ->> 'id', (v_call ->> 'duration_ms')::integer, p_at);
    set constraints all immediate;
    v_row := ai_retry.app_read(p_open.generation_id) - 'prompt_data';
    if (v_row ->> 'status', v_row ->> 'session_id', v_row ->> 'user_id')
      is distinct from ('success', v_session ->> 'id', p_open.user_id::text)
    then
      raise exception 'a trigger of the app has undone what was written' using
        errcode = 'triggered_data_change_violation', constraint = 'session_not_linked';
    end if;
    v_sqlstate := null;
  exception when others or assert_failure or query_canceled then
    get stacked diagnostics
      v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
    -- What has rejected this answer before, for as long as settling was repeated, does not pass.
    if ai_retry.passes(v_sqlstate) and (
      pg_catalog.left(v_sqlstate, 2) = '40' or v_sqlstate = '55P03' or not exists (
        select from public.ai_retry_attempts c
        where c.generation_id = p_open.generation_id and c.cause = v_sqlstate))
    then
      raise;
    end if;
  end;
  if v_sqlstate is not null then
    perform ai_retry.reject(
      p_open, p_change,
      case when v_sqlstate in ('23505', '23P01', 'PT409') and v_constraint is distinct from 'session_reused'
        then 'SESSION_CONFLICT' else 'SESSION_REJECTED' end,
      coalesce(nullif(v_constraint, ''), nullif(v_column, ''), v_sqlstate), p_at);
    return null;
  end if;
  perform ai_retry.report(
    p_open.user_id, p_open.generation_id, 'ai_generation_succeeded', null, null, p_open.number, p_at);
  if not ai_retry.close(p_open, pg_catalog.jsonb_build_object(
    'outcome', 'succeeded', 'counted', p_open.counted, 'session_id', v_session ->> 'id'), v_call, p_at)
  then
    raise exception 'the attempt vanished while it was settled' using errcode = 'serialization_failure';
  end if;
  return v_row;
end
$$;
comment on function ai_retry.succeed(public.ai_retry_open, jsonb, timestamptz) is
  'Creates and links the session, captures the unit, and returns the generation''s row; if the app''s tables or session function reject it, closes the '
  'attempt without charge, and stores the answer. The open row is touched last: keep must never wait for the app.';

create function ai_retry.reject(
  p_open public.ai_retry_open, p_change jsonb, p_code text, p_cause text, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rejection constant jsonb := p_change #> '{success,if_rejected}';
  v_call constant jsonb := p_change -> 'call';
  v_again boolean;
begin
  -- The same cause again: the attempt before this one was rejected by it.
  select c.cause = p_cause into v_again
    from public.ai_retry_attempts c
    where c.generation_id = p_open.generation_id and c.cause is not null
    order by c.number desc limit 1;
  perform ai_retry.tell(
    p_open.user_id, p_open.generation_id, case when p_open.accepted_at is null then 'error' else 'queued' end,
    (v_call ->> 'duration_ms')::integer, p_code,
    case when v_again is not true or v_call is not null then v_rejection ->> 'message' end, p_open.number, p_at);
  perform ai_retry.close(
    p_open,
    pg_catalog.jsonb_build_object(
      'outcome', 'failed', 'code', p_code, 'counted', false, 'cause', p_cause,
      'goes_on', true,
      'answer', case when p_change #>> '{success,answer_from}' is null then p_change #> '{success,answer}' end,
      'next_attempt_at', p_at + pg_catalog.make_interval(secs => (v_rejection ->>
        case when v_again then 'again_wait_seconds' else 'wait_seconds' end)::double precision)),
    v_call, p_at);
end
$$;
comment on function ai_retry.reject(public.ai_retry_open, jsonb, text, text, timestamptz) is
  'Closes an attempt whose session was rejected; its paid answer is stored. The app is informed once for the same cause '
  'and the same answer.';

create function ai_retry.fail(p_open public.ai_retry_open, p_change jsonb, p_row jsonb, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_closing constant jsonb := p_change -> 'closing';
  v_status constant text := coalesce(v_closing ->> 'status', p_open.status_before, 'timeout');
  v_call constant jsonb := p_change -> 'call';
begin
  if p_change ->> 'found' = 'ready' then
    perform ai_retry.tell(
      p_open.user_id, p_open.generation_id,
      case when (v_closing -> 'goes_on')::boolean and p_open.accepted_at is not null then 'queued' else v_status end,
      (v_call ->> 'duration_ms')::integer, v_closing ->> 'code', v_closing ->> 'message', p_open.number, p_at);
  elsif p_change ->> 'found' = 'foreign' and p_row ->> 'status' in ('queued', 'processing') then
    perform ai_retry.tell(  -- hidden, or another user's: no attempt works on it any more
      p_open.user_id, p_open.generation_id, v_status, null, null, null, p_open.number, p_at);
  end if;
  perform ai_retry.close(
    p_open,
    v_closing || pg_catalog.jsonb_build_object('next_attempt_at', case
      when v_closing ->> 'wait_seconds' is not null
        then p_at + pg_catalog.make_interval(secs => (v_closing ->> 'wait_seconds')::double precision)
      else coalesce(
        p_open.lease_expires_at + pg_catalog.make_interval(secs => p_open.abandoned_wait_seconds), p_open.due_at)
      end),
    v_call, p_at);
end
$$;
comment on function ai_retry.fail(public.ai_retry_open, jsonb, jsonb, timestamptz) is
  'Closes an attempt without a session, and informs the app where the generation is still its user''s and not a success.';

create function ai_retry.store_late(p_change jsonb, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation_id constant uuid := p_change ->> 'generation_id';
  v_answer constant jsonb := coalesce(
    case when p_change #>> '{success,answer_from}' is null then p_change #> '{success,answer}' end,
    nullif(p_change #> '{closing,answer}', 'null'), p_change -> 'answer');
  v_call constant jsonb := p_change -> 'call';
  v_closed public.ai_retry_attempts%rowtype;
  v_is_locked boolean := false;
begin
  if v_answer is null or v_call is null then
    return;
  end if;
  update public.ai_retry_attempts c  -- what it cost is recorded, whatever becomes of the answer
    set provider_outcome = v_call ->> 'provider_outcome', model = v_call ->> 'model',
      usage = nullif(v_call -> 'usage', 'null'), provider_id = v_call ->> 'provider_id',
      duration_ms = (v_call ->> 'duration_ms')::integer,
      wire_requests = c.wire_requests + (v_call ->> 'wire_requests')::integer
    where c.generation_id = v_generation_id and c.token = (p_change ->> 'token')::uuid
      and c.provider_outcome = 'unknown';
  if exists (
    select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.outcome = 'succeeded')
  then
    return;
  end if;
  begin
    if ai_retry.app_lock(v_generation_id, '25ms') is null then
      return;
    end if;
    v_is_locked := true;
  exception when others or assert_failure or query_canceled then
    null;  -- whatever the app has locked, a known attempt's answer has its place
  end;
  select * into v_closed from public.ai_retry_attempts c
    where c.generation_id = v_generation_id and c.token = (p_change ->> 'token')::uuid;
  if not found then
    -- A fail-over has lost the begin: the answer waits with the attempt that is open, or one is recorded for it. Until
    -- then no begin may take its number.
    if not v_is_locked then
      raise exception 'ai-retry: the generation is locked' using errcode = 'lock_not_available';
    end if;
    update public.ai_retry_open o set answer = coalesce(o.answer, v_answer)
      where o.generation_id = v_generation_id and o.user_id = (p_change ->> 'user_id')::uuid;
    if found then
      return;
    elsif exists (select from public.ai_retry_open o where o.generation_id = v_generation_id) then
      raise exception 'ai-retry: an attempt of another user is open' using errcode = 'lock_not_available';
    end if;
    begin
      insert into public.ai_retry_attempts (
        generation_id, number, user_id, token, started_at, closed_at, outcome, code, counted, charge,
        provider_outcome, model, usage, provider_id, duration_ms, wire_requests
      ) select
        v_generation_id, 1 + coalesce(max(c.number), 1), (p_change ->> 'user_id')::uuid, (p_change ->> 'token')::uuid,
        p_at, p_at, 'abandoned', 'LEASE_LOST', false, false,
        v_call ->> 'provider_outcome', v_call ->> 'model', nullif(v_call -> 'usage', 'null'), v_call ->> 'provider_id',
        (v_call ->> 'duration_ms')::integer, (v_call ->> 'wire_requests')::integer
        from public.ai_retry_attempts c where c.generation_id = v_generation_id
      returning * into v_closed;
    exception when foreign_key_violation then
      return;  -- the user is gone, and what is a user's goes with them
    end;
  end if;
  if v_closed.discarded_at is null then
    insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    values (v_generation_id, v_closed.number, v_answer, p_at) on conflict do nothing;
  end if;
end
$$;
comment on function ai_retry.store_late(jsonb, timestamptz) is
  'Records what a late answer cost, and stores it with the attempt that paid for it, once, unless the generation is gone '
  'or has its session, or an operator discarded the answer.';
