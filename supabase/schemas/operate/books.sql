create function public.ai_retry_books(
  p_limit integer default null, p_window_seconds double precision default 86400, p_since timestamptz default null
) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set statement_timeout = '60s'
set plan_cache_mode = 'force_custom_plan' as $$
declare
  c_most constant integer := 1000;  -- violations of a kind
  c_many constant integer := 100000;  -- attempts since then: to read all in their order is faster, and takes no memory
  v_since constant uuid[] := case when p_since is not null then array(
    select a.generation_id from public.ai_retry_attempts a where a.closed_at >= p_since limit c_many) end;
  v_ids constant uuid[] := case when pg_catalog.cardinality(v_since) < c_many then v_since end;
  v_changed constant uuid[] := array(
    select g.id from ai_retry.app_not_succeeded(v_ids) g (id)
    where (
      select a.number from public.ai_retry_attempts a
      where a.generation_id = g.id and a.outcome = 'succeeded') is not null
    limit c_most);
begin
  return (
    with violations (violation, generation_id) as (
      (select 'a number is missing or double', a.generation_id
        from public.ai_retry_attempts a where v_ids is null or a.generation_id = any (v_ids)
        group by a.generation_id
        having count(*) <> max(a.number) - (min(a.number) > 1)::integer and count(*) + coalesce((  -- some before its success were pruned
          select s.pruned from public.ai_retry_attempts s
          where s.generation_id = a.generation_id and s.outcome = 'succeeded'), 0)
          <> max(a.number) - (min(a.number) > 1)::integer
        limit c_most)
      union
      (select 'a number is missing or double', o.generation_id
        from public.ai_retry_open o where o.number <> 1 + coalesce((
          select max(a.number) from public.ai_retry_attempts a where a.generation_id = o.generation_id),
          (o.request_digest is null)::integer) limit c_most)
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
        from ai_retry.beyond(p_limit, p_window_seconds, case when v_ids is not null then p_since end) b limit c_most)
      union
      select 'a success whose generation says otherwise', c.id from pg_catalog.unnest(v_changed) c (id)
    )
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(v) order by v.violation, v.generation_id), '[]')
    from violations v
  );
end
$$;
revoke all on function public.ai_retry_books(integer, double precision, timestamptz) from public, anon, authenticated;
grant execute on function public.ai_retry_books(integer, double precision, timestamptz) to service_role;
comment on function public.ai_retry_books(integer, double precision, timestamptz) is
  'Proves the quota books: every violation of what is promised and of what no constraint refuses, as JSON, a thousand of '
  'each kind at most; [] when they balance. Given a limit, also units above it, or above a user''s own. Since an instant: of '
  'generations with an attempt that was closed since, and of all that are open; of all where these attempts are many. Safe '
  'on a live project.';
