"""Older versions of pgmq, as hosted Supabase has them: fetched at set-up from its repository, never kept here.

``PGMQ_SOURCE`` names another repository or a clone. What was fetched is checked against a hash, and kept in ``.cache``.
"""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tools.npm import REPOSITORY

FOLDER: Final = REPOSITORY / ".cache" / "pgmq"
SOURCE: Final = "PGMQ_SOURCE"

_UPSTREAM: Final = "https://github.com/pgmq/pgmq"
_FILE: Final = "pgmq-extension/sql/pgmq.sql"
_PATIENCE: Final = 60  # seconds


@dataclass(frozen=True, slots=True)
class Release:
    """One version, and the SHA-256 of its SQL."""

    version: str
    sha256: str


RELEASES: Final = (
    Release("1.4.5", "40ab65a976a8109dd4c98b1b78346037ce553951e42e29025729f471d7a125a7"),
    Release("1.5.1", "65b9302faa660539584769a572b57f2df76ccf1b3a2153c37cefc57b8db633e9"),
)


class NotFetched(Exception):
    """The file is not here, and can't be fetched; says why."""


def installed(release: Release, folder: Path = FOLDER) -> Path:
    """Return the release's SQL file; fetch it unless that was done before.

    Raises:
        NotFetched: as it says.
    """
    path = folder / f"{release.version}.sql"
    if not path.exists():
        content = _fetched(release)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.rename(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != release.sha256:
        raise NotFetched(f"{path} is not pgmq {release.version}: its SHA-256 is another one; remove it")
    return path


def _fetched(release: Release) -> bytes:
    source = os.environ.get(SOURCE, _UPSTREAM)
    with TemporaryDirectory(prefix="ai-retry-pgmq-") as clone:
        _git(clone, "init", "--quiet", "--bare")
        _git(clone, "fetch", "--quiet", "--depth", "1", source, f"refs/tags/v{release.version}")
        return _git(clone, "show", f"FETCH_HEAD:{_FILE}")


def _git(clone: str, *arguments: str) -> bytes:
    command = ["git", "-C", clone, *arguments]
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE, env=environment).stdout
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"git {arguments[0]} failed"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"{type(error).__name__}"
    raise NotFetched(f"it can't be fetched ({reason}); name a clone of {_UPSTREAM} in {SOURCE}")
