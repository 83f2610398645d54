create function public.ai_retry_record_action(p_request text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{action,outcome}');
begin
  perform ai_retry.record(v_request -> 'action', v_request ->> 'outcome', pg_catalog.clock_timestamp());
end
$$;
revoke all on function public.ai_retry_record_action(text) from public, anon, authenticated;
grant execute on function public.ai_retry_record_action(text) to service_role;
comment on function public.ai_retry_record_action(text) is
  'Records what an operator is about to do, before it is done; then, by the same id, its outcome. Idempotent.';
