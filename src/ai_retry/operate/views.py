"""What operators read, put together: failures, one generation's timeline, one user. No prompt, no answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ai_retry.domain.model import Quota
from ai_retry.domain.operation import Action, AttemptRecord, FailureCount, Override
from ai_retry.domain.outlook import Outlook
from ai_retry.recovery.generation import FoundGeneration
from ai_retry.recovery.why import Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Some of the failed generations that a search finds, the newest first; perhaps none although more follow."""

    rows: Sequence[FoundGeneration]
    next: str | None  # ``after`` of the next page; None: this was the last
    count: FailureCount | None  # of the whole search, up to a bound; None: this is not the first page


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One thing that happened to a generation."""

    at: datetime
    what: str  # a word for programs, such as ``created``, ``accepted``, ``began``, ``failed``, ``action``
    text: str  # for people
    number: int | None = None  # of the attempt
    is_expected: bool = False  # it is still to come


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All that is known of one generation, but prompt and answer."""

    generation: FoundGeneration
    created_at: datetime | None  # None: it can't be read
    session_id: str | None
    why: Explanation  # in words
    outlook: Outlook | None  # what its user would be answered now, without the prompt; None: the row can't be read
    attempts: Sequence[AttemptRecord]  # the newest 200, by number
    moments: Sequence[Moment]  # in their order
    actions: Sequence[Action]  # of operators, the newest first
    answer_kept: bool  # a paid answer has no session yet


@dataclass(frozen=True, slots=True, kw_only=True)
class UserState:
    """A user's quota, and the newest generations."""

    user_id: UUID
    as_of: datetime
    quota: Quota
    override: Override | None  # None: the quota is the usual one
    live: int  # attempts that run
    queued: int  # accepted retries that wait
    generations: Sequence[FoundGeneration]  # the newest 20, of whatever status
    actions: Sequence[Action]  # of operators on this user's quota, the newest first
