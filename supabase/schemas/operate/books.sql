create function public.ai_retry_books()
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set statement_timeout = '60s'
as $$
declare
  v_page uuid[];
  v_violations jsonb := '[]';
begin
  -- Two successes or two open attempts of a generation, two generations of a session, and units captured without a
  -- charged success are impossible: constraints refuse them.
  for v_page in
    select pg_catalog.array_agg(s.generation_id)
    from (
      select a.generation_id, row_number() over (order by a.generation_id) / 1000 as page
      from public.ai_retry_attempts a where a.outcome = 'succeeded'
    ) s
    group by s.page
  loop
    v_violations := v_violations || (
      select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'violation', 'a success whose generation says otherwise', 'generation_id', g.id)), '[]')
      from ai_retry.app_look_up(v_page) g where g.status is distinct from 'success');
  end loop;
  return (
    with violations (violation, generation_id) as (
      select 'a number is missing or double', u.generation_id
        from (
          select a.generation_id, a.number, a.pruned from public.ai_retry_attempts a
          union all
          select o.generation_id, o.number, 0 from public.ai_retry_open o
        ) u
        group by u.generation_id
        having count(*) + sum(u.pruned) <> max(u.number) - 1 or count(distinct u.number) <> count(*)
      union all
      select 'an open attempt beside a success', o.generation_id
        from public.ai_retry_open o join public.ai_retry_attempts a using (generation_id) where a.outcome = 'succeeded'
      union all
      select distinct 'a stored answer beside a success', s.generation_id
        from (
          select w.generation_id from public.ai_retry_answers w
          union all
          select o.generation_id from public.ai_retry_open o where o.answer is not null
        ) s
        join public.ai_retry_attempts a using (generation_id) where a.outcome = 'succeeded'
      union all
      select 'a discarded answer that is stored', w.generation_id
        from public.ai_retry_answers w join public.ai_retry_attempts a using (generation_id, number)
        where a.discarded_at is not null
      union all
      select 'captured at another time than closed', a.generation_id
        from public.ai_retry_attempts a where a.captured_at <> a.closed_at
      union all
      select 'closed before it began', a.generation_id
        from public.ai_retry_attempts a where a.closed_at < a.started_at
      union all
      select v.violation, v.generation_id
        from pg_catalog.jsonb_to_recordset(v_violations) as v (violation text, generation_id uuid)
    )
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(v) order by v.violation, v.generation_id), '[]')
    from violations v
  );
end
$$;
comment on function public.ai_retry_books() is
  'Proves the quota books: every violation of what is promised, as JSON; [] when they balance. Safe on a live project.';
