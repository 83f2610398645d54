create function public.ai_retry_estimate() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
begin
  return (
    with calls as materialized (
      select a.generation_id, a.usage from public.ai_retry_attempts a
      where a.usage is not null order by a.closed_at desc limit 1000
    )
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(m)), '[]')
    from (
      select l.model, avg((c.usage ->> 'total_tokens')::numeric) as tokens, avg((c.usage ->> 'cost')::numeric) as cost
      from calls c join ai_retry.app_look_up(array(select x.generation_id from calls x)) l on l.id = c.generation_id
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
