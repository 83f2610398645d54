"""What a plan would retry: it chooses generation after generation, and adds up what that would take."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

from ai_retry.domain.names import WaiverWord, as_waivers
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.recovery import CallEstimate, Decision, FoundRow, UnreadableRow, judge
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan_file import Terms

Reason: TypeAlias = tuple[Decision, str | None]

_NOTHING_KNOWN = CallEstimate(tokens=None, cost=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What running a plan would take; None: no past attempt recorded it."""

    calls: int  # attempts that call, at most: a stored answer needs none; a re-ask or a fallback is in the same attempt
    tokens: int | None
    cost: Decimal | None  # in the provider's currency


def terms_of(
    usual: RetryPolicy,
    *,
    policy: RetryPolicy | None = None,
    waive: Collection[WaiverWord] = (),
    charge: bool = True,
    max_cost: Decimal | float | None = None,
    per_user: int | None = None,
) -> Terms:
    """Read the terms of a new plan as callers write them.

    Raises:
        ValueError: names the argument and what it may be.
    """
    return Terms(
        policy=policy or usual,
        waive=as_waivers(waive),
        charge=charge,
        max_cost=None if max_cost is None else Decimal(str(max_cost)),
        per_user=per_user,
    )


class Choice:
    """Chooses row after row, and adds up what that would take."""

    def __init__(self, parts: Parts, terms: Terms, past: Mapping[str | None, CallEstimate]) -> None:
        self._parts, self._terms, self._past = parts, terms, past
        self._of_user = Counter[UUID]()
        self.selected: list[tuple[UUID, UUID]] = []
        self.counts = Counter[Reason]()
        self.calls = 0
        self.tokens: Decimal | None = Decimal(0)
        self.cost: Decimal | None = Decimal(0)

    def consider(self, row: FoundRow | UnreadableRow) -> None:
        """Select it, or count why not."""
        if isinstance(row, UnreadableRow):
            self.counts[row.verdict.decision, row.verdict.code] += 1
            return
        generation = row.snapshot.generation
        verdict = judge(
            row.snapshot,
            self._terms.policy,
            context_from=self._parts.context_from,
            waive=self._terms.waive,
            charge=self._terms.charge,
            set_aside=self._of_user[generation.user_id],
        )
        call = self._call(row)
        reason = verdict.code or self._cap(generation.user_id, call)
        decision = verdict.decision if verdict.refusal or reason is None else Decision.LATER
        self.counts[decision, reason] += 1
        if reason is None:
            self.selected.append((generation.user_id, generation.id))
            self._of_user[generation.user_id] += 1
            self._add(row, call)

    def _call(self, row: FoundRow) -> CallEstimate:
        if row.snapshot.stored_answer is not None:
            return CallEstimate(tokens=Decimal(0), cost=Decimal(0))
        return self._past.get(row.snapshot.generation.model, _NOTHING_KNOWN)

    def _cap(self, user_id: UUID, call: CallEstimate) -> str | None:
        if self._terms.per_user is not None and self._of_user[user_id] >= self._terms.per_user:
            return "PER_USER"
        if self._terms.max_cost is None:
            return None
        if call.cost is None or self.cost is None:
            raise ValueError("max_cost can't be kept: no past attempt with one of these models reported its cost")
        return "MAX_COST" if self.cost + call.cost > self._terms.max_cost else None

    def _add(self, row: FoundRow, call: CallEstimate) -> None:
        self.calls += row.snapshot.stored_answer is None
        self.tokens = None if self.tokens is None or call.tokens is None else self.tokens + call.tokens
        self.cost = None if self.cost is None or call.cost is None else self.cost + call.cost
