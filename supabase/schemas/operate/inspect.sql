create function public.ai_retry_inspect() returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_binding jsonb;
  v_session_function regprocedure;
begin
  -- Facts only: what they mean is judged by the package, which knows what it shipped.
  begin
    v_binding := ai_retry.app_describe();
    v_session_function := pg_catalog.to_regprocedure(v_binding ->> 'session_function');
  exception when others or assert_failure then
    null;  -- the function is not there, or fails; or it names a type that is not there
  end;
  return (
    with roles as (select r.oid, r.rolname from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated')),
    tables as (
      select c.oid, c.relkind, c.relrowsecurity, pg_catalog.format('%I.%I', n.nspname, c.relname) as name,
        n.nspname = 'public' and c.relname like 'ai\_retry\_%' as is_ours
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and n.nspname = 'public' and c.relname like 'ai\_retry\_%'
        or c.relkind in ('r', 'p', 'v') and n.nspname = 'ai_retry'
        or c.relkind = any ('{r,p,v,f}') and v_binding -> 'tables' ? pg_catalog.format('%I.%I', n.nspname, c.relname)
    )
    select pg_catalog.jsonb_build_object(
      'as_of', pg_catalog.clock_timestamp(), 'role', current_user,
      'server_version', pg_catalog.current_setting('server_version_num')::integer,
      'isolation', pg_catalog.current_setting('transaction_isolation'),
      'read_only',
        pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('default_transaction_read_only')::boolean,
      'schema', (
        select pg_catalog.jsonb_build_object(
          'usable', pg_catalog.has_schema_privilege(n.oid, 'usage'),
          'end_users', array(
            select r.rolname from roles r where pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')))
        from pg_catalog.pg_namespace n where n.nspname = 'ai_retry'
      ),
      'functions', array(
        select pg_catalog.jsonb_build_object(
          'schema', n.nspname, 'name', p.proname,
          'arguments', pg_catalog.pg_get_function_identity_arguments(p.oid),
          'types', array(
            select pg_catalog.format_type(t.type, null)
            from pg_catalog.unnest(p.proargtypes) with ordinality as t (type, place) order by t.place),
          'result', pg_catalog.pg_get_function_result(p.oid),
          -- Without carriage returns, which an editor may have added.
          'source', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
            pg_catalog.replace(p.prosrc, pg_catalog.chr(13), ''), 'UTF8')), 'hex'),
          'creates_sessions', p.oid is not distinct from v_session_function::oid,
          'security_definer', p.prosecdef,
          'search_path', (
            select pg_catalog.substr(s.setting, 13) from pg_catalog.unnest(p.proconfig) s (setting)
            where s.setting like 'search\_path=%'),
          'executable', pg_catalog.has_function_privilege(p.oid, 'execute'),
          'end_users', array(
            select r.rolname from roles r where pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')))
        from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
        where n.nspname = 'public' and p.proname like 'ai\_retry\_%' or n.nspname = 'ai_retry'
          or p.oid = v_session_function::oid
        order by n.nspname, p.proname, p.oid
      ),
      'binding', v_binding,
      'tables', array(
        select pg_catalog.jsonb_build_object(
          'name', t.name, 'row_level_security', t.relrowsecurity or t.relkind = 'v',
          'filtered', pg_catalog.row_security_active(t.oid),
          'privileges', array(
            select k.name from pg_catalog.unnest('{select,insert,update,delete}'::text[]) k (name)
            where pg_catalog.has_table_privilege(t.oid, k.name)),
          'end_users', array(
            select distinct k.name
            from roles r, pg_catalog.unnest('{select,insert,update,delete,truncate}'::text[]) k (name)
            where case when k.name in ('delete', 'truncate')
              then pg_catalog.has_table_privilege(r.oid, t.oid, k.name)
              else pg_catalog.has_any_column_privilege(r.oid, t.oid, k.name) end))
        from tables t order by t.name
      ),
      'policies', array(
        select pg_catalog.jsonb_build_object(
          'table', t.name, 'name', p.policyname, 'command', pg_catalog.lower(p.cmd))
        from pg_catalog.pg_policies p
        join tables t on t.name = pg_catalog.format('%I.%I', p.schemaname, p.tablename)
        where p.permissive = 'PERMISSIVE' and p.roles && array['public', 'anon', 'authenticated']::name[]
        order by p.policyname
      ),
      'indexes', array(
        select c.relname from pg_catalog.pg_index i
        join tables t on t.oid = i.indrelid and t.is_ours join pg_catalog.pg_class c on c.oid = i.indexrelid
        where i.indisvalid order by c.relname
      ),
      'constraints', array(
        select c.conname from pg_catalog.pg_constraint c join tables t on t.oid = c.conrelid and t.is_ours
        where c.contype <> 'n'  -- their names, and whether they have one, differ between servers
        order by c.conname
      ),
      'queue', (
        select pg_catalog.jsonb_build_object(
          'available', exists (select from pg_catalog.pg_available_extensions e where e.name = 'pgmq'),
          'installed', count(n.oid) > 0, 'made', count(q.oid) > 0,
          'usable', coalesce(bool_and(
            pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(q.oid, k.name)), false))
        -- Not by name: a role that may not use the schema may not even ask.
        from pg_catalog.pg_namespace n
        left join pg_catalog.pg_class q on q.relnamespace = n.oid and q.relname = 'q_ai_retry'
        cross join pg_catalog.unnest('{select,insert,update,delete}'::text[]) k (name)
        where n.nspname = 'pgmq'
      ))
  );
end
$$;
revoke all on function public.ai_retry_inspect() from public, anon, authenticated;
grant execute on function public.ai_retry_inspect() to service_role;
comment on function public.ai_retry_inspect() is
  'For ai-retry doctor: what is in this database, as JSON: functions with a hash of their source, the schema ai_retry, '
  'the binding, tables, grants, policies, queue, time.';
