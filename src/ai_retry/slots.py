"""How many provider calls run at once in one process.

A slow provider must not take every thread of the server: refusals, status pages and health checks are to be answered
while calls wait. Limits that belong to a user are the domain's; this one belongs to the process and knows no user.
"""

from datetime import timedelta
from threading import BoundedSemaphore
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from ai_retry.domain.errors import TooManyParallel
from ai_retry.domain.model import Admission, Claim, QuotaRule, Snapshot
from ai_retry.domain.policy import waiting_helps
from ai_retry.domain.ports import Storage

_FULL_WAIT: Final = timedelta(seconds=1)


class CallSlots:
    """The process's calls: ``limit`` of them, shared by all its threads."""

    def __init__(self, limit: int) -> None:
        """Take the limit, at least 1."""
        self.limit = limit
        self._free = BoundedSemaphore(limit)

    def take(self, *, helps: bool = True) -> None:
        """Take a slot without waiting.

        Args:
            helps: whether it pays to come back later.

        Raises:
            TooManyParallel: all are taken; come back in a second, if that helps.
        """
        if not self._free.acquire(blocking=False):
            raise TooManyParallel(self.limit, wait=_FULL_WAIT, helps=helps)

    def give_back(self) -> None:
        """Free a taken slot."""
        self._free.release()


class SlottedStorage:
    """A storage, for one retry, that takes a call's slot just before it claims.

    There the slot costs nobody anything: whoever is refused by a rule has been told so already and needed none, a
    replayed result and a stored answer need none either, and no attempt is opened that could not be run. It is freed
    when the retry ends, settled or not.
    """

    def __init__(self, storage: Storage, slots: CallSlots) -> None:
        self.succeed, self.fail = storage.succeed, storage.fail
        self.discard_answer = storage.discard_answer
        self._load, self._claim = storage.load, storage.claim
        self._slots = slots
        self._taken, self._helps = False, True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._taken:
            self._slots.give_back()

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """See ``Storage``."""
        snapshot = self._load(user_id, generation_id, quota_rule)
        self._helps = snapshot is None or waiting_helps(snapshot)
        return snapshot

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """See ``Storage``.

        Raises:
            TooManyParallel: no slot is free; nothing was written.
        """
        if admission.stored_answer is None and not self._taken:
            self._slots.take(helps=self._helps)
            self._taken = True
        return self._claim(admission, token=token, lease=lease)
