"""`ai_retry_prune`: history goes that no decision needs any more, and nothing else."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.rows import dict_row

from ai_retry.cli.commands import cli
from ai_retry.domain.errors import AiRetryError, SessionRejected
from ai_retry.domain.model import QuotaRule, Snapshot
from ai_retry.domain.outbox import Delivery
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.books import violations
from tests.helpers.queue_steps import accept, new_running
from tests.helpers.steps import POLICY, abandon, answer_too_late, begin, discard, fail, keep, load, succeed, to_begin
from tests.helpers.world import SqlWorld

DAY = timedelta(days=1)
HISTORIES = 12
SEEDS = range(HISTORIES)
RULE = POLICY.quota


@pytest.fixture
def storage(migrated_database: str) -> Iterator[PostgresStorage]:
    """A storage on a database of its own."""
    storage = PostgresStorage(f"{migrated_database}?options=-c%20role%3Dservice_role", max_connections=2)
    yield storage
    storage.close()


@pytest.fixture
def world(storage: PostgresStorage, connection: psycopg.Connection) -> SqlWorld:
    """A database without history."""
    return SqlWorld(storage, connection)


def prune(
    storage: PostgresStorage, *, older_than: timedelta = 90 * DAY, window: timedelta = DAY, dry_run: bool = False
) -> tuple[int, int]:
    """Prune page by page; return how many attempts and answers went."""
    attempts, answers, after = 0, 0, None
    while True:
        page = storage.prune(older_than=older_than, window=window, after=after, dry_run=dry_run)
        attempts, answers, after = attempts + page.attempts, answers + page.answers, page.next
        if after is None:
            return attempts, answers


def numbers(world: SqlWorld, generation_id: UUID) -> list[int]:
    """Numbers of the attempts that are there."""
    return [row["number"] for row in world.attempts(generation_id)]


def failed_then_succeeded(world: SqlWorld, user_id: UUID) -> UUID:
    """A generation with a failure, an abandonment and a success."""
    generation_id = world.new_generation(user_id)
    fail(world, begin(world, user_id, generation_id))
    abandon(world, begin(world, user_id, generation_id))
    succeed(world, begin(world, user_id, generation_id))
    return generation_id


def test_failures_before_an_old_success_go(world: SqlWorld, storage: PostgresStorage, connection: Any) -> None:
    """Attempts that failed before a success go once they are old; the success stays, and the books still balance."""
    user_id = world.new_user()
    old = failed_then_succeeded(world, user_id)
    world.advance(91 * DAY)
    recent = failed_then_succeeded(world, user_id)

    assert prune(storage, dry_run=True) == (2, 0)
    assert numbers(world, old) == [2, 3, 4]
    assert prune(storage) == (2, 0)
    assert prune(storage) == (0, 0)

    assert numbers(world, old) == [4]
    assert numbers(world, recent) == [2, 3, 4]
    assert violations(connection) == []


def test_books_still_miss_a_number(world: SqlWorld, storage: PostgresStorage, connection: Any) -> None:
    """A number that pruning has not removed is missing in the books as before."""
    user_id = world.new_user()
    generation_id = failed_then_succeeded(world, user_id)
    world.advance(91 * DAY)
    prune(storage)

    connection.execute("update public.ai_retry_attempts set number = 5")

    assert violations(connection) == [("a number is missing or double", generation_id)]


def test_everything_of_a_generation_that_is_gone_goes(world: SqlWorld, storage: PostgresStorage) -> None:
    """Old attempts go with a generation that the app has deleted, its success and its last attempt as well."""
    user_id = world.new_user()
    succeeded, failed = failed_then_succeeded(world, user_id), world.new_generation(user_id)
    fail(world, begin(world, user_id, failed))
    world.advance(91 * DAY)
    for generation_id in (succeeded, failed):
        world.delete_generation(generation_id)

    assert prune(storage) == (4, 0)

    assert numbers(world, succeeded) == numbers(world, failed) == []


def test_generation_without_a_session_keeps_everything(world: SqlWorld, storage: PostgresStorage) -> None:
    """What failed and has no session keeps every attempt, however old: they count for its next one."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    for _ in range(3):
        fail(world, begin(world, user_id, generation_id))
    world.advance(1000 * DAY)

    assert prune(storage) == (0, 0)
    assert numbers(world, generation_id) == [2, 3, 4]


def test_unit_stays_spent_after_its_generation_is_gone(world: SqlWorld, storage: PostgresStorage) -> None:
    """A unit counts for as long as its user's window says, be it the policy's or an override; then its attempt goes."""
    by_policy, by_override = world.new_user(), world.new_user()
    world.set_quota(by_override, 5, 300 * DAY)
    rule = QuotaRule(limit=5, window=200 * DAY)
    for user_id in (by_policy, by_override):
        generation_id = world.new_generation(user_id)
        succeed(world, begin(world, user_id, generation_id))
        world.delete_generation(generation_id)

    def captured(user_id: UUID) -> int:
        return load(world, user_id, world.new_generation(user_id), policy=replace(POLICY, quota=rule)).quota.captured

    world.advance(150 * DAY)
    assert prune(storage, window=rule.window) == (0, 0)
    assert (captured(by_policy), captured(by_override)) == (1, 1)

    world.advance(100 * DAY)
    assert prune(storage, window=rule.window) == (1, 0)
    assert captured(by_override) == 1

    world.advance(100 * DAY)
    assert prune(storage, window=rule.window) == (1, 0)


def test_nothing_younger_than_a_day_goes(world: SqlWorld, storage: PostgresStorage) -> None:
    """Whatever age is asked for, the last day stays."""
    user_id = world.new_user()
    failed_then_succeeded(world, user_id)
    world.advance(DAY / 2)

    assert prune(storage, older_than=timedelta(0), window=timedelta(0)) == (0, 0)


def test_paid_answer_stays_and_goes_with_its_generation(world: SqlWorld, storage: PostgresStorage) -> None:
    """A stored answer stays however old it is, and once its generation is gone it goes at the next pruning."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    answer_too_late(world, user_id, generation_id)
    world.advance(1000 * DAY)
    assert prune(storage) == (0, 0)
    snapshot = load(world, user_id, generation_id)
    assert snapshot.stored_answer is not None
    world._connection.execute("alter table public.generations disable trigger ai_retry_forget")

    world.delete_generation(generation_id)

    assert prune(storage, dry_run=True) == (1, 1)
    assert prune(storage) == (1, 1)
    assert answers(world._connection) == []


def test_new_answer_goes_when_its_attempts_must_stay(world: SqlWorld, storage: PostgresStorage) -> None:
    """An answer whose generation is gone does not wait for its attempt to grow old."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    answer_too_late(world, user_id, generation_id)
    world._connection.execute("alter table public.generations disable trigger ai_retry_forget")
    world.delete_generation(generation_id)

    assert prune(storage) == (0, 1)
    assert numbers(world, generation_id) == [2]


def test_what_the_app_was_not_informed_of_stays(world: SqlWorld, storage: PostgresStorage, connection: Any) -> None:
    """An attempt whose report waits for the app stays until it has been made."""
    user_id = world.new_user()
    generation_id = failed_then_succeeded(world, user_id)
    world.advance(91 * DAY)
    connection.execute("update public.ai_retry_attempts set unreported = true where number = 2")

    assert prune(storage) == (1, 0)
    assert numbers(world, generation_id) == [2, 4]
    assert violations(connection) == []

    world.delete_generation(generation_id)
    assert prune(storage) == (0, 0)


@pytest.mark.parametrize("is_gone", [False, True])
def test_message_that_waits_keeps_its_attempt(world: SqlWorld, storage: PostgresStorage, *, is_gone: bool) -> None:
    """What the webhook's receiver has not taken is not lost; once it is, the attempt goes."""
    storage.drain(0, DAY, [])
    begun = new_running(world)
    fail(world, begun)
    succeed(world, begin(world, begun.user_id, begun.generation_id))
    world.advance(91 * DAY)
    if is_gone:
        world.delete_generation(begun.generation_id)

    assert prune(storage) == (0, 0)

    (message,) = storage.drain(9, DAY, [])
    storage.drain(0, DAY, [Delivery(id=message.id, tries=1, wait=None)])
    assert prune(storage) == (2 if is_gone else 1, 0)


def test_busy_user_is_left_for_another_time(world: SqlWorld, storage: PostgresStorage, migrated_database: str) -> None:
    """What is begun or settled meanwhile is not waited for, and does not wait: its user is left out."""
    busy, idle = world.new_user(), world.new_user()
    for user_id in (busy, idle):
        failed_then_succeeded(world, user_id)
    world.advance(91 * DAY)

    with psycopg.connect(migrated_database) as other:
        other.execute("select ai_retry.lock_user(%s)", [busy])
        assert prune(storage) == (2, 0)
    assert prune(storage) == (2, 0)


def test_open_attempt_of_a_generation_that_is_gone_keeps_its_history(world: SqlWorld, storage: PostgresStorage) -> None:
    """While an attempt is open, the generation's numbers stay, even if its row is gone."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    fail(world, begin(world, user_id, generation_id))
    world.advance(91 * DAY)
    begin(world, user_id, generation_id)
    world.delete_generation(generation_id)

    assert prune(storage) == (0, 0)
    assert numbers(world, generation_id) == [2, 3]


def a_history(world: SqlWorld, dice: random.Random) -> list[UUID]:
    """Let one user's generations fail, succeed, be rejected, late, kept, discarded and accepted, over two years."""
    user_id = world.new_user()
    if dice.random() < 0.3:
        world.set_quota(user_id, dice.randint(1, 9), dice.choice([1, 60, 400]) * DAY)
    generations = [world.new_generation(user_id) for _ in range(4)]

    def reject(generation_id: UUID) -> None:
        world.refuse_sessions("title_is_short")
        try:
            with pytest.raises(SessionRejected):
                succeed(world, begin(world, user_id, generation_id))
        finally:
            world.refuse_sessions(None)

    steps: list[Callable[[UUID], object]] = [
        lambda each: fail(world, begin(world, user_id, each)),
        lambda each: fail(world, begin(world, user_id, each)),
        lambda each: abandon(world, begin(world, user_id, each)),
        lambda each: succeed(world, begin(world, user_id, each)),
        lambda each: answer_too_late(world, user_id, each),
        lambda each: keep(world, begin(world, user_id, each)),
        lambda each: discard(world, user_id, each),
        lambda each: accept(world, user_id, each),
        reject,
    ]
    for _ in range(18):
        world.advance(dice.choice([0, 0, 1, 40, 100]) * DAY)
        try:
            dice.choice(steps)(dice.choice(generations))
        except AiRetryError:
            continue  # a rule refuses it
    for each in dice.sample(generations, 1):
        world.delete_generation(each)
        generations.remove(each)
    return generations


def as_decided(world: SqlWorld, user_id: UUID, generation_id: UUID) -> tuple[Snapshot, str]:
    """What is read of a generation, and what is decided about it; a success is asked for nothing but its session."""
    snapshot = replace(load(world, user_id, generation_id), as_of=datetime(2030, 1, 1, tzinfo=UTC))
    try:
        to_begin(world, user_id, generation_id, waive=frozenset())
        decided = "admitted"
    except AiRetryError as error:
        decided = f"{error.code} {sorted(key for key in error.details if key != 'retryAfterSeconds')}"
    if snapshot.generation.status == "success":
        snapshot = replace(snapshot, attempts=snapshot.attempts[-1:])
    return snapshot, decided


@pytest.mark.parametrize("seed", SEEDS)
def test_no_decision_changes(world: SqlWorld, storage: PostgresStorage, connection: Any, seed: int) -> None:
    """After any history, what is read of each generation that is there, what is decided about it and the books stay."""
    dice = random.Random(seed)
    generations = [each for _ in range(3) for each in a_history(world, dice)]
    owners = {each: world.generation(each)["user_id"] for each in generations}
    before = {each: as_decided(world, owner, each) for each, owner in owners.items()}
    books = violations(connection)

    removed = prune(storage, older_than=30 * DAY, dry_run=True)
    assert removed > (0, 0)
    assert prune(storage, older_than=30 * DAY) == removed

    assert {each: as_decided(world, owner, each) for each, owner in owners.items()} == before
    assert violations(connection) == books == []
    assert prune(storage, older_than=30 * DAY) == (0, 0)


def answers(connection: psycopg.Connection) -> list[Mapping[str, Any]]:
    """Stored answers."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return list(cursor.execute("select * from public.ai_retry_answers").fetchall())


def test_page_is_bounded_and_the_next_one_goes_on(world: SqlWorld, storage: PostgresStorage) -> None:
    """A page looks at some attempts only and says where the next one begins; together they see all."""
    user_id = world.new_user()
    world._connection.execute(
        "insert into public.ai_retry_attempts (generation_id, number, user_id, token, started_at, closed_at, outcome,"
        " counted, charge, provider_outcome) select gen_random_uuid(), 2, %s, gen_random_uuid(), at, at, 'failed',"
        " true, true, 'unknown' from generate_series(1, 1200), lateral (select now() - interval '100 days' as at) t",
        [user_id],
    )

    first = storage.prune(older_than=90 * DAY, window=DAY, after=None, dry_run=False)

    assert first.attempts == 500
    assert first.next is not None
    assert prune(storage) == (700, 0)


_ACT = """
insert into public.ai_retry_actions (id, operator, role, action, target, reason, at)
select gen_random_uuid(), 'ada', 'admin', 'retry', 'x', 'x', clock_timestamp() - %(age)s
from generate_series(1, %(count)s)
"""


def test_old_records_of_operators_go(world: SqlWorld, storage: PostgresStorage, connection: Any) -> None:
    """What operators did goes when it is old, however much more than a page it is; what is younger stays."""
    failed_then_succeeded(world, world.new_user())
    connection.execute(_ACT, {"age": 91 * DAY, "count": 1200})
    connection.execute(_ACT, {"age": 89 * DAY, "count": 3})
    counted = storage.prune(older_than=90 * DAY, window=DAY, after=None, dry_run=True)

    assert prune(storage) == (0, 0)

    assert (counted.actions, counted.next) == (1200, None)
    assert connection.execute("select count(*) from public.ai_retry_actions").fetchone() == (3,)


def test_command_counts_then_removes(world: SqlWorld, migrated_database: str) -> None:
    """`ai-retry prune` says what would go, removes it, and refuses an age within the longest window."""
    user_id = world.new_user()
    failed_then_succeeded(world, user_id)
    world.advance(91 * DAY)
    env = dict.fromkeys(("SUPABASE_URL", "SUPABASE_SECRET_KEY")) | {
        "DATABASE_URL": migrated_database,
        "AI_BASE_URL": "http://127.0.0.1:9/v1",
    }

    def run(*arguments: str, **more: str) -> tuple[int, str]:
        result = CliRunner(env={**env, **more}).invoke(cli, ["prune", *arguments])
        return result.exit_code, result.output

    assert run("--older-than", "90d", "--dry-run") == (0, "would be removed: 2 attempts, 0 stored answers\n")
    assert run("--older-than", "90d") == (0, "removed: 2 attempts, 0 stored answers\n")
    assert run("--older-than", "90d") == (0, "removed: 0 attempts, 0 stored answers\n")
    for wrong, said in (("0d", "at least the longest window"), ("soon", "a number of days, such as 90d")):
        code, output = run("--older-than", wrong)
        assert code == 2
        assert said in output
    assert run("--older-than", "90d", AI_RETRY_QUOTA_WINDOW_SECONDS=str(100 * 86400))[0] == 2


@pytest.mark.parametrize("role", ["service_role", "postgres"])
def test_deleted_generation_takes_its_answer_along(world: SqlWorld, role: str) -> None:
    """When the app deletes a generation, its stored answer goes in the same transaction, and another one's stays."""
    user_id = world.new_user()
    first, second = world.new_generation(user_id), world.new_generation(user_id)
    for each in (first, second):
        answer_too_late(world, user_id, each)
    connection = world._connection
    connection.execute("grant delete on public.generations to service_role")

    with connection.transaction():
        connection.execute(f"set local role {role}".encode())
        connection.execute("delete from public.generations where id = %s", [first])

    assert [row["generation_id"] for row in answers(connection)] == [second]


def test_deletion_by_an_end_user_leaves_the_answer_to_pruning(world: SqlWorld, storage: PostgresStorage) -> None:
    """A role without rights on our tables deletes generations all the same, and borrows none: pruning does the rest."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    answer_too_late(world, user_id, generation_id)
    connection = world._connection
    connection.execute("grant delete on public.generations to authenticated")
    connection.execute("create policy theirs on public.generations to authenticated using (true)")

    with connection.transaction():
        connection.execute("set local role authenticated")
        assert connection.execute("delete from public.generations where id = %s", [generation_id]).rowcount == 1

    assert len(answers(connection)) == 1
    assert prune(storage) == (0, 1)


def test_locked_answer_stops_no_deletion(world: SqlWorld, migrated_database: str, storage: PostgresStorage) -> None:
    """A deletion of the app waits for nothing of ours and is refused by nothing: pruning removes what it left."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    answer_too_late(world, user_id, generation_id)

    with psycopg.connect(migrated_database) as other:
        other.execute("select from public.ai_retry_answers for update")
        world.delete_generation(generation_id)
        other.rollback()

    assert len(answers(world._connection)) == 1
    assert prune(storage) == (0, 1)


def test_deletion_needs_no_table_of_ours(world: SqlWorld) -> None:
    """Where our tables are not there (yet), generations are deleted as ever."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    world._connection.execute("alter table public.ai_retry_answers rename to elsewhere")

    world.delete_generation(generation_id)
