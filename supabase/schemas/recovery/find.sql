create function public.ai_retry_find(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{since,before,user_id,statuses,models,codes,page,most,rule}');
  v_page constant integer := (v_request ->> 'page')::integer;
  v_most constant integer := coalesce((v_request ->> 'most')::integer, v_page);
  c_looks constant integer := 50;  -- times as many are looked at, since most have succeeded
  c_longest constant integer := 4194304;  -- bytes of a page, and one row
  v_each record;
  v_looked integer := 0;
  v_chosen integer := 0;
  v_bytes integer := 0;
  v_error jsonb;
  v_row jsonb;
  v_rows jsonb[] := array[]::jsonb[];
  v_next jsonb;
begin
  for v_each in
    select f.id, f.created_at as at, f.status, f.model from ai_retry.app_find(
      (v_request ->> 'since')::timestamptz, (v_request #>> '{before,at}')::timestamptz,
      (v_request #>> '{before,id}')::uuid, (v_request ->> 'user_id')::uuid, v_page * c_looks) f
  loop
    v_looked := v_looked + 1;
    if v_request -> 'statuses' ? v_each.status and (not v_request ? 'models' or v_request -> 'models' ? v_each.model) then
      v_chosen := v_chosen + 1;
      v_error := ai_retry.last_error(v_each.id);
      if not v_request ? 'codes' or v_request -> 'codes' ? (v_error ->> 'code') then
        v_row := ai_retry.found(v_each.id, v_error, v_request -> 'rule');
        if v_row is not null then
          v_rows := v_rows || v_row;
          v_bytes := v_bytes + pg_catalog.octet_length(v_row::text);
        end if;
      end if;
    end if;
    if v_chosen = v_page or pg_catalog.cardinality(v_rows) = v_most or v_bytes > c_longest or v_looked = v_page * c_looks then
      v_next := pg_catalog.jsonb_build_object('at', v_each.at, 'id', v_each.id);
      exit;
    end if;
  end loop;
  return pg_catalog.jsonb_build_object(
    'as_of', pg_catalog.clock_timestamp(), 'rows', pg_catalog.to_jsonb(v_rows), 'next', v_next);
end
$$;
revoke all on function public.ai_retry_find(text) from public, anon, authenticated;
grant execute on function public.ai_retry_find(text) to service_role;
comment on function public.ai_retry_find(text) is
  'One page of generations created before an instant and id, newest first, each with what a decision needs. It looks at 50 '
  'times as many at most, and returns a few megabytes, or most rows, so that a page may be short; next is null at the end. '
  'Writes nothing.';
