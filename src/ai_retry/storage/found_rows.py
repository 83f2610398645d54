"""Generations that a search returns, each read by itself, column by column: what an app wrote may be beyond Python.

Each column comes as JSON in a string, so that one that can't be read spoils neither its page nor the other columns.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from ai_retry.domain.model import GenerationStatus, ProviderCall, Snapshot
from ai_retry.domain.recovery import Cursor, FoundPage, FoundRow, LastError, UnreadableRow
from ai_retry.storage.codec import Json, NotOurs, instant, listed, of_milliseconds, read
from ai_retry.storage.documents import shaped

_TOO_LONG: Final = "is longer than a search reads"
_TOO_MUCH: Final = "is nested too deeply, or holds too large a number"
_NO_INSTANT: Final = "is no instant between the years 1 and 9999"
_UNREADABLE: Final = (ValueError, OverflowError, TypeError, AttributeError)


def _same(value: Any) -> Any:
    return value


def _optional(read_one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read_one(value)


# How each column is read, and what it is where that fails.
_COLUMNS: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    "user_id": (UUID, "is no UUID"),
    "status": (GenerationStatus, "is no status that ai-retry knows"),
    "model": (_same, ""),
    "prompt_data": (_same, ""),
    "session_id": (_same, ""),
    "duration_ms": (_optional(of_milliseconds), "is no duration"),
    "created_at": (instant, _NO_INSTANT),
    "updated_at": (_optional(instant), _NO_INSTANT),
}


def read_page(reply: Any) -> FoundPage:
    """Read what ``ai_retry_find`` returned."""
    row = shaped(reply, "as_of", "rows", "next")
    return FoundPage(
        as_of=instant(row["as_of"]),
        rows=[read_found(each) for each in listed(row["rows"])],
        next=read(Cursor, row["next"]) if row["next"] else None,
    )


def read_found(row: Json) -> FoundRow | UnreadableRow:
    """Read what ``ai_retry.found`` returned."""
    row = shaped(row, "id")
    generation_id = UUID(row["id"])
    if "refused_by" in row:
        return UnreadableRow(generation_id=generation_id, column=None, reason=f"is refused by {row['refused_by']}")
    row = shaped(row, "generation", "snapshot", "error", "calls")
    plain: dict[str, Any] = {"id": row["id"]}
    values: dict[str, Any] = {}
    problems: list[tuple[str | None, str]] = []
    for column in _COLUMNS:
        plain[column], values[column], problem = _value(column, row["generation"])
        if problem is not None:
            problems.append((column, problem))
    error = _last_error(row["error"])
    failed_at = (error.at if error is not None else None) or values["updated_at"] or values["created_at"]
    if not problems:
        try:
            snapshot = read(Snapshot, {**row["snapshot"], "generation": plain})
            calls = [read(ProviderCall, each) for each in listed(row["calls"])]
            return FoundRow(failed_at=failed_at, snapshot=snapshot, error=error, calls=calls)
        except _UNREADABLE:
            problems.append((None, "holds a value out of range in a table of ai-retry's"))
    first, reason = problems[0]
    return UnreadableRow(
        generation_id=generation_id,
        column=first,
        reason=reason,
        user_id=values["user_id"],
        status=values["status"],
        model=values["model"],
        failed_at=failed_at,
        error=error,
    )


def _value(column: str, generation: Mapping[str, str | None]) -> tuple[Any, Any, str | None]:
    """Read a column: as JSON, as a value, and what is wrong with it, if anything, without its content."""
    if column not in generation:
        raise NotOurs
    text = generation[column]
    if text is None:
        return None, None, _TOO_LONG
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        return None, None, _TOO_MUCH
    read_one, otherwise = _COLUMNS[column]
    try:
        return plain, read_one(plain), None
    except _UNREADABLE:
        return plain, None, "is null" if plain is None else otherwise


def _last_error(row: Json | None) -> LastError | None:
    """Read the last error; an instant of the app's that can't be read is as good as none."""
    if row is None:
        return None
    try:
        return read(LastError, row)
    except (ValueError, OverflowError):
        return read(LastError, {**row, "at": None})
