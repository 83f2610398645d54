"""What must be true after every step of a simulation, read off the storage's own rows by rules of its own.

Nothing here asks a decision: limits, waits and places are computed from the rows again, in other words.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from ai_retry.domain.change import Acceptance, Begin, CloseOver, Keep, Open, Run, Running, Settle, Success
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.errors import (
    AiRetryError,
    GenerationNotFound,
    LeaseLost,
    RetryExpired,
    SessionRejected,
    StorageOutcomeUnknown,
    StorageUnavailable,
)
from ai_retry.domain.model import Answer, Failure, GenerationStatus, Outcome, ProviderOutcome, QuotaRule, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.memory import MemoryApp, MemoryStorage, Row
from ai_retry.testing.memory.app import CreateSession

KEPT = ("expires_at", "idempotency_key", "charge", "operator", "waived", "in_line", "context_reader")
UNFINISHED = (GenerationStatus.QUEUED, GenerationStatus.PROCESSING)


class WatchedApp(MemoryApp):
    """An app that knows which statuses the storage wrote.

    Attributes:
        ours: generations whose status was written last by the storage.
        created: generations that first calls have created.
        ever: the same, also those that a fail-over has forgotten.
    """

    def __init__(self, create_session: CreateSession, refuse: Callable[[UUID], None] = lambda _: None) -> None:
        super().__init__(create_session)
        self.ours: set[UUID] = set()
        self.created: set[UUID] = set()
        self.ever: set[UUID] = set()
        self._refuse = refuse

    def create_generation(self, user_id: UUID, generation_id: UUID, request: Mapping[str, Any], now: datetime) -> bool:
        """Insert it, unless a rule of the app refuses it then."""
        done = super().create_generation(user_id, generation_id, request, now)
        if done:
            self._refuse(user_id)
            self.ours.add(generation_id)
            self.created.add(generation_id)
            self.ever.add(generation_id)
        return done

    def write(self, generation_id: UUID, *arguments: Any, **columns: Any) -> None:
        """Write, and remember by whom."""
        super().write(generation_id, *arguments, **columns)
        self.ours.add(generation_id)


@dataclass
class Books:
    """What the simulation knows besides the storage.

    Attributes:
        calls: calls that were answered, so far.
        wire: requests that were sent to the provider, by generation.
        made: every call, by its name: for which generation, its tokens, and what is known of its outcome.
        tries: the calls of each attempt, also of those tries after which it was put back.
        keys: the calls that were made under one key.
        placed: paid answers that have a place, by their number, and whose they are.
        excused: paid answers that may be lost: their process died, the last resort could not be reached, or an operator
            dropped them.
        forgotten: generations of attempts that a fail-over has forgotten, and that were answered.
        fates: what is known of closed attempts.
    """

    storage: MemoryStorage
    app: WatchedApp
    clock: ManualClock
    policy: RetryPolicy
    calls: int = 0
    wire: Counter[UUID] = field(default_factory=Counter)
    made: dict[str, tuple[UUID, int, ProviderOutcome]] = field(default_factory=dict)
    tries: dict[tuple[UUID, int], list[str]] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)
    placed: dict[int, UUID] = field(default_factory=dict)
    excused: set[int] = field(default_factory=set)
    forgotten: set[UUID] = field(default_factory=set)
    fates: dict[tuple[UUID, int], tuple[Any, ...]] = field(default_factory=dict)
    checked: int = 0

    # Rows

    @property
    def rows(self) -> list[Row]:
        """All attempts."""
        return list(self.storage.rows.values())

    def rows_of(self, generation_id: UUID) -> list[Row]:
        """A generation's attempts, in their order."""
        return sorted((row for row in self.rows if row.generation_id == generation_id), key=lambda row: row.number)

    def row_with(self, token: UUID) -> Row | None:
        """The attempt that has the token; no two have."""
        found = [row for row in self.rows if row.token == token]
        assert len(found) <= 1, "two attempts with one token"
        return found[0] if found else None

    # After every step

    def check(self) -> None:
        """Read the invariants off the rows."""
        by_generation: dict[UUID, list[Row]] = {}
        for row in self.rows:
            by_generation.setdefault(row.generation_id, []).append(row)
        stored = {generation_id for generation_id, _ in self.storage.answers}
        logged = Counter(each["generation_id"] for each in self.app.error_logs)
        for generation_id, rows in by_generation.items():
            rows.sort(key=lambda row: row.number)
            self._check_attempts(rows, logged[generation_id], has_answer=generation_id in stored)
        generations = list(self.app.generations)
        self.checked += 1
        self._check_quota(generations[self.checked % len(generations)])
        succeeded = [row for row in self.rows if row.outcome is Outcome.SUCCEEDED]
        sessions = {str(each["id"]) for each in self.app.sessions.values()}
        assert len({row.session_id for row in succeeded}) == len(succeeded), "two units for one session"
        assert sessions == {row.session_id for row in succeeded}, "a session without its unit"
        held = [row.message_id for row in self.rows if row.outcome is None and row.message_id is not None]
        assert len(set(held)) == len(held), "one message of two attempts"
        self._check_placed()
        self._check_created()
        self._check_records()

    def _check_created(self) -> None:
        """A generation that a first call has created has its attempt, and one without attempts was never created."""
        present = self.app.created & self.app.generations.keys()
        first = {row.generation_id for row in self.rows if row.number == 1}
        assert present <= first, "a generation was created without its first attempt"
        assert first <= self.app.created, "a first attempt without a generation"
        digests = [row.request_digest for row in self.rows]
        assert all((row.number == 1) == (row.request_digest is not None) for row in self.rows), f"digests {digests}"

    def check_named(self, asked: Asked, error: AiRetryError) -> None:
        """The error of a first call names its generation where there is one, and only there."""
        row = self.row_with(asked.token)
        if error.generation_id is None and isinstance(error, GenerationNotFound | StorageUnavailable):
            return  # it is hidden; or the simulator says so of a repeat, where a storage knows of the first reply
        assert row is None or error.generation_id == asked.generation_id, "an error does not name its generation"
        if error.generation_id is not None and not isinstance(error, StorageOutcomeUnknown):
            known = error.generation_id in self.app.ever or error.generation_id in self.app.generations
            assert known, "an error names a generation that never was"

    def called(self, generation_id: UUID, token: UUID | None, key: str, result: Answer | Failure) -> str:
        """Note a call of an attempt; return the name by which its record is known again."""
        name = f"call-{len(self.made)}"
        tokens = result.usage.total_tokens if result.usage is not None else None
        self.made[name] = generation_id, tokens or 0, result.provider_outcome
        row = self.row_with(token) if token is not None else None
        if row is not None and row.outcome is None:
            self.tries.setdefault((generation_id, row.number), []).append(name)
            self._check_key(key)  # one that a fail-over has forgotten knows nothing of those after it
        self.keys.setdefault(key, []).append(name)
        return name

    def _check_key(self, key: str) -> None:
        """A question is asked under an old key only while it is unknown what came of it, or of a re-ask about it."""
        before = self.keys.get(key, [])
        for row in self.rows:
            calls = [(str(each.provider), each.route) for each in row.call.calls]
            doubtful = {route for each, route in calls if self.made[each][2] is ProviderOutcome.UNKNOWN}
            known = [each for each, route in calls if each in before and route not in doubtful]
            assert row.outcome is Outcome.ABANDONED or known == [], "what is known was asked for again"

    def _check_calls(self) -> None:
        """Every call is on the record of one attempt at most, and an attempt costs what its calls cost."""
        names = [str(call.provider) for row in self.rows for call in row.call.calls]
        assert len(set(names)) == len(names), "one call on the record of two attempts"
        for row in self.rows:
            made = [self.made[str(call.provider)] for call in row.call.calls]
            assert all(generation_id == row.generation_id for generation_id, _, _ in made), "another generation's call"
            if not made:
                continue
            tokens = row.call.usage.total_tokens if row.call.usage is not None else None
            assert (tokens or 0) == sum(each for _, each, _ in made), "cost is missing"
            tries = self.tries.get((row.generation_id, row.number), [])
            outcomes = [outcome for _, _, outcome in (*made, *(self.made[each] for each in tries))]
            in_doubt = ProviderOutcome.UNKNOWN in outcomes
            known = ProviderOutcome.GENERATED in outcomes
            reported = row.call.provider_outcome
            if row.accepted_at is not None and reported is ProviderOutcome.UNKNOWN and not in_doubt:
                # It was put back in doubt before: that call is on no attempt's record.
                in_doubt = any(
                    made_for == row.generation_id and outcome is ProviderOutcome.UNKNOWN
                    for name, (made_for, _, outcome) in self.made.items()
                    if name not in names
                )
            assert (reported is ProviderOutcome.UNKNOWN) == in_doubt, "an unknown outcome was written off"
            assert in_doubt or (reported is ProviderOutcome.GENERATED) == known, "a generated answer was written off"

    def _check_records(self) -> None:
        """What is written is whole."""
        self._check_calls()
        succeeded = [row for row in self.rows if row.outcome is Outcome.SUCCEEDED and row.answer_from is None]
        assert all(row.call.calls and row.call.calls[-1].code is None for row in succeeded), (
            "a success without its call"
        )
        assert all(isinstance(each, Answer) for each in self.storage.answers.values()), "a place without an answer"
        assert all(row.closed_at is not None for row in self.rows if row.outcome is not None), "closed at no time"
        records = [*self.app.events, *self.app.error_logs]
        assert all(each["created_at"] is not None for each in records), "an event or error at no time"
        written = [each for key, each in self.app.generations.items() if key in self.app.ours]
        assert all(each.updated_at is not None for each in written), "a status was written at no time"

    def _check_attempts(self, rows: list[Row], logged: int, *, has_answer: bool) -> None:
        numbers = [row.number for row in rows]
        assert len(set(numbers)) == len(numbers), "a number was given twice"
        assert len({row.token for row in rows}) == len(rows), "two attempts with one token"
        assert all(row.outcome is not None for row in rows[:-1]), "an open attempt is not the last one"
        succeeded = sum(row.outcome is Outcome.SUCCEEDED for row in rows)
        assert succeeded <= 1, "two successes"
        assert not (succeeded and has_answer), "an answer is stored beside a session"
        for row, after in zip(rows, [*rows[1:], None], strict=True):
            self._check_row(row, after)
        for row, after in pairwise(rows):
            self._check_accepted(row, after)
        assert logged <= sum(row.outcome is not None for row in rows), "an attempt was logged twice"
        sent = sum(row.call.wire_requests for row in rows)
        assert sent <= self.wire[rows[0].generation_id], "a request to the provider was recorded twice"

    def _check_row(self, row: Row, after: Row | None) -> None:
        key = (row.generation_id, row.number)
        fate = (row.user_id, row.outcome, row.code, row.counted, row.captured_at, row.next_attempt_at, row.session_id)
        assert self.fates.get(key, fate) == fate, "a closed attempt has changed"
        if row.outcome is not None:
            self.fates[key] = fate
        charged = row.outcome is Outcome.SUCCEEDED and row.charge
        assert (row.captured_at is not None) == charged, "a unit is captured by a charged success, and only then"
        if row.accepted_at is not None and row.outcome is Outcome.ABANDONED:
            assert after is not None, "an accepted retry ended with its worker"
            assert after.accepted_at == row.accepted_at, "an accepted retry lost its time"
        if row.outcome is None and row.lease_expires_at is not None and row.kept_cause is None:
            longest = max(self.policy.lease, self.policy.deadline + self.policy.settle_margin)
            assert row.lease_expires_at <= row.started_at + longest, "a lease was renewed without end"

    def _check_accepted(self, row: Row, after: Row) -> None:
        """From attempt to attempt an accepted retry keeps what was promised."""
        if row.accepted_at is None or row.accepted_at == row.closed_at or row.accepted_at != after.accepted_at:
            return  # another one, perhaps accepted again at the very instant at which the first ended
        changed = [each for each in KEPT if getattr(row, each) != getattr(after, each)]
        assert changed == [], "an accepted retry changed"
        assert row.outcome in (Outcome.FAILED, Outcome.ABANDONED), "an accepted retry went on after its success"

    def _check_quota(self, generation_id: UUID) -> None:
        """The quota that a user sees is what the rows say; what an abandoned click held is free again."""
        generation = self.app.generations[generation_id]
        snapshot = self.storage.load(generation.user_id, generation_id, self.policy.quota, None)
        assert snapshot is not None
        rows = [row for row in self.rows if row.user_id == generation.user_id and row.outcome is None]
        now, rule = self.clock.now(), self.rule_of(generation.user_id)
        held = [row for row in rows if row.charge and (row.accepted_at is not None or row.is_live(now))]
        captured = min(self.captured(generation.user_id), rule.limit)
        quota = snapshot.quota
        assert (quota.limit, quota.window) == (rule.limit, rule.window), "limit"
        assert (quota.held, quota.captured) == (len(held), captured), "quota"
        assert snapshot.live == sum(row.is_live(now) for row in rows), "live"
        stored = self.answers_of(generation_id, generation.user_id)
        shown = [] if snapshot.stored_answer is None else [snapshot.stored_answer.answer]
        assert shown == stored[-1:], "stored answer"

    def rule_of(self, user_id: UUID) -> QuotaRule:
        """The limit and window that hold for a user now."""
        return self.storage.quotas.get(user_id, self.policy.quota)

    def captured(self, user_id: UUID) -> int:
        """Units that the user has spent in the window that holds now."""
        since = self.clock.now() - self.rule_of(user_id).window
        ours = sum(
            row.user_id == user_id and row.captured_at is not None and row.captured_at > since for row in self.rows
        )
        by_us = {row.generation_id for row in self.rows if row.outcome is Outcome.SUCCEEDED}
        own = [each for each in self.app.generations.values() if each.user_id == user_id and each.id not in by_us]
        return ours + sum(each.status is GenerationStatus.SUCCESS and each.created_at > since for each in own)

    # When attempts are closed

    @contextmanager
    def closing(self, change: Any) -> Iterator[None]:
        """See that a change closes what it may close, and nothing else."""
        before = [row for row in self.rows if row.outcome is None]
        yield
        for row in before:
            now = self.storage.rows.get((row.generation_id, row.number))
            if now is not None and now.outcome is not None:
                self._check_closed(row, now, change)

    def _check_closed(self, row: Row, closed: Row, change: Any) -> None:
        generation = self.app.generations.get(row.generation_id)
        if isinstance(change, Settle):
            owner_id = generation.user_id if generation is not None else row.user_id
            assert change.user_id in (row.user_id, owner_id), "an attempt was closed in another user's name"
            assert row.token == change.token, "a settle closed another attempt"
            return
        assert isinstance(change, Begin | CloseOver), "an amendment closed an attempt"
        is_owned = generation is not None and generation.user_id == row.user_id
        if row.is_queued:
            is_out_of_time = row.expires_at is not None and row.expires_at <= self.clock.now()
            assert is_out_of_time or isinstance(change, CloseOver), "a begin ended an accepted retry that has time"
            assert is_out_of_time or not is_owned, "an accepted retry was ended that has time"
            end = (Outcome.FAILED, RetryExpired.code, False) if is_owned else (Outcome.CANCELLED, None, False)
        else:
            assert not row.is_live(self.clock.now()), "an attempt with a valid lease was closed"
            end = (Outcome.ABANDONED, LeaseLost.code, row.counted)
            if row.kept_cause is not None:
                end = (Outcome.FAILED, SessionRejected.code, row.counted)
        assert (closed.outcome, closed.code, closed.counted) == end, "an attempt was closed as another one"
        assert closed.captured_at is None, "a unit was captured in passing"

    # Answers

    def answers_of(self, generation_id: UUID, user_id: UUID | None = None) -> list[Answer]:
        """Stored answers of a generation, by their attempts; those that a user has paid for, or all of them."""
        paid = [row for row in self.rows_of(generation_id) if user_id is None or row.user_id == user_id]
        keys = [(generation_id, row.number) for row in paid]
        return [self.storage.answers[key] for key in keys if key in self.storage.answers]

    def paid(self, generation_id: UUID, token: UUID, answer: Answer) -> None:
        """A loop that had this answer has ended: from now on the answer has a place, or it is excused.

        Of an attempt that a fail-over has forgotten, and of the attempt that was begun in its stead, one answer is
        enough: it is the generation's.
        """
        call = answer.output["call"]
        self.placed[call] = generation_id
        if self.row_with(token) is None and self.answers_of(generation_id):
            self.forgotten.add(generation_id)
        self._check_placed()

    def excuse(self, answer: Answer) -> None:
        """An answer may be lost."""
        self.excused.add(answer.output["call"])

    def discarded(self, generation_id: UUID, stored: list[Answer]) -> None:
        """An operator has dropped these answers; a forgotten attempt's had its place in one of them."""
        for answer in stored:
            self.excuse(answer)
        if generation_id in self.forgotten:
            self.excused.update(call for call, placed in self.placed.items() if placed == generation_id)

    def _check_placed(self) -> None:
        for call, generation_id in list(self.placed.items()):
            succeeded = any(row.outcome is Outcome.SUCCEEDED for row in self.rows_of(generation_id))
            if succeeded or generation_id not in self.app.generations:
                del self.placed[call]
            elif call not in self.excused:
                places = [each.output["call"] for each in self.answers_of(generation_id)]
                has_place = bool(places) if generation_id in self.forgotten else call in places
                assert has_place, "a paid answer has no place"

    # When an attempt begins

    def check_begun(self, change: Begin, before: list[Row], due_at: Any) -> None:
        """Everything that a begin promises, computed from the rows before and after it."""
        row, now = self.row_with(change.token), self.clock.now()
        assert row is not None
        assert now - change.expected.as_of <= timedelta(seconds=10), "an old decision was applied"
        creates = isinstance(change.attempt, Open) and change.attempt.create is not None
        highest = max((each.number for each in before), default=0 if creates else 1)
        number = change.attempt.number if isinstance(change.attempt, Run) else highest + 1
        assert row.number == number, "a number was left out"
        mine = [each for each in self.rows if each.user_id == row.user_id and each.outcome is None]
        over = [each for each in mine if not each.is_queued and not each.is_live(now)]
        assert over == [], "an attempt began beside one that is over"
        start = change.attempt.start
        if isinstance(start, Running):
            assert sum(not each.is_queued for each in mine) <= self.policy.max_parallel, "max_parallel"
        if isinstance(change.attempt, Open) and change.attempt.charge and Waiver.QUOTA not in change.attempt.waived:
            held = sum(each.charge for each in mine)
            assert self.captured(row.user_id) + held <= self.rule_of(row.user_id).limit, "more units than the limit"
        stored = bool(self.answers_of(row.generation_id, row.user_id))
        if isinstance(start, Running):
            assert stored == (row.answer_from is not None), "a call was begun beside a stored answer"
        past = [each for each in before if each.outcome is not None]
        is_ours = creates or any(each.number == 1 for each in [*before, row])
        counted = (not is_ours) + sum(each.counted for each in past)
        assert stored or counted < self.policy.max_attempts, "more attempts than max_attempts"
        recent = [each for each in past if each.started_at > now - self.policy.hard_cap_window]
        calls = [each for each in recent if each.answer_from is None and not each.operator_fault]
        assert len(calls) < self.policy.hard_cap, "more attempts than the hard cap"
        if not isinstance(change.attempt, Open) or Waiver.BACKOFF not in change.attempt.waived:
            wait = start.wait if isinstance(start, Acceptance) else timedelta(0)
            assert due_at is None or due_at <= now + wait, "an attempt began before its backoff was over"

    # At the end

    def check_rest(self) -> None:
        """Nothing is left half done."""
        assert all(row.outcome is not None for row in self.rows), "attempts never end"
        assert not self.storage.line.messages, "messages are left"
        assert not [row for row in self.rows if row.unreported], "an app was never informed"
        unfinished = [each.id for each in self.app.generations.values() if each.status in UNFINISHED]
        assert not self.app.ours.intersection(unfinished), "a generation says for ever that it is worked on"


def answer_of(step: Any) -> Answer | None:
    """The answer that a step carries and that its attempt paid for."""
    if isinstance(step, Keep):
        return step.answer
    if not isinstance(step, Settle) or (isinstance(step.end, Success) and step.end.answer_from is not None):
        return None
    return step.end.answer
