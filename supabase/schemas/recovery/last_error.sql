create function ai_retry.last_error(p_generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(
    (select pg_catalog.jsonb_build_object(
        'code', coalesce(a.code, 'UNKNOWN'), 'reason', a.reason, 'at', a.closed_at, 'ours', true)
      from public.ai_retry_attempts a
      where a.generation_id = p_generation_id and a.outcome in ('failed', 'abandoned')
      order by a.number desc limit 1),
    (select pg_catalog.jsonb_build_object(
        'code', coalesce(e.error ->> 'code', 'UNKNOWN'), 'reason', null, 'at', e.error -> 'at', 'ours', false)
      from ai_retry.app_last_error(p_generation_id) e (error) where e.error is not null));
end
$$;
revoke all on function ai_retry.last_error(uuid) from public, anon, authenticated;
grant execute on function ai_retry.last_error(uuid) to service_role;
comment on function ai_retry.last_error(uuid) is
  'The last error of a generation: of our last attempt that has one, else the app''s last one, without its message.';
