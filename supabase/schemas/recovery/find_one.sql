create function public.ai_retry_find_one(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{generation_id,rule}');
  v_id constant uuid := (v_request ->> 'generation_id')::uuid;
begin
  return ai_retry.found(v_id, ai_retry.last_error(v_id), v_request -> 'rule');
end
$$;
revoke all on function public.ai_retry_find_one(text) from public, anon, authenticated;
grant execute on function public.ai_retry_find_one(text) to service_role;
comment on function public.ai_retry_find_one(text) is
  'A generation of whatever user and status, as ai_retry_find returns it; null when it is absent. For operators. Writes '
  'nothing.';
