"""Answers that were paid for and are not settled yet, on this machine's disk.

An answer is there from before its first settle until the storage has decided, so that a killed process loses none after
that. Sending one again is safe at any time, from any number of processes: settles are idempotent by their token. The
files hold answers of users: the directory is to be kept like the database. See ``spool_files`` for what is in it.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID

from ai_retry.domain.change import Found, Keep, Reply, Settle, Success
from ai_retry.domain.decide.settle import closing_without, found
from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure
from ai_retry.domain.model import Installation, Outcome
from ai_retry.domain.ports import Storage
from ai_retry.logs import LOG, write_line
from ai_retry.storage.repeating import Repeats
from ai_retry.storage.spool_files import Held, SpoolFiles, Unreadable
from ai_retry.storage.transport import LOCKED, is_internal

if TYPE_CHECKING:
    from ai_retry.events import Event

_REMEDY: Final = "let AI_RETRY_SPOOL_DIR name one that this user may write"
_TOO_MANY: Final = 2  # failures in a row are the storage's, and no file's


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolReport:
    """What became of the files in the spool."""

    settled: int = 0  # each has its session now
    decided: int = 0  # the storage keeps the answer, or its generation needs none any more
    left: int = 0  # still in the spool: the storage failed, or can't take them now
    foreign: int = 0  # of another installation or database; left where they are
    unknown: int = 0  # of attempts that the database does not know; left where they are
    unreadable: int = 0  # not ours or not whole; left where they are
    partial: int = 0  # that a process which was killed meanwhile has begun to write
    exposed: int = 0  # 1: others than the owner can read or write the directory

    @property
    def is_done(self) -> bool:
        """Whether no answer waits any more."""
        return not (self.left or self.foreign or self.unknown or self.unreadable)


# What became of one file; a field of the report, but for "gone": another process has just settled it.
_Fate: TypeAlias = Literal["settled", "decided", "left", "foreign", "unknown", "unreadable", "gone"]


class Spool(SpoolFiles):
    """A directory of answers, and how they are sent.

    Args:
        directory: created if absent, for its owner only.

    Raises:
        NotConfigured: the directory can't be created or written.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.emit: Callable[[Event], None] = LOG
        self._noted: set[str] = set()  # what was logged already
        self._failed: set[str] = set()  # files that go last the next time
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NotConfigured(f"the spool directory can't be created ({error.strerror}): {_REMEDY}") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise NotConfigured(f"the spool directory can't be written: {_REMEDY}")

    def send_again(self, storage: Storage, *, adopt: bool = False) -> SpoolReport:
        """Settle what is here, once each: pass over what can't be settled now, and stop when the storage fails.

        Safe to repeat, and beside running apps. A file of another installation or database is left where it is.

        Args:
            storage: settles them.
            adopt: send those of other installations and databases, too: this is a copy of theirs.
        """
        counts = Counter[str](partial=self._note_partial(), exposed=self._note_mode())
        names = sorted(self.names(), key=self._failed.__contains__)
        here = _once(storage)
        installation = self._installation(here) if names else None
        if installation is None:
            return SpoolReport(**counts, left=len(names))
        failures = 0  # in a row
        for position, name in enumerate(names):
            if self._closed.is_set() or failures == _TOO_MANY:
                counts["left"] += len(names) - position
                break
            try:
                fate = self._send(name, here, None if adopt else installation)
                failures = 0
                self._failed.discard(name)
            except AiRetryError as error:
                write_line(WARNING, "spool_waits", code=error.code, file=name)
                fate = "left"
                failures = failures + 1 if _may_be_storage(error) else 0
                self._failed.add(name)
            counts[fate] += 1
        del counts["gone"]
        return SpoolReport(**counts)

    def send_first(self, generation_id: UUID, storage: Storage) -> None:
        """Send what waits for a generation before it begins again: no answer is paid for twice.

        Raises:
            AiRetryError: it can't be sent now, and the generation must not begin.
        """
        for name in self.names(generation_id):
            try:
                self._send(name, storage, storage.installation(), firmly=True)
            except StorageFailure as error:
                if error.retry_after is not None:
                    raise
                self._note(name, "spool_waits", code=error.code)  # the database can't take it at all

    def send_beside(self, storage: Storage) -> None:
        """Settle what is here in another thread, so that no caller waits; nothing happens while one is at it."""
        with self._lock:
            if not self._closed.is_set() and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(
                    target=self._send_beside, args=[storage], name="ai-retry-spool", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """End what sends beside, after the file that it is at; a closed spool sends nothing again."""
        self._closed.set()
        with self._lock:
            if self._thread is not None:
                self._thread.join()

    def _send_beside(self, storage: Storage) -> None:
        try:
            report = self.send_again(storage)
        except Exception as error:  # noqa: BLE001 (the outermost place of a thread)
            write_line(ERROR, "spool_failed", error=type(error).__qualname__)
            return
        if report.settled or report.decided or report.left:
            write_line(INFO, "spool_sent", settled=report.settled, decided=report.decided, left=report.left)

    def _installation(self, storage: Storage) -> Installation | None:
        try:
            return storage.installation()
        except AiRetryError as error:
            write_line(WARNING, "spool_waits", code=error.code)
        return None

    def _send(self, name: str, storage: Storage, only_of: Installation | None, *, firmly: bool = False) -> _Fate:
        from ai_retry.events import Settled  # noqa: PLC0415 - few processes find a file

        try:
            held = self.read(name)
        except Unreadable as error:
            self._note(name, "spool_unreadable", reason=str(error))
            return "unreadable"
        if held is None:
            return "gone"
        if only_of is not None and held.installation != only_of:
            self._note(name, "spool_foreign", database=held.installation.database)
            return "foreign"
        fate = _deliver(held, storage, firmly=firmly)
        if fate == "unknown":
            self._note(name, "spool_unknown")
        else:
            self.release(held.change)
            change = held.change
            self.emit(Settled(user_id=change.user_id, generation_id=change.generation_id, outcome=fate))
        return fate

    def _note_partial(self) -> int:
        names = self.partial()
        for name in names:
            self._note(name, "spool_partial")
        return len(names)

    def _note_mode(self) -> int:
        mode = self.mode()
        if mode:
            self._note("", "spool_exposed", others=f"{mode:03o}")
        return int(mode != 0)

    def _note(self, name: str, event: str, **facts: Any) -> None:
        """Log it once in this process."""
        said = f"{event} {name} {facts}"
        if said not in self._noted:
            self._noted.add(said)
            write_line(WARNING, event, **facts, file=name or None)


def is_paid_here(change: Settle) -> bool:
    """Whether the attempt to be closed paid for its answer; a stored answer is safe where it is."""
    return isinstance(change.end, Success) and change.end.answer_from is None and change.call is not None


def is_decided(change: Settle, reply: Reply) -> bool:
    """Whether the storage needs no file of this attempt any more: it is closed."""
    if reply.applied:
        return True
    if reply.snapshot is None:
        return reply.known and change.found is Found.GONE
    mine = reply.snapshot.my_attempt
    return mine is not None and mine.outcome is not None


def _deliver(held: Held, storage: Storage, *, firmly: bool) -> _Fate:
    """Settle; where that is not what the generation needs, or not possible, let the storage keep the answer."""
    change = held.change
    try:
        reply = storage.settle(change)
    except AiRetryError as error:
        cause = error.reason if isinstance(error, StorageFailure) else error.code
        if not (firmly or isinstance(error, NotConfigured) or is_internal(cause)):
            raise
    else:
        if is_decided(change, reply):
            mine = reply.snapshot.my_attempt if reply.snapshot is not None else None
            return "settled" if mine is not None and mine.outcome is Outcome.SUCCEEDED else "decided"
        if not reply.known:
            return "unknown"
        now = found(reply.snapshot, change.user_id)
        cause = closing_without(now, counted=False, answer=None).code or now
    storage.keep(_kept(change, cause))
    return "decided"


def _kept(change: Settle, cause: str) -> Keep:
    assert isinstance(change.end, Success)  # noqa: S101 (nothing else is held)
    assert change.call is not None  # noqa: S101 (the same)
    return Keep(
        user_id=change.user_id,
        generation_id=change.generation_id,
        token=change.token,
        answer=change.end.answer,
        cause=cause,
        wait=change.end.if_rejected.wait,
        call=change.call,
    )


def _may_be_storage(error: AiRetryError) -> bool:
    """Whether another file may meet the same failure, so that it is the storage's."""
    return isinstance(error, StorageFailure) and error.retry_after is not None and error.reason not in LOCKED


def _once(storage: Storage) -> Storage:
    return storage.once() if isinstance(storage, Repeats) else storage
