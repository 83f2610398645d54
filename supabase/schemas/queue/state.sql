create function public.ai_retry_state() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
begin
  return (
    select pg_catalog.jsonb_build_object(
      'as_of', v_now, 'configured', ai_retry.has_queue(),
      'queued', count(*) filter (where o.lease_expires_at is null),
      'due', count(*) filter (where o.lease_expires_at is null and o.route is null and o.due_at <= v_now),
      'parked', count(*) filter (where o.lease_expires_at is null and o.route is not null),
      'running', count(*) filter (where o.lease_expires_at is not null),
      'oldest_accepted_at', min(o.accepted_at),
      'held', (select count(*) from public.ai_retry_open h where h.charge),
      'kept', (select count(*) from public.ai_retry_answers)
        + (select count(*) from public.ai_retry_open k where k.kept_cause is not null),
      'poisoned', (
        select count(*) from public.ai_retry_attempts c
        where c.code = 'RETRY_POISONED' and c.closed_at > v_now - interval '24 hours'),
      'outages', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
          'route', r.route, 'not_before', r.not_before, 'failures', r.failures, 'slots', r.slots) order by r.route), '[]')
        from ai_retry.outages r))
    from public.ai_retry_open o where o.accepted_at is not null
  );
end
$$;
revoke all on function public.ai_retry_state() from public, anon, authenticated;
grant execute on function public.ai_retry_state() to service_role;
comment on function public.ai_retry_state() is 'Counts what waits and what runs of accepted retries, and lists outages.';
