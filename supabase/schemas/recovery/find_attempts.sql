create function public.ai_retry_find_attempts(p_request text) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(p_request, '{key,after,page}');
  v_key constant text := v_request ->> 'key';
  v_after constant uuid := (v_request ->> 'after')::uuid;
  v_page constant integer := (v_request ->> 'page')::integer;
begin
  return (
    select coalesce(pg_catalog.jsonb_agg(
      v.attempt || pg_catalog.jsonb_build_object(
        'generation_id', l.generation_id, 'usage', l.usage, 'calls', coalesce(l.calls, '[]'))
      order by l.generation_id), '[]')
    from (
      select distinct on (u.generation_id) u.*
      from (
        (select distinct on (a.generation_id) a.generation_id, a.number, a.usage, a.calls
          from public.ai_retry_attempts a
          where a.idempotency_key = v_key and a.idempotency_key like 'plan:%' and a.generation_id > v_after
          order by a.generation_id, a.number desc
          limit v_page)
        union all
        (select o.generation_id, o.number, null, null
          from public.ai_retry_open o
          where o.idempotency_key = v_key and o.idempotency_key like 'plan:%' and o.generation_id > v_after
          order by o.generation_id
          limit v_page)
      ) u
      order by u.generation_id, u.number desc
      limit v_page
    ) l
    join ai_retry.attempts v on v.generation_id = l.generation_id and v.number = l.number
  );
end
$$;
revoke all on function public.ai_retry_find_attempts(text) from public, anon, authenticated;
grant execute on function public.ai_retry_find_attempts(text) to service_role;
comment on function public.ai_retry_find_attempts(text) is
  'The last attempt that a plan made at each generation, a page of them by generation. Writes nothing.';
