create function public.ai_retry_take(p_request text)
returns jsonb
language plpgsql volatile security invoker
set search_path = ''
as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, array['limit', 'visibility_seconds', 'poll_seconds', 'rule']);
  v_message record;
  v_taken jsonb := '[]'::jsonb;
  c_uuid constant text := '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
begin
  if not ai_retry.has_queue() then
    return null;
  end if;
  for v_message in
    select m.msg_id, m.message
    from pgmq.read('ai_retry', (v_request ->> 'visibility_seconds')::integer, (v_request ->> 'limit')::integer) m
  loop
    if v_message.message ->> 'user_id' ~ c_uuid and v_message.message ->> 'generation_id' ~ c_uuid then
      v_taken := v_taken || pg_catalog.jsonb_build_object(
        'message_id', v_message.msg_id, 'user_id', v_message.message -> 'user_id',
        'generation_id', v_message.message -> 'generation_id',
        'snapshot', ai_retry.snapshot(
          ai_retry.app_read((v_message.message ->> 'generation_id')::uuid), v_request -> 'rule', null,
          pg_catalog.clock_timestamp()));
    else
      perform pgmq.delete('ai_retry', v_message.msg_id);  -- nothing of ours
    end if;
  end loop;
  return v_taken;
end
$$;
comment on function public.ai_retry_take(text) is
  'Takes messages, hides them from other workers for a while, and returns them with the snapshots of what they are about. '
  'Null without a queue.';

create function public.ai_retry_overdue(p_limit integer)
returns jsonb
language plpgsql stable security invoker
set search_path = ''
as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(u.user_id), '[]')
    from (
      select o.user_id, min(coalesce(o.lease_expires_at, o.due_at)) as since
      from public.ai_retry_open o
      where o.lease_expires_at <= v_now or o.lease_expires_at is null and o.expires_at <= v_now
        or o.lease_expires_at is null and o.due_at <= v_now and ai_retry.lacks_message(o)
      group by o.user_id
      union all
      select c.user_id, min(c.closed_at) from public.ai_retry_closed c where c.untold group by c.user_id
      order by since limit p_limit
    ) u
  );
end
$$;
comment on function public.ai_retry_overdue(integer) is
  'Lists users who have attempts that are over or out of time, due attempts that lost their message, or a report that '
  'their app has not got: for them ai_retry_begin has something to close. Reads only.';

create function ai_retry.lacks_message(p_open public.ai_retry_open)
returns boolean
language plpgsql stable security invoker
set search_path = ''
as $$
begin
  if not ai_retry.has_queue() then
    return false;
  end if;
  return p_open.message_id is not null
    and not exists (select from pgmq.q_ai_retry q where q.msg_id = p_open.message_id)
    or p_open.message_id is null and not exists (
      select from public.ai_retry_open o join pgmq.q_ai_retry q on q.msg_id = o.message_id
      where o.user_id = p_open.user_id);
end
$$;
comment on function ai_retry.lacks_message(public.ai_retry_open) is
  'Whether a due attempt''s message is lost, or none of its user''s attempts has one.';
