create function public.ai_retry_drain(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{limit,lease_seconds,results}');
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_taken jsonb;
begin
  update public.ai_retry_installation i set webhook_until = v_now + interval '7 days'
    where i.webhook_until is null or i.webhook_until < v_now + interval '167 hours';
  -- What is locked is left alone, to come again: its user is being deleted, or another process has it.
  with known as materialized (
    select l.id, r.wait_seconds
    from pg_catalog.jsonb_to_recordset(v_request -> 'results') r (id uuid, tries integer, wait_seconds double precision)
    join public.ai_retry_outbox l on l.id = r.id and (r.wait_seconds is null or l.tries = r.tries)
    for update of l skip locked
  ),
  ended as (
    delete from public.ai_retry_outbox o using known k where o.id = k.id and k.wait_seconds is null
  )
  update public.ai_retry_outbox o set due_at = v_now + pg_catalog.make_interval(secs => k.wait_seconds)
    from known k where o.id = k.id and k.wait_seconds is not null;
  with due as materialized (
    select d.id from public.ai_retry_outbox d
    where d.due_at <= v_now and not exists (
      select from public.ai_retry_outbox e
      where e.subject = d.subject and (e.happened_at, e.id) < (d.happened_at, d.id))
    order by d.due_at limit (v_request -> 'limit')::integer for update skip locked
  ),
  taken as (
    update public.ai_retry_outbox o
      set tries = o.tries + 1,
        due_at = v_now + pg_catalog.make_interval(secs => (v_request -> 'lease_seconds')::double precision)
      from due where o.id = due.id returning o.*
  )
  select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'id', t.id, 'type', t.type, 'happened_at', t.happened_at, 'data', t.data, 'tries', t.tries) order by t.happened_at), '[]')
    into v_taken from taken t;
  return v_taken;
end
$$;
revoke all on function public.ai_retry_drain(text) from public, anon, authenticated;
grant execute on function public.ai_retry_drain(text) to service_role;
comment on function public.ai_retry_drain(text) is
  'Deletes messages that need no further try, puts back those that do, then takes messages that are due, and hides them '
  'from other processes for a while: one of each subject, the first. From then on, for seven days, messages are written: '
  'processes that deliver them call it all the time.';
