"""What a retry would be answered now: one type for the endpoint, the status page, notebooks and operators."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ai_retry.domain.decide.begin import may_run
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Attempt, Snapshot
from ai_retry.domain.policy import RetryPolicy, queued_attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A generation, and whether and when a retry of it is possible, by the rules that a retry itself asks."""

    snapshot: Snapshot
    refusal: AiRetryError | None  # what a retry would raise; None: it would begin

    @property
    def can_retry(self) -> bool:
        """Whether a retry would begin now."""
        return self.refusal is None

    @property
    def code(self) -> str | None:
        """The code of the refusal, such as ``RETRY_TOO_SOON``; None: a retry would begin."""
        return self.refusal.code if self.refusal is not None else None

    @property
    def retry_at(self) -> datetime | None:
        """The earliest instant of a retry; None: not foreseeable, waiting does not help, or a worker will do it."""
        if self.queued is not None:
            return None
        wait = self.refusal.retry_after if self.refusal is not None else timedelta(0)
        return self.snapshot.as_of + wait if wait is not None else None

    @property
    def queued(self) -> Attempt | None:
        """The accepted attempt that waits for a worker."""
        return queued_attempt(self.snapshot)

    @property
    def facts(self) -> Mapping[str, object]:
        """The same for people and programs, in plain names: without the session, which may be long."""
        generation, quota, queued = self.snapshot.generation, self.snapshot.quota, self.queued
        return {
            "generation_id": str(generation.id),
            "status": str(generation.status),
            "attempt": self.snapshot.last_attempt.number if self.snapshot.last_attempt else 1,
            "retry_possible": self.can_retry,
            "possible_at": self.retry_at,
            "refused_by": self.code,
            "reason": None if self.refusal is None else str(self.refusal),
            "queued": queued is not None,
            "queued_until": queued.expires_at if queued is not None else None,
            "quota_remaining": quota.remaining,
            "quota_limit": quota.limit,
        }


def outlook(snapshot: Snapshot, reader: Reader, policy: RetryPolicy) -> Outlook:
    """Ask the rules of a click that has the same snapshot."""
    try:
        may_run(snapshot, reader, policy)
    except AiRetryError as refusal:
        return Outlook(snapshot=snapshot, refusal=refusal)
    return Outlook(snapshot=snapshot, refusal=None)
