"""A plan: what would be retried, under which terms, and what that would take. Making one writes and calls nothing."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import UUID

from ai_retry.domain.model import Waiver
from ai_retry.domain.names import PlanKey
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.recovery import CallEstimate, Decision, Filter, FoundRow, UnreadableRow, judge
from ai_retry.recovery.found import Found
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan_file import Frozen, Terms, intact, keep, read_file
from ai_retry.recovery.report import Report, report_of
from ai_retry.recovery.run import run_plan
from ai_retry.recovery.run_options import RunOptions
from ai_retry.tables import html_table, text_table

Reason: TypeAlias = tuple[Decision, str | None]

_NOTHING_KNOWN = CallEstimate(tokens=None, cost=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What running a plan would take; None: no past attempt tells."""

    calls: int  # attempts that call, at most: a stored answer needs none; a re-ask or a fallback is in the same attempt
    tokens: int | None
    cost: Decimal | None  # in the provider's currency


class Plan:
    """A frozen selection of failed generations, and the terms under which they are retried, once each.

    ``id`` is a hash of filter, terms and selection. Every attempt carries the key ``plan:<id>``, so that a run that was
    interrupted goes on where it stopped, in whatever process. A generation at which the plan has made a settled attempt
    is never called again by it: for another go make another plan.

    Attributes:
        counts: generations found, by decision and reason; those to be retried have the reason None.
        estimates: what it would take.
    """

    def __init__(self, parts: Parts, frozen: Frozen, *, counts: Mapping[Reason, int], estimates: Estimates) -> None:
        self.counts, self.estimates = counts, estimates
        self._parts, self._frozen = parts, frozen

    @property
    def id(self) -> str:
        """The plan's name: 32 hexadecimal digits."""
        return self._frozen.id

    @property
    def key(self) -> PlanKey:
        """The idempotency key that its attempts carry."""
        return PlanKey.of(self.id)

    @property
    def filter(self) -> Filter:
        """What was looked for."""
        return self._frozen.filter

    @property
    def terms(self) -> Terms:
        """Under which terms it retries."""
        return self._frozen.terms

    @property
    def selected(self) -> tuple[tuple[UUID, UUID], ...]:
        """User and id of each generation that it retries, in this order."""
        return self._frozen.selected

    def run(
        self,
        *,
        max_workers: int = 8,
        rate: str | None = None,
        on_outage: Literal["pause", "stop"] = "pause",
        operator: str | None = None,
    ) -> Report:
        """Retry what is selected and not done yet, and report on all of it.

        It starts with a few calls at once, adds more while they go well, halves them when the provider limits requests,
        and asks with one call at a time whether an unavailable provider has come back; what the provider turned away
        waits for that, and has used up no attempt. It stops when one cause rejects the sessions of three users in a
        row. A refusal that passes within a minute is waited for; any other leaves the generation, with its reason.
        After Ctrl-C the calls that run are finished and recorded, and ``KeyboardInterrupt`` goes on; ``report`` then
        says what was done.

        Safe to repeat, also after a kill, and beside another run of the same plan.

        Args:
            max_workers: calls at once, at most; no more than the client's ``max_calls``.
            rate: calls that start in a time, such as ``"60/minute"``, ``"5/second"``; None: as the provider bears it.
            on_outage: whether to wait for an unavailable provider, or stop.
            operator: who runs it, recorded on every attempt; this machine's user when None. A plan that lifts a limit
                (``waive``, ``charge=False``, a policy of its own) is run only by an operator who gives a name.

        Raises:
            ValueError: names the argument; nothing was read or written.
            StorageFailure: the run could not be recorded, or the report not read; safe to repeat.
        """
        options = RunOptions.checked(
            self.terms,
            usual=self._parts.policy,
            max_calls=self._parts.slots.limit,
            max_workers=max_workers,
            rate=rate,
            on_outage=on_outage,
            operator=operator,
        )
        return run_plan(self._parts, self, options)

    def report(self) -> Report:
        """Tell what the plan has done so far, in whatever process; reads only."""
        return report_of(self._parts, self.key, self.selected, {}, not_selected=self.not_selected)

    def save(self, path: Path | str) -> None:
        """Write the plan to a file, so that it outlives this process; ``client.load_plan`` reads it.

        No prompt and no answer stands there, but the ids of users do.
        """
        counts = [[decision, reason, count] for (decision, reason), count in self.counts.items()]
        cost = None if self.estimates.cost is None else str(self.estimates.cost)
        keep(Path(path), self._frozen, counts=counts, estimates=asdict(self.estimates) | {"cost": cost})

    def describe(self) -> dict[str, Any]:
        """Tell the plan as JSON, without the selection."""
        return {
            **self._frozen.terms_document(),
            "plan_id": self.id,
            "selected": len(self.selected),
            "users": len({user for user, _ in self.selected}),
            "counts": [
                {"decision": decision, "reason": reason, "count": count}
                for (decision, reason), count in self.counts.items()
            ],
            "estimates": asdict(self.estimates),
        }

    @property
    def not_selected(self) -> dict[str, int]:
        """Decision and reason of what was found and is not retried: how many."""
        return {
            f"{decision}: {reason}": count for (decision, reason), count in self.counts.items() if reason is not None
        }

    def _rows(self) -> list[tuple[str, object, object]]:
        return [
            *((f"retry {decision}", reason or "admitted", count) for (decision, reason), count in self.counts.items()),
            ("estimate", "attempts that call, at most", self.estimates.calls),
            ("estimate", "tokens", _or_unknown(self.estimates.tokens)),
            ("estimate", "cost", _or_unknown(self.estimates.cost)),
            *(("terms", name, value) for name, value in self.terms.lifted(self._parts.policy)),
        ]

    def _title(self) -> str:
        return f"Plan {self.id}: {len(self.selected)} generations of {len({user for user, _ in self.selected})} users"

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(('what', 'which', 'count'), self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(("what", "which", "count"), self._rows(), caption=self._title())


def terms_of(
    usual: RetryPolicy,
    *,
    policy: RetryPolicy | None = None,
    waive: Collection[str] = (),
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
        waive=_waivers(waive),
        charge=charge,
        max_cost=None if max_cost is None else Decimal(str(max_cost)),
        per_user=per_user,
    )


def make_plan(parts: Parts, found: Found, terms: Terms, *, everything: bool) -> Plan:
    """Freeze what can be retried now, of what was found.

    Raises:
        ValueError: ``found`` is whatever failed at any time, without ``everything``; or ``max_cost`` can't be kept.
        StorageFailure: safe to repeat.
    """
    if not (found.filter.narrows or everything):
        raise ValueError(
            "found holds whatever failed at any time: search by since, code, model or user_id, or pass everything=True"
        )
    choice = _Choice(parts, terms, parts.records.estimate())
    for row in found.rows(terms.policy.quota):
        choice.consider(row)
    return Plan(
        parts,
        Frozen(found.filter, terms, tuple(choice.selected)),
        counts=dict(sorted(choice.counts.items(), key=lambda each: (list(Decision).index(each[0][0]), -each[1]))),
        estimates=Estimates(
            calls=choice.calls,
            tokens=None if choice.tokens is None else round(choice.tokens),
            cost=None if choice.cost is None else round(choice.cost, 6),
        ),
    )


def load_plan(parts: Parts, path: Path | str) -> Plan:
    """Read a plan that was saved.

    Raises:
        ValueError: the file is no plan of ours, or was changed.
        OSError: it can't be read.
    """
    path = Path(path)
    frozen, document = read_file(path)
    with intact(path):
        estimates = document["estimates"]
        cost = None if estimates["cost"] is None else Decimal(estimates["cost"])
        counts = {(Decision(decision), reason): count for decision, reason, count in document["counts"]}
        return Plan(parts, frozen, counts=counts, estimates=Estimates(**{**estimates, "cost": cost}))


class _Choice:
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
            raise ValueError("max_cost can't be kept: no past attempt with one of these models told its cost")
        return "MAX_COST" if self.cost + call.cost > self._terms.max_cost else None

    def _add(self, row: FoundRow, call: CallEstimate) -> None:
        self.calls += row.snapshot.stored_answer is None
        self.tokens = None if self.tokens is None or call.tokens is None else self.tokens + call.tokens
        self.cost = None if self.cost is None or call.cost is None else self.cost + call.cost


def _waivers(values: Collection[str]) -> frozenset[Waiver]:
    known: frozenset[str] = frozenset(Waiver)
    if isinstance(values, str) or not set(values) <= known:
        raise ValueError(f"waive must be a set of {', '.join(sorted(known))}; nothing else can be lifted")
    return frozenset(Waiver(each) for each in values)


def _or_unknown(value: object) -> object:
    return "unknown" if value is None else value
