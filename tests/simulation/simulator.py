"""A world in which everything happens in any order: loops run step by step, and a scheduler of its own mixes them.

Clicks, acceptances, cancellations, workers, tidies, renewals and operators run as the product runs them, over a storage
in memory. Between any two steps the app writes, time goes on, replies are lost before or after the commit, changes
arrive twice or much later, and processes die. After each step the invariants are read off the storage's own rows.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from ai_retry.domain.change import (
    Acceptance,
    Begin,
    CloseOver,
    Discard,
    Keep,
    Open,
    Renew,
    Reply,
    Running,
    Settle,
    Success,
)
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.errors import AiRetryError, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.loop import Call, Load, Loop, Setting, Step, retrying
from ai_retry.domain.model import (
    Answer,
    Failure,
    FailureCode,
    Generation,
    GenerationStatus,
    Outcome,
    QuotaRule,
    Waiver,
)
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_loop import accepting, cancelling, working
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.memory import MemoryStorage, Row
from ai_retry.testing.memory.app import MemoryApp, Session, SessionRefused, new_session
from tests.support.builders import a_failure

POLICY = RetryPolicy(max_attempts=5, hard_cap=8, max_parallel=2, quota=QuotaRule(limit=2, window=timedelta(hours=1)))
ROOMY = 6  # units of the user whose many generations show ``max_live``
VISIBILITY = POLICY.lease + timedelta(seconds=5)
WHILE = timedelta(minutes=6)  # longer than any backoff, lease, outage or visibility here
ROUNDS = 60  # of such whiles, within which every accepted retry ends
DURATIONS = (1, 2, 5, 11, 20, 36, 300, 3600)
FAILURES = (
    a_failure(),
    a_failure(FailureCode.TIMEOUT),
    a_failure(certainly_not_generated=True),
    a_failure(operator_fault=True),
    a_failure(FailureCode.INVALID_OUTPUT, transient=False),
    a_failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=timedelta(minutes=2)),
)
STATUSES = (*(GenerationStatus.ERROR,) * 3, GenerationStatus.SUCCESS, GenerationStatus.PROCESSING)


@dataclass
class Actor:
    """A running loop, and the step that it waits for."""

    loop: Loop[Any]
    step: Step | None = None  # None: it has not begun


@dataclass
class Tally:
    """What happened, so that a run that exercised nothing is noticed."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str) -> None:
        """Count one more."""
        self.counts[what] = self.counts.get(what, 0) + 1


class Simulation:
    """One history.

    Args:
        random: decides everything.
        storage_type: the storage, or a broken one that must be caught.
        tally: counts what happens.
    """

    def __init__(
        self, random: Random, storage_type: type[MemoryStorage] = MemoryStorage, tally: Tally | None = None
    ) -> None:
        self.random, self.tally = random, tally or Tally()
        self.clock = ManualClock()
        self.app = MemoryApp(self._create_session)
        self.storage = storage_type(self.clock, self.app)
        self.users = [self._id() for _ in range(3)]
        self.storage.quotas[self.users[1]] = QuotaRule(limit=ROOMY, window=POLICY.quota.window)
        self.actors: list[Actor] = []
        self.sent: list[Begin | Settle] = []  # changes that may arrive once more
        self.fates: dict[tuple[UUID, int], tuple[Any, ...]] = {}
        self.excused: set[UUID] = set()  # generations that lost an answer for a reason that is promised nowhere
        self._calls = self._checked = 0
        self._constraint: str | None = None
        self._one_session = False
        for user, count in ((0, 3), (1, 7), (2, 1)):
            for _ in range(count):
                self._generate(self.users[user])
        self.setting = Setting(
            policy=POLICY,
            reader=Reader(context_from=stored_context, route_of=lambda context: f"one/{context.model}"),
            monotonic=self.clock.monotonic,
            fraction=self.random.random,
        )
        self._acts: list[tuple[int, Callable[[], None]]] = [
            (60, self._step),
            (8, self._click),
            (5, self._accept),
            (2, self._cancel),
            (8, self._work),
            (3, self._tidy),
            (2, self._renew),
            (1, self._discard),
            (4, self._app_writes),
            (1, self._app_deletes),
            (1, self._app_moves),
            (2, self._app_locks),
            (2, self._configure),
            (6, self._time_passes),
            (3, self._arrives_again),
        ]

    def run(self, steps: int) -> None:
        """Let so many things happen, check after each, and see that everything ends."""
        weights = [weight for weight, _ in self._acts]
        for _ in range(steps):
            ((_, act),) = self.random.choices(self._acts, weights)
            act()
            self.check()
        self._end()

    # What processes do

    def _click(self) -> None:
        self._start(retrying(self._asked(), self.setting))

    def _accept(self) -> None:
        self._start(accepting(self._asked(), self.setting))

    def _cancel(self) -> None:
        generation = self._any_generation()
        self._start(cancelling(generation.user_id, generation.id, self.setting))

    def _work(self) -> None:
        for taken in self.storage.take(self.random.randint(1, 3), VISIBILITY, POLICY.quota):
            self._start(working(taken, self._id(), self.setting))

    def _tidy(self) -> None:
        for user_id in self.storage.overdue(self.random.randint(1, 3)):
            with suppress(StorageUnavailable):
                self.storage.begin(CloseOver(user_id=user_id))

    def _renew(self) -> None:
        running = [row for row in self.storage.rows.values() if row.outcome is None and not row.is_queued]
        if running:
            row = self.random.choice(running)
            self.storage.amend(Renew(generation_id=row.generation_id, token=row.token, lease=POLICY.lease))

    def _discard(self) -> None:
        generation = self._any_generation()
        held = self._open_row(generation.id)
        change = Discard(user_id=generation.user_id, generation_id=generation.id, operator="ann")
        if self.storage.amend(change).applied:
            assert held is None or held.answer_from is None, "an answer was discarded while an attempt used it"
            self.excused.add(generation.id)

    def _asked(self) -> Asked:
        generation, random = self._any_generation(), self.random
        foreign = random.random() < 0.02
        return Asked(
            user_id=random.choice(self.users) if foreign else generation.user_id,
            generation_id=generation.id,
            token=self._id(),
            idempotency_key=random.choice((None, None, "key-1", "key-2")),
            waive=random.choice((frozenset({Waiver.BACKOFF}),) * 3 + (frozenset(), frozenset(Waiver))),
            charge=random.random() < 0.9,
        )

    def _start(self, loop: Loop[Any]) -> None:
        self._advance(Actor(loop), lambda: next(loop))

    def _step(self) -> None:
        """Do what a loop waits for; or lose the request, or the reply; or let the process die."""
        if not self.actors:
            return
        actor = self.actors.pop(self.random.randrange(len(self.actors)))
        fate = self.random.choices(("done", "twice", "no reply", "not sent", "dies"), (80, 5, 4, 4, 3))[0]
        if fate == "dies":
            self.tally.add("killed")
            self._excuse(actor)
            actor.loop.close()
            return
        if isinstance(actor.step, Call):
            result = self._call(actor.step)
            self._advance(actor, lambda: actor.loop.send(result))
            return
        if fate == "not sent":
            self._fail(actor, StorageUnavailable("08006"))
            return
        try:
            reply = self._perform(actor.step)
            if fate == "twice":
                reply = self._perform(actor.step)
        except StorageUnavailable as error:
            self._fail(actor, error)
            return
        if fate == "no reply":
            self._fail(actor, StorageOutcomeUnknown("08006"))
            return
        self._advance(actor, lambda: actor.loop.send(reply))

    def _fail(self, actor: Actor, error: AiRetryError) -> None:
        self.tally.add(type(error).__name__)
        if isinstance(actor.step, Keep):
            self._excuse(actor)  # the storage could not be reached, not even for the last resort
        self._advance(actor, lambda: actor.loop.throw(error))

    def _advance(self, actor: Actor, resume: Callable[[], Step]) -> None:
        before = actor.step
        try:
            actor.step = resume()
        except StopIteration as done:
            self.tally.add(f"ends with {type(done.value).__name__}")
            self._check_paid(before)
        except AiRetryError as error:
            self.tally.add(f"ends with {type(error).__name__}")
            self._check_paid(before)
        else:
            self.actors.append(actor)

    def _perform(self, step: Step | None) -> Any:
        if isinstance(step, Load):
            return self.storage.load(step.user_id, step.generation_id, POLICY.quota, step.token)
        if isinstance(step, Keep):
            return self.storage.keep(step)
        if isinstance(step, Begin | Settle):
            self.sent.append(step)
        if isinstance(step, Begin):
            return self._begin(step)
        if isinstance(step, Settle):
            return self._settle(step)
        if isinstance(step, CloseOver):
            return self.storage.begin(step)
        assert not isinstance(step, Call | None)
        return self.storage.amend(step)

    def _begin(self, change: Begin) -> Reply:
        now, before = self.clock.now(), self._row_with(change.token)
        status = self.app.generations[change.generation_id].status if self._is_there(change.generation_id) else None
        due_at = self._due_at(change.generation_id)
        reply = self.storage.begin(change)
        if not reply.applied:
            return reply
        self.tally.add("began")
        row = self._row_with(change.token)
        assert before is None, "a begin was applied twice"
        assert row is not None
        assert status is not GenerationStatus.SUCCESS, "an attempt began although the generation had succeeded"
        assert now - change.expected.as_of <= timedelta(seconds=10), "an old decision was applied"
        self._check_ceilings(change)
        over = [each for each in self.storage.rows.values() if each.user_id == row.user_id and _is_over(each, now)]
        assert over == [], "an attempt began beside one that is over"
        if isinstance(change.attempt.start, Running):
            stored = self.storage.load(row.user_id, row.generation_id, POLICY.quota, None)
            assert stored is not None
            assert (stored.stored_answer is None) == (row.answer_from is None), (
                "a call was begun beside a stored answer"
            )
        if isinstance(change.attempt, Open) and not change.attempt.waived:
            wait = change.attempt.start.wait if isinstance(change.attempt.start, Acceptance) else timedelta(0)
            assert due_at is None or due_at <= now + wait, "an attempt began before its backoff was over"
        return reply

    def _check_ceilings(self, change: Begin) -> None:
        """No commit that admits leaves captured and open, over or not, above its ceiling."""
        rows = [row for row in self.storage.rows.values() if row.user_id == change.user_id]
        open_rows = [row for row in rows if row.outcome is None]
        running = [row for row in open_rows if not row.is_queued]
        assert change.expected.max_live is None or len(running) <= change.expected.max_live, "max_live"
        if change.expected.max_used is None:
            return
        used = self._captured(change.user_id, change.expected.quota_rule) + sum(row.charge for row in open_rows)
        assert used <= change.expected.max_used, "more units than the limit"

    def _captured(self, user_id: UUID, rule: QuotaRule) -> int:
        since = self.clock.now() - rule.window
        rows = [row for row in self.storage.rows.values() if row.user_id == user_id]
        ours = sum(row.captured_at is not None and row.captured_at > since for row in rows)
        by_us = {row.generation_id for row in self.storage.rows.values() if row.outcome is Outcome.SUCCEEDED}
        own = [each for each in self.app.generations.values() if each.user_id == user_id and each.id not in by_us]
        return ours + sum(each.status is GenerationStatus.SUCCESS and each.created_at > since for each in own)

    def _settle(self, change: Settle) -> Reply:
        before = {key: row for key, row in self.storage.rows.items() if row.generation_id == change.generation_id}
        generation = self.app.generations.get(change.generation_id)
        reply = self.storage.settle(change)
        after = self.storage.rows
        closed = [key for key, row in before.items() if row.outcome is None and after[key].outcome is not None]
        if reply.applied:
            assert [before[key].token for key in closed] == [change.token], "a settle closed another attempt"
        else:
            assert closed == [], "a stale settle closed an attempt"
        if [key for key in closed if after[key].outcome is Outcome.SUCCEEDED]:
            self.tally.add("succeeded")
            assert generation is not None
            assert generation.status is not GenerationStatus.SUCCESS, "a generation that had succeeded was charged"
            assert generation.user_id == change.user_id, "a generation of another user was charged"
        return reply

    def _call(self, call: Call) -> Answer | Failure:
        assert call.timeout > timedelta(0)
        if self.random.random() < 0.45:
            self.tally.add("call fails")
            return self.random.choice(FAILURES)
        self._calls += 1
        return Answer(output={"call": self._calls}, model="small")

    # What the app, time and the network do

    def _app_writes(self) -> None:
        generation = self._any_generation()
        status = self.random.choice(STATUSES)
        self.app.generations[generation.id] = replace(generation, status=status, updated_at=self.clock.now())

    def _app_deletes(self) -> None:
        generation = self._any_generation()
        if len(self.app.generations) > 8:
            del self.app.generations[generation.id]
            self._generate(generation.user_id)

    def _app_moves(self) -> None:
        generation = self._any_generation()
        if self.random.random() < 0.3:
            self.app.generations[generation.id] = replace(generation, user_id=self.random.choice(self.users))
        else:
            self.app.hidden ^= {generation.id}

    def _app_locks(self) -> None:
        self.app.locked = {self._any_generation().id} if not self.app.locked else set()

    def _configure(self) -> None:
        self.storage.quotas[self.users[0]] = QuotaRule(limit=self.random.randint(0, 3), window=POLICY.quota.window)
        self._constraint = self.random.choice((None, None, "title_is_short", "km_is_positive"))
        self._one_session = self.random.random() < 0.1

    def _time_passes(self) -> None:
        self.clock.advance(timedelta(seconds=self.random.choice(DURATIONS)))

    def _arrives_again(self) -> None:
        """A change that was sent before arrives once more, as from a network that kept it."""
        if self.sent:
            change = self.random.choice(self.sent)
            with suppress(StorageUnavailable):
                self._begin(change) if isinstance(change, Begin) else self._settle(change)

    def _create_session(self, generation: Generation, output: Any) -> Session:
        if self._constraint is not None:
            raise SessionRefused(self._constraint)
        if self._one_session:
            return {**new_session(generation, output), "id": str(UUID(int=1))}
        return {**new_session(generation, output), "id": str(self._id())}

    # What is always true

    def check(self) -> None:
        """Read the invariants off the rows."""
        by_generation: dict[UUID, list[Row]] = {}
        for row in self.storage.rows.values():
            by_generation.setdefault(row.generation_id, []).append(row)
        for rows in by_generation.values():
            rows.sort(key=lambda row: row.number)
            self._check_attempts(rows)
        self._checked += 1
        generations = list(self.app.generations.values())
        self._check_quota(generations[self._checked % len(generations)])
        succeeded = [row for row in self.storage.rows.values() if row.outcome is Outcome.SUCCEEDED]
        assert len({row.session_id for row in succeeded}) == len(succeeded), "two units for one session"
        assert len(self.app.sessions) == len(succeeded), "a session without its unit"

    def _check_quota(self, generation: Generation) -> None:
        """The quota that a user sees is what the rows say; what an abandoned click held is free again."""
        snapshot = self.storage.load(generation.user_id, generation.id, POLICY.quota, None)
        assert snapshot is not None
        rows = [row for row in self.storage.rows.values() if row.user_id == generation.user_id and row.outcome is None]
        now, rule = self.clock.now(), replace(POLICY.quota, window=snapshot.quota.window)
        held = [row for row in rows if row.charge and (row.accepted_at is not None or row.is_live(now))]
        assert snapshot.quota.held == len(held), "held"
        assert snapshot.quota.captured == min(self._captured(generation.user_id, rule), snapshot.quota.limit), (
            "captured"
        )
        assert snapshot.live == sum(row.is_live(now) for row in rows), "live"

    def _check_attempts(self, rows: list[Row]) -> None:
        assert [row.number for row in rows] == list(range(2, 2 + len(rows))), "numbers have a gap"
        assert sum(row.outcome is None for row in rows) <= 1, "two open attempts"
        assert sum(row.outcome is Outcome.SUCCEEDED for row in rows) <= 1, "two successes"
        for row in rows:
            fate = (row.outcome, row.code, row.counted, row.captured_at)
            key = (row.generation_id, row.number)
            assert self.fates.get(key, fate) == fate, "a closed attempt has changed"
            if row.outcome is not None:
                self.fates[key] = fate
            charged = row.outcome is Outcome.SUCCEEDED and row.charge
            assert (row.captured_at is not None) == charged, "a unit is captured by a charged success, and only then"

    def _check_paid(self, last: Step | None) -> None:
        """A loop has ended: the answer that its last change carried has a place."""
        if not isinstance(last, Settle | Keep) or _answer_of(last) is None:
            return
        self.tally.add("paid answers")
        generation_id = last.generation_id
        if generation_id in self.excused or not self._is_there(generation_id):
            return
        if any(
            row.generation_id == generation_id and row.outcome is Outcome.SUCCEEDED
            for row in self.storage.rows.values()
        ):
            return  # there is a session already, from this answer or another one
        kept = [each for key, each in self.storage.answers.items() if key[0] == generation_id]
        assert kept, "a paid answer has no place"

    def _excuse(self, actor: Actor) -> None:
        if isinstance(actor.step, Settle | Keep) and _answer_of(actor.step) is not None:
            self.excused.add(actor.step.generation_id)

    def _end(self) -> None:
        """The trouble ends, time goes on, and every attempt is closed."""
        for actor in self.actors:
            self._excuse(actor)
            actor.loop.close()
        self.actors, self.app.locked, self._constraint, self._one_session = [], set(), None, False
        for _ in range(ROUNDS):
            self.clock.advance(WHILE)
            for user_id in self.storage.overdue(100):
                self.storage.begin(CloseOver(user_id=user_id))
            for taken in self.storage.take(100, VISIBILITY, POLICY.quota):
                self._drain(working(taken, self._id(), self.setting))
            self.check()
            if all(row.outcome is not None for row in self.storage.rows.values()):
                break
        left = [row for row in self.storage.rows.values() if row.outcome is None]
        assert left == [], f"{len(left)} attempts never end"
        assert not self.storage.line.messages or self._drained(), "messages are left"
        assert not [row for row in self.storage.rows.values() if row.untold], "an app was never informed"

    def _drained(self) -> bool:
        for taken in self.storage.take(100, VISIBILITY, POLICY.quota):
            self._drain(working(taken, self._id(), self.setting))
        return not self.storage.line.messages

    def _drain(self, loop: Loop[Any]) -> None:
        with suppress(AiRetryError, StopIteration):
            step = next(loop)
            while True:
                step = loop.send(self._call(step) if isinstance(step, Call) else self._perform(step))

    # Looking

    def _generate(self, user_id: UUID) -> None:
        generation = Generation(
            id=self._id(),
            user_id=user_id,
            status=self.random.choice((GenerationStatus.ERROR, GenerationStatus.TIMEOUT)),
            model=self.random.choice(("small", "large")),
            prompt_data={"messages": [{"role": "user", "content": "Plan an easy run."}]},
            session_id=None,
            duration=None,
            created_at=self.clock.now(),
            updated_at=None,
        )
        self.app.generations[generation.id] = generation

    def _any_generation(self) -> Generation:
        return self.random.choice(list(self.app.generations.values()))

    def _is_there(self, generation_id: UUID) -> bool:
        return generation_id in self.app.generations

    def _open_row(self, generation_id: UUID) -> Row | None:
        rows = self.storage.rows.values()
        return next((row for row in rows if row.generation_id == generation_id and row.outcome is None), None)

    def _row_with(self, token: UUID) -> Row | None:
        return next((row for row in self.storage.rows.values() if row.token == token), None)

    def _due_at(self, generation_id: UUID) -> Any:
        rows = [row for row in self.storage.rows.values() if row.generation_id == generation_id]
        last = max(rows, key=lambda row: row.number, default=None)
        return last.next_attempt_at if last is not None else None

    def _id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)


def _is_over(row: Row, now: datetime) -> bool:
    return row.outcome is None and not row.is_queued and not row.is_live(now)


def _answer_of(step: Settle | Keep) -> Answer | None:
    """The answer that a step carries and that its attempt paid for."""
    if isinstance(step, Keep):
        return step.answer
    if isinstance(step.end, Success) and step.end.answer_from is not None:
        return None
    return step.end.answer


def histories(seed: int, count: int, steps: int, storage_type: type[MemoryStorage] = MemoryStorage) -> Iterator[Tally]:
    """Run histories that differ by their seeds; a failure names the seed."""
    for number in range(seed, seed + count):
        tally = Tally()
        try:
            Simulation(Random(number), storage_type, tally).run(steps)
        except AssertionError as error:
            raise AssertionError(f"seed {number}: {error}") from error
        yield tally
