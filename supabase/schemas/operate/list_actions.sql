create function public.ai_retry_list_actions(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
set plan_cache_mode = 'force_custom_plan' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{target,before,page}');
  v_target constant text := v_request ->> 'target';
  v_before constant timestamptz := coalesce((v_request ->> 'before')::timestamptz, 'infinity');
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(l) order by l.at desc, l.id), '[]')
    from (
      select a.* from public.ai_retry_actions a
      where (v_target is null or a.target = v_target) and a.at < v_before
      order by a.at desc limit least((v_request ->> 'page')::integer, 1000)
    ) l
  );
end
$$;
revoke all on function public.ai_retry_list_actions(text) from public, anon, authenticated;
grant execute on function public.ai_retry_list_actions(text) to service_role;
comment on function public.ai_retry_list_actions(text) is
  'A page of what operators did before an instant, the newest first; on one target, if it is given. Reads only.';
