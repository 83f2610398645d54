create function ai_retry.beyond(p_limit integer, p_window_seconds double precision, p_since timestamptz)
returns table (generation_id uuid)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_custom_plan'
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
        and not exists (select from public.ai_retry_quotas q where q.user_id = c.user_id and q.quota_limit is not null)
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
    left join public.ai_retry_quotas s on s.user_id = j.user_id
    where (p_since is null or j.captured_at >= p_since)
      and coalesce(coalesce(j.accepted_at, j.started_at) >= s.set_at, true) and f.quota_limit < (
      select count(*) from public.ai_retry_attempts i
      where i.user_id = j.user_id and i.captured_at > coalesce(j.accepted_at, j.started_at) - f.quota_window
        and coalesce(i.accepted_at, i.started_at) <= coalesce(j.accepted_at, j.started_at));
end
$$;
revoke all on function ai_retry.beyond(integer, double precision, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.beyond(integer, double precision, timestamptz) to service_role;
comment on function ai_retry.beyond(integer, double precision, timestamptz) is
  'Generations whose success spent a unit though, when it was admitted, its user''s limit was used up by others, and no '
  'operator had lifted it. The limit and window given are those of users without their own. What was admitted before an '
  'operator changed a user''s quota is judged by neither.';
