create function public.ai_retry_record_recovery(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{run_id,plan_id,operator,plan,counts}');
  v_run_id constant uuid := (v_request ->> 'run_id')::uuid;
  v_plan_id constant text := v_request ->> 'plan_id';
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_started_at timestamptz;
  v_user record;
  v_constraint text;
begin
  insert into public.ai_retry_recoveries (run_id, plan_id, operator, plan, started_at)
    values (v_run_id, v_plan_id, v_request ->> 'operator', v_request -> 'plan', v_now)
    on conflict (run_id) do nothing;
  update public.ai_retry_recoveries r
    set ended_at = v_now, counts = v_request -> 'counts'
    where r.run_id = v_run_id and r.ended_at is null and v_request ? 'counts'
    returning r.started_at into v_started_at;
  if found then
    perform ai_retry.announce('recovery.ended', v_run_id::text, pg_catalog.jsonb_build_object(
      'run_id', v_run_id, 'plan_id', v_plan_id, 'counts', v_request -> 'counts'), v_now);
    begin  -- all events or none; only a lock or a conflict undoes the transaction, which is sent again
      set constraints all deferred;
      for v_user in
        select u.user_id, count(*)::integer as retried, (count(*) filter (where u.succeeded))::integer as succeeded
        from (
          select a.user_id, a.outcome = 'succeeded' as succeeded from public.ai_retry_attempts a
          where a.idempotency_key = 'plan:' || v_plan_id and a.idempotency_key like 'plan:%'
            and a.started_at >= v_started_at
          union all
          select o.user_id, false from public.ai_retry_open o
          where o.idempotency_key = 'plan:' || v_plan_id and o.started_at >= v_started_at
        ) u
        group by u.user_id
      loop
        perform ai_retry.app_report_recovery(
          v_user.user_id, v_run_id, v_plan_id, v_user.retried, v_user.succeeded, v_now);
      end loop;
      set constraints all immediate;
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others or assert_failure or query_canceled then
        get stacked diagnostics v_constraint = constraint_name;
        update public.ai_retry_recoveries r
          set events_refused_by = coalesce(nullif(v_constraint, ''), sqlstate) where r.run_id = v_run_id;
    end;
  end if;
  return (
    select pg_catalog.jsonb_build_object('events_refused_by', r.events_refused_by)
    from public.ai_retry_recoveries r where r.run_id = v_run_id
  );
end
$$;
revoke all on function public.ai_retry_record_recovery(text) from public, anon, authenticated;
grant execute on function public.ai_retry_record_recovery(text) to service_role;
comment on function public.ai_retry_record_recovery(text) is
  'Records that a run of a plan began and, with its counts, that it ended: then also one event per user it concerned. '
  'Returns what refused the events, if the app did. Idempotent by run.';
