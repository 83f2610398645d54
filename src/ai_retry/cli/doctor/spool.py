"""Looks at the spool: whether answers can wait there, and what waits or can't be sent. Reads only."""

import os
from collections.abc import Iterator
from pathlib import Path

from ai_retry.cli.doctor.model import Check, Finding, Level
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Installation
from ai_retry.domain.ports import Storage
from ai_retry.storage.spool_files import Held, SpoolFiles, Unreadable

_NAMED = 3  # files


def spool(directory: Path | None, storage: Storage | None = None) -> Iterator[Finding]:
    """Can paid answers be kept there, and do all that wait belong to this database?

    Args:
        directory: None: none is configured.
        storage: is asked which database it is; None: the database can't be asked.
    """
    if directory is None:
        return
    if not _can_be_written(directory):
        problem = "AI_RETRY_SPOOL_DIR is no directory that this user can write"
        remedy = "create it, owned by the user who runs the app, on a disk that is kept"
        yield _finding(problem, remedy)
        return
    files = SpoolFiles(directory)
    if mode := files.mode():
        problem = f"other users can read or write AI_RETRY_SPOOL_DIR (their part of its mode is {mode:03o})"
        yield _finding(problem, "chmod 700 it: the files in it hold answers of users, and become sessions")
    if partial := files.partial():
        remedy = "look at them, then remove them: the process was killed before it had written the answer"
        yield _finding(f"not written to the end: {_some(partial)}", remedy, Level.HINT)
    yield from _waiting(files, _installation(storage))


def _waiting(files: SpoolFiles, here: Installation | None) -> Iterator[Finding]:
    waiting, foreign, unreadable = list[str](), list[str](), list[str]()
    for name in files.names():
        try:
            held = files.read(name)
        except Unreadable:
            unreadable.append(name)
            continue
        if held is not None:
            (foreign if _is_foreign(held, here) else waiting).append(name)
    if waiting:
        yield _finding(f"{len(waiting)} paid answers wait in the spool", "run ai-retry settle", Level.HINT)
    if foreign:
        problem = f"{len(foreign)} paid answers in the spool belong to another database: {_some(foreign)}"
        remedy = "settle them there; if this database is a copy of that one, run ai-retry settle --adopt"
        yield _finding(problem, remedy)
    if unreadable:
        remedy = "ai-retry settle says why of each; keep what may be an answer, and remove the rest"
        yield _finding(f"{len(unreadable)} files in the spool can't be read: {_some(unreadable)}", remedy)


def _is_foreign(held: Held, here: Installation | None) -> bool:
    return here is not None and held.installation != here


def _installation(storage: Storage | None) -> Installation | None:
    try:
        return storage.installation() if storage is not None else None
    except AiRetryError:
        return None  # another check says what is missing


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _can_be_written(directory: Path) -> bool:
    """Whether it is there for this user, or can be created; what can't even be looked at is not."""
    try:
        directory.stat()
    except FileNotFoundError:
        return _can_be_written(directory.parent)
    except OSError:
        return False
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def _finding(problem: str, remedy: str, level: Level = Level.PROBLEM) -> Finding:
    return Finding(Check.SPOOL, problem, remedy, level)
