"""Looks at a database: the catalogue, and the distinct words of one column. Reads only."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import sql

from ai_retry.cli.init.facts import Facts, Table, read_function, read_table

_ROWS: Final = 1_000_000  # that are read for the words of a column
_ABOUT: Final = """
select current_setting('server_version_num')::integer,
  array(select r.name from (values ('anon'), ('authenticated'), ('service_role')) r (name)
    where not exists (select from pg_catalog.pg_roles p where p.rolname = r.name)),
  pg_catalog.to_regclass('auth.users') is not null,
  array(select n.nspname::text from pg_catalog.pg_namespace n
    where case when exists (select from pg_catalog.pg_roles p where p.rolname = 'service_role')
      then pg_catalog.has_schema_privilege('service_role', n.oid, 'usage') end),
  (select p.rolsuper from pg_catalog.pg_roles p where p.rolname = current_user)
"""


def look(connection: "psycopg.Connection[Any]") -> Facts:
    """Read what the catalogue says of the app's tables and functions.

    Raises:
        psycopg.Error: as the server says it.
    """
    with connection.transaction():
        connection.execute("set transaction read only")
        connection.execute("set local search_path = ''")  # so that every name that is read is qualified
        about = connection.execute(_ABOUT.encode()).fetchone()
        assert about is not None  # noqa: S101 - a select without from has one row
        version, missing, has_users, usable, superuser = about
        tables = [read_table(each) for each in _document(connection, "tables.sql")]
        functions = [read_function(each) for each in _document(connection, "functions.sql")]
    return Facts(
        tables={each.quoted: each for each in tables},
        functions=functions,
        server_version=version,
        missing_roles=tuple(missing),
        has_users=has_users,
        usable_schemas=frozenset(usable),
        superuser=superuser,
    )


def words_of(connection: "psycopg.Connection[Any]", table: Table, column: str) -> Mapping[str | None, int]:
    """Count the distinct values of a column, of a large table among so many of its rows."""
    question = sql.SQL(
        "select w.word, count(*) from (select t.{}::text as word from {}.{} t limit {}) w"
        " group by 1 order by 2 desc, 1 limit 50"
    ).format(sql.Identifier(column), sql.Identifier(table.schema), sql.Identifier(table.name), sql.Literal(_ROWS))
    return dict(connection.execute(question).fetchall())


def _document(connection: "psycopg.Connection[Any]", name: str) -> Any:
    text = (files("ai_retry.cli.init") / "sql" / name).read_text(encoding="utf-8")
    row = connection.execute(text.encode()).fetchone()
    return [] if row is None else row[0]
