create view ai_retry.outages with (security_invoker = true) as
  select o.* from public.ai_retry_outages o
  where o.since > '-infinity' and o.not_before > pg_catalog.clock_timestamp() - interval '1 day';
revoke all on table ai_retry.outages from public, anon, authenticated;
grant select on table ai_retry.outages to service_role;
comment on view ai_retry.outages is
  'ai-retry: routes that are unavailable, or were within a day. What is older is forgotten, since users may invent models.';

create function ai_retry.note_outage(p_route text, p_outage jsonb, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_doubts integer := 1;
  v_needed constant integer := p_outage ->> 'doubts';
begin
  if p_route is null or p_outage is null then
    return;
  end if;
  delete from public.ai_retry_outages o
    where o.route in (
      select f.route from public.ai_retry_outages f
      where f.not_before <= p_at - interval '1 day' for update skip locked);
  if v_needed > 1 then
    insert into public.ai_retry_outages as o (route, not_before, since, failures, doubts, slots)
    values (p_route, p_at, '-infinity', 0, 1, 64)
    on conflict (route) do update set doubts = o.doubts + 1
    returning o.doubts into v_doubts;
  end if;
  if v_doubts >= v_needed then
    insert into public.ai_retry_outages as o (route, not_before, since, failures, slots)
    values (
      p_route, p_at + pg_catalog.make_interval(secs => (p_outage ->> 'wait_seconds')::double precision), p_at,
      (p_outage ->> 'failures')::integer, 1)
    on conflict (route) do update
      set not_before = greatest(o.not_before, excluded.not_before), since = excluded.since,
        failures = greatest(o.failures, excluded.failures), doubts = 0, slots = 1;
  end if;
exception when lock_not_available then
  return;  -- another settle notes the same just now
end
$$;
comment on function ai_retry.note_outage(text, jsonb, timestamptz) is
  'Closes a route for a while, once so many failures came since its last answer. Forgets routes that were available for a day.';

create function ai_retry.note_answer(p_route text, p_started_at timestamptz, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '5ms'
as $$
declare
  v_slots integer;
  v_messages bigint[];
begin
  select o.slots into v_slots from public.ai_retry_outages o
    where o.route = p_route and o.since <= p_started_at
    for update skip locked;  -- whoever notes the same just now needs no help
  if not found then
    return;
  end if;
  if v_slots >= 64 then
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
end
$$;
comment on function ai_retry.note_answer(text, timestamptz, timestamptz) is
  'A provider that was unavailable answered: twice as many calls may run, in the end any number, and the messages of as many '
  'attempts that wait are shown, as soon as they are due: every user''s first one before any user''s second.';

create function ai_retry.note_elsewhere(p_notes jsonb, p_started_at timestamptz, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_note record;
begin
  for v_note in
    select e ->> 'route' as route, nullif(e -> 'outage', 'null') as outage
    from pg_catalog.jsonb_array_elements(p_notes) e order by 1
  loop
    if v_note.outage is null then
      perform ai_retry.note_answer(v_note.route, p_started_at, p_at);
    else
      perform ai_retry.note_outage(v_note.route, v_note.outage, p_at);
    end if;
  end loop;
end
$$;
comment on function ai_retry.note_elsewhere(jsonb, timestamptz, timestamptz) is
  'What an attempt showed of the routes that it fell back on, always in the same order.';
