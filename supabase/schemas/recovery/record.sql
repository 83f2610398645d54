create function public.ai_retry_record_recovery(p_request text)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{run_id,plan_id,operator,plan,counts}');
  v_run_id constant uuid := (v_request ->> 'run_id')::uuid;
  v_plan_id constant text := v_request ->> 'plan_id';
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_started_at timestamptz;
  v_refused_by text;
begin
  insert into public.ai_retry_recoveries (run_id, plan_id, operator, plan, started_at)
    values (v_run_id, v_plan_id, v_request ->> 'operator', v_request -> 'plan', v_now)
    on conflict (run_id) do nothing;
  if not v_request ? 'counts' then
    return pg_catalog.jsonb_build_object('events_refused_by', null);
  end if;
  update public.ai_retry_recoveries r
    set ended_at = v_now, counts = v_request -> 'counts'
    where r.run_id = v_run_id and r.ended_at is null
    returning r.started_at into v_started_at;
  if not found then
    select r.events_refused_by into v_refused_by from public.ai_retry_recoveries r where r.run_id = v_run_id;
    return pg_catalog.jsonb_build_object('events_refused_by', v_refused_by);
  end if;
  v_refused_by := ai_retry.report_recovery(v_run_id, v_plan_id, v_started_at, v_now);
  if v_refused_by is not null then
    update public.ai_retry_recoveries r set events_refused_by = v_refused_by where r.run_id = v_run_id;
  end if;
  return pg_catalog.jsonb_build_object('events_refused_by', v_refused_by);
end
$$;
comment on function public.ai_retry_record_recovery(text) is
  'Records that a run of a plan began and, with its counts, that it ended: then also one event per user it concerned. '
  'Returns what refused the events, if the app did. Idempotent by run.';

create function ai_retry.report_recovery(p_run_id uuid, p_plan_id text, p_started_at timestamptz, p_at timestamptz)
returns text
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
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
comment on function ai_retry.report_recovery(uuid, text, timestamptz, timestamptz) is
  'Reports to the app what a run did, one event for each user concerned; returns what refused them, and writes none then. '
  'Only a lock or a conflict undoes the transaction, which is sent again.';
