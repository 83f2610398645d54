create function public.ai_retry_overdue(p_limit integer) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_lacking uuid[] := '{}'::uuid[];
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
        select c.user_id, c.closed_at from public.ai_retry_attempts c where c.unreported
      ) s
      group by s.user_id order by min(s.since) limit p_limit
    ) u
  );
end
$$;
revoke all on function public.ai_retry_overdue(integer) from public, anon, authenticated;
grant execute on function public.ai_retry_overdue(integer) to service_role;
comment on function public.ai_retry_overdue(integer) is
  'Lists users who have attempts that are over or out of time, queued attempts whose generation is no longer theirs, due '
  'attempts that lack a message, or a report that their app has not got: for them ai_retry_begin has something to close. '
  'Reads only.';
