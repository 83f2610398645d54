create function public.ai_retry_settle(p_change text)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_change constant jsonb := ai_retry.read_change(
    p_change, '{user_id,generation_id,token,found,rule,success,closing,call,outage,answered,elsewhere}');
  v_user_id constant uuid := v_change ->> 'user_id';
  v_generation_id constant uuid := v_change ->> 'generation_id';
  v_token constant uuid := v_change ->> 'token';
  v_call constant jsonb := v_change -> 'call';
  v_open record;
  v_row jsonb;
  v_end jsonb;
  v_now timestamptz;
  v_found text;
  v_applied boolean := false;
  v_known boolean := true;
begin
  perform ai_retry.lock_user(v_user_id);
  v_row := ai_retry.app_lock(v_generation_id, '25ms');
  v_now := pg_catalog.clock_timestamp();
  select o.user_id, o.number, o.started_at, o.accepted_at, o.status_before, o.route, exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.outcome = 'succeeded') as has_session
    into v_open
    from public.ai_retry_open o where o.generation_id = v_generation_id and o.token = v_token;
  if found then
    v_found := case
      when v_row is null then 'gone'
      when (v_row ->> 'user_id')::uuid is distinct from v_user_id or (v_row -> 'hidden')::boolean then 'foreign'
      when v_row ->> 'status' = 'success' or v_open.has_session then 'succeeded'
      else 'ready' end;
    v_applied := v_found = v_change ->> 'found';
  else
    perform ai_retry.store_late(v_change, v_now);
    v_known := exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.token = v_token);
  end if;
  if v_applied then
    v_end := coalesce(v_change -> 'closing', ai_retry.succeed(
      v_open.user_id, v_open.number, v_open.accepted_at is not null, v_change, v_now));
    if v_found = 'ready' then
      perform ai_retry.tell(
        v_user_id, v_generation_id,
        case when (v_end -> 'goes_on')::boolean and v_open.accepted_at is not null then 'queued'
          else coalesce(v_end ->> 'status', v_open.status_before, 'timeout') end,
        (v_call ->> 'duration_ms')::integer, v_end ->> 'code', v_end ->> 'message', v_open.number, v_now);
    elsif v_found = 'foreign' and v_row ->> 'status' in ('queued', 'processing') then
      perform ai_retry.tell(  -- hidden, or another user's: no attempt works on it any more
        v_user_id, v_generation_id, coalesce(v_end ->> 'status', v_open.status_before, 'timeout'), null, null, null,
        v_open.number, v_now);
    end if;
    -- The open row is touched last: keep must never wait for the app.
    if not ai_retry.close(v_generation_id, v_token, v_end, v_call, v_now) then
      raise exception 'the attempt vanished while it was settled' using errcode = 'serialization_failure';
    end if;
    if v_change ? 'outage' then
      perform ai_retry.note_outage(v_open.route, v_change -> 'outage', v_now);
    elsif (v_change -> 'answered')::boolean and v_open.route is not null then
      perform ai_retry.note_answer(v_open.route, v_open.started_at, v_now);
    end if;
    if v_change ? 'elsewhere' then
      perform ai_retry.note_elsewhere(v_change -> 'elsewhere', v_open.started_at, v_now);
    end if;
  end if;
  return pg_catalog.jsonb_build_object('applied', v_applied, 'known', v_known, 'snapshot', ai_retry.snapshot(
    coalesce(v_end -> 'generation', ai_retry.app_read(v_generation_id)) - 'prompt_data', v_change -> 'rule', v_token,
    v_now, not v_applied));
end
$$;
comment on function public.ai_retry_settle(text) is
  'Closes one attempt, by its token: with its session, or without, then informing the app where the generation is still '
  'its user''s and not a success. Stale when the generation is not as the change expects. A token that is not open changes '
  'nothing, but that its paid answer is stored, once; known: an attempt, open or closed, has it.';
