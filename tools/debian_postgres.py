"""Debian's PostgreSQL, which has plpgsql_check, as the wheel's has not: a cluster that ends with its caller."""

import asyncio
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tools.judging import NotRun
from tools.postgres import Postgres, from_programs

PACKAGE: Final = "postgresql-15-plpgsql-check"
_SYSTEM_USER: Final = "postgres"  # of the package; PostgreSQL refuses to run as root
_PROGRAMS: Final = Path("/usr/lib/postgresql")
_EXTENSION: Final = "/usr/share/postgresql/{version}/extension/plpgsql_check.control"


@contextmanager
def running_debian() -> Iterator[str]:
    """Run a new cluster; yield the URL of its database `postgres`, as its superuser.

    Raises:
        NotRun: No PostgreSQL of Debian's with plpgsql_check is installed.
    """
    programs = _programs()
    user = _SYSTEM_USER if os.geteuid() == 0 else None
    directory = Path(tempfile.mkdtemp(prefix="ai-retry-debian-"))
    if user is not None:
        shutil.chown(directory, user)
    server = Postgres(directory, {}, partial(from_programs, programs, user))
    try:
        asyncio.run(server.start())
        yield server.url()
    finally:
        asyncio.run(server.child.stop(signal.SIGQUIT))
        shutil.rmtree(directory, ignore_errors=True)


def _programs() -> Path:
    """Find the newest server that has the extension."""
    found = [each for each in _PROGRAMS.glob("*/bin") if Path(_EXTENSION.format(version=each.parent.name)).exists()]
    if not found:
        raise NotRun(f"plpgsql_check and supabase db lint: Debian's package {PACKAGE} is not installed")
    return max(found, key=lambda each: [int(part) for part in re.findall(r"\d+", each.parent.name)])
