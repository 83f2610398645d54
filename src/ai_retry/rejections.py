"""Notices when the app's tables reject every session, whatever the user: then further paid calls create no session.

A check constraint that no session can meet would cost a call for each generation. Recovery stops then, and a worker
slows down, until an operator has cured it.
"""

import threading
from typing import Any, Final
from uuid import UUID

from ai_retry.domain.change import Reply, Settle, Success
from ai_retry.domain.errors import SessionRejected
from ai_retry.domain.loop import Step
from ai_retry.domain.model import Outcome

_USERS: Final = 3  # in a row, by one cause


class Rejections:
    """Watches the settles of many retries. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cause: str | None = None
        self._users: set[UUID] = set()

    @property
    def cause(self) -> str | None:
        """What rejected the sessions of the last three users, in a row; None: nothing did."""
        with self._lock:
            return self._cause if len(self._users) >= _USERS else None

    def before(self, step: Step) -> None:
        """Let every step be done."""

    def after(self, step: Step, result: Any) -> None:
        """Note a rejected session; one that was created ends the row, and so does another cause."""
        if not isinstance(step, Settle) or not isinstance(step.end, Success) or not isinstance(result, Reply):
            return
        mine = result.snapshot.my_attempt if result.snapshot is not None else None
        if mine is None or not result.applied:
            return
        with self._lock:
            if mine.outcome is Outcome.SUCCEEDED or mine.refused_constraint != self._cause:
                self._users.clear()
            if mine.code == SessionRejected.code:  # a conflict is its user's to cure
                self._cause = mine.refused_constraint
                self._users.add(step.user_id)
