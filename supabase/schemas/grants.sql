-- Only the service role may execute functions of ours, and the last two are the owner's. Default privileges are not to
-- be relied on: an older project grants everything to everyone. The session function is the app's.

revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;
do $grants$
declare
  v_function record;
begin
  for v_function in
    select p.oid::regprocedure as name, p.proname in ('ai_retry_create_queue', 'ai_retry_publish') as is_owners
    from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname like 'ai\_retry\_%'
      and p.proname <> 'ai_retry_create_session'
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role', v_function.name);
    if not v_function.is_owners then
      execute format('grant execute on function %s to service_role', v_function.name);
    end if;
  end loop;
end
$grants$;
