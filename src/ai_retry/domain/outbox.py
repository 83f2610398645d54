"""Messages for the webhook: what they are, and what is needed of the storage in which they wait.

The storage writes a message in the transaction that makes true what it says, and keeps it until it is delivered. So it
comes at least once, and may come again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID


class MessageType(StrEnum):
    """What a message says."""

    SUCCEEDED = "ai_retry.generation.succeeded"  # an accepted retry has ended with a session
    FAILED = "ai_retry.generation.failed"  # it has ended without one
    CANCELLED = "ai_retry.generation.cancelled"  # its user took it back, or its generation is gone
    EXPIRED = "ai_retry.generation.expired"  # its time was up
    ROUTE_CLOSED = "ai_retry.route.closed"  # a provider and model are unavailable
    ROUTE_OPENED = "ai_retry.route.opened"  # they have answered again, or are forgotten
    RECOVERY_ENDED = "ai_retry.recovery.ended"  # a run of a recovery plan has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A message that a process has taken to deliver it."""

    id: UUID  # the same at each delivery
    type: str
    happened_at: datetime
    data: Mapping[str, Any]
    tries: int  # this one included


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a try."""

    id: UUID
    tries: int  # which one it was
    wait: timedelta | None  # until the next; None: none is needed


class OutboxStorage(Protocol):
    """Where messages wait until they are delivered."""

    def drain(self, limit: int, lease: timedelta, results: Sequence[Delivery]) -> Sequence[Announcement]:
        """Record what became of messages, then take those that are due; others don't see them for ``lease``.

        Of one subject, a generation, route or run, only the first message is taken: the next one follows when it needs
        no further try. From now on, for seven days, messages are written.

        Raises:
            StorageFailure: the messages stay; safe to repeat.
        """
        ...
