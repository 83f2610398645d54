create function public.ai_retry_settle(p_change text) returns jsonb
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
