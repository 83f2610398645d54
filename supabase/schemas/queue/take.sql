create function public.ai_retry_take(p_request text)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, array['limit', 'visibility_seconds', 'rule']);
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
      begin
        v_taken := v_taken || pg_catalog.jsonb_build_object(
          'message_id', v_message.msg_id, 'user_id', v_message.message -> 'user_id',
          'generation_id', v_message.message -> 'generation_id',
          -- As text: what Python can't hold in one of them, such as 3,000 brackets, must not hide the others.
          'snapshot', ai_retry.snapshot(
            ai_retry.app_read((v_message.message ->> 'generation_id')::uuid), v_request -> 'rule', null,
            pg_catalog.clock_timestamp())::text);
      exception when others or assert_failure then  -- one bad row stops nobody's line: its message comes again
        raise warning 'ai-retry: a generation could not be read (%): %', sqlstate, v_message.message ->> 'generation_id';
      end;
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
set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_lacking uuid[] := '{}';
begin
  if ai_retry.has_queue() then
    v_lacking := array(
      select o.user_id
      from public.ai_retry_open o left join pgmq.q_ai_retry q on q.msg_id = o.message_id
      where o.accepted_at is not null
      group by o.user_id
      having bool_or(o.lease_expires_at is null and o.due_at <= v_now and q.msg_id is null)
        and count(q.msg_id) filter (where o.lease_expires_at is not null or o.due_at <= v_now)
          < min(o.in_line) filter (where o.lease_expires_at is null and o.due_at <= v_now and q.msg_id is null));
  end if;
  return (
    select coalesce(pg_catalog.jsonb_agg(u.user_id), '[]')
    from (
      select s.user_id
      from (
        select o.user_id, coalesce(o.lease_expires_at, o.due_at) as since
        from public.ai_retry_open o
        where o.lease_expires_at <= v_now or o.lease_expires_at is null and (
          o.expires_at <= v_now or o.user_id = any (v_lacking))
        union all
        select q.user_id, v_now
        from (
          select o.user_id, pg_catalog.array_agg(o.generation_id) as ids
          from public.ai_retry_open o where o.lease_expires_at is null group by o.user_id
        ) q
        where exists (select from ai_retry.app_strangers(q.ids, q.user_id))
        union all
        select c.user_id, c.closed_at from public.ai_retry_attempts c where c.untold
      ) s
      group by s.user_id order by min(s.since) limit p_limit
    ) u
  );
end
$$;
comment on function public.ai_retry_overdue(integer) is
  'Lists users who have attempts that are over or out of time, queued attempts whose generation is no longer theirs, due '
  'attempts that lack a message, or a report that their app has not got: for them ai_retry_begin has something to close. '
  'Reads only.';
