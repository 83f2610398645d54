"""A client's methods for recovery after an outage.

The work is done in the other modules, which are imported when they are used: most processes recover nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from ai_retry.domain.names import WaiverWord
from ai_retry.domain.policy import RetryPolicy
from ai_retry.recovery.when import When, read_instant

if TYPE_CHECKING:
    from ai_retry.recovery.found import Found, Words
    from ai_retry.recovery.parts import Parts
    from ai_retry.recovery.plan import Plan
    from ai_retry.recovery.why import Explanation


class Diagnosis(Protocol):
    """What ``ai-retry doctor`` found; its ``str`` is what the command prints."""

    @property
    def problems(self) -> Sequence[object]:
        """What keeps retries from working."""
        ...


class RecoveryMethods(ABC):
    """The methods of a client for recovery, over the parts that ``_recovery_parts`` returns."""

    @abstractmethod
    def _recovery_parts(self) -> "Parts": ...

    def find(
        self,
        *,
        since: When | None = None,
        until: When | None = None,
        code: "Words | None" = None,
        status: "Words | None" = None,
        user_id: UUID | str | None = None,
        model: "Words | None" = None,
    ) -> "Found":
        """Find failed generations of all users, newest first. Reads only, a page at a time, when it is looked at.

        Args:
            since: created then or later: an aware instant, ISO 8601 with its offset, a timedelta (ago), 90m, 24h or 7d,
                or a day in UTC, such as yesterday or 2026-01-31.
            until: created before; the storage's now when None.
            code: of the last error, such as ``AI_UNAVAILABLE``; one or some, like ``status`` and ``model``.
            status: ``error`` and ``timeout`` when None; ``processing`` finds what a dead worker left.
            user_id: only this user's generations.
            model: only generations that name it.

        Raises:
            ValueError: names the argument and what it may be.
            StorageFailure: safe to repeat.
            NotConfigured: the migrations are not applied, or this client can't find.
        """
        from ai_retry.recovery.found import search  # noqa: PLC0415 - see above

        return search(
            self._recovery_parts(), since=since, until=until, code=code, status=status, user_id=user_id, model=model
        )

    def plan(
        self,
        found: "Found",
        *,
        policy: RetryPolicy | None = None,
        max_cost: Decimal | float | None = None,
        per_user: int | None = None,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        everything: bool = False,
    ) -> "Plan":
        """Freeze what can be retried now, and estimate what that would take. Nothing is written, no provider is called.

        What is selected is what ``run`` retries, be it in this process or in another one.

        Args:
            found: what was found.
            policy: other numbers than the client's, for this plan; recorded.
            max_cost: stop before the estimated cost exceeds this, in the provider's currency; a run stops there, too.
            per_user: retry at most this many generations of a user.
            waive: limits that the operator lifts, ``{"backoff", "quota"}``; recorded on every attempt.
            charge: False gives users their sessions without spending their quota; recorded.
            everything: True plans for whatever failed at any time. It is needed when ``found`` is the outcome of a
                search by neither since, code, model nor user_id.

        Raises:
            ValueError: names the argument and what it may be.
            StorageFailure: safe to repeat.
        """
        from ai_retry.recovery.choice import terms_of  # noqa: PLC0415 - see above
        from ai_retry.recovery.plan import make_plan  # noqa: PLC0415

        parts = self._recovery_parts()
        terms = terms_of(parts.policy, policy=policy, max_cost=max_cost, per_user=per_user, waive=waive, charge=charge)
        return make_plan(parts, found, terms, everything=everything)

    def load_plan(self, path: Path | str) -> "Plan":
        """Read a plan that was saved, and how much of it is done; running it goes on where it stopped.

        Raises:
            ValueError: the file is no plan, or was changed.
            OSError: it can't be read.
            StorageFailure: safe to repeat.
        """
        from ai_retry.recovery.plan import load_plan  # noqa: PLC0415 - see above

        return load_plan(self._recovery_parts(), path)

    def books(self, *, since: When | None = None) -> Sequence[Mapping[str, Any]]:
        """Check that every success was charged exactly once: list what contradicts that, as a rule nothing. Reads only.

        Args:
            since: only attempts that ended then or later; all when None.

        Raises:
            ValueError: names the argument and what it may be.
            StorageFailure: safe to repeat.
        """
        parts = self._recovery_parts()
        return parts.records.books(parts.policy.quota, since=read_instant(since, "since", datetime.now(UTC)))

    def why(self, generation_id: UUID | str) -> "Explanation":
        """Explain in one paragraph why a generation failed and what to do next, for any user's. Reads only.

        Raises:
            GenerationNotFound: there is none.
            ValueError: the id is not a UUID.
            StorageFailure: safe to repeat.
        """
        from ai_retry.recovery.why import explain  # noqa: PLC0415 - see above

        return explain(self._recovery_parts(), generation_id)
