"""What failed: a search that can be walked through again and again, a page at a time."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from ai_retry.domain.model import GenerationStatus, QuotaRule
from ai_retry.domain.names import as_uuid
from ai_retry.domain.recovery import FAILED, FINDABLE, Decision, Filter, FoundRow, UnreadableRow, judge
from ai_retry.recovery.generation import COLUMNS, FoundGeneration, readable, unreadable
from ai_retry.recovery.listing import html_listing
from ai_retry.recovery.parts import Parts, notebook_library
from ai_retry.recovery.pictures import failures_over_time
from ai_retry.recovery.summary import Summary, summarise
from ai_retry.recovery.when import When, read_instant
from ai_retry.recovery.wording import search_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Words: TypeAlias = str | Collection[str]

_PAGE = 200  # generations that one read looks at
_SHOWN = 20


class Found:
    """Failed generations, newest first. Iterating reads them again, a page at a time: memory stays the same.

    What fails after the search was made is not among them; what was retried since shows its new state, or is gone.
    """

    def __init__(self, parts: Parts, wanted: Filter) -> None:
        self.filter = wanted
        self._parts = parts

    def rows(self, quota_rule: QuotaRule | None = None) -> Iterator[FoundRow | UnreadableRow]:
        """Read what was found, with all that a decision needs; the quota by this rule, or by the client's.

        A row that can't be understood keeps its place, and stops nothing.
        """
        for rows in self._pages(quota_rule):
            yield from rows

    def _pages(self, quota_rule: QuotaRule | None) -> Iterator[Sequence[FoundRow | UnreadableRow]]:
        rule, before = quota_rule or self._parts.policy.quota, None
        while True:
            page = self._parts.records.find(self.filter, before=before, page=_PAGE, quota_rule=rule)
            yield page.rows
            if page.next is None:
                return
            before = page.next

    def __iter__(self) -> Iterator[FoundGeneration]:
        """Return each, and what a retry of it would be answered now."""
        for row in self.rows():
            yield self._judged(row, 0)

    def _together(self) -> Iterator[FoundGeneration]:
        """Return each, after those before it have taken their units."""
        taken = Counter[UUID | None]()
        for row in self.rows():
            user_id = row.user_id if isinstance(row, UnreadableRow) else row.snapshot.generation.user_id
            each = self._judged(row, taken[user_id])
            if each.decision is Decision.NOW:
                taken[user_id] += 1
            yield each

    def _judged(self, row: FoundRow | UnreadableRow, set_aside: int) -> FoundGeneration:
        if isinstance(row, UnreadableRow):
            return unreadable(row)
        verdict = judge(row.snapshot, self._parts.policy, context_from=self._parts.context_from, set_aside=set_aside)
        return readable(row, verdict)

    def first(self, count: int) -> list[FoundGeneration]:
        """Return the newest ones."""
        return list(islice(self, count))

    def summary(self) -> Summary:
        """Count by code, model, user and decision, in one pass.

        Where a user's quota is enough for only some of their generations, so many can be retried now, as in a plan.
        """
        return summarise(self._together())

    def newest(self, count: int, *, seconds: float) -> "Newest":
        """Return the newest ones as a search of their own: so many at most, as far as they are read in this time."""
        return Newest(self._parts, self.filter, count=count, seconds=seconds)

    def overview(self, count: int) -> tuple[Summary, list[FoundGeneration]]:
        """Count them, and keep the newest ones, in one pass; each is decided after those before it, as in a plan."""
        newest: list[FoundGeneration] = []

        def seen() -> Iterator[FoundGeneration]:
            for each in self._together():
                if len(newest) < count:
                    newest.append(each)
                yield each

        return summarise(seen()), newest

    def to_frame(self) -> "DataFrame":
        """Return a ``pandas.DataFrame``, a row for each generation."""
        rows = ([getattr(each, column) for column in COLUMNS] for each in self)
        frame: DataFrame = notebook_library("pandas").DataFrame(rows, columns=list(COLUMNS))
        return frame

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw failures over time by code, and return the ``matplotlib`` axes. The title counts what has no time."""
        return failures_over_time(((each.failed_at, each.code or "unknown") for each in self), ax)

    def __len__(self) -> int:
        """Count them, which reads them all, page after page."""
        return sum(1 for _ in self.rows())

    def __bool__(self) -> bool:
        """Whether there is one; reads no further than that."""
        return any(True for _ in self.rows())

    def __repr__(self) -> str:
        """Describe the search; what it finds is read by ``first``, ``summary``, ``len`` and in a loop."""
        return f"Found({'; '.join(f'{name} {value}' for name, value in search_in_words(self.filter))})"

    def _repr_html_(self) -> str:
        shown = self.first(_SHOWN + 1)
        more = f"the newest {_SHOWN}; there are more" if len(shown) > _SHOWN else f"{len(shown)} in all"
        searched = "; ".join(f"{name} {value}" for name, value in search_in_words(self.filter))
        return html_listing(shown[:_SHOWN], caption="Failed generations", footer=f"{more}; {searched}")


class Newest(Found):
    """The newest ones of what was found.

    Attributes:
        is_complete: whether the last reading came to the end of what was found.
    """

    def __init__(self, parts: Parts, wanted: Filter, *, count: int, seconds: float) -> None:
        super().__init__(parts, wanted)
        self.is_complete = False
        self._count, self._seconds = count, seconds

    def rows(self, quota_rule: QuotaRule | None = None) -> Iterator[FoundRow | UnreadableRow]:
        """Read as many as are wanted, and no page after the time is over."""
        self.is_complete = False
        left, ends = self._count, self._parts.clock.monotonic() + self._seconds
        for rows in self._pages(quota_rule):
            yield from rows[:left]
            left -= len(rows)
            if left < 0 or self._parts.clock.monotonic() > ends:
                return
        self.is_complete = True


def search(
    parts: Parts,
    *,
    since: When | None = None,
    until: When | None = None,
    code: Words | None = None,
    status: Words | None = None,
    user_id: UUID | str | None = None,
    model: Words | None = None,
) -> Found:
    """Begin a search; its end is the storage's now, or ``until`` when that is earlier.

    Raises:
        ValueError: names the argument and what it may be.
        StorageFailure: safe to repeat.
        NotConfigured: the migrations are not applied.
    """
    wanted = criteria(since=since, until=until, code=code, status=status, user_id=user_id, model=model)
    now = parts.records.find(wanted, before=None, page=0, quota_rule=parts.policy.quota).as_of
    end = min(now, read_instant(until, "until", now) or now)
    begin = read_instant(since, "since", now)
    if begin is not None and begin >= end:
        raise ValueError("since must be earlier than until, and than now")
    return Found(parts, replace(wanted, since=begin, until=end))


def criteria(
    *,
    since: When | None = None,
    until: When | None = None,
    code: Words | None = None,
    status: Words | None = None,
    user_id: UUID | str | None = None,
    model: Words | None = None,
) -> Filter:
    """Check what is looked for, before anything is read: how long ago is counted by this machine's clock, for now.

    Raises:
        ValueError: names the argument and what it may be.
    """
    now = datetime.now(UTC)
    return Filter(
        since=read_instant(since, "since", now),
        until=read_instant(until, "until", now) or now,
        statuses=FAILED if status is None else _statuses(status),
        codes=_words(code, "code"),
        models=_words(model, "model"),
        user_id=None if user_id is None else as_uuid(user_id, "user_id"),
    )


def _words(value: Words | None, name: str) -> frozenset[str] | None:
    if value is None:
        return None
    words = frozenset([value] if isinstance(value, str) else value)
    if not words or not all(isinstance(each, str) and each for each in words):
        raise ValueError(f"{name} must be a string, or several")
    return words


def _statuses(value: Words) -> frozenset[GenerationStatus]:
    words = _words(value, "status") or frozenset()
    if not words <= FINDABLE:
        raise ValueError(f"status must be of {', '.join(sorted(FINDABLE))}")
    return frozenset(GenerationStatus(each) for each in words)
