create function ai_retry.has_queue() returns boolean
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return case when pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('pgmq'), 'usage')
    then pg_catalog.to_regclass('pgmq.q_ai_retry') is not null else false end;
end
$$;
revoke all on function ai_retry.has_queue() from public, anon, authenticated;
grant execute on function ai_retry.has_queue() to service_role;
comment on function ai_retry.has_queue() is
  'Whether Supabase Queues (pgmq) and the queue ai_retry are there, and this role may use them.';
