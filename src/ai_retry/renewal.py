"""Renews the leases of this process: one thread for all of them, one small write for each, every third of a lease.

A lease is short, so that a killed process is noticed soon; a call may be long. A renewal that finds its attempt closed
ends the lease, not the call: its answer is stored as a late one.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from ai_retry.domain.change import Renew
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.ports import Storage
from ai_retry.logs import LOG

if TYPE_CHECKING:
    from ai_retry.events import Event

_RENEWALS_A_LEASE: Final = 3
_LOOK_SECONDS: Final = 5.0  # between two looks whether anything is held: a thread with nothing to do ends soon


class LeaseRenewer:
    """Keeps leases until their holders have settled.

    Args:
        storage: applies the renewals; what it raises is tried again at the next turn.
        lease: how long a lease is valid after a renewal.
        emit: gets an event for each renewal that failed.
    """

    def __init__(self, storage: Storage, lease: timedelta, emit: "Callable[[Event], None]" = LOG) -> None:
        self._storage, self._lease, self._emit = storage, lease, emit
        self._turn = (lease / _RENEWALS_A_LEASE).total_seconds()
        self._held: dict[UUID, UUID] = {}  # generation by token
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def renewing(self, generation_id: UUID, token: UUID) -> Iterator[None]:
        """Renew the lease of this attempt meanwhile; hold it until the settle, or the last resort, has ended."""
        with self._lock:
            if self._process != os.getpid():  # a fork that renewed its parent's leases would hide the parent's death
                self._held, self._process = {}, os.getpid()
            if self._thread is None or not self._thread.is_alive():  # a fork has not its parent's threads
                self._thread = threading.Thread(target=self._work, name="ai-retry-leases", daemon=True)
                self._thread.start()
            self._held[token] = generation_id  # now that nothing can fail: an attempt that is given up is not renewed
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(token, None)

    def _work(self) -> None:
        """Renew everything that is held, turn by turn; end when nothing is held at a look."""
        due_at = time.monotonic() + self._turn
        while True:
            time.sleep(max(0, min(due_at - time.monotonic(), _LOOK_SECONDS)))
            with self._lock:
                if not self._held:
                    self._thread = None
                    return
                held = dict(self._held)
            if time.monotonic() >= due_at:
                due_at = time.monotonic() + self._turn
                for token, generation_id in held.items():
                    self._renew(generation_id, token)

    def _renew(self, generation_id: UUID, token: UUID) -> None:
        try:
            renewed = self._storage.amend(Renew(generation_id=generation_id, token=token, lease=self._lease)).applied
        except AiRetryError as error:
            self._report(generation_id, error.code)
            return
        except Exception as error:  # noqa: BLE001 (the outermost place of a thread: other leases are not lost for it)
            reason = type(error).__qualname__
            self._report(generation_id, "INTERNAL", reason)
            return
        if not renewed:
            with self._lock:
                self._held.pop(token, None)

    def _report(self, generation_id: UUID, code: str, reason: str | None = None) -> None:
        from ai_retry.events import RenewalFailed  # noqa: PLC0415 - by then an attempt has imported them

        self._emit(RenewalFailed(code=code, reason=reason, generation_id=generation_id))
