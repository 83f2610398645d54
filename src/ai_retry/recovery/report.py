"""What a plan has done, read from the attempts themselves: complete, whoever ran the plan and however often."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ai_retry.domain.model import Usage
from ai_retry.domain.recovery import PlanAttempt
from ai_retry.recovery.parts import Parts, notebook_library
from ai_retry.recovery.pictures import outcomes
from ai_retry.recovery.requests import in_brief
from ai_retry.tables import hanging, html_table, printable, short_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_SHOWN = 20
_NO_USAGE = Usage()
_WORST_FIRST = {"failed": 0, "left": 1, "succeeded": 2}
_WORDS = {
    "INTERRUPTED": "interrupted",
    "MAX_COST": "the cost limit is reached",
    "NOT_FINISHED": "its attempt has not ended",
    "NOT_TRIED": "not tried yet",
    "OPERATOR_NEEDED": "an operator has to act first",
    "OUTAGE": "the provider is unavailable",
    "PAUSED": "an operator paused it",
    "SESSIONS_REJECTED": "the app rejects the sessions",
}


@dataclass(frozen=True, slots=True)
class Left:
    """Why a run left a generation as it was."""

    code: str
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """What became of one selected generation."""

    generation_id: UUID
    user_id: UUID
    outcome: str  # succeeded, failed, or left
    code: str | None  # why it failed or was left
    attempt: int | None  # number of the plan's attempt; None: it made none
    took: timedelta | None  # from claim to settle
    tokens: int | None
    cost: Decimal | None
    retry_at: datetime | None  # when another plan could try again, as far as it is known
    calls: str | None = None  # the models that the attempt asked, and what came of it; None: unknown


COLUMNS = tuple(each.name for each in fields(ReportLine))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Each selected generation's end, and what the plan did not select, with the reasons."""

    plan_key: str
    lines: tuple[ReportLine, ...]
    not_selected: Mapping[str, int]  # decision and reason: how many
    stopped: str | None = None  # why the run ended before its time
    events_refused_by: str | None = None  # what of the app's refused the events for its users

    @property
    def totals(self) -> dict[str, Any]:
        """Counts of succeeded, failed and left; tokens and cost as far as the provider reported them, else None."""
        ended = Counter(line.outcome for line in self.lines)
        tokens = [line.tokens for line in self.lines if line.tokens is not None]
        costs = [line.cost for line in self.lines if line.cost is not None]
        return {
            **{outcome: ended[outcome] for outcome in ("succeeded", "failed", "left")},
            "tokens": sum(tokens) if tokens else None,
            "cost": sum(costs, Decimal(0)) if costs else None,
        }

    @property
    def reasons(self) -> dict[str, int]:
        """How often which code is why a selected generation has no session."""
        codes = Counter(f"{line.outcome}: {line.code}" for line in self.lines if line.outcome != "succeeded")
        return dict(codes.most_common())

    def to_frame(self) -> "DataFrame":
        """Return a ``pandas.DataFrame``, a row for each selected generation."""
        rows = ([getattr(line, column) for column in COLUMNS] for line in self.lines)
        frame: DataFrame = notebook_library("pandas").DataFrame(rows, columns=list(COLUMNS))
        return frame

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw how the generations ended and what was not selected, and return the ``matplotlib`` axes."""
        ends = Counter(f"{_end(line)}: {in_words(line.code)}" for line in self.lines if line.outcome != "succeeded")
        left_out = {f"not selected: {reason}": count for reason, count in self.not_selected.items()}
        return outcomes({"succeeded": self.totals["succeeded"], **dict(ends.most_common()), **left_out}, ax)

    def _summary(self) -> list[tuple[str, str, str]]:
        ends: dict[str, Counter[str]] = {"succeeded": Counter(), "failed": Counter()}
        for line in self.lines:
            ends.setdefault(_end(line), Counter())[in_words(line.code)] += 1
        rows = [(f"{end}:", str(codes.total()), _reasons(end, codes)) for end, codes in ends.items()]
        if self.not_selected:
            reasons = Counter({in_words(reason): count for reason, count in self.not_selected.items()})
            rows.append(("not selected:", str(reasons.total()), _reasons("not selected", reasons)))
        totals = self.totals
        rows += [(f"{name}:", str(totals[name]), "") for name in ("tokens", "cost") if totals[name] is not None]
        return rows

    def _title(self) -> str:
        stopped = f"; it stopped: {in_words(self.stopped)}" if self.stopped else ""
        return f"Report of {self.plan_key}{stopped}"

    def _worst(self) -> list[list[object]]:
        worst = sorted(self.lines, key=lambda line: _WORST_FIRST[line.outcome])[:_SHOWN]
        short = short_ids([each for line in worst for each in (line.generation_id, line.user_id)])
        return [[short.get(cell, cell) for column in COLUMNS for cell in [getattr(line, column)]] for line in worst]

    def text(self, width: int | None = None) -> str:
        """Write it for people, with lines of at most so many characters."""
        rows = self._summary()
        names, numbers = (max(len(row[place]) for row in rows) for place in (0, 1))
        lines = (hanging(f"{name:<{names}}  {number:>{numbers}} ", reasons, width) for name, number, reasons in rows)
        return "\n".join([hanging("", self._title(), width), "", *lines])

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        more = f"{_SHOWN} of {len(self.lines)}, failures first" if len(self.lines) > _SHOWN else ""
        return html_table(("what", "count", "why"), self._summary(), caption=self._title()) + html_table(
            COLUMNS, self._worst(), caption="Generations", footer=more
        )


def _end(line: ReportLine) -> str:
    """Name the end of a generation; one that a run left as it was had an attempt, or none."""
    if line.outcome != "left":
        return line.outcome
    return "not attempted" if line.attempt is None else "not finished"


def _reasons(end: str, codes: Counter[str]) -> str:
    """Write why, and how often where there are several reasons; a success needs none."""
    if end == "succeeded" or not codes:
        return ""
    counted = (f"{code} {count}" if len(codes) > 1 else code for code, count in codes.most_common())
    return f"({', '.join(counted)})"


def in_words(code: str | None) -> str:
    """Write a run's own reasons as words; the codes of errors are words of this library, and stay."""
    return _WORDS.get(str(code), printable(code))


def report_of(
    parts: Parts,
    key: str,
    selected: Sequence[tuple[UUID, UUID]],
    left: Mapping[UUID, Left],
    *,
    not_selected: Mapping[str, int],
    stopped: str | None = None,
    events_refused_by: str | None = None,
) -> Report:
    """Read what became of the selected generations.

    Args:
        parts: where to read.
        key: of the plan's attempts.
        selected: user and id of each generation.
        left: why a run left some of them.
        not_selected: decision and reason of the others.
        stopped: why the run ended before its time.
        events_refused_by: see ``Report``.
    """
    attempts = {attempt.generation_id: attempt for attempt in parts.attempts_of(key)}
    lines = tuple(_line(user, each, attempts.get(each), left.get(each)) for user, each in selected)
    return Report(
        plan_key=key,
        lines=lines,
        not_selected=not_selected,
        stopped=stopped,
        events_refused_by=events_refused_by,
    )


def _line(user_id: UUID, generation_id: UUID, last: PlanAttempt | None, left: Left | None) -> ReportLine:
    usage = (last.usage if last else None) or _NO_USAGE
    attempt = last.attempt if last else None
    outcome = str(last.attempt.outcome) if last and last.settled else "left"
    code, retry_at = _why(last, left)
    return ReportLine(
        generation_id=generation_id,
        user_id=user_id,
        outcome=outcome,
        code=code,
        attempt=attempt.number if attempt else None,
        took=attempt.closed_at - attempt.started_at if attempt and attempt.closed_at else None,
        tokens=usage.total_tokens,
        cost=usage.cost,
        retry_at=retry_at,
        calls=in_brief(last.calls) if last else None,
    )


def _why(last: PlanAttempt | None, left: Left | None) -> tuple[str | None, datetime | None]:
    """Say why there is no session: the attempt's own failure, else the run's reason, else what the rows show."""
    if last is not None and last.settled:
        return last.attempt.code, last.attempt.next_attempt_at  # of a success: neither
    if left is not None:
        return left.code, left.retry_at
    return ("NOT_FINISHED", last.attempt.next_attempt_at) if last is not None else ("NOT_TRIED", None)
