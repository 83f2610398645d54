"""Takes messages out of the outbox, and delivers them until each was taken by the receiver or is given up.

Safe to run in any number of processes: a message that one of them has taken is hidden from the others for a while. A
process that is killed loses nothing: the message comes again, with the same id.
"""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Final
from uuid import UUID

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.outbox import Announcement, Delivery, OutboxStorage
from ai_retry.events import Emit, WebhookDelivered, WebhookFailed, WebhookGivenUp, WebhookStopped
from ai_retry.webhooks.receiver import DEADLINE, GONE, Receiver

MOST_TRIES: Final = 90  # of one message: about three days
_FIRST_WAIT, _GROWTH, _LONGEST_WAIT = 5.0, 4.0, 3600.0  # seconds between the tries of one message
_AT_ONCE: Final = 4  # deliveries
_TAKEN: Final = 2 * _AT_ONCE  # messages at once
LEASE: Final = timedelta(seconds=2 * DEADLINE + 10)  # two deliveries, one after the other, and a drain
_IDLE: Final = 1.0  # seconds between looks that find nothing
_STORAGE_WAITS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds while the outbox can't be read


@dataclass(slots=True)
class Tally:
    """What became of messages."""

    delivered: int = 0
    failed: int = 0  # they are tried again later
    given_up: int = 0


class Deliveries:
    """Delivers messages to one receiver.

    Args:
        outbox: where they wait.
        receiver: takes them.
        emit: gets the events.
    """

    def __init__(self, outbox: OutboxStorage, receiver: Receiver, emit: Emit) -> None:
        self._outbox, self._receiver, self._emit = outbox, receiver, emit
        self._tally, self._lock = Tally(), threading.Lock()
        self._stop = threading.Event()
        self._is_gone = False  # the receiver wants no more messages

    def once(self) -> Tally:
        """Deliver every message that is due, and return what became of them.

        Raises:
            StorageFailure: what was not delivered stays; safe to repeat.
        """
        results: Sequence[Delivery] = ()
        while taken := self._outbox.drain(0 if self._is_gone else _TAKEN, LEASE, results):
            results = self._deliver_all(taken)
        return self._tally

    def run(self, stop: threading.Event) -> None:
        """Deliver messages until ``stop`` is set, or the receiver wants no more."""
        self._stop = stop
        results: Sequence[Delivery] = ()
        failures = 0
        while not stop.is_set() and not self._is_gone:
            try:
                taken = self._outbox.drain(_TAKEN, LEASE, results)
                results, failures = self._deliver_all(taken), 0
            except Exception as error:  # noqa: BLE001 - the outermost place of a thread: it goes on
                wait = _STORAGE_WAITS[min(failures, len(_STORAGE_WAITS) - 1)]
                failures += 1
                self._emit(WebhookFailed(code=getattr(error, "code", "INTERNAL"), wait_seconds=wait))
                stop.wait(wait)
            else:
                if not taken:
                    stop.wait(_IDLE)
        self._record(results)

    def _record(self, results: Sequence[Delivery]) -> None:
        """Record what became of the last messages; where that fails, they come again."""
        try:
            if results:
                self._outbox.drain(0, LEASE, results)
        except AiRetryError as error:
            self._emit(WebhookFailed(code=error.code))

    def _deliver_all(self, taken: Sequence[Announcement]) -> Sequence[Delivery]:
        if not taken:
            return ()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ai_retry_webhook") as threads:
            return list(threads.map(self._deliver, taken))

    def _deliver(self, message: Announcement) -> Delivery:
        if self._stop.is_set() or self._is_gone:
            return Delivery(id=message.id, tries=message.tries, wait=timedelta(0))  # for another process
        began = monotonic()
        answered = self._receiver.post(message)
        about = about_message(message)
        if answered.code is None:
            self._count("delivered")
            self._emit(WebhookDelivered(**about, seconds=monotonic() - began))
            return Delivery(id=message.id, tries=message.tries, wait=None)
        if answered.code == GONE:
            self._end()
        elif message.tries >= MOST_TRIES:
            self._count("given_up")
            self._emit(WebhookGivenUp(**about, code=answered.code))
            return Delivery(id=message.id, tries=message.tries, wait=None)
        wait = wait_after(message.tries, asked=answered.wait)
        self._count("failed")
        self._emit(WebhookFailed(**about, code=answered.code, wait_seconds=wait.total_seconds()))
        return Delivery(id=message.id, tries=message.tries, wait=wait)

    def _end(self) -> None:
        with self._lock:
            was_gone, self._is_gone = self._is_gone, True
        if not was_gone:
            self._emit(WebhookStopped(code=GONE))

    def _count(self, end: str) -> None:
        with self._lock:
            setattr(self._tally, end, getattr(self._tally, end) + 1)


def wait_after(tries: int, *, asked: timedelta | None = None) -> timedelta:
    """Return how long a message waits after so many tries: longer and longer, up to an hour, never all at once.

    Args:
        tries: at least 1.
        asked: how long the receiver asks to wait; up to an hour.
    """
    longest = min(_LONGEST_WAIT, _FIRST_WAIT * _GROWTH ** min(tries - 1, 9))
    wait = random.uniform(0.8 * longest, longest)  # noqa: S311 (it is no secret)
    least = asked.total_seconds() if asked is not None else 0.0
    return timedelta(seconds=max(wait, min(least, _LONGEST_WAIT)))


def about_message(message: Announcement) -> dict[str, Any]:
    """Return what events say of a message."""
    user_id, generation_id = message.data.get("user_id"), message.data.get("generation_id")
    return {
        "user_id": UUID(user_id) if user_id else None,
        "generation_id": UUID(generation_id) if generation_id else None,
        "request_id": message.data.get("request_id"),
        "message": message.type,
        "message_id": message.id,
        "tries": message.tries,
    }
