-- The app's functions that a session could be created with, as JSON.
select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
  'schema', n.nspname, 'name', p.proname, 'quoted', pg_catalog.format('%I.%I', n.nspname, p.proname),
  'signature', p.oid::pg_catalog.regprocedure::text,
  'arguments', (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'name', coalesce(p.proargnames[a.place], ''), 'type', pg_catalog.format_type(a.type, null),
      'kind', y.typname, 'has_default', a.place > p.pronargs - p.pronargdefaults) order by a.place), '[]')
    from pg_catalog.unnest(p.proargtypes::oid[]) with ordinality a (type, place)
    join pg_catalog.pg_type y on y.oid = a.type),
  'result', pg_catalog.pg_get_function_result(p.oid), 'result_kind', r.typname, 'returns_set', p.proretset, 'security_definer', p.prosecdef,
  'executable', exists (
    select from pg_catalog.pg_roles o
    where o.rolname = 'service_role' and pg_catalog.has_function_privilege(o.oid, p.oid, 'execute'))
  ) order by p.oid::pg_catalog.regprocedure::text), '[]')
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
join pg_catalog.pg_type r on r.oid = p.prorettype
where p.prokind = 'f' and r.typname <> 'trigger' and n.nspname !~ '^(pg|supabase)_'
  and n.nspname not in (
    'information_schema', 'auth', 'storage', 'realtime', '_realtime', 'extensions', 'vault', 'graphql',
    'graphql_public', 'pgmq', 'pgmq_public', 'pgbouncer', 'cron', 'net', 'ai_retry', '_analytics', 'pgsodium')
  and (p.proname not like 'ai\_retry\_%' or p.proname = 'ai_retry_create_session')
  and not exists (
    select from pg_catalog.pg_depend x
    where x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and x.objid = p.oid and x.deptype = 'e')
