"""What failed, counted: by code, model and user, and by what can be done about it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from ai_retry.domain.recovery import Decision
from ai_retry.recovery.generation import FoundGeneration
from ai_retry.tables import html_table, text_table

_K = TypeVar("_K")
_TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of failed generations. A view shows the ten largest of each; the mappings have all, largest first."""

    total: int
    first_at: datetime | None  # when the earliest failed
    last_at: datetime | None
    by_code: Mapping[str | None, int]
    by_model: Mapping[str | None, int]
    by_user: Mapping[UUID | None, int]  # None: it can't be read
    by_decision: Mapping[Decision, int]
    by_reason: Mapping[tuple[Decision, str | None], int]  # why not now; None: now

    def _rows(self) -> list[tuple[str, object, int]]:
        return [
            *(
                (f"retry {decision}", reason or "admitted", count)
                for (decision, reason), count in self.by_reason.items()
            ),
            *(("code", code, count) for code, count in _top(self.by_code)),
            *(("model", model, count) for model, count in _top(self.by_model)),
            *(("user", user, count) for user, count in _top(self.by_user)),
        ]

    def _title(self) -> str:
        if not self.total:
            return "No failed generations"
        users = f"{self.total} failed, of {len(self.by_user)} user{'s' if len(self.by_user) != 1 else ''}"
        if self.first_at is None or self.last_at is None:
            return users
        return f"{users}, from {self.first_at:%Y-%m-%d %H:%M:%S} to {self.last_at:%H:%M:%S} UTC"

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(('what', 'which', 'count'), self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(("what", "which", "count"), self._rows(), caption=self._title())


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


def _top(counts: Mapping[_K, int]) -> list[tuple[_K, int]]:
    return list(counts.items())[:_TOP]
