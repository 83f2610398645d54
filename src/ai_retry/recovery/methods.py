"""What a client offers a person who recovers what an outage broke. The work is done in the other modules."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from ai_retry.domain.names import WaiverWord
from ai_retry.domain.policy import RetryPolicy
from ai_retry.recovery.choice import terms_of
from ai_retry.recovery.found import Found, Words, search
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan import Plan, load_plan, make_plan
from ai_retry.recovery.when import When
from ai_retry.recovery.why import Explanation, explain


class RecoveryMethods(ABC):
    """The methods of a client for recovery; ``_recovery_parts`` says with what."""

    @abstractmethod
    def _recovery_parts(self) -> Parts: ...

    def find(
        self,
        *,
        since: When | None = None,
        until: When | None = None,
        code: Words | None = None,
        status: Words | None = None,
        user_id: UUID | str | None = None,
        model: Words | None = None,
    ) -> Found:
        """Find failed generations of all users, newest first. Reads only, a page at a time, when it is looked at.

        Args:
            since: made then or later: an aware instant, ISO 8601 with its offset, a timedelta (ago), or 90m, 24h, 7d.
            until: made before; the storage's now when None.
            code: of the last error, such as ``AI_UNAVAILABLE``; one or some, like ``status`` and ``model``.
            status: ``error`` and ``timeout`` when None; ``processing`` finds what a dead worker left.
            user_id: whose.
            model: that the generation names.

        Raises:
            ValueError: names the argument and what it may be.
            StorageFailure: safe to repeat.
            NotConfigured: the migrations are not applied, or this client can't find.
        """
        return search(
            self._recovery_parts(), since=since, until=until, code=code, status=status, user_id=user_id, model=model
        )

    def plan(
        self,
        found: Found,
        *,
        policy: RetryPolicy | None = None,
        max_cost: Decimal | float | None = None,
        per_user: int | None = None,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        everything: bool = False,
    ) -> Plan:
        """Freeze what can be retried now, and tell what that would take. Nothing is written, nobody is called.

        What is selected is what ``run`` retries, be it in this process or in another one.

        Args:
            found: what was found.
            policy: other numbers than the client's, for this plan; recorded.
            max_cost: at most, in the provider's currency, as past attempts let expect; a run stops there, too.
            per_user: generations of one user, at most.
            waive: limits that the operator lifts, ``{"backoff", "quota"}``; recorded on every attempt.
            charge: False gives users their sessions without spending their quota; recorded.
            everything: True plans for whatever failed at any time. It is needed when ``found`` is the outcome of a
                search by neither since, code, model nor user_id.

        Raises:
            ValueError: names the argument and what it may be.
            StorageFailure: safe to repeat.
        """
        parts = self._recovery_parts()
        terms = terms_of(parts.policy, policy=policy, max_cost=max_cost, per_user=per_user, waive=waive, charge=charge)
        return make_plan(parts, found, terms, everything=everything)

    def load_plan(self, path: Path | str) -> Plan:
        """Read a plan that was saved; running it goes on where it stopped.

        Raises:
            ValueError: the file is no plan, or was changed.
            OSError: it can't be read.
        """
        return load_plan(self._recovery_parts(), path)

    def why(self, generation_id: UUID | str) -> Explanation:
        """Explain in one paragraph where a generation of any user stands, and what can be done. Reads only.

        Raises:
            GenerationNotFound: there is none.
            ValueError: the id is not a UUID.
            StorageFailure: safe to repeat.
        """
        return explain(self._recovery_parts(), generation_id)
