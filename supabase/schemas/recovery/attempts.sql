create function public.ai_retry_find_attempts(p_request text)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{key,after,page}');
  v_key constant text := v_request ->> 'key';
  v_after constant uuid := v_request ->> 'after';
  v_page constant integer := v_request ->> 'page';
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'generation_id', l.generation_id, 'number', l.number, 'outcome', l.outcome, 'code', l.code,
      'started_at', l.started_at, 'closed_at', l.closed_at, 'next_attempt_at', l.next_attempt_at, 'usage', l.usage, 'was_turned_away', l.was_turned_away
    ) order by l.generation_id), '[]')
    from (
      select distinct on (u.generation_id) u.*
      from (
        (select distinct on (a.generation_id) a.generation_id, a.number, a.outcome, a.code, a.started_at, a.closed_at,
            a.next_attempt_at, a.usage,
            a.outcome = 'failed' and a.transient is true and not (a.counted or a.operator_fault) as was_turned_away
          from public.ai_retry_attempts a
          where a.idempotency_key = v_key and a.idempotency_key like 'plan:%' and a.generation_id > v_after
          order by a.generation_id, a.number desc
          limit v_page)
        union all
        (select o.generation_id, o.number, null, null, o.started_at, null,
            coalesce(o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at), null, false
          from public.ai_retry_open o
          where o.idempotency_key = v_key and o.idempotency_key like 'plan:%' and o.generation_id > v_after
          order by o.generation_id
          limit v_page)
      ) u
      order by u.generation_id, u.number desc
      limit v_page
    ) l
  );
end
$$;
comment on function public.ai_retry_find_attempts(text) is
  'The last attempt that a plan made at each generation, a page of them by generation. Writes nothing.';
