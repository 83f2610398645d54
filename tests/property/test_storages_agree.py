"""The storage of changes in memory and over SQL agree: the same change on the same rows leads to the same snapshot."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain.change import Begin, CloseOver, Discard, Keep, Renew, Reply, Settle
from ai_retry.domain.change_storage import ChangeStorage
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked, retry_now, visible
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.decide.settle import Ending, found
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Answer, FailureCode, QuotaRule, Snapshot, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.storage._changes import ChangeFunctions
from ai_retry.storage.postgres import PostgresStorage
from tests.support.builders import a_failure
from tests.support.core_sql import CoreSqlWorld
from tests.support.core_world import CoreWorld
from tests.support.world import owner_of

POLICY = RetryPolicy(max_attempts=6, max_parallel=2, quota=QuotaRule(limit=3, window=timedelta(hours=1)))
READER = Reader(context_from=stored_context)
HISTORIES = int(os.environ.get("FUZZ", "12"))
STEPS = 60
TOLERANCE = 3.0  # seconds that a history may take on a busy machine
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

    world: CoreWorld | CoreSqlWorld
    storage: ChangeStorage
    users: list[UUID]
    generations: list[UUID]
    begun: list[Begun]

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
        change, _ = retry_now(snapshot, asked, READER, POLICY)
        reply = self.storage.begin(change)
        if reply.applied:
            self.begun.append(Begun(snapshot, change))
        return reply.applied

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
        failure = choice.choice(FAILURES) if choice.random() < 0.5 else None
        answer = Answer(output={"n": choice.randrange(9)}, model="small")
        now = found(begun.snapshot, begun.change.user_id)
        for _ in range(3):
            change: Any
            stored = begun.snapshot.stored_answer
            if stored is not None:
                change = ending.answered(now, stored.answer, stored.number, None)
            elif failure is None:
                change = ending.answered(now, answer, None, duration)
            else:
                change = ending.failed(failure, duration)
                change = change if now == "ready" else ending.failed_without(now, failure, duration)
            assert isinstance(change, Settle)
            reply = self.storage.settle(change)
            now = found(reply.snapshot, begun.change.user_id)
            if reply.applied:
                break
        mine = reply.snapshot.my_attempt if reply.snapshot is not None else None
        return reply.applied, mine and (mine.number, mine.outcome, mine.code, mine.counted, mine.refused_constraint)

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

    def _app(self, choice: Random) -> object:
        index, status = choice.randrange(len(self.generations)), choice.choice(("error", "success", "processing"))
        with suppress(KeyError):
            self.world.set_generation(self.generations[index], status=status)
        return status

    def _advance(self, choice: Random) -> object:
        self.world.advance(timedelta(seconds=choice.choice((3, 40, 400, 4000))))
        self.begun = self.begun[-6:]
        return None

    def _refuse(self, choice: Random) -> object:
        self.world.refuse_sessions(choice.choice((None, None, "km_is_positive", "title_is_short")))
        return None

    def _load(self, index: int, token: UUID | None) -> Snapshot | None:
        return self.storage.load(self.users[0], self.generations[index], POLICY.quota, token)

    def look(self) -> list[object]:
        """All that the two must agree on."""
        rows = []
        for index, generation_id in enumerate(self.generations):
            logs = [log["error_type"] for log in self.world.error_logs(generation_id)]
            rows.append((_abstract(Reply(applied=True, snapshot=self._load(index, None))), logs))
        return [*rows, *(sorted(event["event_type"] for event in self.world.events(user)) for user in self.users)]


def _abstract(reply: Reply) -> object:
    """A snapshot without what the two can't share: instants become seconds from its reading."""
    if reply.snapshot is None:
        return None
    snapshot, as_of = reply.snapshot, reply.snapshot.as_of

    def since(at: Any) -> float | None:
        return None if at is None else (at - as_of).total_seconds()

    return (
        snapshot.generation.status,
        snapshot.generation.duration,
        visible(snapshot, snapshot.generation.user_id) is not None,
        [
            (
                *(each.number, each.outcome, each.code, each.counted, each.provider_outcome, each.transient),
                *(each.operator_fault, each.refused_constraint, since(each.next_attempt_at)),
            )
            for each in snapshot.attempts
        ],
        (snapshot.quota.limit, snapshot.quota.captured, snapshot.quota.held, since(snapshot.quota.resets_at)),
        (snapshot.live, since(snapshot.live_until)),
        (snapshot.stored_answer.number, snapshot.stored_answer.answer.output) if snapshot.stored_answer else None,
        snapshot.session is not None and snapshot.session["content"],
        snapshot.mine,
    )


def _same(one: object, other: object) -> bool:
    """Equal, but for the time that a history takes over SQL."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < TOLERANCE
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


ACTS = (
    *("begin",) * 8,
    *("settle",) * 7,
    *("again", "keep", "renew", "renew", "discard", "close", "app", "app", "refuse"),
    *("advance",) * 4,
)


@pytest.mark.timeout(3600)
def test_memory_and_sql_agree(core_database: str) -> None:
    """Whatever happens, both storages reply the same and show the same."""
    postgres = PostgresStorage(core_database)
    with owner_of(core_database) as connection:
        for seed in range(HISTORIES):
            functions = ChangeFunctions(postgres._call_function)
            memory, database = CoreWorld(), CoreSqlWorld(functions, connection)
            sides = [_side(memory, memory.core), _side(database, functions)]
            random = Random(seed)
            for step in range(STEPS):
                act, choices = random.choice(ACTS), random.getrandbits(64)
                done = [side.act(act, Random(choices)) for side in sides]
                assert _same(*done), f"seed {seed}, step {step}: {act}: {done}"
                looks = [side.look() for side in sides]
                assert _same(*looks), f"seed {seed}, step {step}: after {act}: {looks}"
    postgres.close()


def _side(world: CoreWorld | CoreSqlWorld, storage: Any) -> Side:
    users = [world.new_user() for _ in range(2)]
    world.set_quota(users[0], 2, POLICY.quota.window)
    generations = [world.new_generation(users[number % 2]) for number in range(5)]
    return Side(world, storage, users, generations, [])
