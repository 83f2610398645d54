"""The storages in memory and over SQL agree: the same change on the same rows leads to the same snapshot.

So whatever the simulation shows of the one holds for the other.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, cast
from uuid import UUID

import pytest

from ai_retry.domain.calls import joined, noted
from ai_retry.domain.change import Begin, CloseOver, Discard, Keep, Open, PutBack, Renew, Run, Settle
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked, accept, owned, retry_now, run, visible
from ai_retry.domain.decide.first import proposed
from ai_retry.domain.decide.queue import cancel, concerns, postpone
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.decide.settle import Ending, found
from ai_retry.domain.errors import AiRetryError, RetryRefused
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, QuotaRule, Snapshot, Waiver
from ai_retry.domain.operation import (
    AttemptRecord,
    Deed,
    HoldRoute,
    OpenRoute,
    OperatorStorage,
    Order,
    ResetQuota,
    SetQuota,
)
from ai_retry.domain.outbox import Announcement, Delivery
from ai_retry.domain.policy import RetryPolicy, queued_attempt
from ai_retry.domain.ports import QueueStorage
from ai_retry.domain.queue_model import Message
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.builders import a_failure
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.steps import NEW
from tests.helpers.world import SqlWorld, empty_queue, owner_of

POLICY = RetryPolicy(
    max_attempts=6,
    max_parallel=2,
    quota=QuotaRule(limit=3, window=timedelta(hours=1)),
    max_queued=timedelta(hours=2),
    outage_cap=timedelta(seconds=20),
)


ROUTES = ("small at provider", "large at another")


def _route(_: Context) -> str:
    """One route, which some of a history's readers ask."""
    return ROUTES[0]


def _routes(_: Context) -> Sequence[str]:
    """Two of them, where a call falls back."""
    return ROUTES


READERS = (
    Reader(context_from=stored_context),
    Reader(context_from=stored_context, route_of=_route),
    Reader(context_from=stored_context, route_of=_routes),
)
HISTORIES = int(os.environ.get("FUZZ", "12"))  # `make campaigns`: 24
STEPS = 60
MOST = 8  # generations: to look at all of them takes time
TOLERANCE = 6.0  # seconds that a step may take on a busy machine
FAILURES = (
    a_failure(),
    a_failure(FailureCode.TIMEOUT),
    a_failure(certainly_not_generated=True),
    a_failure(operator_fault=True),
    a_failure(FailureCode.INVALID_OUTPUT, transient=False),
)


@dataclass
class Begun:
    """An attempt that was begun, with what its worker knows."""

    snapshot: Snapshot
    change: Begin


@dataclass
class Side:
    """One of the two storages, and the app around it."""

    world: MemoryWorld | SqlWorld
    storage: QueueStorage
    reader: Reader
    users: list[UUID]
    generations: list[UUID]
    begun: list[Begun]
    messages: list[Message] = field(default_factory=list)
    announced: list[Announcement] = field(default_factory=list)

    def act(self, name: str, choice: Random) -> object:
        """Do something, and describe what came of it in words that both sides share."""
        act: Callable[[Random], object] = getattr(self, f"_{name}")
        try:
            return act(choice)
        except AiRetryError as error:
            return error.code

    def _begin(self, choice: Random) -> object:
        index = choice.randrange(len(self.generations))
        token = UUID(int=choice.getrandbits(128), version=4)
        snapshot = self._load(index, token)
        if snapshot is None:
            return "absent"
        waive = choice.choice((frozenset({Waiver.BACKOFF}), frozenset(), frozenset(Waiver)))
        asked = Asked(
            user_id=snapshot.generation.user_id,
            generation_id=self.generations[index],
            token=token,
            waive=waive,
            charge=choice.random() < 0.8,
        )
        change, _ = retry_now(snapshot, asked, self.reader, POLICY)
        return self._sent(snapshot, change)

    def _create(self, choice: Random) -> object:
        """Create a generation and make its first call, now or later; or ask for one that is there, or was deleted."""
        token, later = UUID(int=choice.getrandbits(128), version=4), choice.random() < 0.3
        if len(self.generations) < MOST and choice.random() < 0.6:
            self.generations.append(UUID(int=choice.getrandbits(128), version=4))
        index, user_id = choice.randrange(len(self.generations)), choice.choice(self.users)
        generation_id = self.generations[index]
        found = self.storage.load(user_id, generation_id, POLICY.quota, token, creating=True)
        assert found is not None
        if found.exists:
            return _abstract(found)
        asked = Asked(
            user_id=user_id,
            generation_id=generation_id,
            token=token,
            create=NEW,
            charge=choice.random() < 0.8,
        )
        snapshot = proposed(owned(found, user_id, generation_id), NEW)
        if later:
            return self._sent(snapshot, accept(snapshot, asked, self.reader, POLICY)), _abstract(found)
        change, _ = retry_now(snapshot, asked, self.reader, POLICY)
        reply = self.storage.begin(change)
        if reply.applied:
            self.begun.append(Begun(snapshot, change))
        return reply.applied, _abstract(found), _abstract(reply.snapshot)

    def _refuse_generations(self, choice: Random) -> object:
        """The app's tables refuse what first calls create, or accept it again."""
        self.world.refuse_generations(choice.choice((None, None, "23505", "23514", "PT409")), "a_rule")
        return None

    def _sent(self, snapshot: Snapshot, change: Begin) -> bool:
        reply = self.storage.begin(change)
        if reply.applied and not (isinstance(change.attempt, Open) and change.expected.max_live is None):
            self.begun.append(Begun(snapshot, change))
        return reply.applied

    def _accept(self, choice: Random) -> object:
        index = choice.randrange(len(self.generations))
        token = UUID(int=choice.getrandbits(128), version=4)
        snapshot = self._load(index, token)
        if snapshot is None:
            return "absent"
        asked = Asked(
            user_id=snapshot.generation.user_id,
            generation_id=self.generations[index],
            token=token,
            waive=choice.choice((frozenset({Waiver.BACKOFF}), frozenset(), frozenset(Waiver))),
        )
        return self._sent(snapshot, accept(snapshot, asked, self.reader, POLICY))

    def _take(self, choice: Random) -> object:
        """Take a message, and run the attempt that it is about, postpone it, or find nothing to do."""
        taken = self.storage.take(1, timedelta(seconds=60), POLICY.quota)
        self.messages.extend(each.message for each in taken)
        return [self._run(each.message, each.snapshot, choice) for each in taken]

    def _run(self, message: Message, snapshot: Snapshot | None, choice: Random) -> object:
        index = self.generations.index(message.generation_id)
        if snapshot is None or not concerns(message, snapshot) or queued_attempt(snapshot) is None:
            self.storage.begin(CloseOver(user_id=message.user_id))
            return index, "nothing"
        try:
            token = UUID(int=choice.getrandbits(128), version=4)
            change, _ = run(snapshot, token, self.reader, POLICY)
            assert isinstance(change.attempt, Run)
            return index, self._sent(snapshot, change)
        except RetryRefused as refusal:
            put = postpone(message, refusal, snapshot, 0.5)
            return index, refusal.code, self.storage.amend(put).applied
        except AiRetryError as error:
            return index, error.code

    def _put_back(self, choice: Random) -> object:
        if not self.begun:
            return None
        begun = choice.choice(self.begun)
        ending = Ending(begun.snapshot, begun.change, POLICY, 0.0)
        change = ending.put_back(FAILURES[2], None)
        assert isinstance(change, PutBack)
        return self.storage.amend(change).applied

    def _drain(self, choice: Random) -> object:
        """Take messages for the webhook, after some of those before were delivered, put back, or forgotten."""
        storage: Any = self.storage
        fates = [choice.choice((None, timedelta(0), timedelta(hours=1))) for _ in self.announced]
        results = [
            Delivery(id=each.id, tries=each.tries, wait=fate)
            for each, fate in zip(self.announced, fates, strict=True)
            if choice.random() < 0.8
        ]
        taken = storage.drain(99, timedelta(minutes=20), results)
        self.announced = sorted(taken, key=self._about)
        return [self._about(each) for each in self.announced]

    def _about(self, message: Announcement) -> tuple[str, str, str, int, int]:
        data = message.data
        found = data.get("generation_id")
        subject = str(self.generations.index(UUID(found))) if found else data["route"]
        return subject, message.type, str(data.get("code")), data.get("attempt", 0), message.tries

    def _cancel(self, choice: Random) -> object:
        index = choice.randrange(len(self.generations))
        snapshot = self._load(index, None)
        change = cancel(snapshot, POLICY) if snapshot is not None else None
        if isinstance(change, Settle):
            return self.storage.settle(change).applied
        return change and self.storage.begin(change).applied

    def _tidy(self, choice: Random) -> object:  # noqa: ARG002 (all have the same signature)
        overdue = sorted(map(self.users.index, self.storage.overdue(9)))
        for index in overdue:
            self.storage.begin(CloseOver(user_id=self.users[index]))
        return overdue

    def _lose(self, choice: Random) -> object:
        """Messages are lost; or one comes that no process of ours sent, perhaps in another user's name."""
        if choice.random() < 0.3:
            self.world.lose_messages()
        else:
            user_id, generation_id = choice.choice(self.users), choice.choice(self.generations)
            self.world.send_message({"user_id": str(user_id), "generation_id": str(generation_id)})
        return None

    def _move(self, choice: Random) -> object:
        """The app moves a generation to its other user, or deletes it."""
        index, user_id = choice.randrange(len(self.generations)), choice.choice(self.users)
        with suppress(KeyError):
            if choice.random() < 0.2:
                self.world.delete_generation(self.generations[index])
            else:
                self.world.set_generation(self.generations[index], user_id=user_id)
        return index

    def _again(self, choice: Random) -> object:
        """A begin arrives once more."""
        if not self.begun:
            return None
        return self.storage.begin(choice.choice(self.begun).change).applied

    def _settle(self, choice: Random) -> object:
        if not self.begun:
            return None
        begun = choice.choice(self.begun)
        ending = Ending(begun.snapshot, begun.change, POLICY, 0.0)
        duration = timedelta(milliseconds=1500)
        calls = [self._called(each, choice) for each in choice.choice((ROUTES, ROUTES[:1], ROUTES[1:]))]
        end: Answer | Failure = Answer(output={"n": choice.randrange(9)}, model="small")
        end = calls.pop() if choice.random() < 0.5 else noted(end, duration=timedelta(seconds=1), route=ROUTES[1])
        result = joined(calls, end)
        failure, answer = (result, None) if isinstance(result, Failure) else (None, result)
        now = found(begun.snapshot, begun.change.user_id)
        for _ in range(3):
            change: Any
            stored = begun.snapshot.stored_answer
            if stored is not None:
                change = ending.answered(now, stored.answer, stored.number, None)
            elif answer is not None:
                change = ending.answered(now, answer, None, duration)
            else:
                assert failure is not None
                change = ending.failed(failure, duration)
                if isinstance(change, PutBack):
                    return self.storage.amend(change).applied
                change = change if now == "ready" else ending.failed_without(now, failure, duration)
            assert isinstance(change, Settle)
            reply = self.storage.settle(change)
            now = found(reply.snapshot, begun.change.user_id)
            if reply.applied:
                break
        mine = reply.snapshot.my_attempt if reply.snapshot is not None else None
        return reply.applied, mine and (mine.number, mine.outcome, mine.code, mine.counted, mine.refused_constraint)

    def _called(self, route: str, choice: Random) -> Failure:
        """A call that failed."""
        return noted(choice.choice(FAILURES), duration=timedelta(seconds=1), model=route[:5], route=route)

    def _keep(self, choice: Random) -> object:
        if not self.begun:
            return None
        begun = choice.choice(self.begun)
        ending = Ending(begun.snapshot, begun.change, POLICY, 0.0)
        settle = ending.answered(found(None, UUID(int=0)), Answer(output={"kept": 1}), None, timedelta(seconds=1))
        assert settle.call is not None
        self.storage.keep(
            Keep(
                user_id=begun.change.user_id,
                generation_id=begun.change.generation_id,
                token=begun.change.token,
                answer=Answer(output={"kept": 1}),
                cause="55P03",
                wait=timedelta(seconds=15),
                call=settle.call,
            )
        )
        return "kept"

    def _renew(self, choice: Random) -> object:
        if not self.begun:
            return None
        change = choice.choice(self.begun).change
        return self.storage.amend(
            Renew(generation_id=change.generation_id, token=change.token, lease=timedelta(seconds=35))
        ).applied

    def _discard(self, choice: Random) -> object:
        index = choice.randrange(len(self.generations))
        snapshot = self._load(index, None)
        user_id = snapshot.generation.user_id if snapshot is not None else self.users[0]
        return self.storage.amend(
            Discard(user_id=user_id, generation_id=self.generations[index], operator="ann")
        ).applied

    def _close(self, choice: Random) -> object:
        return self.storage.begin(CloseOver(user_id=choice.choice(self.users))).applied

    def _hold(self, choice: Random) -> object:
        """An operator holds a route, or opens it by hand."""
        route = choice.choice(ROUTES)
        deed = HoldRoute(route=route, duration=timedelta(seconds=choice.choice((5, 50, 500))))
        opens = choice.random() < 0.4
        return self._act(OpenRoute(route=route) if opens else deed, f"route:{route}", choice)

    def _quota(self, choice: Random) -> object:
        """An operator gives a user a quota, or the usual one."""
        user_id = choice.choice(self.users)
        deed = SetQuota(user_id=user_id, limit=choice.randrange(4), window=timedelta(hours=choice.choice((1, 2))))
        resets = choice.random() < 0.4
        return self._act(ResetQuota(user_id=user_id) if resets else deed, "user", choice)

    def _act(self, deed: Deed, target: str, choice: Random) -> object:
        order_id = UUID(int=choice.getrandbits(128), version=4)
        ordered = Order(id=order_id, operator="ann", role="admin", action="test", target=target, reason="x")
        storage = cast("OperatorStorage", self.storage)
        return storage.act(ordered, deed), storage.act(ordered, deed)

    def _app(self, choice: Random) -> object:
        index, status = choice.randrange(len(self.generations)), choice.choice(("error", "success", "processing"))
        with suppress(KeyError):
            self.world.set_generation(self.generations[index], status=status)
        return status

    def _advance(self, choice: Random) -> object:
        self.world.advance(timedelta(seconds=choice.choice((3.37, 40.61, 400.83, 4000.29))))
        self.begun = self.begun[-6:]
        return None

    def _refuse(self, choice: Random) -> object:
        self.world.refuse_sessions(choice.choice((None, None, "km_is_positive", "title_is_short")))
        return None

    def _load(self, index: int, token: UUID | None) -> Snapshot | None:
        return self.storage.load(self.users[0], self.generations[index], POLICY.quota, token)

    def look(self) -> list[object]:
        """All that the two must agree on."""
        state = self.storage.state()
        rows = []
        for index, generation_id in enumerate(self.generations):
            snapshot = self._load(index, None)
            logs = [log["error_type"] for log in self.world.error_logs(generation_id)] if snapshot is not None else []
            calls = [_calls(row) for row in self.world.attempts(generation_id)] if snapshot is not None else []
            rows.append((_abstract(snapshot), logs, calls))
        events = [sorted(event["event_type"] for event in self.world.events(user)) for user in self.users]
        line = sorted(self.generations.index(each["generation_id"]) for each in self._line())
        return [*rows, *events, line, *self._operators_look(), (state.queued, state.due, state.parked, state.running)]

    def _operators_look(self) -> list[object]:
        """What operators read, but what is counted over users of other histories."""
        storage = cast("OperatorStorage", self.storage)
        quotas = [storage.user_quota(user, POLICY.quota) for user in self.users]
        present = [each for index, each in enumerate(self.generations) if self._load(index, None) is not None]
        records = [storage.attempt_records(each) for each in present]  # an answer goes with its generation
        routes = storage.overview().routes
        return [
            [(each.override, each.live, each.queued, each.quota.limit, each.quota.captured) for each in quotas],
            [[_recorded(each) for each in listed] for listed in records],
            [(each.route, each.failures, each.slots, each.running, each.waiting) for each in routes],
            [(each.began_at is None, each.held_until is None) for each in routes],
        ]

    def _line(self) -> list[Any]:
        """Messages of living generations: those of others find nothing to do."""
        present = {each for index, each in enumerate(self.generations) if self._load(index, None) is not None}
        return [each for each in self.world.messages() if each["generation_id"] in present]


def _recorded(record: AttemptRecord) -> object:
    """A record without instants, but whether they are there."""
    instants = (record.closed_at, record.due_at, record.lease_expires_at, record.accepted_at, record.captured_at)
    return (
        (record.number, record.outcome, record.code, record.cause, record.counted, record.transient, record.charge),
        (record.operator_fault, record.answer_from, record.route, record.provider_outcome, record.wire_requests),
        (sorted(record.waived), record.model, record.duration, len(record.calls), record.stored_at is None),
        (record.discarded_by, record.is_queued, [each is None for each in instants]),
    )


def _calls(row: Any) -> object:
    """The requests of an attempt that is closed, as its row has them; those of a kept answer are written then."""
    if row["outcome"] is None:
        return None
    listed = [(each["model"], each["code"], each["duration_ms"]) for each in row["calls"] or ()]
    return listed, row["wire_requests"], row["route"]


def _abstract(snapshot: Snapshot | None) -> object:
    """A snapshot without what the two can't share: instants become seconds from its reading."""
    if snapshot is None:
        return None
    as_of = snapshot.as_of

    def since(at: Any) -> float | None:
        return None if at is None else (at - as_of).total_seconds()

    return (
        (snapshot.exists, snapshot.generation.status, snapshot.generation.model, snapshot.generation.prompt_data),
        snapshot.generation.duration,
        visible(snapshot, snapshot.generation.user_id) is not None,
        [
            (
                *(each.number, each.outcome, each.code, each.counted, each.provider_outcome, each.transient),
                *(each.operator_fault, each.refused_constraint, since(each.next_attempt_at)),
                *(since(each.accepted_at), since(each.expires_at), each.answer_from, each.request_digest),
            )
            for each in snapshot.attempts
        ],
        (snapshot.quota.limit, snapshot.quota.captured, snapshot.quota.held, since(snapshot.quota.resets_at)),
        (snapshot.live, since(snapshot.live_until)),
        _stored(snapshot),
        snapshot.session is not None and snapshot.session["content"],
        snapshot.mine,
        [(each.failures, each.slots, each.running, each.waiting, since(each.not_before)) for each in snapshot.routes],
        [each.held_until is None for each in snapshot.routes],
    )


def _stored(snapshot: Snapshot) -> object:
    stored = snapshot.stored_answer
    if stored is None:
        return None
    assert stored.stored_at is not None
    return stored.number, stored.answer.output, (stored.stored_at - snapshot.as_of).total_seconds()


def _differences(one: object, other: object, where: str = "") -> list[str]:
    """What is not equal, but for the time that a step takes over SQL."""
    if isinstance(one, float) and isinstance(other, float):
        return [] if abs(one - other) < TOLERANCE else [f"{where}: {one} {other}"]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [each for index, pair in pairs for each in _differences(*pair, f"{where}/{index}")]
    return [] if one == other else [f"{where}: {one} {other}"]


def _may_differ(memory: MemoryWorld) -> bool:
    """Whether a message comes into sight just now: pgmq counts in whole seconds, and a step over SQL takes time."""
    now, seen = memory.clock.now(), memory.storage.line.visible_at
    return any(-1.2 < (seen[each] - now).total_seconds() < TOLERANCE for each in memory.storage.line.messages)


def _comes_due(memory: MemoryWorld) -> bool:
    """Whether a queued attempt becomes due, or a hold ends, while a step over SQL may last: then one counts it."""
    now, rows = memory.clock.now(), memory.storage.rows.values()
    due_at = [row.next_attempt_at for row in rows if row.is_queued and row.next_attempt_at is not None]
    held = [each.held_until for each in memory.storage.overview().routes if each.held_until is not None]
    return any(0 < (each - now).total_seconds() < TOLERANCE for each in (*due_at, *held))


ACTS = (
    *("begin",) * 8,
    *("settle",) * 7,
    *("again", "keep", "renew", "renew", "discard", "close", "app", "app", "refuse"),
    *("advance",) * 4,
    *("accept",) * 4,
    *("take",) * 6,
    *("create",) * 5,
    *("refuse_generations", "hold", "hold", "quota"),
    *("put_back", "cancel", "tidy", "tidy", "lose", "move"),
    *("drain",) * 2,
)


@pytest.mark.timeout(3600)
def test_memory_and_sql_agree(core_database: str) -> None:
    """Whatever happens, both storages reply the same and show the same; and the books of the database balance."""
    storage = PostgresStorage(core_database)
    with owner_of(core_database) as connection:
        for seed in range(HISTORIES):
            empty_queue(connection)
            memory, database = MemoryWorld(), SqlWorld(storage, connection)
            reader = READERS[seed % 3]
            sides = [_side(memory, memory.storage, reader), _side(database, storage, reader)]
            random = Random(seed)
            looked_at = time.monotonic()
            for step in range(STEPS):
                act, choices = random.choice(ACTS), random.getrandbits(64)
                # Time goes on there, too, as long as the history over SQL takes; no two things happen at one instant.
                looked_at, last = time.monotonic(), looked_at
                memory.advance(max(timedelta(seconds=looked_at - last), timedelta(milliseconds=5)))
                while act == "take" and _may_differ(memory):
                    for side in sides:
                        side.world.advance(timedelta(seconds=3.37))
                done = [side.act(act, Random(choices)) for side in sides]
                assert _differences(done[0], done[1]) == [], f"seed {seed}, step {step}: {act}"
                while _comes_due(memory):
                    for side in sides:
                        side.world.advance(timedelta(seconds=3.37))
                looks = [side.look() for side in sides]
                assert _differences(looks[0], looks[1]) == [], f"seed {seed}, step {step}: after {act}"
        (violations,) = connection.execute("select ai_retry_books()").fetchone() or ()
    storage.close()
    by_the_app = "a success whose generation says otherwise"
    assert [each for each in violations if each["violation"] != by_the_app] == []


def _side(world: MemoryWorld | SqlWorld, storage: Any, reader: Reader) -> Side:
    users = [world.new_user() for _ in range(2)]
    world.set_quota(users[0], 2, POLICY.quota.window)
    generations = [world.new_generation(users[number % 2]) for number in range(5)]
    return Side(world, storage, reader, users, generations, [])
