create function ai_retry.wake(p_route text, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
  v_messages bigint[];
begin
  -- Who is locked just now looks by itself, within a minute or so.
  v_ids := array(
    select s.generation_id
    from (
      select o.generation_id, o.accepted_at, row_number() over (partition by o.user_id order by o.accepted_at) as place
      from public.ai_retry_open o where o.route = p_route and o.lease_expires_at is null
    ) s
    order by s.place, s.accepted_at limit 1000);
  with shown as (
    update public.ai_retry_open o set due_at = least(o.due_at, p_at)
      where o.generation_id in (
        select l.generation_id from public.ai_retry_open l
        where l.generation_id = any (v_ids) and l.lease_expires_at is null for update skip locked)
      returning o.message_id
  )
  select pg_catalog.array_agg(s.message_id) into v_messages from shown s;
  if v_messages is null or not ai_retry.has_queue() then
    return;
  end if;
  begin
    perform pgmq.set_vt('ai_retry', w.msg_id, 0)
      from (select m.msg_id from pgmq.q_ai_retry m where m.msg_id = any (v_messages) for update skip locked) w;
  exception when others then  -- it is locked, or was dropped just now: an attempt that waits looks by itself, later
    raise warning 'ai-retry: messages could not be shown (%)', sqlstate;
  end;
end
$$;
revoke all on function ai_retry.wake(text, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.wake(text, timestamptz) to service_role;
comment on function ai_retry.wake(text, timestamptz) is
  'Lets up to 1000 queued attempts that wait for a route look at once, every user''s first one before any user''s second.';
