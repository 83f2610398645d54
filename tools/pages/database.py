"""The reference of the database, from the comments in a migrated one."""

from collections import defaultdict
from collections.abc import Iterator

import psycopg

from tools.pages.markdown import code, notice, page, table

_INTRODUCTION = f"""# SQL

{notice("the comments of a migrated database")}

Our tables, and the functions that the library calls, begin with `ai_retry_` and are in `public`. Internal functions,
and the binding to your tables, are in the schema `ai_retry`, which the Data API does not expose. End users have no
privilege on our tables, and may execute none of our functions. Functions run with the rights of their caller and a
pinned `search_path`. We add no trigger to a table of yours.

You may call `ai_retry_publish`, `ai_retry_create_queue` and `ai_retry_books` yourself. You may replace
`ai_retry_create_session` with [a function of your own](../how-to/sessions-table.md). The library calls the rest:
changes and requests are JSON documents, passed as `text`, with the number of their protocol; unknown members are
errors.
"""
_FUNCTIONS = """
select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), obj_description(p.oid, 'pg_proc'),
  has_function_privilege('service_role', p.oid, 'execute')
from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname like 'ai\\_retry\\_%' order by p.proname
"""
_BINDING = """
select 'ai_retry.' || p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
  obj_description(p.oid, 'pg_proc'), true
from pg_proc p where p.pronamespace = 'ai_retry'::regnamespace and p.proname like 'app\\_%' order by p.proname
"""
_ABOUT_BINDING = """\
Only these functions name your tables, and they belong to you: the migration creates the missing ones, and replaces
none. Statuses are our words (`queued`, `processing`, `success`, `error`, `timeout`); your own binding translates yours.
"""
_TABLES = """
select c.relname, obj_description(c.oid, 'pg_class') from pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname like 'ai\\_retry\\_%' order by c.relname
"""
_COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
  col_description(c.oid, a.attnum)
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname like 'ai\\_retry\\_%'
order by c.relname, a.attnum
"""
_CONSTRAINTS = """
select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
where connamespace = 'public'::regnamespace and conrelid::regclass::text ~ '^(public[.])?ai_retry_' and contype <> 'n'
order by 1, contype, conname
"""


def render(database_url: str) -> str:
    """Render the page from what is in this database."""
    with psycopg.connect(database_url) as connection:
        functions = ["## Functions", "", *_functions(connection, _FUNCTIONS)]
        binding = ["## The binding", "", _ABOUT_BINDING, *_functions(connection, _BINDING)]
        return page([_INTRODUCTION, *functions, *binding, *_tables(connection)])


def _functions(connection: psycopg.Connection, query: str) -> Iterator[str]:
    for name, arguments, result, comment, granted in connection.execute(query.encode()).fetchall():
        yield from (f"### {name}", "", "```sql", f"{name}({arguments}) returns {result}", "```", "")
        yield from (comment or "", "", "" if granted else "Only for the owner.", "")


def _tables(connection: psycopg.Connection) -> Iterator[str]:
    columns, constraints = defaultdict(list), defaultdict(list)
    for relation, *column in connection.execute(_COLUMNS.encode()).fetchall():
        columns[relation].append(column)
    for relation, name, definition in connection.execute(_CONSTRAINTS.encode()).fetchall():
        constraints[relation.removeprefix("public.")].append((code(name), code(definition)))
    yield from ("## Tables", "")
    for relation, comment in connection.execute(_TABLES.encode()).fetchall():
        yield from (f"### {relation}", "", comment or "", "")
        yield from table(
            ("column", "type", "default", "meaning"),
            (
                (code(name), kind + ("" if required else ", or null"), code(default or ""), about or "")
                for name, kind, required, default, about in columns[relation]
            ),
        )
        yield from table(("constraint", "definition"), constraints[relation])
