create function public.ai_retry_keep(p_change text) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_change constant jsonb := ai_retry.read_change(p_change, '{user_id,generation_id,token,answer,cause,wait_seconds,call}');
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  -- One update of columns in no key: no user lock, no foreign key, no table of the app, no queue can be in its way.
  update public.ai_retry_open o
    set answer = v_change -> 'answer', kept_cause = v_change ->> 'cause', counted = false, lease_expires_at = v_now,
      abandoned_wait_seconds = (v_change ->> 'wait_seconds')::double precision, call = v_change -> 'call',
      provider_outcome = v_change #>> '{call,provider_outcome}'
    where o.generation_id = (v_change ->> 'generation_id')::uuid and o.token = (v_change ->> 'token')::uuid
      and o.kept_cause is null;
  if not found and not exists (
    select from public.ai_retry_open o
    where o.generation_id = (v_change ->> 'generation_id')::uuid and o.token = (v_change ->> 'token')::uuid)
  then
    perform ai_retry.store_late(v_change, v_now);
  end if;
end
$$;
revoke all on function public.ai_retry_keep(text) from public, anon, authenticated;
grant execute on function public.ai_retry_keep(text) to service_role;
comment on function public.ai_retry_keep(text) is
  'The last resort: stores a paid answer that could not be settled with its open attempt, and ends the lease. A later '
  'begin closes the attempt with a rejected session. An attempt that is closed already keeps a late answer.';
