create function ai_retry.closed(p_open public.ai_retry_open, p_end jsonb) returns jsonb
language sql immutable security invoker set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.jsonb_build_object(
    'user_id', p_open.user_id, 'generation_id', p_open.generation_id, 'number', p_open.number,
    'outcome', p_end -> 'outcome', 'code', p_end -> 'code', 'is_accepted', p_open.accepted_at is not null,
    'request_id', p_open.request_id, 'traceparent', p_open.traceparent)
$$;
revoke all on function ai_retry.closed(public.ai_retry_open, jsonb) from public, anon, authenticated;
grant execute on function ai_retry.closed(public.ai_retry_open, jsonb) to service_role;
comment on function ai_retry.closed(public.ai_retry_open, jsonb) is 'What a begin reports of an attempt that it closed in passing.';
