create function public.ai_retry_amend(p_change text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_change constant jsonb := ai_retry.read_change(p_change, '{renew,discard,put_back,postpone}');
  v_what constant jsonb :=
    coalesce(v_change -> 'renew', v_change -> 'put_back', v_change -> 'postpone', v_change -> 'discard');
  v_user_id constant uuid := (v_what ->> 'user_id')::uuid;
  v_generation_id constant uuid := (v_what ->> 'generation_id')::uuid;
  v_message_id constant bigint := (v_what ->> 'message_id')::bigint;
  v_wait constant interval := pg_catalog.make_interval(secs => (v_what ->> 'wait_seconds')::double precision);
  v_now timestamptz := pg_catalog.clock_timestamp();
  v_open public.ai_retry_open%rowtype;
  v_row jsonb;
  v_applied boolean := true;
begin
  if v_change ? 'renew' then
    -- One row, without the user's lock, also of an attempt that is over: closing looks at the lease as it deletes.
    update public.ai_retry_open o
      set lease_expires_at = greatest(o.lease_expires_at, least(
        v_now + pg_catalog.make_interval(secs => (v_what ->> 'lease_seconds')::double precision), o.renewable_until))
      where o.generation_id = v_generation_id and o.token = (v_what ->> 'token')::uuid
        and o.lease_expires_at is not null and o.kept_cause is null;
    return pg_catalog.jsonb_build_object('applied', found);
  end if;
  v_now := ai_retry.lock_user(v_user_id);
  if v_change ? 'put_back' then
    v_row := ai_retry.app_lock(v_generation_id, '25ms');
    -- Under a new token: a worker that still holds the old one can settle nothing.
    update public.ai_retry_open o
      set token = pg_catalog.gen_random_uuid(), lease_expires_at = null, renewable_until = null,
        provider_outcome = v_what ->> 'provider_outcome',
        wire_requests = o.wire_requests + (v_what ->> 'wire_requests')::integer,
        route = case when v_what ? 'outage' then o.route end,
        due_at = least(v_now + v_wait, case when o.expires_at > v_now then o.expires_at end)
      where o.generation_id = v_generation_id and o.token = (v_what ->> 'token')::uuid
        and o.accepted_at is not null and o.lease_expires_at is not null and o.kept_cause is null
      returning * into v_open;
    v_applied := found;
    if v_applied and v_row ->> 'status' = 'processing' and (v_row ->> 'user_id')::uuid = v_open.user_id then
      perform ai_retry.app_write(v_generation_id, 'queued', null, null, v_now);
    end if;
    perform ai_retry.line(null, v_open.message_id, v_open.due_at, v_now);
    if v_open.route is not null then  -- it met an outage
      perform ai_retry.note(v_open.route, v_what -> 'outage', null, v_now);
    end if;
    if v_applied and v_what -> 'elsewhere' <> '[]' then
      perform ai_retry.note(e.route, nullif(e.outage, 'null'), v_open.started_at, v_now)  -- always in the same order
        from (
          select r.* from pg_catalog.jsonb_to_recordset(v_what -> 'elsewhere') r (route text, outage jsonb) order by 1
        ) e;
    end if;
  elsif v_change ? 'postpone' then
    update public.ai_retry_open o
      set route = case when o.lease_expires_at is null then v_what ->> 'route' else o.route end,
        due_at = case when o.lease_expires_at is null then least(
          greatest(o.due_at, v_now + v_wait), case when o.expires_at > v_now then o.expires_at end) else o.due_at end
      where o.generation_id = v_generation_id and o.user_id = v_user_id and o.message_id = v_message_id
      returning * into v_open;
    v_applied := found;
    perform ai_retry.line(null, v_message_id, coalesce(
      greatest(v_open.lease_expires_at, case when v_open.lease_expires_at is not null then v_now + v_wait end),
      least(v_open.due_at + pg_catalog.make_interval(secs => (v_what ->> 'spread_seconds')::double precision),
        case when v_open.expires_at > v_now then v_open.expires_at end)), v_now);
  else
    v_applied := coalesce(
      (ai_retry.app_read(v_generation_id) ->> 'user_id')::uuid = v_user_id, false) and not exists (
      select from public.ai_retry_open o
      where o.generation_id = v_generation_id and (o.answer_from is not null or o.answer is not null));
    if v_applied then
      with gone as (
        delete from public.ai_retry_answers a where a.generation_id = v_generation_id returning a.generation_id, a.number
      )
      update public.ai_retry_attempts c set discarded_at = v_now, discarded_by = v_what ->> 'operator'
        from gone where c.generation_id = gone.generation_id and c.number = gone.number;
      v_applied := found;
    end if;
  end if;
  return pg_catalog.jsonb_build_object('applied', v_applied);
end
$$;
revoke all on function public.ai_retry_amend(text) from public, anon, authenticated;
grant execute on function public.ai_retry_amend(text) to service_role;
comment on function public.ai_retry_amend(text) is
  'Prolongs the lease of a running attempt (renew); turns a running accepted attempt back to queued, due after the wait: no '
  'attempt is used up, and its token ends (put_back); puts a message back, and its queued attempt with it, or deletes one '
  'that belongs to no open attempt (postpone); drops stored answers (discard). Closes nothing.';
