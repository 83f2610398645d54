"""A database as a hosted project has it, with an app in it: its owner is no superuser, its old rows are there.

What is the app's own is compared before and after: nothing of it may change but what is named ``ai_retry_*``.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from tests.apps.book import Act, App, filled
from tools.push import apply_migrations
from tools.stack import Stack

OWNER: Final = "app_owner"
FIRST: Final = "20250101000000_app.sql"  # the app's own migration, older than ours

_ROLE: Final = f"""
do $role$
begin
  create role {OWNER} login bypassrls in role anon, authenticated, service_role;
exception when duplicate_object or unique_violation then
  null;
end
$role$;
"""
# What hosted Supabase's `postgres` may do, who is no superuser either.
_OWNS: Final = f"""
drop schema if exists supabase_migrations cascade;
grant usage on schema auth to {OWNER};
grant all on all tables in schema auth to {OWNER};
update pg_extension set extowner = '{OWNER}'::regrole where extname = 'pgmq';
grant all on schema pgmq to {OWNER} with grant option;
grant all on all tables in schema pgmq to {OWNER} with grant option;
grant all on all sequences in schema pgmq to {OWNER} with grant option;
"""
_LEGACY: Final = "".join(
    f"alter default privileges for role {OWNER} in schema public grant all on {kind}"
    " to anon, authenticated, service_role;\n"
    for kind in ("tables", "functions", "sequences")
)
_NOT_THE_APPS: Final = (
    "('pg_catalog', 'information_schema', 'auth', 'pgmq', 'ai_retry', 'supabase_lite', 'supabase_migrations')"
)
_TABLES: Final = f"""
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname not in {_NOT_THE_APPS} and n.nspname !~ '^pg_' and c.relkind in ('r', 'p')
  and c.relname !~ '^ai_retry' order by 1, 2
"""
_OF_TABLES: Final = (
    f"from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname not in {_NOT_THE_APPS}"
    " and n.nspname !~ '^pg_' and c.relname !~ '^ai_retry'"
)
_CATALOGUE: Final = (
    f"select 'relation', c.oid::regclass::text, c.relkind, c.relrowsecurity, c.relforcerowsecurity {_OF_TABLES}"
    " and c.relkind in ('r', 'p', 'v', 'S')",
    "select 'column', a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
    " pg_get_expr(d.adbin, d.adrelid) from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid"
    f" and d.adnum = a.attnum where a.attnum > 0 and a.attrelid in"
    f" (select c.oid {_OF_TABLES} and c.relkind in ('r', 'p'))",
    "select 'constraint', x.conrelid::regclass::text, x.conname, pg_get_constraintdef(x.oid), x.convalidated"
    f" from pg_constraint x where x.conname !~ '^ai_retry' and x.conrelid in (select c.oid {_OF_TABLES})",
    "select 'index', x.indrelid::regclass::text, pg_get_indexdef(x.indexrelid) from pg_index x"
    " where x.indexrelid::regclass::text !~ '(^|\\.)ai_retry'"
    f" and x.indrelid in (select c.oid {_OF_TABLES} and c.relkind in ('r', 'p'))",
    "select 'trigger', t.tgrelid::regclass::text, pg_get_triggerdef(t.oid), t.tgenabled from pg_trigger t"
    f" where not t.tgisinternal and t.tgname !~ '^ai_retry' and t.tgrelid in (select c.oid {_OF_TABLES})",
    "select 'policy', schemaname, tablename, policyname, permissive, roles::text, cmd, qual, with_check"
    " from pg_policies where tablename !~ '^ai_retry' and schemaname not in ('pgmq')",
    "select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc p join pg_namespace n"
    f" on n.oid = p.pronamespace where n.nspname not in {_NOT_THE_APPS} and n.nspname !~ '^pg_'"
    " and p.proname !~ '^ai_retry' and p.prokind = 'f'",
    "select 'enum', e.enumtypid::regtype::text, e.enumlabel from pg_enum e",
    "select 'privilege', c.oid::regclass::text, g.grantee::regrole::text, g.privilege_type"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) g"
    f" where n.nspname not in {_NOT_THE_APPS} and n.nspname !~ '^pg_' and c.relname !~ '^ai_retry'"
    f" and g.grantee::regrole::text not in ('service_role', '{OWNER}')",
)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is the app's own: its rows by table, and its catalogue."""

    rows: Mapping[str, Sequence[str]]
    catalogue: frozenset[tuple[str, ...]]


class Project:
    """A database with an app, and the folder in which its developer works."""

    def __init__(self, url: str, superuser_url: str, folder: Path) -> None:
        self.url = url
        """The database as its owner, who is no superuser."""
        self.superuser_url = superuser_url
        self.folder = folder / "supabase"
        self._connection = psycopg.connect(url, autocommit=True)

    @property
    def service_url(self) -> str:
        """The database as what runs ai-retry."""
        return f"{self.url}?options=-c%20role%3Dservice_role"

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def run(self, statements: str) -> None:
        """Run statements as the owner, each text in one transaction."""
        self._connection.execute(statements.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask as the owner."""
        return list(self._connection.execute(query.encode()).fetchall())

    def act(self, act: Act | None, user_id: UUID, **places: UUID) -> list[tuple[Any, ...]]:
        """Let the app do something for a user, in the role that it has; return what the last statement returns."""
        if act is None:
            return []
        claims = json.dumps({"sub": str(user_id), "role": act.role, "aal": "aal2"})
        with self._connection.transaction():
            self._connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            self._connection.execute("select set_config('request.jwt.claim.sub', %s, true)", [str(user_id)])
            if act.role is not None:
                self._connection.execute(sql.SQL("set local role {}").format(sql.Identifier(act.role)))
            cursor = self._connection.execute(filled(act.statements, user=user_id, **places).encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def new_user(self, app: App) -> UUID:
        """A user signs up: Auth adds them, and the app does what it does then."""
        user_id = uuid4()
        with psycopg.connect(self.superuser_url, autocommit=True) as auth:
            auth.execute("insert into auth.users (id) values (%s)", [user_id])
        self.act(app.act("user"), user_id)
        return user_id

    def picture(self) -> Picture:
        """Take down everything of the app."""
        rows = {}
        for schema, table in self.rows(_TABLES):
            query = sql.SQL("select to_jsonb(t)::text from {} t order by 1").format(sql.Identifier(schema, table))
            rows[f"{schema}.{table}"] = [text for (text,) in self._connection.execute(query).fetchall()]
        facts = frozenset(tuple(map(str, row)) for query in _CATALOGUE for row in self.rows(query))
        return Picture(rows, facts)


def changes(before: Picture, after: Picture) -> list[str]:
    """Name what is not as it was; an app that had no table may get those of the seed."""
    found = [f"rows of {table}" for table, rows in before.rows.items() if after.rows.get(table) != rows]
    found += [f"gone: {' '.join(each)}" for each in sorted(before.catalogue - after.catalogue)]
    if before.rows:
        found += [f"new: {' '.join(each)}" for each in sorted(after.catalogue - before.catalogue)]
    return found


@contextmanager
def project_of(stack: Stack, app: App, folder: Path) -> Iterator[Project]:
    """Make a project with the app and its old rows; it is gone at the end."""
    name = f"app_{uuid4().hex}"
    superuser_url = stack.create_database(name, migrated=False)
    try:
        with psycopg.connect(superuser_url, autocommit=True) as superuser:
            superuser.execute(_ROLE.encode())
            superuser.execute(sql.SQL("alter database {} owner to {}").format(*map(sql.Identifier, (name, OWNER))))
            path = (
                'alter database {} set search_path = "$user", public, extensions'  # as Supabase gives it to its roles
            )
            superuser.execute(sql.SQL(path).format(sql.Identifier(name)))
            superuser.execute(_OWNS.encode())
        project = Project(superuser_url.replace("//postgres@", f"//{OWNER}@"), superuser_url, folder)
        try:
            _fill(project, app)
            yield project
        finally:
            project.close()
    finally:
        stack.drop_database(name)


def declared(folder: Path) -> list[Path]:
    """List the files that config.toml declares as the schema, in their order."""
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    return [path for pattern in config["db"]["migrations"]["schema_paths"] for path in sorted(folder.glob(pattern))]


def _fill(project: Project, app: App) -> None:
    (project.folder / "migrations").mkdir(parents=True)
    if app.has_legacy_privileges:
        project.run(_LEGACY)
    schema = "".join(app.each("schema"))
    if app.project is not None:
        for path in (each for each in app.project.rglob("*") if each.is_file()):
            copy = project.folder.parent / path.relative_to(app.project)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        schema += "".join(path.read_text(encoding="utf-8") for path in declared(project.folder))
    if schema:
        (project.folder / "migrations" / FIRST).write_text(schema, encoding="utf-8")
        apply_migrations(project.url, project.folder / "migrations")
    for rows in app.each("rows"):
        project.run(rows)
