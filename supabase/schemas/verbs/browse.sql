create function public.ai_retry_browse(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
begin
  if ai_retry.read_change(p_request, '{user_id,before,statuses,page,rule}') -> 'user_id' is null then
    raise exception 'ai-retry: a list of no user''s generations' using errcode = 'invalid_parameter_value';
  end if;
  return public.ai_retry_find(p_request);
end
$$;
revoke all on function public.ai_retry_browse(text) from public, anon, authenticated;
grant execute on function public.ai_retry_browse(text) to service_role;
comment on function public.ai_retry_browse(text) is
  'One page of one user''s generations, newest first, as ai_retry_find returns it. Writes nothing.';
