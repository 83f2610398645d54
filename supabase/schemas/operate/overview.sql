create function public.ai_retry_overview() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  c_most constant integer := 50000;  -- attempts that are counted
begin
  return (
    with newest as materialized (
      select a.closed_at, a.outcome, a.code, a.route, a.operator_fault, a.wire_requests,
        (a.usage ->> 'total_tokens')::numeric as tokens, (a.usage ->> 'cost')::numeric as cost
      from public.ai_retry_attempts a where a.closed_at > v_now - interval '1 day'
      order by a.closed_at desc limit c_most
    ),
    spans as (
      select s.place, s.name, s.span
      from (values (1, 'last_10_minutes', interval '10 minutes'), (2, 'last_15_minutes', interval '15 minutes'),
        (3, 'last_hour', interval '1 hour'), (4, 'last_day', interval '24 hours')) s (place, name, span)
    ),
    ends as materialized (  -- each attempt once, in the shortest span that it belongs to
      select pg_catalog.width_bucket(v_now - n.closed_at, '{00:10:00,00:15:00,01:00:00}'::interval[]) + 1 as place,
        n.outcome, n.code, count(*) as number, count(*) filter (where n.operator_fault) as faults,
        sum(n.wire_requests) as calls, sum(n.tokens) as tokens, sum(n.cost) as cost
      from newest n group by 1, 2, 3
    ),
    codes as (
      select c.name, pg_catalog.jsonb_object_agg(c.code, c.number) as codes
      from (
        select s.name, e.code, sum(e.number) as number from spans s join ends e on e.place <= s.place
        where e.code is not null group by s.name, e.code
      ) c
      group by c.name
    ),
    periods as (
      select s.name, pg_catalog.jsonb_build_object(
        'span_seconds', extract(epoch from s.span),
        'succeeded', coalesce(sum(e.number) filter (where e.outcome = 'succeeded'), 0),
        'failed', coalesce(sum(e.number) filter (where e.outcome = 'failed'), 0),
        'abandoned', coalesce(sum(e.number) filter (where e.outcome = 'abandoned'), 0),
        'cancelled', coalesce(sum(e.number) filter (where e.outcome = 'cancelled'), 0),
        'codes', coalesce((select c.codes from codes c where c.name = s.name), '{}'),
        'operator_faults', coalesce(sum(e.faults), 0), 'calls', coalesce(sum(e.calls), 0),
        'tokens', sum(e.tokens), 'cost', sum(e.cost),
        'is_whole', w.number < c_most or w.oldest <= v_now - s.span) as period
      from spans s left join ends e on e.place <= s.place
      cross join (select count(*) as number, min(n.closed_at) as oldest from newest n) w
      group by s.name, s.span, w.number, w.oldest
    ),
    known as (
      select v.* from ai_retry.outages v order by v.held_until > v_now desc nulls last, v.not_before desc limit 64),
    failures as (
      select distinct on (n.route) n.route, n.code from newest n
      where n.code is not null and n.route in (select k.route from known k) order by n.route, n.closed_at desc
    ),
    asking as (
      select o.route, count(*) filter (where o.lease_expires_at > v_now) as running,
        count(*) filter (where o.lease_expires_at is null) as waiting
      from public.ai_retry_open o where o.route in (select k.route from known k) group by o.route
    )
    select (select pg_catalog.jsonb_object_agg(p.name, p.period) from periods p) || pg_catalog.jsonb_build_object(
      'as_of', v_now, 'queue', public.ai_retry_state(),
      'routes', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
          'route', k.route, 'not_before', k.not_before, 'began_at', k.began_at, 'failures', k.failures, 'slots', k.slots,
          'running', coalesce(g.running, 0), 'waiting', coalesce(g.waiting, 0), 'code', f.code,
          'held_until', case when k.held_until > v_now then k.held_until end,
          'held_by', case when k.held_until > v_now then (
            select a.operator from public.ai_retry_actions a
            where a.target = 'route:' || k.route and a.action = 'hold_route' order by a.at desc limit 1) end
        ) order by k.route), '[]')
        from known k left join failures f on f.route = k.route left join asking g on g.route = k.route),
      'oldest_due_at', (
        select min(o.due_at) from public.ai_retry_open o
        where o.accepted_at is not null and o.lease_expires_at is null and o.route is null and o.due_at <= v_now),
      'oldest_kept_at', least((select min(w.stored_at) from public.ai_retry_answers w), (
        select min(o.started_at) from public.ai_retry_open o where o.kept_cause is not null)))
  );
end
$$;
revoke all on function public.ai_retry_overview() from public, anon, authenticated;
grant execute on function public.ai_retry_overview() to service_role;
comment on function public.ai_retry_overview() is
  'How things are now: attempts that ended lately, of the newest 50,000; routes that are unavailable or held; what waits; '
  'since when paid answers are kept. Reads only.';
