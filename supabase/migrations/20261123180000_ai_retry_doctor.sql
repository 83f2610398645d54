-- ai-retry: what `ai-retry doctor` and `ai-retry books` read. Both functions read only and change nothing.

set lock_timeout = '5s';
set statement_timeout = '60s';

create or replace function public.ai_retry_inspect()
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  -- Facts alone: what they mean is judged by the package, which knows what it shipped.
  with roles as (
    select r.oid, r.rolname from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated')
  ),
  tables as (
    select c.oid, c.relname, c.relrowsecurity
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::pg_catalog.regnamespace and c.relkind in ('r', 'p')
      and (c.relname like 'ai\_retry\_%' or c.relname in ('generations', 'sessions', 'generation_error_logs', 'events'))
  )
  select pg_catalog.jsonb_build_object(
    'as_of', pg_catalog.clock_timestamp(),
    'server_version', pg_catalog.current_setting('server_version_num')::integer,
    'role', current_user,
    'isolation', pg_catalog.current_setting('transaction_isolation'),
    'read_only',
      pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('default_transaction_read_only')::boolean,
    'functions', (
      select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'name', p.proname, 'arguments', pg_catalog.pg_get_function_identity_arguments(p.oid),
        -- Without carriage returns, which an editor may have added.
        'source', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
          pg_catalog.replace(p.prosrc, pg_catalog.chr(13), ''), 'UTF8')), 'hex'),
        'security_definer', p.prosecdef,
        'own_search_path', exists (select from pg_catalog.unnest(p.proconfig) s where s like 'search\_path=%'),
        'executable', pg_catalog.has_function_privilege(p.oid, 'execute'),
        'end_users', (
          select coalesce(pg_catalog.jsonb_agg(r.rolname), '[]')
          from roles r where pg_catalog.has_function_privilege(r.oid, p.oid, 'execute')
        )) order by p.proname, p.oid), '[]')
      from pg_catalog.pg_proc p
      where p.pronamespace = 'public'::pg_catalog.regnamespace and p.proname like 'ai\_retry\_%'
    ),
    'seam', exists (
      -- Not by signature: below PostgreSQL 16 that is an error where there is no table generations.
      select from pg_catalog.pg_proc p
      join pg_catalog.pg_class g on g.reltype = p.proargtypes[0]
      where p.pronamespace = 'public'::pg_catalog.regnamespace and p.proname = 'ai_retry_create_session'
        and p.pronargs = 2 and p.proargtypes[1] = 'jsonb'::pg_catalog.regtype
        and p.prorettype = 'jsonb'::pg_catalog.regtype
        and g.relnamespace = p.pronamespace and g.relname = 'generations'
    ),
    'tables', (
      select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'name', t.relname, 'row_level_security', t.relrowsecurity,
        'filtered', pg_catalog.row_security_active(t.oid),
        'privileges', (
          select coalesce(pg_catalog.jsonb_agg(k.name), '[]')
          from (values ('select'), ('insert'), ('update'), ('delete')) as k (name)
          where pg_catalog.has_table_privilege(t.oid, k.name)
        ),
        'end_users', (
          select coalesce(pg_catalog.jsonb_agg(distinct k.name), '[]')
          from roles r, (values ('select'), ('insert'), ('update'), ('delete'), ('truncate')) as k (name)
          where case when k.name in ('delete', 'truncate')
            then pg_catalog.has_table_privilege(r.oid, t.oid, k.name)
            else pg_catalog.has_any_column_privilege(r.oid, t.oid, k.name) end
        )) order by t.relname), '[]')
      from tables t
    ),
    'policies', (
      select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'table', p.tablename, 'name', p.policyname, 'command', pg_catalog.lower(p.cmd)) order by p.policyname), '[]')
      from pg_catalog.pg_policies p
      where p.schemaname = 'public' and p.tablename in (select t.relname from tables t) and p.permissive = 'PERMISSIVE'
        and p.roles && array['public', 'anon', 'authenticated']::name[]
    ),
    'indexes', (
      select coalesce(pg_catalog.jsonb_agg(c.relname order by c.relname), '[]')
      from pg_catalog.pg_index i
      join tables t on t.oid = i.indrelid
      join pg_catalog.pg_class c on c.oid = i.indexrelid
      where i.indisvalid
    ),
    'constraints', (
      select coalesce(pg_catalog.jsonb_agg(c.conname order by c.conname), '[]')
      from pg_catalog.pg_constraint c
      join tables t on t.oid = c.conrelid
    ),
    'queue', (
      select pg_catalog.jsonb_build_object(
        'available', exists (select from pg_catalog.pg_available_extensions e where e.name = 'pgmq'),
        'installed', count(n.oid) > 0,
        'made', count(q.oid) > 0,
        'usable', coalesce(bool_and(
          pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(q.oid, 'select')
          and pg_catalog.has_table_privilege(q.oid, 'insert') and pg_catalog.has_table_privilege(q.oid, 'update')
          and pg_catalog.has_table_privilege(q.oid, 'delete')), false))
      -- Not by name: who may not use the schema may not even ask.
      from pg_catalog.pg_namespace n
      left join pg_catalog.pg_class q on q.relnamespace = n.oid and q.relname = 'q_ai_retry'
      where n.nspname = 'pgmq'
    ))
$$;
comment on function public.ai_retry_inspect() is
  'For ai-retry doctor: what stands in this database, as JSON: functions with a hash of their source, tables, grants, policies, queue, time.';

create or replace function public.ai_retry_books()
returns jsonb
language sql
stable
security invoker
set search_path = ''
set statement_timeout = '60s'
as $$
  -- A list of every violation of what is promised: [] when the books balance.
  with attempts as (
    select *, row_number() over (partition by generation_id order by number) as place
    from public.ai_retry_attempts
  ),
  violations (violation, generation_id) as (
    select 'two successes of one generation', generation_id
      from attempts where outcome = 'succeeded' group by generation_id having count(*) > 1
    union all
    select 'two open attempts of one generation', generation_id
      from attempts where outcome is null group by generation_id having count(*) > 1
    union all
    select 'a number is missing or double', generation_id
      from attempts where number <> place + 1
    union all
    select 'captured without a charged success', generation_id
      from attempts where captured_at is not null and not (outcome = 'succeeded' and charge)
    union all
    select 'a charged success was not captured', generation_id
      from attempts where outcome = 'succeeded' and charge and captured_at is null
    union all
    select 'a success whose generation says otherwise', a.generation_id
      from attempts a join public.generations g on g.id = a.generation_id
      where a.outcome = 'succeeded' and g.status is distinct from 'success'
    union all
    select 'one session of two generations', min(generation_id::text)::uuid
      from attempts where session_id is not null group by session_id having count(*) > 1
    union all
    select 'a stored answer beside a success', s.generation_id
      from attempts s join attempts o on o.generation_id = s.generation_id
      where s.stored_answer is not null and o.outcome = 'succeeded'
    union all
    select 'closed before it began', generation_id
      from attempts where closed_at < started_at
  )
  select coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(v) order by v.violation, v.generation_id), '[]')
  from violations v
$$;
comment on function public.ai_retry_books() is
  'Proves the quota books: every violation of what is promised, as JSON; [] when they balance. Safe on a live project.';

revoke all on function public.ai_retry_inspect(), public.ai_retry_books() from public, anon, authenticated;
grant execute on function public.ai_retry_inspect(), public.ai_retry_books() to service_role;

reset lock_timeout;
reset statement_timeout;
