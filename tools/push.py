"""Migrations as `supabase db push` applies them, their source, and the privileges of older Supabase projects."""

import os
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from tools.migration import APP, OURS

OTHER_PGMQ = "TEST_PGMQ"
_FILE = re.compile(r"(?P<version>\d+)_(?P<name>.*)\.sql")

_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key,
  statements text[],
  name text
);
"""

_LEGACY = """
alter default privileges for role postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on functions to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to anon, authenticated, service_role;
"""


class MigrationsRefused(Exception):
    """Some migrations can't be used, or the database refuses them; names each file, and why."""


def listed(directory: Path) -> tuple[list[tuple[str, Path]], list[Path]]:
    """List a directory's migrations with their versions, in the order of these; and its other SQL files.

    Raises:
        MigrationsRefused: there is none, or two have the same version.
    """
    files, others = [], []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        files.append((match["version"], path)) if match else others.append(path)
    if not files:
        what = "holds no file <version>_<name>.sql" if directory.is_dir() else "is no directory"
        raise MigrationsRefused(f"{directory} {what}.")
    twice = [path.name for version, path in files if [each for each, _ in files].count(version) > 1]
    if twice:
        raise MigrationsRefused(f"These files of {directory} have the same version: {', '.join(twice)}.")
    return files, others


def apply_all(database_url: str, directory: Path) -> None:
    """Apply the migrations of a directory as ``apply_migrations`` does, but try those after one that is refused, too.

    Raises:
        MigrationsRefused: names each file that is refused, and why.
    """
    refused: list[str] = []
    ran = apply_migrations(
        database_url, directory, on_refused=lambda path, error: refused.append(f"{path.name}: {str(error).strip()}")
    )
    if refused:
        head = f"{len(refused)} of {len(refused) + len(ran)} migrations of {directory} are refused"
        raise MigrationsRefused(
            "\n\n".join([f"{head}; a later one may lack what an earlier one was to create.", *refused])
        )


def apply_migrations(
    database_url: str,
    directory: Path,
    *,
    force: bool = False,
    on_notice: Callable[[str], None] | None = None,
    on_refused: Callable[[Path, psycopg.Error], None] | None = None,
) -> list[str]:
    """Apply the migrations of a directory in the order of their versions, each in one transaction.

    Args:
        database_url: The database, as a superuser.
        directory: Holds `<version>_<name>.sql` files; others are ignored.
        force: Run those again that are recorded already.
        on_notice: Called with each notice and warning that the server sends.
        on_refused: Called with each file that fails, in place of raising; those after it are tried all the same.

    Returns:
        The names, without `.sql`, of the migrations that ran.

    Raises:
        psycopg.Error: What the server said; a note names the file. Earlier files stay applied.
    """
    files = sorted(
        (match["version"], path) for path in directory.glob("*.sql") if (match := _FILE.fullmatch(path.name))
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute(_HISTORY)
        recorded = connection.execute("select version from supabase_migrations.schema_migrations").fetchall()
        done = set() if force else {version for (version,) in recorded}
        if on_notice is not None:
            connection.add_notice_handler(lambda notice: on_notice(notice.message_primary or ""))
        pending = [(version, path) for version, path in files if version not in done]
        ran = []
        for version, path in pending:
            try:
                _apply(connection, version, path)
            except psycopg.Error as error:
                if on_refused is None:
                    raise
                on_refused(path, error)
            else:
                ran.append(path.stem)
    return ran


def apply_schemas(connection: psycopg.Connection) -> None:
    """Create everything from its source, as the migrations do in an empty project."""
    for migration in (OURS, APP):
        for path in migration.files():
            connection.execute(path.read_bytes())


def load_pgmq(database_url: str) -> None:
    """Put pgmq into a database, as where Supabase Queues are enabled.

    `TEST_PGMQ` names the pgmq.sql of another version, `1.4.5.sql`, which becomes an extension (PostgreSQL 18): before
    1.5 it can't be anything else.
    """
    other = os.environ.get(OTHER_PGMQ)
    with psycopg.connect(database_url, autocommit=True) as connection:
        if other is None:
            connection.execute((files("pgmq") / "sql" / "pgmq.sql").read_bytes())
        else:
            _create_extension(connection, Path(other))


def _create_extension(connection: psycopg.Connection, script: Path) -> None:
    with TemporaryDirectory(prefix="ai-retry-pgmq-") as folder:
        extensions = Path(folder) / "extension"
        extensions.mkdir()
        for path in (extensions, extensions.parent):
            path.chmod(0o755)  # the server has a user of its own
        control = f"default_version = '{script.stem}'\nschema = 'pgmq'\nrelocatable = false\n"
        (extensions / "pgmq.control").write_text(control, encoding="utf-8")
        (extensions / f"pgmq--{script.stem}.sql").write_bytes(script.read_bytes())
        connection.execute("select set_config('extension_control_path', %s, false)", [f"{folder}:$system"])
        connection.execute("create extension pgmq")


def grant_legacy_default_privileges(database_url: str) -> None:
    """Make a database grant everything made later in `public` to everyone, as older Supabase projects do."""
    with psycopg.connect(database_url) as connection:
        connection.execute(_LEGACY)


def _apply(connection: psycopg.Connection, version: str, path: Path) -> None:
    statements = path.read_text(encoding="utf-8")
    name = path.stem.removeprefix(f"{version}_")
    connection.execute("reset all")  # a file's `set` must not reach the next file
    try:
        with connection.transaction():
            connection.execute(statements.encode())
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)"
                " on conflict (version) do update set statements = excluded.statements, name = excluded.name",
                (version, [statements], name),
            )
    except psycopg.Error as error:
        error.add_note(f"in migration {path.name}")
        raise
