create function ai_retry.note(p_route text, p_outage jsonb, p_started_at timestamptz, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_doubts integer;
  v_slots integer;
  v_messages bigint[];
begin
  if p_outage is not null then
    delete from public.ai_retry_outages o
      where o.route in (
        select f.route from public.ai_retry_outages f
        where greatest(f.not_before, f.held_until) <= p_at - interval '1 day' for update skip locked);
    insert into public.ai_retry_outages as o (route, not_before, since, failures, doubts, slots)
      values (p_route, p_at, '-infinity', 0, 1, 64)
      on conflict (route) do update set doubts = o.doubts + 1
      returning o.doubts into v_doubts;
    if v_doubts >= (p_outage ->> 'doubts')::integer then
      update public.ai_retry_outages o
        set not_before = greatest(o.not_before, p_at
            + pg_catalog.make_interval(secs => (p_outage ->> 'wait_seconds')::double precision)),
          began_at = case when o.since > '-infinity' and o.failures > 0 then o.began_at else p_at end,
          since = p_at, failures = greatest(o.failures, (p_outage ->> 'failures')::integer), doubts = 0, slots = 1
        where o.route = p_route;
    end if;
    return;
  end if;
  select o.slots into v_slots from public.ai_retry_outages o
    where o.route = p_route and o.since <= p_started_at and coalesce(o.held_until <= p_at, true)
    for update skip locked;  -- whoever notes the same just now needs no help
  if not found then
    return;
  elsif v_slots >= 64 then
    delete from public.ai_retry_outages o where o.route = p_route;
  else
    update public.ai_retry_outages o set slots = least(o.slots * 2, 64), failures = 0, doubts = 0 where o.route = p_route;
  end if;
  if not ai_retry.has_queue() then
    return;
  end if;
  begin
    -- Where any number may run, no attempt waits longer than until it is due; so many at once are no burden.
    v_messages := array(
      select s.message_id
      from (
        select o.message_id, o.accepted_at, row_number() over (partition by o.user_id order by o.accepted_at) as place
        from public.ai_retry_open o join pgmq.q_ai_retry m on m.msg_id = o.message_id
        where o.route = p_route and o.lease_expires_at is null and (v_slots >= 64 or o.due_at <= p_at)
          and m.vt > greatest(o.due_at, p_at)
      ) s
      order by s.place, s.accepted_at
      limit (
        select greatest(0, case when v_slots >= 64 then 1000 else v_slots * 2 end - count(*)) from public.ai_retry_open o
        where o.route = p_route and o.lease_expires_at > p_at));
    perform pgmq.set_vt('ai_retry', w.msg_id, greatest(0, ceil(extract(epoch from o.due_at - p_at)))::integer)
      from (select m.msg_id from pgmq.q_ai_retry m where m.msg_id = any (v_messages) for update skip locked) w
      join public.ai_retry_open o on o.message_id = w.msg_id;
  exception when others then  -- it is locked, or was dropped just now: an attempt that waits looks by itself, later
    raise warning 'ai-retry: messages could not be shown (%)', sqlstate;
  end;
exception when lock_not_available then
  return;  -- another settle notes the same just now
end
$$;
revoke all on function ai_retry.note(text, jsonb, timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.note(text, jsonb, timestamptz, timestamptz) to service_role;
comment on function ai_retry.note(text, jsonb, timestamptz, timestamptz) is
  'Closes a route for a while, once so many failures came since its last answer, and forgets routes that were available '
  'for a day. Without an outage: a provider that was unavailable answered, twice as many calls may run, in the end any '
  'number, and the messages of as many attempts that wait are shown, as soon as they are due: every user''s first one '
  'before any user''s second. No answer ends what an operator holds.';
