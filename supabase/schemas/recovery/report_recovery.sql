create function ai_retry.report_recovery(p_run_id uuid, p_plan_id text, p_started_at timestamptz, p_at timestamptz)
returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_key constant text := 'plan:' || p_plan_id;
  v_user record;
  v_sqlstate text;
  v_constraint text;
begin
  set constraints all deferred;
  for v_user in
    select u.user_id, count(*)::integer as retried, (count(*) filter (where u.succeeded))::integer as succeeded
    from (
      select a.user_id, a.outcome = 'succeeded' as succeeded
      from public.ai_retry_attempts a
      where a.idempotency_key = v_key and a.idempotency_key like 'plan:%' and a.started_at >= p_started_at
      union all
      select o.user_id, false from public.ai_retry_open o
      where o.idempotency_key = v_key and o.started_at >= p_started_at
    ) u
    group by u.user_id
  loop
    perform ai_retry.app_report_recovery(
      v_user.user_id, p_run_id, p_plan_id, v_user.retried, v_user.succeeded, p_at);
  end loop;
  set constraints all immediate;
  return null;
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others or assert_failure or query_canceled then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_constraint = constraint_name;
    return coalesce(nullif(v_constraint, ''), v_sqlstate);
end
$$;
revoke all on function ai_retry.report_recovery(uuid, text, timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.report_recovery(uuid, text, timestamptz, timestamptz) to service_role;
comment on function ai_retry.report_recovery(uuid, text, timestamptz, timestamptz) is
  'Reports to the app what a run did, one event for each user concerned; returns what refused them, and writes none then. '
  'Only a lock or a conflict undoes the transaction, which is sent again.';
