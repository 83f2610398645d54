create function public.ai_retry_estimate() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_calls jsonb;
begin
  v_calls := (
    select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('generation_id', r.generation_id, 'usage', r.usage))
    from (
      select a.generation_id, a.usage from public.ai_retry_attempts a
      where a.usage is not null order by a.closed_at desc limit 1000
    ) r);
  return (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'model', m.model, 'tokens', m.tokens, 'cost', m.cost)), '[]')
    from (
      select l.model, avg((c.usage ->> 'total_tokens')::numeric) as tokens, avg((c.usage ->> 'cost')::numeric) as cost
      from pg_catalog.jsonb_to_recordset(v_calls) as c (generation_id uuid, usage jsonb)
      join ai_retry.app_look_up(array(
        select x.generation_id from pg_catalog.jsonb_to_recordset(v_calls) as x (generation_id uuid))) l
        on l.id = c.generation_id
      group by l.model
    ) m
  );
end
$$;
revoke all on function public.ai_retry_estimate() from public, anon, authenticated;
grant execute on function public.ai_retry_estimate() to service_role;
comment on function public.ai_retry_estimate() is
  'Mean tokens and cost of a call for each model that generations name, from the last 1000 attempts that recorded them. '
  'Writes nothing.';
