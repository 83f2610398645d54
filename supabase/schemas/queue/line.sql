create function ai_retry.has_queue()
returns boolean
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return case when pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('pgmq'), 'usage')
    then pg_catalog.to_regclass('pgmq.q_ai_retry') is not null else false end;
end
$$;
comment on function ai_retry.has_queue() is
  'Whether Supabase Queues (pgmq) and the queue ai_retry are there, and this role may use them.';

create function ai_retry.fill_line(p_user_id uuid, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '5ms'
as $$
declare
  v_open record;
  v_line record;
begin
  if not ai_retry.has_queue() then
    return;
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
    select count(*) as all_of_them, count(*) filter (where o.lease_expires_at is not null or o.due_at <= v_open.due_at) as due
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
  end loop;
exception when others then  -- it is locked, or was dropped just now: a message is a hint, and ai_retry_overdue finds who lacks one
  raise warning 'ai-retry: a message could not be sent (%)', sqlstate;
end
$$;
comment on function ai_retry.fill_line(uuid, timestamptz) is
  'Sends messages for the user''s queued attempts, the one that is due first at the front, as many as may be in line.';

create function ai_retry.move(p_message_id bigint, p_until timestamptz, p_at timestamptz)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '5ms'
as $$
begin
  if p_message_id is null or not ai_retry.has_queue() then
    return;
  end if;
  if p_until is null then
    perform pgmq.delete('ai_retry', p_message_id);
  else
    perform pgmq.set_vt('ai_retry', p_message_id, greatest(0, ceil(extract(epoch from p_until - p_at)))::integer);
  end if;
exception when others then  -- it is locked, or was dropped just now: it comes again, and finds nothing to do
  raise warning 'ai-retry: a message could not be moved (%)', sqlstate;
end
$$;
comment on function ai_retry.move(bigint, timestamptz, timestamptz) is
  'Hides a message until then, or deletes it when that is null. Does nothing where the queue, or the message, is not there.';
