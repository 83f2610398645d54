create function public.ai_retry_user_quota(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{user_id,rule}');
  v_user_id constant uuid := (v_request ->> 'user_id')::uuid;
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_snapshot constant jsonb := ai_retry.snapshot(
    ai_retry.proposal(pg_catalog.gen_random_uuid(), v_user_id, v_now), v_request -> 'rule', null, v_now, false);
begin
  return pg_catalog.jsonb_build_object(
    'as_of', v_now, 'quota', v_snapshot -> 'quota', 'live', v_snapshot -> 'live',
    'queued', (
      select count(*) from public.ai_retry_open o where o.user_id = v_user_id and o.lease_expires_at is null),
    'override', (
      select pg_catalog.jsonb_build_object('limit', q.quota_limit, 'window_seconds', least(q.window_seconds, 315576000))
      from public.ai_retry_quotas q where q.user_id = v_user_id and q.quota_limit is not null));
end
$$;
revoke all on function public.ai_retry_user_quota(text) from public, anon, authenticated;
grant execute on function public.ai_retry_user_quota(text) to service_role;
comment on function public.ai_retry_user_quota(text) is
  'A user''s quota and what is used of it, the user''s own one if there is one, and how many attempts are open. Reads only.';
