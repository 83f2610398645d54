create function public.ai_retry_find(p_request text)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{since,before,user_id,statuses,models,codes,page,rule}');
  v_page constant integer := v_request ->> 'page';
  c_looks constant integer := 50;  -- times as many are looked at, since most have succeeded
begin
  return (
    with looked as materialized (
      select f.id, f.status, f.model, f.created_at
      from ai_retry.app_find(
        (v_request ->> 'since')::timestamptz, (v_request #>> '{before,at}')::timestamptz,
        (v_request #>> '{before,id}')::uuid, (v_request ->> 'user_id')::uuid, v_page * c_looks) f
    ),
    page as materialized (
      select l.id, l.created_at, ai_retry.last_error(l.id) as error
      from looked l
      where v_request -> 'statuses' ? l.status and (not v_request ? 'models' or v_request -> 'models' ? l.model)
      order by l.created_at desc, l.id desc
      limit v_page
    )
    select pg_catalog.jsonb_build_object(
      'as_of', pg_catalog.clock_timestamp(),
      'rows', (
        select coalesce(pg_catalog.jsonb_agg(f.row order by f.created_at desc, f.id desc), '[]')
        from (
          select p.id, p.created_at, ai_retry.found(p.id, p.error, v_request -> 'rule') as row
          from page p
          where not v_request ? 'codes' or v_request -> 'codes' ? (p.error ->> 'code')
        ) f
        where f.row is not null
      ),
      'next', case
        when (select count(*) from page) = v_page then (
          select pg_catalog.jsonb_build_object('at', p.created_at, 'id', p.id)
          from page p order by p.created_at, p.id limit 1)
        when (select count(*) from looked) = v_page * c_looks then (
          select pg_catalog.jsonb_build_object('at', l.created_at, 'id', l.id)
          from looked l order by l.created_at, l.id limit 1)
        end)
  );
end
$$;
comment on function public.ai_retry_find(text) is
  'One page of generations created before an instant and id, newest first, each with what a decision needs. It looks at 50 '
  'times as many at most, so that a page may be short; next is null at the end. Writes nothing.';

create function public.ai_retry_find_one(p_request text)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{generation_id,rule}');
  v_id constant uuid := v_request ->> 'generation_id';
begin
  return ai_retry.found(v_id, ai_retry.last_error(v_id), v_request -> 'rule');
end
$$;
comment on function public.ai_retry_find_one(text) is
  'A generation of whatever user and status, as ai_retry_find returns it; null when it is absent. For operators. Writes '
  'nothing.';
