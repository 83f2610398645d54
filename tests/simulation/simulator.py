"""A world in which everything happens in any order: loops run step by step, and a scheduler of its own mixes them.

Clicks, acceptances, cancellations, workers, tidies, renewals and operators run as the product runs them, over a storage
in memory. Between any two steps the app writes, users leave, time goes on, replies are lost before or after the commit,
changes arrive twice or much later, a fail-over forgets a commit, and processes die. After each step the books are
checked (``books``); at the end the trouble stops, and everything must come to rest and be usable.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

from ai_retry.domain.change import Begin, CloseOver, Discard, Keep, NewGeneration, Open, PutBack, Renew, Reply, Settle
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked, owned, retry_now
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.errors import AiRetryError, AttemptsExhausted, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.first_loop import accepting_first, generating
from ai_retry.domain.loop import Call, Load, Loop, Setting, Step, retrying
from ai_retry.domain.model import (
    Answer,
    Failure,
    Generation,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    QuotaRule,
    RetryResult,
    Waiver,
)
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_loop import accepting, cancelling, working
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.memory import GenerationRefused, MemoryStorage
from ai_retry.testing.memory.app import Session, SessionRefused, new_session
from tests.simulation.books import Books, WatchedApp, answer_of
from tests.simulation.provider import Providers

POLICY = RetryPolicy(max_attempts=5, hard_cap=8, max_parallel=2, quota=QuotaRule(limit=2, window=timedelta(hours=1)))
OTHER_POLICY = replace(POLICY, max_attempts=3, max_parallel=1, hard_cap=5, backoff_cap=timedelta(minutes=2))
ROOMY = QuotaRule(limit=6, window=POLICY.quota.window)  # of the user whose many generations show ``max_live``
VISIBILITY = POLICY.lease + timedelta(seconds=5)
WHILE = timedelta(minutes=6)  # longer than any backoff, lease, outage or visibility here
ROUNDS = 60  # of such whiles, within which every accepted retry ends
BUSY_ROUNDS = 200  # takes at one instant, after which a message has come back without progress
DAY = timedelta(hours=25)  # longer than the window of the hard cap
DURATIONS = (1, 2, 5, 11, 20, 36, 300, 3600)
EVERYTHING = frozenset(Waiver)
NEW = tuple(
    NewGeneration(
        prompt_data={"messages": [{"role": "user", "content": prompt}]}, model=model, columns={}, digest=prompt + model
    )
    for prompt, model in (("Plan an easy run.", "small"), ("Plan a hard run.", "large"))
)
STATUSES = (*(GenerationStatus.ERROR,) * 3, GenerationStatus.SUCCESS, GenerationStatus.PROCESSING)
FATES = {"done": 76, "twice": 4, "repeated later": 5, "no reply": 4, "not sent": 4, "fail-over": 2, "dies": 3}


@dataclass
class Actor:
    """A running loop, and the step that it waits for."""

    loop: Loop[Any]
    generation_id: UUID
    step: Step | None = None  # None: it has not begun
    first: Asked | None = None  # of a first call: what was asked for
    token: UUID | None = None  # of the attempt that it begins

    def goes_on(self, resume: Callable[[], Step]) -> None:
        """Let the loop go on to its next step."""
        self.step = resume()
        if isinstance(self.step, Begin):
            self.token = self.step.token


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
        self.app = WatchedApp(self._create_session, self._refuse_generation)
        self.storage = storage_type(self.clock, self.app)
        self.books = Books(self.storage, self.app, self.clock, POLICY)
        self.providers = Providers(random, self.clock, self.books)
        self.users = [self._id() for _ in range(3)]
        self.storage.quotas[self.users[1]] = ROOMY
        self.actors: list[Actor] = []
        self.sent: list[Any] = []  # changes that may arrive once more
        self.tokens: list[tuple[UUID, UUID]] = []  # of attempts that have begun, with their generations
        self._constraint: str | None = None
        self._one_session = False
        self._no_creation = False
        self.requests: list[tuple[UUID, UUID]] = []  # users and ids of first calls
        for user, count in ((0, 3), (1, 7), (2, 1)):
            for _ in range(count):
                self._generate(self.users[user])
        self.setting = Setting(
            policy=POLICY,
            reader=Reader(context_from=stored_context, route_of=self.providers.routes),
            monotonic=self.clock.monotonic,
            fraction=self.random.random,
        )
        self.settings = (self.setting, self.setting, replace(self.setting, policy=OTHER_POLICY))
        self._acts: list[tuple[int, Callable[[], None]]] = [
            (60, self._step),
            (8, self._click),
            (3, self._click_loses_a_race),
            (5, self._accept),
            (6, self._first_call),
            (2, self._cancel),
            (8, self._work),
            (3, self._tidy),
            (3, self._renew),
            (1, self._discard),
            (4, self._app_writes),
            (1, self._app_deletes),
            (1, self._app_moves),
            (1, self._user_leaves),
            (2, self._app_locks),
            (1, self._messages_go_astray),
            (2, self._configure),
            (6, self._time_passes),
            (4, self._arrives_again),
        ]

    def run(self, steps: int) -> None:
        """Let so many things happen, check after each, and see that everything ends and can be used."""
        weights = [weight for weight, _ in self._acts]
        for _ in range(steps):
            ((_, act),) = self.random.choices(self._acts, weights)
            act()
            self.books.check()
        self._rest()
        self.books.check_rest()
        self._use_everything()

    # What processes do

    def _click(self) -> None:
        asked = self._asked()
        self._start(retrying(asked, self.random.choice(self.settings)), asked.generation_id)

    def _click_loses_a_race(self) -> None:
        """Others take the room between a click's decision and its begin: what is over is closed, and nothing begins."""
        asked = self._asked()
        loaded = self.storage.load(asked.user_id, asked.generation_id, POLICY.quota, None)
        with suppress(AiRetryError):
            snapshot = owned(loaded, asked.user_id, asked.generation_id)
            change, _ = retry_now(snapshot, asked, self.setting.reader, POLICY)
            late = replace(change, expected=replace(change.expected, max_live=0))
            with self.books.closing(late):
                assert not self.storage.begin(late).applied, "max_live"

    def _accept(self) -> None:
        asked = self._asked()
        self._start(accepting(asked, self.setting.reader, self.setting.policy), asked.generation_id)

    def _first_call(self) -> None:
        """A new request, or one of the last again; now and then with the same key for another prompt."""
        random = self.random
        if not self.requests or random.random() < 0.6:
            self.requests.append((random.choice(self.users), self._id()))
        user_id, generation_id = random.choice(self.requests[-6:])
        asked = replace(
            self._asked(),
            user_id=user_id,
            generation_id=generation_id,
            create=NEW[random.random() < 0.1],
        )
        setting = random.choice(self.settings)
        if random.random() < 0.7:
            self._start(generating(asked, setting), generation_id, asked)
        else:
            self._start(accepting_first(asked, setting.reader, setting.policy), generation_id, asked)

    def _cancel(self) -> None:
        generation = self._any_generation()
        self._start(cancelling(generation.user_id, generation.id, self.setting.policy), generation.id)

    def _work(self) -> None:
        for taken in self.storage.take(self.random.randint(1, 3), VISIBILITY, POLICY.quota):
            loop = working(taken, self._id(), self.random.choice(self.settings))
            self._start(loop, taken.message.generation_id)

    def _tidy(self) -> None:
        for user_id in self.storage.overdue(self.random.randint(1, 3)):
            with suppress(StorageUnavailable):
                self._send(CloseOver(user_id=user_id))

    def _renew(self) -> None:
        if self.tokens:
            generation_id, token = self.random.choice(self.tokens[-8:])
            self._send(Renew(generation_id=generation_id, token=token, lease=POLICY.lease))

    def _discard(self) -> None:
        generation = self._any_generation()
        held = self.books.rows_of(generation.id)[-1:]
        stored = self.books.answers_of(generation.id)
        change = Discard(user_id=generation.user_id, generation_id=generation.id, operator="ann")
        if self.storage.amend(change).applied:
            self.tally.add("discarded")
            in_use = [row for row in held if row.outcome is None and not row.is_queued and row.answer_from is not None]
            assert not in_use, "an answer was discarded while an attempt used it"
            self.books.discarded(generation.id, stored)

    def _asked(self) -> Asked:
        generation, random = self._any_generation(), self.random
        foreign = random.random() < 0.02
        return Asked(
            user_id=random.choice(self.users) if foreign else generation.user_id,
            generation_id=generation.id,
            token=self._id(),
            idempotency_key=random.choice((None, None, "key-1", "key-2")),
            waive=random.choice((frozenset({Waiver.BACKOFF}),) * 3 + (frozenset(), EVERYTHING)),
            charge=random.random() < 0.9,
        )

    def _start(self, loop: Loop[Any], generation_id: UUID, first: Asked | None = None) -> None:
        self._advance(Actor(loop, generation_id, first=first), lambda: next(loop))

    def _step(self) -> None:
        """Do what a loop waits for; or lose the request, or the reply; or let the process die."""
        if not self.actors:
            return
        actor = self.actors.pop(self.random.randrange(len(self.actors)))
        (fate,) = self.random.choices(list(FATES), list(FATES.values()))
        if fate == "dies":
            self.tally.add("killed")
            self._excuse(actor)
            actor.loop.close()
            return
        if isinstance(actor.step, Call):
            result = self._call(actor)
            self._advance(actor, lambda: actor.loop.send(result))
            return
        if fate == "not sent":
            self._fail(actor, StorageUnavailable("08006"))
            return
        try:
            if fate == "fail-over" and isinstance(actor.step, Begin):
                reply = self._forgotten(actor.step)
            else:
                reply = self._perform(actor.step)
            if fate == "twice":
                reply = self._perform(actor.step)
        except AiRetryError as error:
            self._fail(actor, error)
            return
        if fate == "no reply":
            self._fail(actor, StorageOutcomeUnknown("08006"))
        elif fate == "repeated later":
            self.actors.append(actor)
        else:
            self._advance(actor, lambda: actor.loop.send(reply))

    def _fail(self, actor: Actor, error: AiRetryError) -> None:
        self.tally.add(type(error).__name__)
        if isinstance(actor.step, Keep):
            self._excuse(actor)  # the storage could not be reached, not even for the last resort
        self._advance(actor, lambda: actor.loop.throw(error))

    def _advance(self, actor: Actor, resume: Callable[[], Step]) -> None:
        before = actor.step
        try:
            actor.goes_on(resume)
        except StopIteration as done:
            self._ended(actor, before, done.value)
        except AiRetryError as error:
            self._ended(actor, before, error)
        else:
            self.actors.append(actor)

    def _ended(self, actor: Actor, last: Step | None, result: Any) -> None:
        self.tally.add(f"ends with {type(result).__name__}")
        answer = answer_of(last)
        if answer is not None:
            assert isinstance(last, Settle | Keep)
            self.tally.add("paid answers")
            self.books.paid(actor.generation_id, last.token, answer)
        if actor.first is not None and isinstance(result, AiRetryError):
            self.books.check_named(actor.first, result)
        if isinstance(result, RetryResult):
            row = next(row for row in self.books.rows_of(actor.generation_id) if row.number == result.attempt)
            assert row.outcome is Outcome.SUCCEEDED, "a result without a success"

    def _perform(self, step: Step | None) -> Any:
        if isinstance(step, Load):
            return self.storage.load(step.user_id, step.generation_id, POLICY.quota, step.token, creating=step.creating)
        assert not isinstance(step, Call | None)
        self.sent.append(step)
        return self._send(step)

    def _send(self, step: Any) -> Any:
        with self.books.closing(step):
            return self._apply(step)

    def _apply(self, step: Any) -> Any:
        if isinstance(step, Keep):
            return self.storage.keep(step)
        if isinstance(step, Begin):
            return self._begin(step)
        if isinstance(step, Settle):
            return self._settle(step)
        if isinstance(step, CloseOver):
            return self.storage.begin(step)
        if isinstance(step, PutBack) and step.provider_outcome is ProviderOutcome.UNKNOWN:
            self.tally.add("put back in doubt")
        return self.storage.amend(step)

    def _begin(self, change: Begin) -> Reply:
        before, known = self.books.rows_of(change.generation_id), self.books.row_with(change.token)
        generation = self.app.generations.get(change.generation_id)
        due_at = before[-1].next_attempt_at if before else None
        creates = isinstance(change.attempt, Open) and change.attempt.create is not None
        reply = self.storage.begin(change)
        if reply.applied:
            self.tally.add("created" if creates else "began")
            assert known is None, "a begin was applied twice"
            assert (generation is None) == creates, "a begin created what was there, or began what was not"
            assert not (creates and before), "a deleted generation was created again"
            generation = self.app.generations[change.generation_id]
            assert generation.user_id == change.user_id, "an attempt began for another user's generation"
            assert generation.id not in self.app.hidden, "an attempt began for a hidden generation"
            assert generation.status is not GenerationStatus.SUCCESS, "an attempt began after a success"
            self.books.check_begun(change, before, due_at)
            self.tokens.append((change.generation_id, change.token))
        return reply

    def _settle(self, change: Settle) -> Reply:
        before = {row.number: row for row in self.books.rows_of(change.generation_id)}
        generation = self.app.generations.get(change.generation_id)
        reply = self.storage.settle(change)
        after = {row.number: row for row in self.books.rows_of(change.generation_id)}
        closed = [number for number, row in before.items() if row.outcome is None and after[number].outcome is not None]
        assert len(closed) == reply.applied, "a settle that was applied closes one attempt, a stale one none"
        if [number for number in closed if after[number].outcome is Outcome.SUCCEEDED]:
            self.tally.add("succeeded")
            assert generation is not None
            assert generation.status is not GenerationStatus.SUCCESS, "a generation that had succeeded was charged"
            assert generation.user_id == change.user_id, "a generation of another user was charged"
        return reply

    def _call(self, actor: Actor) -> Answer | Failure:
        assert isinstance(actor.step, Call)
        assert timedelta(0) < actor.step.timeout <= POLICY.deadline
        result = self.providers.call(actor.step, actor.generation_id, actor.token)
        if isinstance(result, Failure):
            self.tally.add("call fails")
        routes = [each.route for each in result.calls]
        if len(set(routes)) > 1:
            self.tally.add("falls back")
        if len(set(routes)) < len(routes):
            self.tally.add("asks again")
        if actor.step.context.recovering:
            self.tally.add("a route recovers")
        return result

    # What the app, its users, time and the network do

    def _app_writes(self) -> None:
        generation = self._any_generation()
        status = self.random.choice(STATUSES)
        self.app.generations[generation.id] = replace(generation, status=status, updated_at=self.clock.now())
        self.app.ours.discard(generation.id)

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

    def _user_leaves(self) -> None:
        """The account goes, and with it the user's generations, attempts, answers and override."""
        if self.random.random() < 0.7:
            return
        self.tally.add("user left")
        at = self.random.randrange(3)
        user_id, self.users[at] = self.users[at], self._id()
        gone = {row.generation_id for row in self.books.rows if row.user_id == user_id}
        gone |= {each.id for each in self.app.generations.values() if each.user_id == user_id}
        for generation_id in gone:
            self.app.generations.pop(generation_id, None)
        sessions = {row.session_id for row in self.books.rows if row.generation_id in gone}
        self.app.sessions = {key: each for key, each in self.app.sessions.items() if str(each["id"]) not in sessions}
        self.storage.rows = {key: row for key, row in self.storage.rows.items() if key[0] not in gone}
        self.storage.answers = {key: each for key, each in self.storage.answers.items() if key[0] not in gone}
        self.storage.quotas.pop(user_id, None)
        for _ in range(4 if at else 3):
            self._generate(self.users[at])

    def _app_locks(self) -> None:
        self.app.locked = {self._any_generation().id for _ in range(3)} if not self.app.locked else set()

    def _messages_go_astray(self) -> None:
        """The queue is emptied behind our back; or a message comes that no process of ours sent."""
        line = self.storage.line
        if self.random.random() < 0.3:
            self.tally.add("messages lost")
            line.messages.clear()
            return
        generation, foreign = self._any_generation(), self.random.random() < 0.5
        user_id = self.random.choice(self.users) if foreign else generation.user_id
        line.send(user_id, generation.id, self.clock.now())

    def _configure(self) -> None:
        """An operator overrides a user's quota, lowers it below what is used, or removes the override."""
        user_id, limit = self.random.choice(self.users), self.random.randint(0, 6)
        window = self.random.choice((POLICY.quota.window, timedelta(minutes=3)))
        if self.random.random() < 0.3:
            self.storage.quotas.pop(user_id, None)
        else:
            self.storage.quotas[user_id] = QuotaRule(limit=limit, window=window)
        self._constraint = self.random.choice((None, None, "title_is_short", "km_is_positive"))
        self._one_session = self.random.random() < 0.1
        self._no_creation = self.random.random() < 0.3

    def _time_passes(self) -> None:
        self.clock.advance(timedelta(seconds=self.random.choice(DURATIONS)))

    def _arrives_again(self) -> None:
        """A change that was sent before arrives once more, as from a network that kept it."""
        if self.sent:
            at = self.random.choice((0, max(0, len(self.sent) - 6)))  # one that is old, or one of the newest
            with suppress(AiRetryError):
                self._send(self.random.choice(self.sent[at:]))

    def _forgotten(self, change: Begin) -> Reply:
        """A fail-over loses a begin that was acknowledged."""
        storage, app = self.storage, self.app
        kept = copy(storage.rows), copy(storage.answers), copy(storage.line.messages), copy(storage.line.visible_at)
        wrote = copy(app.generations), list(app.events), list(app.error_logs), set(app.ours), set(app.created)
        with self.books.closing(change):
            reply = self._begin(change)
        storage.rows, storage.answers, storage.line.messages, storage.line.visible_at = kept
        app.generations, app.events, app.error_logs, app.ours, app.created = wrote
        self.tally.add("fail-over")
        return reply

    def _refuse_generation(self, user_id: UUID) -> None:
        """The app's tables have foreign keys to its users, and rules of their own."""
        if user_id not in self.users:
            raise GenerationRefused("23503", "generations_user_id_fkey")
        if self._no_creation:
            self.tally.add("creation refused")
            raise GenerationRefused(self.random.choice(("23505", "23514", "P0001")))

    def _create_session(self, generation: Generation, output: Any) -> Session:
        if self._constraint is not None:
            raise SessionRefused(self._constraint)
        if self._one_session:
            return {**new_session(generation, output), "id": str(UUID(int=1))}
        return {**new_session(generation, output), "id": str(self._id())}

    def _excuse(self, actor: Actor) -> None:
        answer = answer_of(actor.step)
        if answer is not None:
            self.books.excuse(answer)

    # The end

    def _rest(self) -> None:
        """The trouble ends, time goes on, and every attempt is closed."""
        for actor in self.actors:
            self._excuse(actor)
            actor.loop.close()
        self.actors, self.app.locked, self._constraint, self._one_session = [], set(), None, False
        for _ in range(ROUNDS):
            self.clock.advance(WHILE)
            self._serve()
            self.books.check()
            if all(row.outcome is not None for row in self.books.rows) and not self.storage.line.messages:
                return

    def _serve(self) -> None:
        """Do all that there is to do at this instant; what comes back at once, again and again, never ends."""
        for _ in range(BUSY_ROUNDS):
            users = self.storage.overdue(100)
            for user_id in users:
                self._send(CloseOver(user_id=user_id))
            messages = self.storage.take(100, VISIBILITY, POLICY.quota)
            for taken in messages:
                self._drain(working(taken, self._id(), self.setting), taken.message.generation_id)
            if not users and not messages:
                return
        raise AssertionError("work comes back without progress")

    def _drain(self, loop: Loop[Any], generation_id: UUID) -> Any:
        """Run a loop to its end, undisturbed; return what it returns or raises."""
        actor = Actor(loop, generation_id)
        try:
            actor.goes_on(lambda: next(loop))
            while True:
                step = actor.step
                result = self._call(actor) if isinstance(step, Call) else self._perform(step)
                actor.goes_on(partial(loop.send, result))
        except StopIteration as done:
            return done.value
        except AiRetryError as error:
            return error

    def _use_everything(self) -> None:
        """A day later every generation that its user sees can be retried, and every stored answer becomes a session."""
        self.clock.advance(DAY)
        self.app.hidden.clear()
        for generation in list(self.app.generations.values()):
            if generation.status is GenerationStatus.SUCCESS or self._has_succeeded(generation.id):
                continue
            self.clock.advance(WHILE)
            stored = self.books.answers_of(generation.id, generation.user_id)
            calls, now = self.books.wire[generation.id], self.clock.now()
            asked = Asked(user_id=generation.user_id, generation_id=generation.id, token=self._id(), waive=EVERYTHING)
            result = self._drain(retrying(asked, self.setting), generation.id)
            self.books.check()
            if stored:
                self.tally.add("used at the end")
                assert isinstance(result, RetryResult), f"a stored answer is never used: {type(result).__name__}"
                assert self.books.wire[generation.id] == calls, "a call was made beside a stored answer"
            rows = self.books.rows_of(generation.id)
            began = bool(rows) and rows[-1].started_at == now
            assert began or isinstance(result, AttemptsExhausted), f"refused without end: {type(result).__name__}"

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

    def _has_succeeded(self, generation_id: UUID) -> bool:
        return any(row.outcome is Outcome.SUCCEEDED for row in self.books.rows_of(generation_id))

    def _any_generation(self) -> Generation:
        return self.random.choice(list(self.app.generations.values()))

    def _id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)


def histories(seed: int, count: int, steps: int, storage_type: type[MemoryStorage] = MemoryStorage) -> Iterator[Tally]:
    """Run histories that differ by their seeds; a failure names the seed."""
    for number in range(seed, seed + count):
        tally = Tally()
        try:
            Simulation(Random(number), storage_type, tally).run(steps)
        except AssertionError as error:
            raise AssertionError(f"seed {number}: {error}") from error
        yield tally
