"""The local Supabase stack, as tests and demo see it: PostgreSQL, Auth and Data API without Docker.

`running_stack()` gives one that ends with its caller. `python -m tools.stack up` and `down` are for one that
stays.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import psycopg
import requests
from psycopg import sql

from tools.control import Control, launch
from tools.npm import REPOSITORY
from tools.processes import StackUnavailable
from tools.push import MigrationsRefused, apply_all, load_pgmq

MIGRATIONS = REPOSITORY / "supabase" / "migrations"

_BARE = "template_bare"
_MIGRATED = "template_migrated"
_ENV_NAMES = {
    "url": "SUPABASE_URL",
    "secret_key": "SUPABASE_SECRET_KEY",
    "publishable_key": "SUPABASE_PUBLISHABLE_KEY",
    "jwt_secret": "SUPABASE_JWT_SECRET",
    "database_url": "DATABASE_URL",
}


@dataclass(frozen=True)
class SignedInUser:
    """A user who has just signed up."""

    id: UUID
    access_token: str = field(repr=False)


@dataclass(frozen=True)
class Stack:
    """A running stack, and what only a test's owner of a project can do with it."""

    url: str
    database_url: str
    """The database that Auth and Data API serve, as superuser."""
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    control: Control | None = field(default=None, repr=False, compare=False)
    """The line to the supervisor; none for a stack that another process started."""

    @classmethod
    def from_env_file(cls, path: Path) -> "Stack":
        """Return the stack that `make stack-up` described in a file."""
        lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
        url, secret, publishable, jwt, database = (lines[variable] for variable in _ENV_NAMES.values())
        return cls(url, database, publishable, secret, jwt)

    def env(self) -> dict[str, str]:
        """Return the settings that an app would have in its environment."""
        return {variable: getattr(self, name) for name, variable in _ENV_NAMES.items()}

    def sign_up(self, email: str, password: str) -> SignedInUser:
        """Make a user and sign them in.

        By plain HTTP, because Lite's timestamps are refused by the models of supabase_auth.
        """
        response = requests.post(
            f"{self.url}/auth/v1/signup",
            json={"email": email, "password": password},
            headers={"apikey": self.publishable_key},
            timeout=10,
        )
        response.raise_for_status()
        body = response.json()
        return SignedInUser(id=UUID(body["user"]["id"]), access_token=body["access_token"])

    def create_database(self, name: str, *, migrated: bool) -> str:
        """Make a database as Supabase makes a project's, with or without our migrations; return its URL.

        It has the schema and users' table of Auth, but neither Auth nor the Data API serves it.
        """
        return self.copy_database(_MIGRATED if migrated else _BARE, name)

    def copy_database(self, source: str, name: str) -> str:
        """Make a database as another one is, to which there is no connection; return its URL."""
        _administer(self.database_url, "create database {} template {}", name, source)
        return f"{self.database_url.rpartition('/')[0]}/{name}"

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected; nothing happens when there is none."""
        _administer(self.database_url, "drop database if exists {} with (force)", name)

    def restart_postgres(self, *, immediate: bool = False) -> None:
        """Stop Postgres, fast or `immediate` as if it had crashed, and start it on the same port."""
        self._ask("restart_postgres", immediate=immediate)

    def stop_data_api(self) -> None:
        """Stop Auth and Data API, until they are restarted."""
        self._ask("stop_data_api")

    def restart_data_api(self) -> None:
        """Stop Auth and Data API and start them on the same port; they read the schema anew."""
        self._ask("restart_data_api")

    def _ask(self, do: str, **arguments: bool) -> None:
        if self.control is None:
            raise StackUnavailable(f"{do} is for the process that started the stack")
        self.control.ask(do, **arguments)


@contextmanager
def running_stack(
    migrations: Path | None = MIGRATIONS, *, postgres_settings: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """Run a stack of one's own; it is gone at the end, or when this process dies in any way.

    Args:
        migrations: A directory to apply to the main database and to migrated copies; none is none.
        postgres_settings: Lines for postgresql.conf, such as `{"full_page_writes": "off"}`.

    Raises:
        StackUnavailable: It can't run here.
        MigrationsRefused: Names each migration that the database refuses.
    """
    directory = Path(tempfile.mkdtemp(prefix="ai-retry-stack-"))
    try:
        with launch(directory, postgres_settings or {}) as control:
            yield open_stack(control, migrations)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def open_stack(control: Control, migrations: Path | None) -> Stack:
    """Turn a supervisor that just started Postgres into a stack.

    The order matters: copies are taken while there is no connection, and the Data API reads the schema once.
    """
    started = control.started
    database_url = started["database_url"]
    load_pgmq(database_url)
    _administer(database_url, "create database {} template postgres is_template true allow_connections false", _BARE)
    if migrations is not None:
        apply_all(database_url, migrations)
    _administer(
        database_url, "create database {} template postgres is_template true allow_connections false", _MIGRATED
    )
    return Stack(
        url=control.ask("restart_data_api")["url"],
        database_url=database_url,
        publishable_key=started["SUPABASE_PUBLISHABLE_KEY"],
        secret_key=started["SUPABASE_SECRET_KEY"],
        jwt_secret=started["SUPABASE_JWT_SECRET"],
        control=control,
    )


def _administer(database_url: str, statement: LiteralString, *names: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def main(arguments: list[str]) -> int:
    """Run one command: `up`, `down`, or `run` (the supervisor itself, for the other two and for `running_stack`)."""
    from tools import detached, supervisor  # noqa: PLC0415 - they need this module, and `run` nothing else

    try:
        match arguments:
            case ["run", directory, node_modules, settings]:
                supervisor.main(Path(directory), Path(node_modules), json.loads(settings))
            case ["up"]:
                print(detached.up())
            case ["up", directory]:
                print(detached.up_with(Path(directory)))
            case ["down"]:
                print(detached.down())
            case _:
                print("usage: python -m tools.stack up [MIGRATIONS] | down", file=sys.stderr)
                return 2
    except (StackUnavailable, MigrationsRefused, psycopg.Error) as error:
        print(str(error) or repr(error), *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
