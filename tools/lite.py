"""Supabase Lite: Auth and Data API in front of our own Postgres, with hosted Supabase's privileges.

Two habits of Lite 0.10 would make tests lie, so it never logs in as superuser and always finds a table with RLS:

- It decides once per process whether requests run as `anon`, `authenticated` or `service_role`: only if some table
  has row level security by then. Otherwise all of them run as the role that Lite logged in with.
- Once it found one, it grants everything on every table of that schema to all three roles, if it may. As
  `supabase_lite`, who owns nothing in `public`, it may not. `pg_read_all_data` lets it look up the tables.

It also reads the schema once: restart it after changing tables or functions.
"""

import os
import signal
import socket
from pathlib import Path

import psycopg
import requests

from tools.npm import lite_command
from tools.postgres import Postgres
from tools.processes import Child, free_port, on_free_port

ROLE = "supabase_lite"

ROLES = f"""
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role {ROLE} login;
do $roles$
begin
  if current_setting('server_version_num')::integer < 160000 then
    create role {ROLE}_door nologin noinherit;  -- it may become the three, and has none of their privileges
    grant anon, authenticated, service_role to {ROLE}_door;
    grant {ROLE}_door to {ROLE};
  else
    execute 'grant anon, authenticated, service_role to {ROLE} with inherit false, set true';
  end if;
end
$roles$;
grant pg_read_all_data to {ROLE};
grant create on database postgres to {ROLE};
create schema {ROLE};
create table {ROLE}.row_level_security ();
alter table {ROLE}.row_level_security enable row level security;
"""

USAGE = "grant usage on schema public, auth to anon, authenticated, service_role"

CONFIG = """
project_id = "ai-retry"
[api]
port = {port}
[db]
driver = "postgres"
url = "{database_url}"
[db.migrations]
schema_paths = []
[auth]
enabled = true
jwt_secret = "env(SUPABASE_JWT_SECRET)"
publishable_key = "env(SUPABASE_PUBLISHABLE_KEY)"
secret_key = "env(SUPABASE_SECRET_KEY)"
[auth.email]
enable_confirmations = false
"""


class Lite:
    """Auth and Data API: its project directory and, while it runs, its server."""

    def __init__(self, directory: Path, node_modules: Path, keys: dict[str, str]) -> None:
        self.child = Child("supabase lite", directory / "lite.log")
        self._project = directory / "lite"
        self._command = lite_command(node_modules)
        self._env = os.environ | keys | {"LITE_TELEMETRY": "0", "HOME": str(self._project)}  # it writes to ~/.lite
        self._port: int | None = None
        self._database_url = ""

    @property
    def url(self) -> str:
        """What supabase clients call the project's URL."""
        return f"http://127.0.0.1:{self._port}"

    async def prepare(self, postgres: Postgres) -> None:
        """Make the roles, and let Lite make its schemas, in a new cluster."""
        self._database_url = postgres.url(ROLE)
        (self._project / "supabase" / "migrations").mkdir(parents=True)
        self._configure(free_port())
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(ROLES)
            self.child.spawn([*self._command, "migration", "up"], cwd=self._project, env=self._env)
            await self.child.finish()
            connection.execute(USAGE)

    async def start(self) -> None:
        """Start on the port it had before, or on a free one the first time."""
        if self._port is None:
            self._port = await on_free_port(self._start_on)
        else:
            await self._start_on(self._port)

    async def stop(self) -> None:
        """End the server."""
        await self.child.stop(signal.SIGTERM)

    async def _start_on(self, port: int) -> None:
        self._configure(port)
        seen = self.child.log.stat().st_size
        self.child.spawn(
            [*self._command, "start", "--no-admin", "--host", "127.0.0.1"], cwd=self._project, env=self._env
        )
        await self.child.until(lambda _: b"Ready in" in self.child.log.read_bytes()[seen:] and _listens(port))
        self._warm_up(port)

    def _warm_up(self, port: int) -> None:
        """Let it answer one request alone: several first ones at once fail (`SUP`), since it grants at the first."""
        url = f"http://127.0.0.1:{port}/rest/v1/?limit=0"
        requests.get(url, headers={"apikey": self._env["SUPABASE_SECRET_KEY"]}, timeout=10)

    def _configure(self, port: int) -> None:
        config = CONFIG.format(port=port, database_url=self._database_url)
        (self._project / "supabase" / "config.toml").write_text(config)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
