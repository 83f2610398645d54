"""Found generations as a list for people: by day, with short ids, and without empty columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from ai_retry.domain.recovery import Decision
from ai_retry.recovery.generation import FoundGeneration
from ai_retry.tables import fits, html_table, printable, short_ids, text_table, under_days

_FIRST: Final[tuple[str, ...]] = (
    "time",
    "id",
    "user",
    "code",
    "attempts",
    "retry",
    "reason",
)  # clipped where a line is too short
_LEFT_OUT: Final[tuple[str, ...]] = ("attempts", "user", "reason", "time")  # in this order, where there is no place
_MORE: Final[tuple[str, ...]] = (
    "problem",
    "from",
    "model",
    "status",
    "calls",
)  # shown as far as a line has place for them


@dataclass(frozen=True, slots=True)
class _Listed:
    """The cells of all columns, and the day of each row."""

    days: list[str]
    columns: dict[str, list[object]]  # without those that are empty

    def rows(self, names: Sequence[str]) -> list[list[object]]:
        return [[self.columns[name][place] for name in names] for place in range(len(self.days))]


def text_listing(shown: Sequence[FoundGeneration], *, width: int | None) -> str:
    """List them under their days (UTC), the last failure first.

    Args:
        shown: what to list.
        width: characters of a line. None: whole ids and all columns, however long the lines are.
    """
    if not shown:
        return ""
    shown = _in_order(shown)
    listed = _listed(shown, whole_ids=width is None)
    names, rows = _table(listed, width)
    text = [under_days(text_table(names, rows, width=width), listed.days)]
    if "problem" not in names:
        text += _problems(shown, listed)
    return "\n".join(text)


def html_listing(shown: Sequence[FoundGeneration], *, caption: str, footer: str) -> str:
    """List them as a table for a notebook, with days and short ids."""
    listed = _listed(_in_order(shown), whole_ids=False)
    names = [each for each in (*_FIRST, *_MORE) if each in listed.columns]
    rows = [[day, *row] for day, row in zip(listed.days, listed.rows(names), strict=True)]
    return html_table(("day (UTC)", *names), rows, caption=caption, footer=footer)


def _table(listed: _Listed, width: int | None) -> tuple[list[str], list[list[object]]]:
    """Choose the columns: the first ones, and of the others those for which there is place."""
    names = [each for each in _FIRST if each in listed.columns]
    if width is None:
        names += [each for each in _MORE if each in listed.columns]
        return names, listed.rows(names)
    for name in _LEFT_OUT:
        if name in names and not fits(names, listed.rows(names), width):
            names.remove(name)
    for name in _MORE:
        if name in listed.columns and _width(listed, [*names, name]) <= width:
            names = [*names, name]
    return names, listed.rows(names)


def _problems(shown: Sequence[FoundGeneration], listed: _Listed) -> list[str]:
    """Write why rows can't be read, below a list that has no place for it."""
    ids = listed.columns["id"]
    lines = [f"{name}: {printable(each.problem)}" for name, each in zip(ids, shown, strict=True) if each.problem]
    return ["", "Can't be read:", *lines] if lines else []


def _width(listed: _Listed, names: Sequence[str]) -> int:
    return max(map(len, text_table(names, listed.rows(names)).splitlines()))


def _listed(shown: Sequence[FoundGeneration], *, whole_ids: bool) -> _Listed:
    ids = [each.generation_id for each in shown]
    users = [each.user_id for each in shown if each.user_id is not None]
    short = {**short_ids(users), **short_ids(ids)}

    def name(each: UUID | None) -> str | None:
        return str(each) if whole_ids and each is not None else short.get(each) if each is not None else None

    columns: dict[str, list[object]] = {
        "time": [None if each.failed_at is None else f"{each.failed_at:%H:%M:%S}" for each in shown],
        "id": [name(each.generation_id) for each in shown],
        "user": [name(each.user_id) for each in shown],
        "code": [each.code for each in shown],
        "attempts": [each.attempts for each in shown],
        "retry": [each.decision.value for each in shown],
        "reason": [each.reason for each in shown],
        "problem": [each.problem for each in shown],
        "from": [_from(each.retry_at, each) for each in shown],
        "model": [each.model for each in shown],
        "status": [each.status for each in shown],
        "calls": [each.calls for each in shown],
    }
    kept = {name: cells for name, cells in columns.items() if any(cell is not None for cell in cells)}
    return _Listed([_day(each) for each in shown], kept)


def _in_order(shown: Sequence[FoundGeneration]) -> list[FoundGeneration]:
    """Sort by the time that is shown, what has none first; a search lists them by when they were created."""
    return sorted(
        shown,
        key=lambda each: (each.failed_at is None, each.failed_at.timestamp() if each.failed_at else 0),
        reverse=True,
    )


def _day(each: FoundGeneration) -> str:
    return "day unknown" if each.failed_at is None else f"{each.failed_at:%Y-%m-%d} (UTC)"


def _from(instant: datetime | None, each: FoundGeneration) -> str | None:
    """Write from when on a retry is possible: its time, and its day where that is another one."""
    if instant is None or each.decision is Decision.NOW:
        return None
    same_day = each.failed_at is not None and instant.date() == each.failed_at.date()
    return f"{instant:%H:%M:%S}" if same_day else f"{instant:%Y-%m-%d %H:%M}"
