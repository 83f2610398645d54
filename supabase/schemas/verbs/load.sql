create function public.ai_retry_load(p_request text) returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s' set plan_cache_mode = 'force_generic_plan' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{user_id,generation_id,rule,token}');
begin
  return ai_retry.snapshot(
    ai_retry.app_read((v_request ->> 'generation_id')::uuid), v_request -> 'rule', (v_request ->> 'token')::uuid,
    pg_catalog.clock_timestamp());
end
$$;
revoke all on function public.ai_retry_load(text) from public, anon, authenticated;
grant execute on function public.ai_retry_load(text) to service_role;
comment on function public.ai_retry_load(text) is
  'Reads one generation, whoever owns it, for a decision: see ai_retry.snapshot. Null when it is absent. Writes nothing.';
