create function public.ai_retry_begin(p_change text)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_change constant jsonb := ai_retry.read_change(p_change, array[
    'user_id', 'generation_id', 'token', 'as_of', 'version', 'rule', 'max_live', 'max_used', 'open', 'run']);
  v_user_id constant uuid := v_change ->> 'user_id';
  v_generation_id constant uuid := v_change ->> 'generation_id';
  v_status constant text := pg_catalog.split_part(v_change ->> 'version', '/', 1);
  v_start constant jsonb := coalesce(v_change -> 'run', v_change -> 'open');
  v_row jsonb;
  v_now timestamptz;
  v_applied boolean;
begin
  if v_start ? 'expires_after_seconds' and not ai_retry.has_queue() then
    return pg_catalog.jsonb_build_object('applied', false, 'has_queue', false);
  end if;
  perform ai_retry.lock_user(v_user_id);
  v_now := pg_catalog.clock_timestamp();
  if v_start is null then
    perform ai_retry.close_over(v_user_id, null, v_now);
    perform ai_retry.fill_line(v_user_id, v_now);
    return pg_catalog.jsonb_build_object('applied', true);
  end if;
  v_applied := v_now <= (v_change ->> 'as_of')::timestamptz + interval '10 seconds'
    and ai_retry.version(v_user_id, v_generation_id, v_status) = v_change ->> 'version';
  if v_applied then
    v_row := ai_retry.app_lock(v_generation_id, '5ms');
    v_applied := (v_row ->> 'user_id')::uuid = v_user_id and v_row ->> 'status' = v_status
      and not (v_row -> 'hidden')::boolean;
  end if;
  if v_applied then
    perform ai_retry.close_over(v_user_id, v_generation_id, v_now);
    v_applied := ai_retry.has_room(v_change, v_start, v_now);
  end if;
  if v_applied then
    perform ai_retry.app_write(
      v_generation_id, case when v_start ? 'lease_seconds' then 'processing' else 'queued' end, null, null, v_now);
    perform ai_retry.start(v_change, v_start, v_now);
    if v_start ? 'expires_after_seconds' then
      perform ai_retry.fill_line(v_user_id, v_now);
    end if;
  end if;
  return pg_catalog.jsonb_build_object(
    'applied', coalesce(v_applied, false),
    'snapshot', case when v_applied and v_start ? 'lease_seconds' then null else ai_retry.snapshot(
      ai_retry.app_read(v_generation_id), v_change -> 'rule', (v_change ->> 'token')::uuid, v_now) end);
end
$$;
comment on function public.ai_retry_begin(text) is
  'Closes what is over for a user; then opens an attempt, or turns the queued one to running. Stale (applied: false, with '
  'the fresh snapshot) when the version, the age, a ceiling or the route is not as the change expects.';
