"""A user's own generations, page by page, each with what a retry of it would be answered."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from ai_retry.domain.decide.begin import visible
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.names import as_uuid
from ai_retry.domain.outlook import Outlook, outlook
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import Storage
from ai_retry.domain.recovery import Cursor, FoundRow, UnreadableRow

PAGE: Final = 20
LARGEST_PAGE: Final = 100
LAST_ID: Final = UUID(int=2**128 - 1)
NEWEST: Final = Cursor(at="infinity", id=LAST_ID)
_LONGEST_CURSOR: Final = 256  # characters
_LAST_YEAR, _LAST_YEAR_BC = 294275, 4712  # of PostgreSQL's instants, without their last months
_INSTANT: Final = re.compile(
    r"(?P<year>[0-9]{4,6})(?P<rest>-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
    r"[+-](?:0[0-9]|1[0-5]):[0-9]{2}(?::[0-9]{2})?)(?P<bc> BC)?"  # an offset of 16 hours is none for PostgreSQL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPage:
    """Some of a user's generations, the newest first; perhaps none although more follow."""

    generations: Sequence[Outlook | UnreadableRow]
    next: str | None  # the cursor of the next page; None: this was the last


def list_generations(
    user_id: UUID | str,
    *,
    storage: Storage,
    policy: RetryPolicy,
    reader: Reader,
    status: Collection[GenerationStatus | str] | GenerationStatus | str | None,
    limit: int,
    cursor: str | None,
) -> GenerationPage:
    """List a user's generations: see ``Client.generations``."""
    user_id, statuses = as_uuid(user_id, "user_id"), _statuses(status)
    if not 1 <= limit <= LARGEST_PAGE:
        raise ValueError(f"limit must be from 1 to {LARGEST_PAGE}")
    before = NEWEST if cursor is None else read_cursor(cursor)
    page = storage.browse(user_id, statuses, before, limit, policy.quota)
    found = [_judged(row, user_id, reader, policy) for row in page.rows]
    return GenerationPage(
        generations=[each for each in found if each is not None],
        next=None if page.next is None else write_cursor(page.next),
    )


def write_cursor(cursor: Cursor) -> str:
    """Write a place in the order as a string that clients keep as it is."""
    import base64  # noqa: PLC0415 (importing ai_retry shall be quick)

    return base64.urlsafe_b64encode(f"{cursor.id.hex}{cursor.at or ''}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """Read what ``write_cursor`` wrote.

    Raises:
        ValueError: it is something else.
    """
    import base64  # noqa: PLC0415

    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        plain = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        cursor = Cursor(at=plain[32:] or None, id=UUID(hex=plain[:32]))
    except ValueError:
        cursor = None
    if cursor is None or len(text) > _LONGEST_CURSOR or not _is_place(cursor) or write_cursor(cursor) != text:
        raise ValueError("cursor is not one that a page gave")
    return cursor


def _is_place(cursor: Cursor) -> bool:
    """Whether it is an instant as PostgreSQL writes it: also one that Python can't hold."""
    if cursor.at is None or cursor.at in ("infinity", "-infinity"):
        return True
    found = _INSTANT.fullmatch(cursor.at)
    if found is None:
        return False
    year = int(found["year"])
    if not 1 <= year <= (_LAST_YEAR_BC if found["bc"] else _LAST_YEAR):
        return False
    if found["bc"]:
        year = 1 - year
    try:
        datetime.fromisoformat(f"{2000 + year % 400}{found['rest']}")  # 400 years later the calendar is the same
    except ValueError:
        return False
    return True


def _statuses(
    status: Collection[GenerationStatus | str] | GenerationStatus | str | None,
) -> frozenset[GenerationStatus]:
    if status is None:
        return frozenset(GenerationStatus)
    words = [status] if isinstance(status, str) else status
    try:
        return frozenset(map(GenerationStatus, words))
    except ValueError:
        raise ValueError(f"status must be of {', '.join(GenerationStatus)}") from None


def _judged(
    row: FoundRow | UnreadableRow, user_id: UUID, reader: Reader, policy: RetryPolicy
) -> Outlook | UnreadableRow | None:
    """Judge what was found; None where the user may not see it."""
    if isinstance(row, UnreadableRow):
        return row if row.user_id in (user_id, None) else None
    seen = visible(row.snapshot, user_id)
    return None if seen is None else outlook(seen, reader, policy)
