create function ai_retry.line(p_user_id uuid, p_message_id bigint, p_until timestamptz, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '5ms' as $$
declare
  v_open record;
  v_line record;
begin
  if not ai_retry.has_queue() then
    return;
  elsif p_message_id is not null and p_until is null then
    perform pgmq.delete('ai_retry', p_message_id);
  elsif p_message_id is not null then
    perform pgmq.set_vt('ai_retry', p_message_id, greatest(0, ceil(extract(epoch from p_until - p_at)))::integer);
  end if;
  loop
    -- Who is next in line: the user's queued attempt without a message that is due first.
    select o.generation_id, o.in_line, greatest(o.due_at, p_at) as due_at into v_open
      from public.ai_retry_open o
      where o.user_id = p_user_id and o.lease_expires_at is null
        and not exists (select from pgmq.q_ai_retry q where q.msg_id = o.message_id)
      order by o.due_at, o.accepted_at, o.generation_id limit 1;
    exit when not found;
    -- As many messages of one user are due as attempts of theirs may run. Some more may wait for their time.
    select count(*) as all_of_them,
        count(*) filter (where o.lease_expires_at is not null or o.due_at <= v_open.due_at) as due
      into v_line
      from public.ai_retry_open o join pgmq.q_ai_retry q on q.msg_id = o.message_id
      where o.user_id = p_user_id;
    exit when v_line.due >= v_open.in_line or v_line.all_of_them >= 8 * v_open.in_line;
    update public.ai_retry_open o
      set message_id = (
        select s.* from pgmq.send(
          'ai_retry',
          pg_catalog.jsonb_build_object('user_id', p_user_id, 'generation_id', v_open.generation_id),
          greatest(0, ceil(extract(epoch from v_open.due_at - p_at)))::integer) s)
      where o.generation_id = v_open.generation_id;
    -- Workers that found a message just now look again by themselves; who commits a notification waits for others who do,
    -- and fails where the server's queue of them is full, since some session of whatever app does not read.
    if v_open.due_at <= p_at and not exists (select from pgmq.q_ai_retry q where q.vt <= p_at)
        and pg_catalog.pg_notification_queue_usage() < 0.5 then
      perform pg_catalog.pg_notify('ai_retry', '');
    end if;
  end loop;
exception when others then  -- it is locked, or was dropped just now: a message is a hint, and ai_retry_overdue finds who lacks one
  raise warning 'ai-retry: the queue could not be changed (%)', sqlstate;
end
$$;
revoke all on function ai_retry.line(uuid, bigint, timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.line(uuid, bigint, timestamptz, timestamptz) to service_role;
comment on function ai_retry.line(uuid, bigint, timestamptz, timestamptz) is
  'Hides a message until then, or deletes it when that is null. Then sends messages for the user''s queued attempts, the '
  'one that is due first at the front, as many as may be in line; no user: none. Notifies the workers that listen of what '
  'is due now, unless messages wait already. Does nothing where the queue is not there.';
