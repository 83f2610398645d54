create function public.ai_retry_settle(p_change text)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_change constant jsonb := ai_retry.read_change(p_change, array[
    'user_id', 'generation_id', 'token', 'found', 'rule', 'success', 'closing', 'call', 'outage', 'answered']);
  v_user_id constant uuid := v_change ->> 'user_id';
  v_generation_id constant uuid := v_change ->> 'generation_id';
  v_token constant uuid := v_change ->> 'token';
  v_open public.ai_retry_open%rowtype;
  v_row jsonb;
  v_written jsonb;
  v_found text;
  v_now timestamptz;
  v_applied boolean := false;
  v_known boolean := true;
begin
  perform ai_retry.lock_user(v_user_id);
  v_row := ai_retry.app_lock(v_generation_id, '25ms');
  v_now := pg_catalog.clock_timestamp();
  select * into v_open from public.ai_retry_open o where o.generation_id = v_generation_id and o.token = v_token;
  if not found then
    perform ai_retry.store_late(v_change, v_now);
    v_known := exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.token = v_token);
  else
    v_found := case
      when v_row is null then 'gone'
      when (v_row ->> 'user_id')::uuid is distinct from v_user_id or (v_row -> 'hidden')::boolean then 'foreign'
      when v_row ->> 'status' = 'success' or exists (
        select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.outcome = 'succeeded')
        then 'succeeded'
      else 'ready' end;
    v_applied := v_found = v_change ->> 'found';
    if v_applied and v_change ? 'success' then
      v_written := ai_retry.succeed(v_open, v_change, v_now);
    elsif v_applied then
      perform ai_retry.fail(v_open, v_change, v_row, v_now);
    end if;
    if v_applied and v_change ? 'outage' then
      perform ai_retry.note_outage(v_open.route, v_change -> 'outage', v_now);
    elsif v_applied and (v_change -> 'answered')::boolean then
      perform ai_retry.note_answer(v_open.route, v_open.started_at, v_now);
    end if;
  end if;
  v_row := coalesce(v_written, ai_retry.app_read(v_generation_id) - 'prompt_data');
  return pg_catalog.jsonb_build_object('applied', v_applied, 'known', v_known, 'snapshot', case when v_applied
    then ai_retry.settled(v_row, v_change -> 'rule', v_token, v_now)
    else ai_retry.snapshot(v_row, v_change -> 'rule', v_token, v_now) end);
end
$$;
comment on function public.ai_retry_settle(text) is
  'Closes one attempt, by its token: with its session, or without. Stale when the generation is not as the change '
  'expects. A token that is not open changes nothing, but that its paid answer is stored, once; known: an attempt, '
  'open or closed, has it.';
