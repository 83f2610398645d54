create function public.ai_retry_begin(p_change text) returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' as $$
declare
  v_change constant jsonb := ai_retry.read_change(
    p_change, '{user_id,generation_id,token,as_of,version,rule,max_live,max_used,open,run}');
  v_user_id constant uuid := (v_change ->> 'user_id')::uuid;
  v_generation_id constant uuid := (v_change ->> 'generation_id')::uuid;
  v_token constant uuid := (v_change ->> 'token')::uuid;
  v_rule constant jsonb := v_change -> 'rule';
  v_status constant text := pg_catalog.split_part(v_change ->> 'version', '/', 1);
  v_start constant jsonb := coalesce(v_change -> 'run', v_change -> 'open');
  v_route constant text := v_start ->> 'route';
  v_calls constant boolean := v_start ->> 'answer_from' is null;
  v_new constant jsonb := nullif(v_start -> 'create', 'null');
  v_known constant jsonb := pg_catalog.jsonb_build_object('id', v_generation_id, 'user_id', v_user_id, 'status', v_status)
    || case when v_new is not null then '{"exists": false}' else '{}'::jsonb end;
  v_becomes constant text := case when v_start ? 'lease_seconds' then 'processing' else 'queued' end;
  v_now timestamptz;
  v_row jsonb;
  v_stands jsonb;
  v_outage public.ai_retry_outages%rowtype;
  v_applied boolean;
  v_closed jsonb;
begin
  if v_start ? 'expires_after_seconds' and not ai_retry.has_queue() then
    return pg_catalog.jsonb_build_object('applied', false, 'has_queue', false);
  end if;
  v_now := ai_retry.lock_user(v_user_id);
  if v_start is null then
    v_closed := ai_retry.close_over(v_user_id, null, v_now);
    perform ai_retry.line(v_user_id, null, null, v_now);
    return pg_catalog.jsonb_build_object('applied', true, 'closed', v_closed);
  end if;
  v_stands := ai_retry.snapshot(v_known, v_rule, v_token, v_now);
  v_applied := v_now <= (v_change ->> 'as_of')::timestamptz + interval '10 seconds'
    and v_stands -> 'version' = v_change -> 'version';
  if v_applied and v_new is null then
    v_row := ai_retry.app_lock(v_generation_id, '5ms');
    v_applied := (v_row ->> 'user_id')::uuid = v_user_id and v_row ->> 'status' = v_status
      and not (v_row -> 'hidden')::boolean;
  end if;
  if v_applied and (v_stands -> 'is_over')::boolean then
    v_closed := ai_retry.close_over(v_user_id, v_generation_id, v_now);
    v_stands := ai_retry.snapshot(v_known, v_rule, v_token, v_now);
  end if;
  -- What was over has been closed: whatever is open is live, and holds its unit.
  v_applied := v_applied
    and (v_change ->> 'max_live' is null or v_stands -> 'live' < v_change -> 'max_live')
    and (v_change ->> 'max_used' is null
      or (v_stands #> '{quota,captured}')::integer + (v_stands #> '{quota,held}')::integer
        < least((v_change -> 'max_used')::integer, (v_stands #> '{quota,limit}')::integer));
  if v_applied and v_route is not null and v_stands -> 'routes' <> '[]' then
    select * into v_outage from ai_retry.outages o where o.route = v_route;
    if found then
      v_applied := v_outage.not_before <= v_now
        -- One begin at a time may become the only probe.
        and (v_outage.slots > 1 or pg_catalog.pg_try_advisory_xact_lock(
          pg_catalog.hashtextextended('ai_retry_route:' || v_route, 0)));
      v_applied := v_applied and v_outage.slots > (
        select count(*) from public.ai_retry_open o where o.route = v_route and o.lease_expires_at > v_now);
    end if;
  end if;
  if v_applied and v_new is not null then
    v_row := ai_retry.create_generation(v_user_id, v_generation_id, v_new, v_becomes, v_now);
    v_applied := (v_row -> 'created')::boolean;
    if v_row ? 'refused' and coalesce(v_closed, '[]') = '[]' then  -- what was closed is reported first
      return v_row - 'created' || '{"applied": false}';
    end if;
  end if;
  if v_applied and v_change ? 'run' then
    update public.ai_retry_open o
      set token = v_token, started_at = v_now, counted = v_calls, route = v_route,
        lease_expires_at = v_now + pg_catalog.make_interval(secs => (v_start -> 'lease_seconds')::double precision),
        renewable_until = v_now + pg_catalog.make_interval(secs => (v_start -> 'longest_seconds')::double precision),
        abandoned_wait_seconds = (v_start -> 'abandoned_wait_seconds')::double precision,
        answer_from = (v_start ->> 'answer_from')::integer,
        provider_outcome = case when v_calls then 'unknown' else o.provider_outcome end
      where o.generation_id = v_generation_id and o.user_id = v_user_id and o.lease_expires_at is null
        and o.number = (v_start -> 'number')::integer;
    v_applied := found;
  elsif v_applied then
    insert into public.ai_retry_open (
      generation_id, user_id, number, token, started_at, charge, waived, operator, idempotency_key, lease_expires_at,
      renewable_until, abandoned_wait_seconds, answer_from, counted, route, provider_outcome,
      due_at, accepted_at, expires_at, status_before, in_line, context_reader, request_digest, request_id, traceparent
    ) values (
      v_generation_id, v_user_id, 1 + pg_catalog.split_part(v_stands ->> 'version', '/', 2)::integer, v_token, v_now,
      (v_start -> 'charge')::boolean, array(select pg_catalog.jsonb_array_elements_text(v_start -> 'waived')),
      v_start ->> 'operator', v_start ->> 'idempotency_key',
      v_now + pg_catalog.make_interval(secs => (v_start ->> 'lease_seconds')::double precision),
      v_now + pg_catalog.make_interval(secs => (v_start ->> 'longest_seconds')::double precision),
      (v_start ->> 'abandoned_wait_seconds')::double precision, (v_start ->> 'answer_from')::integer, v_calls,
      v_route, case when v_calls and v_start ? 'lease_seconds' then 'unknown' else 'not_generated' end,
      case when v_start ? 'wait_seconds' then greatest(v_now, (v_change ->> 'as_of')::timestamptz
        + pg_catalog.make_interval(secs => (v_start ->> 'wait_seconds')::double precision)) end,
      case when v_start ? 'expires_after_seconds' then v_now end,
      v_now + pg_catalog.make_interval(secs => (v_start ->> 'expires_after_seconds')::double precision),
      v_start ->> 'status_before', (v_start ->> 'in_line')::integer, v_start ->> 'context_reader', v_new ->> 'digest',
      v_start ->> 'request_id', v_start ->> 'traceparent'
    ) on conflict (generation_id) do nothing;  -- another user's attempt
    v_applied := found;
    if v_new is not null and not found then  -- nothing of what was created may stay
      raise exception 'ai-retry: another user''s attempt is open' using errcode = 'serialization_failure';
    end if;
  end if;
  if v_applied then
    if v_new is null then
      perform ai_retry.app_write(v_generation_id, v_becomes, null, null, v_now);
    end if;
    if v_start ? 'lease_seconds' and v_new is null then
      return pg_catalog.jsonb_build_object('applied', true, 'closed', v_closed);
    end if;
    perform ai_retry.line(v_user_id, null, null, v_now);
  end if;
  return pg_catalog.jsonb_build_object('applied', coalesce(v_applied, false), 'closed', v_closed, 'snapshot', ai_retry.snapshot(
    coalesce(ai_retry.app_read(v_generation_id), case when v_new is not null then
      ai_retry.proposal(v_generation_id, v_user_id, v_now) end), v_rule, v_token, v_now));
end
$$;
revoke all on function public.ai_retry_begin(text) from public, anon, authenticated;
grant execute on function public.ai_retry_begin(text) to service_role;
comment on function public.ai_retry_begin(text) is
  'Closes what is over for a user; then opens an attempt, or turns the queued one to running; with create, the first one of '
  'a generation that it creates through the binding: refused says what refused that. An attempt that uses a '
  'stored answer makes no call: abandoned, it has cost nothing. Stale (applied: false, with the fresh snapshot) when the '
  'version, the age, a ceiling or the route is not as the change expects.';
