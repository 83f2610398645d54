create function public.ai_retry_books(
  p_limit integer default null, p_window_seconds double precision default 86400, p_since timestamptz default null
)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set statement_timeout = '60s' set plan_cache_mode = 'force_custom_plan'
as $$
declare
  c_page constant integer := 5000;  -- generations that the app is asked about at once
  c_most constant integer := 1000;  -- violations of a kind
  v_ids constant uuid[] := case when p_since is not null then array(
    select distinct a.generation_id from public.ai_retry_attempts a where a.closed_at >= p_since) end;
  v_place integer := 0;
  v_page uuid[];
  v_last uuid;
  v_changed uuid[] := '{}';
begin
  -- The app's table is read a page at a time, by id.
  loop
    if v_ids is null then
      v_page := array(
        select a.generation_id from public.ai_retry_attempts a
        where a.outcome = 'succeeded' and (v_last is null or a.generation_id > v_last)
        order by a.generation_id limit c_page);
      v_last := v_page[pg_catalog.cardinality(v_page)];
    else
      v_page := v_ids[v_place + 1 : v_place + c_page];
      v_place := v_place + c_page;
    end if;
    exit when v_page = '{}' or pg_catalog.cardinality(v_changed) >= c_most;
    v_changed := v_changed || array(
      select g.id from ai_retry.app_look_up(v_page) g
      where g.status is distinct from 'success' and exists (
        select from public.ai_retry_attempts a where a.generation_id = g.id and a.outcome = 'succeeded'));
  end loop;
  return (
    with violations (violation, generation_id) as (
      (select 'a number is missing or double', a.generation_id
        from public.ai_retry_attempts a where v_ids is null or a.generation_id = any (v_ids)
        group by a.generation_id
        having count(*) <> max(a.number) - 1 and count(*) + coalesce((  -- some before its success were pruned
          select s.pruned from public.ai_retry_attempts s
          where s.generation_id = a.generation_id and s.outcome = 'succeeded'), 0) <> max(a.number) - 1
        limit c_most)
      union
      (select 'a number is missing or double', o.generation_id
        from public.ai_retry_open o where o.number <> 1 + coalesce((
          select max(a.number) from public.ai_retry_attempts a where a.generation_id = o.generation_id), 1) limit c_most)
      union
      (select u.violation, u.generation_id
        from (
          select 'an open attempt beside a success' as violation, o.generation_id from public.ai_retry_open o
          union all
          select 'a stored answer beside a success', o.generation_id from public.ai_retry_open o where o.answer is not null
          union all
          select 'a stored answer beside a success', w.generation_id from public.ai_retry_answers w
        ) u
        where (  -- for each row, since these tables are small: a join might read all attempts
          select a.number from public.ai_retry_attempts a
          where a.generation_id = u.generation_id and a.outcome = 'succeeded') is not null
        limit 3 * c_most)
      union
      (select 'a discarded answer that is stored', w.generation_id
        from public.ai_retry_answers w
        where (
          select a.discarded_at from public.ai_retry_attempts a
          where a.generation_id = w.generation_id and a.number = w.number) is not null
        limit c_most)
      union
      (select 'a unit above the limit', b.generation_id
        from ai_retry.beyond(p_limit, p_window_seconds, p_since) b limit c_most)
      union
      select 'a success whose generation says otherwise', c.id from pg_catalog.unnest(v_changed) c (id)
    )
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(v) order by v.violation, v.generation_id), '[]')
    from violations v
  );
end
$$;
comment on function public.ai_retry_books(integer, double precision, timestamptz) is
  'Proves the quota books: every violation of what is promised and of what no constraint refuses, as JSON, a thousand of '
  'each kind at most; [] when they balance. Given a limit, also units above it, or above a user''s own. Since an instant: of '
  'generations with an attempt that was closed since, and of all that are open. Safe on a live project.';

create function ai_retry.beyond(p_limit integer, p_window_seconds double precision, p_since timestamptz)
returns table (generation_id uuid)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_window constant interval := pg_catalog.make_interval(secs => p_window_seconds);
begin
  if p_limit is null then
    return;
  end if;
  -- First, by an index only, where more units were captured within a window than the limit; then who was admitted there,
  -- though the limit was used up: by instants of their own, however the clock was set between them.
  return query
    select distinct j.generation_id
    from (
      select c.user_id, c.captured_at, c.first_at, p_limit as quota_limit, v_window as quota_window
      from (
        select a.user_id, a.captured_at, lag(a.captured_at, p_limit) over (
          partition by a.user_id order by a.captured_at) as first_at
        from public.ai_retry_attempts a
        where a.captured_at is not null and (p_since is null or a.closed_at >= p_since - v_window)
      ) c
      where c.captured_at - c.first_at < v_window
        and not exists (select from public.ai_retry_quotas q where q.user_id = c.user_id)
      union all
      select q.user_id, c.captured_at, c.first_at, q.quota_limit, c.quota_window
      from public.ai_retry_quotas q,
      lateral (
        select a.captured_at, lag(a.captured_at, q.quota_limit) over (order by a.captured_at) as first_at,
          pg_catalog.make_interval(secs => least(q.window_seconds, 315576000)) as quota_window
        from public.ai_retry_attempts a where a.user_id = q.user_id and a.captured_at is not null
      ) c
      where c.captured_at - c.first_at < c.quota_window
    ) f
    join public.ai_retry_attempts j
      on j.user_id = f.user_id and j.captured_at between f.first_at and f.captured_at and 'quota' <> all (j.waived)
    where (p_since is null or j.captured_at >= p_since) and f.quota_limit < (
      select count(*) from public.ai_retry_attempts i
      where i.user_id = j.user_id and i.captured_at > coalesce(j.accepted_at, j.started_at) - f.quota_window
        and coalesce(i.accepted_at, i.started_at) <= coalesce(j.accepted_at, j.started_at));
end
$$;
comment on function ai_retry.beyond(integer, double precision, timestamptz) is
  'Generations whose success spent a unit though, when it was admitted, its user''s limit was used up by others, and no '
  'operator had lifted it. The limit and window given are those of users without their own.';
