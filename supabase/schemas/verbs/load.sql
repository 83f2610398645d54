create function public.ai_retry_load(p_request text) returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s' set plan_cache_mode = 'force_generic_plan' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{user_id,generation_id,rule,token,creating}');
  v_id constant uuid := (v_request ->> 'generation_id')::uuid;
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  return ai_retry.snapshot(
    coalesce(ai_retry.app_read(v_id), case when v_request ? 'creating' then
      ai_retry.proposal(v_id, (v_request ->> 'user_id')::uuid, v_now) end),
    v_request -> 'rule', (v_request ->> 'token')::uuid, v_now);
end
$$;
revoke all on function public.ai_retry_load(text) from public, anon, authenticated;
grant execute on function public.ai_retry_load(text) to service_role;
comment on function public.ai_retry_load(text) is
  'Reads one generation of any user for a decision: see ai_retry.snapshot. Null when it is absent; creating: then what '
  'a begin finds that creates it. Writes nothing.';
