create function public.ai_retry_attempt_records(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{generation_id}');
  v_id constant uuid := (v_request ->> 'generation_id')::uuid;
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(u.attempt order by u.number), '[]')
    from (
      (select c.number, pg_catalog.to_jsonb(c) - '{token,traceparent,request_digest,unreported}'::text[]
          || pg_catalog.jsonb_build_object('calls', coalesce(c.calls, '[]'), 'stored_at', (
            select w.stored_at from public.ai_retry_answers w where w.generation_id = v_id and w.number = c.number)) as attempt
        from public.ai_retry_attempts c where c.generation_id = v_id order by c.number desc limit 200)
      union all
      select o.number, pg_catalog.to_jsonb(o) - '{token,traceparent,request_digest,answer,call}'::text[]
        || coalesce(o.call, '{}') || pg_catalog.jsonb_build_object(
          'calls', coalesce(o.call -> 'calls', '[]'),
          'wire_requests', o.wire_requests + coalesce((o.call ->> 'wire_requests')::integer, 0),
          'stored_at', case when o.answer is not null then o.started_at end,
          'due_at', case when o.lease_expires_at is null then o.due_at end)
      from public.ai_retry_open o where o.generation_id = v_id
    ) u
  );
end
$$;
revoke all on function public.ai_retry_attempt_records(text) from public, anon, authenticated;
grant execute on function public.ai_retry_attempt_records(text) to service_role;
comment on function public.ai_retry_attempt_records(text) is
  'What is recorded of a generation''s newest 200 attempts and of the open one, by number, without answers and tokens. Reads '
  'only.';
