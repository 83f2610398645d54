"""The files of a spool: one for each paid answer that is not settled yet.

A file is readable by its owner only and written by rename, so that it is whole or not there; the page cache outlives a
killed process. It names the installation that it belongs to. A name says generation and token; what is in the directory
is read with suspicion.
"""

import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import UUID, uuid4

from ai_retry.domain.change import Keep, Settle
from ai_retry.domain.model import Installation
from ai_retry.logs import write_line
from ai_retry.storage.codec import read, write
from ai_retry.storage.documents import PROTOCOL, document, read_settle

_VERSION: Final = 1  # of the files
_SUFFIX: Final = ".settle.json"
_PARTIAL: Final = ".partial"
_TORN_AFTER: Final = 60.0  # seconds: a rename follows its write at once
_MOST_BYTES: Final = 64 * 1024 * 1024
_OTHERS: Final = 0o077


class Unreadable(Exception):
    """A file is not one of ours, or not whole; the text says why, and holds nothing of its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a file holds."""

    change: Settle
    installation: Installation


class SpoolFiles:
    """A directory of answers. Nothing is created before something is written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def hold(self, change: Settle, request: str, installation: Installation) -> None:
        """Write a settle, whole or not at all. A repeat changes nothing; a disk that refuses is logged, not raised."""
        target, partial = self._directory / _name(change), self._directory / f"{uuid4()}{_PARTIAL}"
        header = json.dumps({"version": _VERSION, "installation": write(installation)})
        try:
            if target.exists():
                return
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f'{header[:-1]}, "settle": {request}}}')
            partial.rename(target)
        except OSError as error:
            write_line(ERROR, "spool_failed", errno=error.errno)
            with suppress(OSError):
                partial.unlink()

    def release(self, change: Settle | Keep) -> None:
        """Remove it; nothing happens when it is not there. One that can't be removed is logged, and only sent again."""
        try:
            (self._directory / _name(change)).unlink(missing_ok=True)
        except OSError as error:
            write_line(ERROR, "spool_failed", errno=error.errno)

    def names(self, generation_id: UUID | None = None) -> list[str]:
        """List the files, of one generation or all."""
        start = f"{generation_id}." if generation_id is not None else ""
        return sorted(name for name in self._entries() if name.endswith(_SUFFIX) and name.startswith(start))

    def read(self, name: str) -> Held | None:
        """Read a file; None when it is gone: another process has just settled it.

        Raises:
            Unreadable: with the reason.
        """
        try:
            held = _held(json.loads(self._text(name), parse_constant=_refuse))
            document(held.change)  # what can't be written can't be sent
        except FileNotFoundError:
            return None
        except Unreadable:
            raise
        except Exception as error:  # noqa: BLE001 (whatever is in there, it is that file's problem)
            raise Unreadable(type(error).__qualname__) from None
        if name != _name(held.change):
            raise Unreadable("its token is not its name")
        return held

    def partial(self) -> list[str]:
        """List what a process that was killed while it wrote has left: the answers in them are lost, or not whole."""
        return sorted(name for name in self._entries() if name.endswith(_PARTIAL) and self._age(name) > _TORN_AFTER)

    def mode(self) -> int:
        """Return what users other than the owner may do with the directory, as bits of its mode; 0: nothing."""
        with suppress(OSError):
            return self._directory.stat().st_mode & _OTHERS
        return 0

    def _entries(self) -> Iterator[str]:
        with suppress(OSError):
            yield from os.listdir(self._directory)  # noqa: PTH208 (names, before every begin)

    def _age(self, name: str) -> float:
        with suppress(OSError):
            return time.time() - (self._directory / name).stat(follow_symlinks=False).st_mtime
        return 0.0

    def _text(self, name: str) -> bytes:
        """Read a plain file: no link is followed, and no pipe waited for."""
        descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
                raise Unreadable("it is no plain file, or too large")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)


def _held(row: Any) -> Held:
    if row["version"] != _VERSION or row["settle"]["protocol"] != PROTOCOL:
        raise Unreadable("it is of another version")
    return Held(change=read_settle(row["settle"]), installation=read(Installation, row["installation"]))


def _name(change: Settle | Keep) -> str:
    return f"{change.generation_id}.{change.token}{_SUFFIX}"


def _refuse(_: str) -> NoReturn:
    raise Unreadable("it holds a number that JSON does not have")
