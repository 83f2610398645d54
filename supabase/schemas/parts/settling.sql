create function ai_retry.succeed(
  p_user_id uuid, p_number integer, p_is_accepted boolean, p_change jsonb, p_at timestamptz
)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation_id constant uuid := p_change ->> 'generation_id';
  v_success constant jsonb := p_change -> 'success';
  v_answer constant jsonb := v_success -> 'answer';
  v_rejection constant jsonb := v_success -> 'if_rejected';
  v_call constant jsonb := p_change -> 'call';
  v_role constant text := pg_catalog.current_setting('role');
  v_session_id text;
  v_row jsonb;
  v_sqlstate text;
  v_constraint text;
  v_column text;
  v_cause text;
  v_again boolean;
begin
  begin
    set constraints all deferred;
    v_session_id := ai_retry.app_create_session(
      p_user_id, v_generation_id, v_answer -> 'output',
      pg_catalog.jsonb_build_object(
        'number', p_number, 'model', v_answer -> 'model', 'usage', v_answer -> 'usage')) ->> 'id';
    if pg_catalog.current_setting('role') <> v_role then
      perform pg_catalog.set_config('role', v_role, true);  -- the app's function has set one for its own tables
    end if;
    if v_session_id is null then
      raise exception 'the session function returned no row with an id' using errcode = 'null_value_not_allowed';
    end if;
    if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('ai_retry_session:' || v_session_id, 0)) then
      raise exception 'another settle has this session just now' using errcode = 'lock_not_available';
    end if;
    if exists (select from public.ai_retry_attempts c where c.session_id = v_session_id) then
      raise exception 'the session belongs to another generation' using
        errcode = 'unique_violation', constraint = 'session_reused';
    end if;
    perform ai_retry.app_write(
      v_generation_id, 'success', v_session_id, (v_call ->> 'duration_ms')::integer, p_at);
    set constraints all immediate;
    v_row := ai_retry.app_read(v_generation_id);
    if (v_row ->> 'status', v_row ->> 'session_id', v_row ->> 'user_id')
      is distinct from ('success', v_session_id, p_user_id::text)
    then
      raise exception 'a trigger of the app has undone what was written' using
        errcode = 'triggered_data_change_violation', constraint = 'session_not_linked';
    end if;
    return pg_catalog.jsonb_build_object('outcome', 'succeeded', 'status', 'success', 'session_id', v_session_id, 'generation', v_row);
  exception when others or assert_failure or query_canceled then
    get stacked diagnostics
      v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
    -- These pass by themselves: the transaction is undone and sent again. Links, isolation, deadlocks, resources,
    -- shutdowns, locks, internal faults: PostgreSQL documentation, appendix A. But what has rejected this answer before,
    -- for as long as settling was repeated, does not pass.
    if (pg_catalog.left(v_sqlstate, 2) in ('08', '25', '40', '53', '57', '58', 'XX') or v_sqlstate in ('55P03', '55006'))
      and (pg_catalog.left(v_sqlstate, 2) = '40' or v_sqlstate = '55P03' or not exists (
        select from public.ai_retry_attempts c
        where c.generation_id = v_generation_id and c.cause = v_sqlstate))
    then
      raise;
    end if;
  end;
  v_cause := coalesce(nullif(v_constraint, ''), nullif(v_column, ''), v_sqlstate);
  -- The same cause again: the attempt before this one was rejected by it.
  select c.cause = v_cause into v_again
    from public.ai_retry_attempts c
    where c.generation_id = v_generation_id and c.cause is not null
    order by c.number desc limit 1;
  return pg_catalog.jsonb_build_object(
    'outcome', 'failed', 'counted', false, 'cause', v_cause, 'goes_on', true,
    'code', case
      when v_sqlstate in ('23505', '23P01', 'PT409') and v_constraint is distinct from 'session_reused'
        then 'SESSION_CONFLICT'
      else 'SESSION_REJECTED' end,
    'status', case when not p_is_accepted then 'error' end,
    'message', case when v_again is not true or v_call is not null then v_rejection ->> 'message' end,
    'wait_seconds', v_rejection -> case when v_again then 'again_wait_seconds' else 'wait_seconds' end,
    'answer', case when v_success ->> 'answer_from' is null then v_answer end);
end
$$;
comment on function ai_retry.succeed(uuid, integer, boolean, jsonb, timestamptz) is
  'Creates and links the session. Returns how the attempt ends: with its session, and the generation''s row; or, if the '
  'app''s tables or session function rejected it, without charge, while the paid answer is stored. The app is informed '
  'once for the same cause and the same answer.';

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
      duration_ms = (v_call ->> 'duration_ms')::integer, calls = nullif(v_call -> 'calls', 'null'),
      wire_requests = c.wire_requests + (v_call ->> 'wire_requests')::integer
    where c.generation_id = v_generation_id and c.token = (p_change ->> 'token')::uuid
      and c.provider_outcome = 'unknown' and c.calls is null;
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
        provider_outcome, model, usage, provider_id, duration_ms, wire_requests, calls
      ) select
        v_generation_id, 1 + coalesce(max(c.number), 1), (p_change ->> 'user_id')::uuid, (p_change ->> 'token')::uuid,
        p_at, p_at, 'abandoned', 'LEASE_LOST', false, false,
        v_call ->> 'provider_outcome', v_call ->> 'model', nullif(v_call -> 'usage', 'null'), v_call ->> 'provider_id',
        (v_call ->> 'duration_ms')::integer, (v_call ->> 'wire_requests')::integer, nullif(v_call -> 'calls', 'null')
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
