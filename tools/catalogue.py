"""What a database's catalogue and its tables hold, comparable: everything that a migration could have changed."""

from collections.abc import Mapping

import psycopg

_OURS = "n.nspname in ('public', 'ai_retry')"
_GRANTED = "array(select x::text from unnest({}) x order by 1)"  # the order of grants means nothing
_QUESTIONS = (
    f"select n.nspname, {_GRANTED.format('n.nspacl')}, obj_description(n.oid) from pg_namespace n where {_OURS}",
    f"select c.oid::regclass::text, c.relkind, {_GRANTED.format('c.relacl')}, c.relrowsecurity, c.reloptions,"
    " obj_description(c.oid, 'pg_class'), case when c.relkind = 'v' then pg_get_viewdef(c.oid) end"
    f" from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_OURS} and c.relkind in ('r', 'v')",
    "select a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
    " pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum)"
    " from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace"
    " left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum"
    f" where {_OURS} and c.relkind in ('r', 'v') and a.attnum > 0",
    "select c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid)"
    f" from pg_constraint c join pg_namespace n on n.oid = c.connamespace where {_OURS}",
    "select indexname, indexdef from pg_indexes where schemaname = 'public'",
    "select t.tgrelid::regclass::text, pg_get_triggerdef(t.oid) from pg_trigger t where not t.tgisinternal",
    "select tablename, policyname, roles::text, cmd, qual, with_check from pg_policies",
    f"select p.oid::regprocedure::text, {_GRANTED.format('p.proacl')}, pg_get_functiondef(p.oid),"
    " obj_description(p.oid, 'pg_proc')"
    f" from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_OURS} and p.prokind = 'f'",
)
_TABLES = (
    "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' order by 1"
)


def schema_of(url: str) -> object:
    """Everything in the catalogue."""
    with psycopg.connect(url, autocommit=True) as connection:
        return [sorted(connection.execute(each.encode()).fetchall(), key=str) for each in _QUESTIONS]


def rows_of(url: str) -> Mapping[str, object]:
    """Every row of the public tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        return {
            name: connection.execute(f"select to_jsonb(t) from public.{name} t order by 1".encode()).fetchall()
            for (name,) in connection.execute(_TABLES).fetchall()
        }
