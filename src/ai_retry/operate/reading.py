"""What operators read, bounded in time and rows whatever the size. Nothing here writes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from ai_retry.domain.decide.route import Reader
from ai_retry.domain.listing import LAST_ID, NEWEST, read_cursor, write_cursor
from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.names import as_uuid, check_readable
from ai_retry.domain.operation import Action, Overview
from ai_retry.domain.outlook import Outlook, outlook
from ai_retry.domain.recovery import Cursor, Filter, FoundRow, UnreadableRow, judge
from ai_retry.operate.desk import Desk
from ai_retry.operate.moments import moments
from ai_retry.operate.operator import Operator
from ai_retry.operate.views import Failures, Timeline, UserState
from ai_retry.recovery.found import criteria
from ai_retry.recovery.generation import FoundGeneration, readable, unreadable
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.when import When
from ai_retry.recovery.why import explain_row

if TYPE_CHECKING:
    from ai_retry.recovery.found import Words
    from ai_retry.recovery.methods import Diagnosis

_LARGEST_PAGE: Final = 200
_ROUNDS: Final = 4  # reads of one page of failures, each of twice as many
_NEWEST: Final = 20  # generations of a user
_ACTIONS: Final = 50
_MOST_WORDS: Final = 20
_MOST_ACTIONS: Final = 200


class Reads:
    """The reads; ``Operations`` has them all. Each raises ``StorageFailure``, which is safe to repeat."""

    operator: Operator
    _desk: Desk

    def overview(self) -> Overview:
        """Return how things are now: what ended in the last hour and day, routes, the queue, kept answers.

        ``ai_retry.operate.alarms.alarms`` says what of it is wrong.
        """
        self.operator.check("viewer")
        return replace(self._desk.storage.overview(), spool_files=self._desk.spool_files())

    def failures(
        self,
        *,
        code: "Words | None" = None,
        model: "Words | None" = None,
        user_id: UUID | str | None = None,
        since: When | None = None,
        until: When | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Failures:
        """List failed generations, the newest first, each with what can be done about it.

        Args:
            code: see ``Client.find``, like the next four; at most 20 words each.
            model: see there.
            user_id: see there.
            since: see there.
            until: see there.
            after: ``next`` of the page before; None: the first one.
            limit: of the page, from 1 to 200. It may be shorter, or empty, although more follow.

        Raises:
            ValueError: names the argument and what it may be.
        """
        self.operator.check("viewer")
        if not 1 <= limit <= _LARGEST_PAGE:
            raise ValueError(f"limit must be from 1 to {_LARGEST_PAGE}")
        wanted = _checked(criteria(since=since, until=until, code=code, user_id=user_id, model=model))
        start = NEWEST if until is None else Cursor(at=wanted.until.isoformat(), id=LAST_ID)
        before: Cursor | None = start if after is None else read_cursor(after)
        rows: list[FoundGeneration] = []
        parts = self._desk.parts()
        for size in (limit << step for step in range(_ROUNDS)):
            most = limit - len(rows)
            page = parts.records.find(wanted, before=before, page=size, quota_rule=parts.policy.quota, most=most)
            rows += [_judged(row, parts) for row in page.rows]
            before = page.next
            if before is None or len(rows) >= limit:
                break
        return Failures(
            rows=rows,
            next=None if before is None else write_cursor(before),
            count=self._desk.storage.count_failures(wanted) if after is None else None,
        )

    def timeline(self, generation_id: UUID | str) -> Timeline | None:
        """Return all that is known of a generation, but prompt and answer; None: there is no such one.

        Raises:
            ValueError: the id is not a UUID.
        """
        self.operator.check("viewer")
        generation_id, parts = as_uuid(generation_id, "generation_id"), self._desk.parts()
        row = parts.records.find_one(generation_id, parts.policy.quota)
        if row is None:
            return None
        attempts = self._desk.storage.attempt_records(generation_id)
        actions = self._desk.storage.actions(target=f"generation:{generation_id}", before=None, limit=_ACTIONS)
        generation = row.snapshot.generation if isinstance(row, FoundRow) else None
        created_at = generation.created_at if generation is not None else None
        return Timeline(
            generation=_judged(row, parts),
            created_at=created_at,
            session_id=generation.session_id if generation is not None else None,
            why=explain_row(parts, row),
            outlook=_outlook(row, parts),
            attempts=attempts,
            moments=moments(created_at, attempts, actions),
            actions=actions,
            answer_kept=any(each.stored_at is not None for each in attempts),
        )

    def user(self, user_id: UUID | str) -> UserState:
        """Return a user's quota and newest generations, also of one who has nothing yet.

        Raises:
            ValueError: the id is not a UUID.
        """
        self.operator.check("viewer")
        user_id, parts, storage = as_uuid(user_id, "user_id"), self._desk.parts(), self._desk.storage
        state = storage.user_quota(user_id, parts.policy.quota)
        newest = parts.storage.browse(user_id, frozenset(GenerationStatus), NEWEST, _NEWEST, parts.policy.quota)
        return UserState(
            user_id=user_id,
            as_of=state.as_of,
            quota=state.quota,
            override=state.override,
            live=state.live,
            queued=state.queued,
            generations=[_judged(row, parts) for row in newest.rows],
            actions=storage.actions(target=f"user:{user_id}", before=None, limit=_ACTIONS),
        )

    def actions(
        self, *, limit: int = 50, target: str | None = None, before: datetime | None = None
    ) -> Sequence[Action]:
        """List what operators did, the newest first.

        Args:
            limit: from 1 to 200.
            target: only on this, such as ``generation:<id>``, ``user:<id>``, ``route:<name>`` or ``plan:<id>``.
            before: only earlier ones: ``at`` of the last one of the page before.

        Raises:
            ValueError: names the argument.
        """
        self.operator.check("viewer")
        if not 1 <= limit <= _MOST_ACTIONS:
            raise ValueError(f"limit must be from 1 to {_MOST_ACTIONS}")
        if target is not None:
            check_readable(target, "target")
        if before is not None and before.tzinfo is None:
            raise ValueError("before must have an offset from UTC")
        return self._desk.storage.actions(target=target, before=before, limit=limit)

    def books(self, *, since: When | None = "24h") -> Sequence[Mapping[str, Any]]:
        """List what contradicts the promises, as a rule nothing: see ``Client.books``."""
        self.operator.check("viewer")
        return self._desk.client.books(since=since)

    def doctor(self) -> "Diagnosis":
        """Examine the set-up: see ``Client.doctor``."""
        self.operator.check("viewer")
        return self._desk.client.doctor()


def _checked(wanted: Filter) -> Filter:
    """Refuse a search by more or longer words than a person needs.

    Raises:
        ValueError: names the argument.
    """
    for name, words in (("code", wanted.codes), ("model", wanted.models)):
        if words is not None and len(words) > _MOST_WORDS:
            raise ValueError(f"{name} must be at most {_MOST_WORDS} words")
        for each in words or ():
            check_readable(each, name)
    return wanted


def _judged(row: FoundRow | UnreadableRow, parts: Parts) -> FoundGeneration:
    if isinstance(row, UnreadableRow):
        return unreadable(row)
    return readable(row, judge(row.snapshot, parts.policy, context_from=parts.context_from))


def _outlook(row: FoundRow | UnreadableRow, parts: Parts) -> Outlook | None:
    """Ask what its user would be answered, and leave out the prompt, and the token of the open attempt."""
    if isinstance(row, UnreadableRow):
        return None
    asked = outlook(row.snapshot, Reader(context_from=parts.context_from, route_of=parts.route_of), parts.policy)
    generation = replace(row.snapshot.generation, prompt_data=None)
    stored = row.snapshot.stored_answer
    if stored is not None:
        stored = replace(stored, answer=replace(stored.answer, output=None))
    seen = replace(row.snapshot, generation=generation, stored_answer=stored, open_token=None)
    return replace(asked, snapshot=seen)
