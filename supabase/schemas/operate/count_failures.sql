create function public.ai_retry_count_failures(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{since,until,user_id,statuses,models,codes}');
  c_most constant integer := 1000;
  c_looks constant integer := 20000;
begin
  return (
    with looked as materialized (
      select f.id, f.status, f.model from ai_retry.app_find(
        (v_request ->> 'since')::timestamptz, (v_request ->> 'until')::timestamptz,
        'ffffffff-ffff-ffff-ffff-ffffffffffff', (v_request ->> 'user_id')::uuid, c_looks) f
    ),
    failed as materialized (
      select l.id from looked l
      where v_request -> 'statuses' ? l.status and (not v_request ? 'models' or v_request -> 'models' ? l.model)
      limit c_most
    ),
    counted as (
      select c.code, count(*) as number
      from (select coalesce(ai_retry.last_error(f.id) ->> 'code', 'UNKNOWN') as code from failed f) c
      where not v_request ? 'codes' or v_request -> 'codes' ? c.code
      group by c.code
    )
    select pg_catalog.jsonb_build_object(
      'count', coalesce(sum(c.number), 0), 'codes', coalesce(pg_catalog.jsonb_object_agg(c.code, c.number), '{}'),
      'is_whole', (select count(*) from looked) < c_looks and (select count(*) from failed) < c_most)
    from counted c
  );
end
$$;
revoke all on function public.ai_retry_count_failures(text) from public, anon, authenticated;
grant execute on function public.ai_retry_count_failures(text) to service_role;
comment on function public.ai_retry_count_failures(text) is
  'Counts what a search finds, by the last error''s code: of the newest 20,000 generations, the newest 1000 that failed. '
  'is_whole: there are no more. Reads only.';
