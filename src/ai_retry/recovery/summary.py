"""What failed, counted: by code, model and user, and by what can be done about it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from ai_retry.domain.recovery import Decision
from ai_retry.recovery.generation import FoundGeneration
from ai_retry.recovery.wording import count_of, span
from ai_retry.tables import hanging, html_table, short_ids, text_table

_K = TypeVar("_K")
_TOP = 5
_HEADER = ("what", "which", "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of failed generations. A view shows the five largest of each; the mappings have all, largest first."""

    total: int
    first_at: datetime | None  # when the earliest failed
    last_at: datetime | None
    by_code: Mapping[str | None, int]
    by_model: Mapping[str | None, int]
    by_user: Mapping[UUID | None, int]  # None: it can't be read
    by_decision: Mapping[Decision, int]
    by_reason: Mapping[tuple[Decision, str | None], int]  # why not now; None: now

    def _rows(self) -> list[tuple[str, object, int]]:
        short = short_ids([each for each in self.by_user if each is not None])
        decided = [(f"retry {decision}", reason or "", count) for (decision, reason), count in self.by_reason.items()]
        return [
            *decided,
            *_top("code", self.by_code),
            *_top("model", self.by_model),
            *_top("user", {short[each] if each is not None else None: count for each, count in self.by_user.items()}),
        ]

    def _title(self) -> str:
        if not self.total:
            return "No failed generations"
        users = f"{count_of(self.total, 'failed generation')} of {count_of(len(self.by_user), 'user')}"
        if self.first_at is None or self.last_at is None:
            return users
        return f"{users}, {span(self.first_at, self.last_at)}"

    def text(self, width: int | None = None) -> str:
        """Write it for people, with lines of at most so many characters."""
        title = hanging("", self._title(), width)
        return f"{title}\n\n{text_table(_HEADER, self._rows(), width=width)}" if self.total else title

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return html_table(_HEADER, self._rows(), caption=self._title())


def summarise(found: Iterable[FoundGeneration]) -> Summary:
    """Count in one pass."""
    codes, models, users = Counter[str | None](), Counter[str | None](), Counter[UUID | None]()
    reasons = Counter[tuple[Decision, str | None]]()
    first_at: datetime | None = None
    last_at: datetime | None = None
    for each in found:
        codes[each.code] += 1
        models[each.model] += 1
        users[each.user_id] += 1
        reasons[each.decision, each.reason] += 1
        if each.failed_at is not None:
            first_at = min(first_at or each.failed_at, each.failed_at)
            last_at = max(last_at or each.failed_at, each.failed_at)
    decisions = Counter(dict.fromkeys(Decision, 0))
    for (decision, _), count in reasons.items():
        decisions[decision] += count
    return Summary(
        total=sum(reasons.values()),
        first_at=first_at,
        last_at=last_at,
        by_code=dict(codes.most_common()),
        by_model=dict(models.most_common()),
        by_user=dict(users.most_common()),
        by_decision=dict(decisions),
        by_reason=dict(reasons.most_common()),
    )


def _top(name: str, counts: Mapping[_K, int]) -> Iterator[tuple[str, object, int]]:
    """Name the largest, and sum up the others; nothing where no generation has one."""
    if set(counts) == {None}:
        return
    largest = list(counts.items())[:_TOP]
    yield from ((name, which, count) for which, count in largest)
    if others := list(counts.values())[_TOP:]:
        yield name, f"{len(others)} others", sum(others)
