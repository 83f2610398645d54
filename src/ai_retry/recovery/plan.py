"""A plan: what would be retried, under which terms, and what that would take. Making one writes and calls nothing."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.names import PlanKey
from ai_retry.domain.recovery import Decision, Filter
from ai_retry.recovery.choice import Choice, Estimates, Reason
from ai_retry.recovery.found import Found
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan_file import Frozen, Terms, intact, keep, read_file
from ai_retry.recovery.progress import OnProgress
from ai_retry.recovery.report import Left, Report, report_of
from ai_retry.recovery.run import run_plan
from ai_retry.recovery.run_options import RunOptions
from ai_retry.recovery.wording import count_of, search_in_words
from ai_retry.tables import hanging, html_table, text_table

_HEADER = ("what", "which", "value")


class Plan:
    """A frozen selection of failed generations, and the terms under which they are retried, once each.

    ``id`` is a hash of filter, terms and selection. Every attempt carries the key ``plan:<id>``, so that a run that was
    interrupted goes on where it stopped, in whatever process. A generation at which the plan has made a settled attempt
    is never called again by it: for another go make another plan.

    Attributes:
        counts: generations found, by decision and reason; those to be retried have the reason None.
        estimates: what it would take.
        done: selected generations at which it has made its attempt, when it was loaded or last reported on.
    """

    def __init__(
        self, parts: Parts, frozen: Frozen, *, counts: Mapping[Reason, int], estimates: Estimates, done: int = 0
    ) -> None:
        self.counts, self.estimates, self.done = counts, estimates, done
        self._parts, self._frozen = parts, frozen
        self._left: dict[UUID, Left] = {}
        self._shows_progress = done > 0

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

    @property
    def to_do(self) -> int:
        """Selected generations at which it has made no attempt yet, or one that has not ended."""
        return len(self.selected) - self.done

    @property
    def most_workers(self) -> int:
        """How many calls at once ``run`` may be given: the client's ``max_calls``."""
        return self._parts.slots.limit

    def run(
        self,
        *,
        max_workers: int = 8,
        rate: str | None = None,
        on_outage: Literal["pause", "stop"] = "pause",
        operator: str | None = None,
        on_progress: OnProgress | None = None,
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
            on_progress: gets a ``RunProgress``, in place of a bar, before each call and every second; when it returns
                False, no further call is started, those that run are finished, and the report is returned.

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
        self._left = {}
        try:
            report = run_plan(self._parts, self, options, self._left, on_progress)
        except KeyboardInterrupt as interruption:
            with suppress(AiRetryError):
                self.report()
                interruption.add_note(
                    f"Interrupted after {self.done} of {count_of(len(self.selected), 'generation')}; calls under way "
                    f"were finished. plan.run() goes on with the other {self.to_do}."
                )
            raise
        self._note(report)
        return report

    def report(self) -> Report:
        """Report what the plan has done so far, in whatever process; reads only."""
        report = report_of(self._parts, self.key, self.selected, self._left, not_selected=self.not_selected)
        self._note(report)
        return report

    def _note(self, report: Report) -> None:
        self.done, self._shows_progress = sum(line.outcome != "left" for line in report.lines), True

    def save(self, path: Path | str) -> None:
        """Write the plan to a file, so that it outlives this process; ``client.load_plan`` reads it.

        The file holds the ids of users, but no prompt and no answer.
        """
        counts = [[decision, reason, count] for (decision, reason), count in self.counts.items()]
        cost = None if self.estimates.cost is None else str(self.estimates.cost)
        keep(Path(path), self._frozen, counts=counts, estimates=asdict(self.estimates) | {"cost": cost})

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON, without the selection."""
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
            *(("search", name, value) for name, value in search_in_words(self.filter)),
            *((f"retry {decision}", reason or "", count) for (decision, reason), count in self.counts.items()),
            ("estimate", "attempts that call, at most", self.estimates.calls),
            ("estimate", "tokens", _or_unknown(self.estimates.tokens)),
            ("estimate", "cost", _or_unknown(self.estimates.cost)),
            *(("terms", name, value) for name, value in self.terms.lifted(self._parts.policy)),
            *([("progress", "done", self.done), ("progress", "to do", self.to_do)] if self._shows_progress else []),
        ]

    def _title(self) -> str:
        users = len({user for user, _ in self.selected})
        return f"Plan {self.id}: {count_of(len(self.selected), 'generation')} of {count_of(users, 'user')}"

    def text(self, width: int | None = None) -> str:
        """Write the plan for people, with lines of at most so many characters; reads nothing."""
        table = text_table(_HEADER, self._rows(), width=width)
        return f"{hanging('', self._title(), width)}\n\n{table}"

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return html_table(_HEADER, self._rows(), caption=self._title())


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
    choice = Choice(parts, terms, parts.records.estimate())
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
    """Read a plan that was saved, and how much of it is done.

    Raises:
        ValueError: the file is no plan of ours, or was changed.
        OSError: it can't be read.
        StorageFailure: safe to repeat.
    """
    path = Path(path)
    frozen, document = read_file(path)
    with intact(path):
        estimates = document["estimates"]
        cost = None if estimates["cost"] is None else Decimal(estimates["cost"])
        counts = {(Decision(decision), reason): count for decision, reason, count in document["counts"]}
        plan = Plan(parts, frozen, counts=counts, estimates=Estimates(**{**estimates, "cost": cost}))
    plan.report()
    return plan


def _or_unknown(value: object) -> object:
    return "unknown" if value is None else value
