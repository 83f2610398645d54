create function public.ai_retry_record_recovery(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
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
revoke all on function public.ai_retry_record_recovery(text) from public, anon, authenticated;
grant execute on function public.ai_retry_record_recovery(text) to service_role;
comment on function public.ai_retry_record_recovery(text) is
  'Records that a run of a plan began and, with its counts, that it ended: then also one event per user it concerned. '
  'Returns what refused the events, if the app did. Idempotent by run.';
