-- The app's tables, as JSON.
select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
  'schema', t.nspname, 'name', t.relname, 'quoted', t.quoted, 'rows', t.reltuples,
  'partitioned', t.relkind = 'p', 'row_level_security', t.relrowsecurity,
  'comment', pg_catalog.obj_description(t.oid, 'pg_class'),
  'columns', (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'name', a.attname, 'quoted', pg_catalog.quote_ident(a.attname),
      'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
      'kind', coalesce(b.typname, y.typname), 'not_null', a.attnotnull or y.typnotnull,
      'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid), 'generated', a.attgenerated <> '' or a.attidentity = 'a',
      'identity', a.attidentity <> '',
      'labels', (select pg_catalog.jsonb_agg(e.enumlabel order by e.enumsortorder)
        from pg_catalog.pg_enum e where e.enumtypid = coalesce(b.oid, y.oid))) order by a.attnum), '[]')
    from pg_catalog.pg_attribute a
    join pg_catalog.pg_type y on y.oid = a.atttypid
    left join pg_catalog.pg_type b on b.oid = y.typbasetype
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped),
  'key', (
    select pg_catalog.jsonb_agg(a.attname order by k.place)
    from pg_catalog.pg_constraint c, pg_catalog.unnest(c.conkey) with ordinality k (attnum, place)
    join pg_catalog.pg_attribute a on a.attnum = k.attnum
    where c.conrelid = t.oid and a.attrelid = t.oid and c.contype = 'p'),
  'foreign_keys', (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'columns', array(
        select a.attname from pg_catalog.unnest(c.conkey) with ordinality k (attnum, place)
        join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum order by k.place),
      'table', pg_catalog.format('%I.%I', fn.nspname, f.relname),
      'referenced', array(
        select a.attname from pg_catalog.unnest(c.confkey) with ordinality k (attnum, place)
        join pg_catalog.pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.attnum order by k.place)
      ) order by c.conname), '[]')
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_class f on f.oid = c.confrelid
    join pg_catalog.pg_namespace fn on fn.oid = f.relnamespace
    where c.conrelid = t.oid and c.contype = 'f' and c.conparentid = 0),
  'checks', (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'name', c.conname, 'expression', pg_catalog.pg_get_expr(c.conbin, c.conrelid),
      'columns', array(
        select a.attname from pg_catalog.unnest(c.conkey) k (attnum)
        join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum)) order by c.conname), '[]')
    from pg_catalog.pg_constraint c where c.conrelid = t.oid and c.contype = 'c'),
  'indexes', (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'name', c.relname, 'unique', i.indisunique, 'exclusion', i.indisexclusion,
      'predicate', pg_catalog.pg_get_expr(i.indpred, i.indrelid),
      'definition', pg_catalog.pg_get_indexdef(i.indexrelid),
      'columns', array(
        select coalesce(a.attname, '')
        from pg_catalog.unnest(i.indkey::smallint[]) with ordinality k (attnum, place)
        left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where k.place <= i.indnkeyatts order by k.place)) order by c.relname), '[]')
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    where i.indrelid = t.oid and i.indisvalid),
  'triggers', (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'name', g.tgname, 'definition', pg_catalog.pg_get_triggerdef(g.oid), 'is_after', g.tgtype & 66 = 0,
      'events', array(
        select e.name from (values ('insert', 4), ('delete', 8), ('update', 16), ('truncate', 32)) e (name, bit)
        where g.tgtype & e.bit <> 0),
      'columns', array(
        select a.attname from pg_catalog.unnest(g.tgattr::smallint[]) k (attnum)
        join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum),
      'function', p.oid::pg_catalog.regproc::text, 'source', p.prosrc) order by g.tgname), '[]')
    from pg_catalog.pg_trigger g join pg_catalog.pg_proc p on p.oid = g.tgfoid
    where g.tgrelid = t.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgname <> 'ai_retry_forget'),
  'policies', (
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'name', p.policyname, 'command', pg_catalog.lower(p.cmd), 'permissive', p.permissive = 'PERMISSIVE',
      'roles', p.roles::text[], 'expression', pg_catalog.concat_ws(' ', p.qual, p.with_check)) order by p.policyname), '[]')
    from pg_catalog.pg_policies p where p.schemaname = t.nspname and p.tablename = t.relname),
  'granted', (
    select coalesce(pg_catalog.jsonb_agg(k.name), '[]')
    from (values ('select'), ('insert'), ('update')) k (name), pg_catalog.pg_roles r
    where r.rolname = 'service_role' and pg_catalog.has_table_privilege(r.oid, t.oid, k.name)),
  'sequences', (
    select coalesce(pg_catalog.jsonb_agg(distinct s.oid::pg_catalog.regclass::text), '[]')
    from pg_catalog.pg_attrdef d
    join pg_catalog.pg_depend x on x.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and x.objid = d.oid
      and x.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    join pg_catalog.pg_class s on s.oid = x.refobjid and s.relkind = 'S'
    join pg_catalog.pg_roles r on r.rolname = 'service_role'
    where d.adrelid = t.oid and not pg_catalog.has_sequence_privilege(r.oid, s.oid, 'usage'))
  ) order by t.quoted), '[]')
from (
  select c.*, n.nspname, pg_catalog.format('%I.%I', n.nspname, c.relname) as quoted
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^(pg|supabase)_'
    and n.nspname not in (
      'information_schema', 'auth', 'storage', 'realtime', '_realtime', 'extensions', 'vault', 'graphql',
      'graphql_public', 'pgmq', 'pgmq_public', 'pgbouncer', 'cron', 'net', 'ai_retry', '_analytics', 'pgsodium')
    and not (n.nspname = 'public' and c.relname like 'ai\_retry\_%')
    and not exists (
      select from pg_catalog.pg_depend x
      where x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and x.objid = c.oid and x.deptype = 'e')
) t
