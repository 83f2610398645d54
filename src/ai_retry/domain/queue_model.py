"""The nouns of retries that are accepted for later: see ``model``, of which this is a part."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from ai_retry.domain.model import Generation, Quota, RetryResult


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRetry:
    """A retry that was accepted for later: it ends in a session, or in an error with its reason.

    Where an earlier request with the same idempotency key has ended in a session already, ``result`` is that.
    """

    generation: Generation  # perhaps without its ``prompt_data``
    quota: Quota
    attempt: int  # number of the attempt that waits or runs
    accepted_at: datetime | None  # None: it runs, and its caller waits for it
    next_attempt_at: datetime | None  # when the attempt is due; None: it runs
    expires_at: datetime | None  # until when it is tried
    as_of: datetime
    result: RetryResult | None = None  # what an earlier request with the same key achieved; None: it is still to come

    @property
    def is_done(self) -> bool:
        """Whether there is a session already, so that nothing is queued."""
        return self.result is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A hint that it is time to look at a generation."""

    id: int
    user_id: UUID
    generation_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What a failed call said of its route: it is not asked for a while."""

    wait: timedelta
    failures: int  # in a row, this one included
    doubts: int = 1  # failures in a row, no answer between them, before it is believed; 1: at once


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteNote:
    """What a call showed of a route that is not the one its attempt was begun for."""

    route: str
    outage: Outage | None = None  # None: it answered


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteState:
    """A provider and model that are unavailable, or coming back."""

    route: str
    not_before: datetime
    failures: int  # in a row
    slots: int  # calls that may run at once when it opens


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What waits and runs for accepted retries."""

    as_of: datetime
    configured: bool  # False: there is no pgmq
    queued: int
    due: int  # of them, those that a worker could begin now
    parked: int  # of them, those that wait for a provider
    running: int
    oldest_accepted_at: datetime | None
    held: int  # units of all open attempts
    kept: int  # paid answers that have no session
    poisoned: int  # given up in the last 24 hours, because their workers kept dying
    outages: Sequence[RouteState]


class QueueOutcome(StrEnum):
    """What became of a message."""

    SUCCEEDED = "succeeded"  # the generation has its session
    GOES_ON = "goes_on"  # the attempt failed, and the next one is queued
    FAILED = "failed"  # the attempt failed, and none follows
    ENDED = "ended"  # the accepted retry ended without a call
    PARKED = "parked"  # its provider is unavailable; no attempt was used up
    POSTPONED = "postponed"  # it is not its time, or not its turn
    NOTHING = "nothing"  # nothing of its generation is queued
