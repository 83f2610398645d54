create function public.ai_retry_installation() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select pg_catalog.jsonb_build_object('id', i.id, 'database', pg_catalog.current_database())
    from public.ai_retry_installation i
  );
end
$$;
revoke all on function public.ai_retry_installation() from public, anon, authenticated;
grant execute on function public.ai_retry_installation() to service_role;
comment on function public.ai_retry_installation() is
  'Returns the id of this installation and the name of its database: a copy of the database has the same id. Reads only.';
