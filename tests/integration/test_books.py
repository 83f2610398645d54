"""`ai-retry books`: the documented proof, run as a person does; and what it finds."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result

from ai_retry.cli.commands import cli
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.attempts import add_closed
from tests.helpers.books import violations
from tests.helpers.steps import (
    abandon,
    answer_too_late,
    begin,
    begin_new,
    close_over,
    create,
    discard,
    fail,
    keep,
    succeed,
)
from tests.helpers.world import SqlWorld
from tools.stack import Stack


@pytest.fixture
def world(migrated_database: str, connection: psycopg.Connection) -> Iterator[SqlWorld]:
    """A database with nothing in its books."""
    storage = PostgresStorage(migrated_database, max_connections=2)
    yield SqlWorld(storage, connection)
    storage.close()


@pytest.fixture
def paid(world: SqlWorld) -> UUID:
    """A generation whose attempt 2 failed, and whose attempt 3 succeeded."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    fail(world, begin(world, user_id, generation_id))
    succeed(world, begin(world, user_id, generation_id))
    return generation_id


def books(environ: Mapping[str, str], *arguments: str) -> Result:
    """Run the command with these settings alone, as service_role."""
    alone = dict.fromkeys(("SUPABASE_URL", "SUPABASE_SECRET_KEY", "DATABASE_URL")) | {
        "AI_BASE_URL": "http://127.0.0.1:9/v1",
        **environ,
    }
    return CliRunner(env=alone).invoke(cli, ["books", *arguments])


def test_balanced_books_are_said_so(paid: UUID, migrated_database: str) -> None:
    """Books that balance: one line, exit code 0."""
    result = books({"DATABASE_URL": f"{migrated_database}?options=-c%20role%3Dservice_role"})

    assert (result.exit_code, result.output) == (0, "The books balance.\n")


def test_violations_are_listed(paid: UUID, migrated_database: str) -> None:
    """Books that don't: each violation with its generation, exit code 1, and the same as JSON."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("update public.generations set status = 'error'")

    for_people = books({"DATABASE_URL": migrated_database})
    for_programs = books({"DATABASE_URL": migrated_database}, "--json")

    assert (for_people.exit_code, for_programs.exit_code) == (1, 1)
    assert f"a success whose generation says otherwise  {paid}" in for_people.output
    assert json.loads(for_programs.output) == [
        {"violation": "a success whose generation says otherwise", "generation_id": str(paid)}
    ]


def test_books_are_read_over_the_data_api(stack: Stack) -> None:
    """Without a direct connection the proof is the same."""
    over_api = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}

    result, direct = books(over_api, "--json"), books({"DATABASE_URL": stack.database_url}, "--json")

    assert result.exit_code in (0, 1)  # other tests write to this database as a careless app would
    assert (result.exit_code, json.loads(result.output)) == (direct.exit_code, json.loads(direct.output))


def test_books_without_a_database_exit_with_3() -> None:
    """Without settings nothing can be proved: exit code 3, and which variables are missing."""
    result = books({})

    assert result.exit_code == 3
    assert "SUPABASE_URL is missing" in result.output


def test_books_of_sound_work_balance(world: SqlWorld, paid: UUID, connection: psycopg.Connection) -> None:
    """After every kind of end, and while attempts are open, the documented query finds nothing."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id)
    answer_too_late(world, user_id, generation_id)
    assert discard(world, user_id, generation_id)
    abandon(world, begin(world, user_id, generation_id))
    world.delete_generation(paid)
    keep(world, begin_new(world, user_id))
    close_over(world, user_id)
    keep(world, begin_new(world, user_id))
    begin_new(world, user_id)

    assert violations(connection) == []


def test_numbers_of_first_calls_begin_with_one(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Open or closed, the first call of ours is number 1; a number that is missing after it is found."""
    create(world, world.new_user())
    begun = create(world, world.new_user())
    fail(world, begun)
    succeed(world, begin(world, begun.user_id, begun.generation_id))
    assert violations(connection) == []

    connection.execute(
        "update public.ai_retry_attempts set number = 3 where generation_id = %s and number = 2", [begun.generation_id]
    )

    assert violations(connection) == [("a number is missing or double", begun.generation_id)]


def test_success_of_many_generations_is_compared(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Every success is compared with its generation, however many there are; one that is gone says nothing."""
    user_id = world.new_user()
    connection.execute(
        "with made as (insert into public.generations (user_id, status) select %s, 'success'"
        " from generate_series(1, 2500) returning id, user_id)"
        " insert into public.ai_retry_attempts (generation_id, number, user_id, token, started_at, closed_at, outcome,"
        " counted, session_id, charge, captured_at, provider_outcome) select id, 2, user_id, gen_random_uuid(), now(),"
        " now(), 'succeeded', true, gen_random_uuid(), true, now(), 'generated' from made",
        [user_id],
    )
    connection.execute(
        "with placed as (select id, row_number() over (order by id) as place from public.generations)"
        " delete from public.generations g using placed p where p.id = g.id and p.place % 5 = 0"
    )
    changed = connection.execute(
        "with placed as (select id, row_number() over (order by id) as place from public.generations)"
        " update public.generations g set status = 'timeout' from placed p where p.id = g.id and p.place % 100 = 0"
        " returning g.id"
    ).fetchall()

    said = "a success whose generation says otherwise"
    assert len(changed) == 20
    assert sorted(violations(connection)) == sorted((said, generation_id) for (generation_id,) in changed)


OPEN = (
    "insert into public.ai_retry_open (generation_id, user_id, number, token, started_at, charge, waived,"
    " lease_expires_at, renewable_until, abandoned_wait_seconds, answer) select generation_id, user_id, {number},"
    " gen_random_uuid(), closed_at, true, '{{}}', closed_at + interval '1 min', closed_at + interval '1 min', 2,"
    " {answer}"
    " from public.ai_retry_attempts where generation_id = %(id)s and number = 3"
)
ANSWER = "insert into public.ai_retry_answers values (%(id)s, 2, '{}', now())"
DAMAGE: Mapping[str, tuple[str, set[str]]] = {
    "a generation set back": (
        "update public.generations set status = 'error' where id = %(id)s",
        {"a success whose generation says otherwise"},
    ),
    "a number that is missing": (
        "update public.ai_retry_attempts set number = 9 where generation_id = %(id)s and number = 3",
        {"a number is missing or double"},
    ),
    "the first one is missing": (
        "delete from public.ai_retry_attempts where generation_id = %(id)s and number = 2",
        {"a number is missing or double"},
    ),
    "an open attempt with a closed one's number": (
        OPEN.format(number=3, answer="null"),
        {"a number is missing or double", "an open attempt beside a success"},
    ),
    "an open attempt after a gap": (
        OPEN.format(number=5, answer="null"),
        {"a number is missing or double", "an open attempt beside a success"},
    ),
    "an open attempt": (OPEN.format(number=4, answer="null"), {"an open attempt beside a success"}),
    "an answer that an open attempt keeps": (
        OPEN.format(number=4, answer="'{}'"),
        {"an open attempt beside a success", "a stored answer beside a success"},
    ),
    "a stored answer": (ANSWER, {"a stored answer beside a success"}),
    "a discarded answer": (
        f"update public.ai_retry_attempts set discarded_at = now() where generation_id = %(id)s; {ANSWER}",
        {"a discarded answer that is stored", "a stored answer beside a success"},
    ),
}


@pytest.mark.parametrize(("damage", "found"), DAMAGE.values(), ids=DAMAGE.keys())
def test_books_find_what_is_wrong(paid: UUID, connection: psycopg.Connection, damage: str, found: set[str]) -> None:
    """Each kind of damage that the constraints allow is named by the documented query, with its generation."""
    for statement in damage.split("; "):
        connection.execute(statement.encode(), {"id": paid})

    assert sorted(violations(connection)) == sorted((name, paid) for name in found)


IMPOSSIBLE: Mapping[str, tuple[str, str]] = {
    "two successes of one generation": (
        "update public.ai_retry_attempts set outcome = 'succeeded', session_id = gen_random_uuid(),"
        " captured_at = closed_at where generation_id = %(id)s and number = 2",
        "ai_retry_attempts_one_success",
    ),
    "two open attempts of one generation": (
        f"{OPEN.format(number=4, answer='null')}; {OPEN.format(number=5, answer='null')}",
        "ai_retry_open_pkey",
    ),
    "one session of two generations": (
        "insert into public.ai_retry_attempts (generation_id, number, user_id, token, started_at, closed_at, outcome,"
        " counted, session_id, charge, captured_at, provider_outcome) select gen_random_uuid(), number, user_id,"
        " gen_random_uuid(), started_at, closed_at, outcome, counted, session_id, charge, captured_at, provider_outcome"
        " from public.ai_retry_attempts where generation_id = %(id)s and number = 3",
        "ai_retry_attempts_one_generation_per_session",
    ),
    "a unit captured by a failure": (
        "update public.ai_retry_attempts set captured_at = closed_at where generation_id = %(id)s and number = 2",
        "only_charged_success_captures",
    ),
    "a unit spent later": (
        "update public.ai_retry_attempts set captured_at = captured_at + interval '1 s' where generation_id = %(id)s"
        " and number = 3",
        "captured_when_closed",
    ),
    "a charged success without its unit": (
        "update public.ai_retry_attempts set captured_at = null where generation_id = %(id)s and number = 3",
        "only_charged_success_captures",
    ),
}


@pytest.mark.parametrize(("damage", "constraint"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_books_need_not_look_for_is_impossible(
    paid: UUID, connection: psycopg.Connection, damage: str, constraint: str
) -> None:
    """What the books don't ask is refused by a constraint, whoever writes it."""
    *before, last = damage.split("; ")
    for statement in before:
        connection.execute(statement.encode(), {"id": paid})

    with pytest.raises(psycopg.IntegrityError) as caught:
        connection.execute(last.encode(), {"id": paid})

    assert caught.value.diag.constraint_name == constraint


def test_books_of_a_clock_that_was_set_back_balance(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Attempts that ended before they began, and before those before them, contradict nothing, whatever the limit."""
    user_id = world.new_user()
    for generation_id in (world.new_generation(user_id) for _ in range(2)):
        succeed(world, begin(world, user_id, generation_id))
    connection.execute(
        "update public.ai_retry_attempts set closed_at = closed_at - interval '1 day',"
        " captured_at = captured_at - interval '1 day'"
    )

    assert violations(connection) == []
    assert above(connection, 2) == set()


def spent(connection: psycopg.Connection, user_id: UUID, began: float, ended: float, **columns: Any) -> UUID:
    """Add a success that spent a unit; its admission and its end are so many seconds ago."""
    generation_id, now = uuid4(), datetime.now(UTC)
    closed_at = now - timedelta(seconds=ended)
    row = {
        "started_at": now - timedelta(seconds=began),
        "closed_at": closed_at,
        "captured_at": closed_at,
        "outcome": "succeeded",
        "session_id": str(uuid4()),
    }
    add_closed(connection, user_id, generation_id, **row | columns)
    return generation_id


def above(connection: psycopg.Connection, limit: int, window: float = 3600, since: float | None = None) -> set[UUID]:
    """The generations with a unit above the limit."""
    start = None if since is None else datetime.now(UTC) - timedelta(seconds=since)
    rows = connection.execute(
        "select violation, generation_id from jsonb_to_recordset(public.ai_retry_books(%s, %s, %s))"
        " as v (violation text, generation_id uuid)",
        [limit, window, start],
    ).fetchall()
    assert {violation for violation, _ in rows} <= {"a unit above the limit"}
    return {generation_id for _, generation_id in rows}


def test_unit_above_the_limit_shows(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Limit 1: the second one began while the first one's unit was held, and both spent theirs; only with the limit."""
    user_id, other = world.new_user(), world.new_user()
    spent(connection, user_id, 100, 50)
    second = spent(connection, user_id, 80, 60)
    spent(connection, other, 80, 60)

    assert above(connection, 1) == {second}
    assert above(connection, 2) == set()
    assert above(connection, 0) > {second}
    assert violations(connection) == []


def test_unit_that_came_back_is_not_counted(world: SqlWorld, connection: psycopg.Connection) -> None:
    """One that was spent a whole window before an admission is none; one that was spent a little later is."""
    user_id, other = world.new_user(), world.new_user()
    spent(connection, user_id, 4000, 3950)
    spent(connection, user_id, 300, 200)
    spent(connection, other, 4000, 3850)
    late = spent(connection, other, 300, 290)

    assert above(connection, 1) == {late}


def test_admission_counts_and_not_the_end(world: SqlWorld, connection: psycopg.Connection) -> None:
    """An accepted retry holds its unit from when it was accepted: whoever was admitted after it is above the limit."""
    user_id = world.new_user()
    accepted = datetime.now(UTC) - timedelta(seconds=900)
    spent(connection, user_id, 100, 50, accepted_at=accepted)
    second = spent(connection, user_id, 800, 700)

    assert above(connection, 1) == {second}


def test_what_an_operator_let_pass_is_not_named(world: SqlWorld, connection: psycopg.Connection) -> None:
    """A waived quota is no violation, though its unit counts; neither is what was admitted before it."""
    user_id = world.new_user()
    spent(connection, user_id, 200, 190)
    spent(connection, user_id, 180, 170, waived=["quota"], operator="ada")
    assert above(connection, 1) == set()

    third = spent(connection, user_id, 160, 150)
    assert above(connection, 1) == {third}
    assert above(connection, 2) == {third}


def test_user_with_a_limit_is_judged_by_it(world: SqlWorld, connection: psycopg.Connection) -> None:
    """The override's limit and window apply to its user, be they larger or smaller."""
    generous, strict = world.new_user(), world.new_user()
    world.set_quota(generous, 3, timedelta(hours=1))
    world.set_quota(strict, 1, timedelta(hours=2))
    for user_id in (generous, strict):
        spent(connection, user_id, 5000, 4990)
        spent(connection, user_id, 300, 290)
    (second,) = above(connection, 2)

    assert connection.execute(
        "select user_id from public.ai_retry_attempts where generation_id = %s", [second]
    ).fetchone() == (strict,)


def test_since_leaves_out_what_was_closed_before(world: SqlWorld, connection: psycopg.Connection) -> None:
    """A monitor asks about what is new; what it needs of the past it still sees."""
    user_id = world.new_user()
    spent(connection, user_id, 700, 690)
    old = spent(connection, user_id, 680, 670)
    new = spent(connection, user_id, 60, 50)

    assert above(connection, 1, since=100) == {new}
    assert above(connection, 1) == {old, new}
    assert above(connection, 1, since=10) == set()


def test_since_finds_each_kind(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Gaps and generations that say otherwise are found where the attempt was closed since, and only there."""
    user_id = world.new_user()
    generations = [world.new_generation(user_id) for _ in range(2)]
    for generation_id in generations:
        succeed(world, begin(world, user_id, generation_id))
    world.advance(timedelta(hours=3))
    newer = world.new_generation(user_id)
    succeed(world, begin(world, user_id, newer))
    connection.execute("update public.generations set status = 'error'")
    connection.execute("update public.ai_retry_attempts set number = 4")

    found = connection.execute(
        "select violation, generation_id from jsonb_to_recordset(public.ai_retry_books("
        "p_since => clock_timestamp() - interval '1 hour')) as v (violation text, generation_id uuid)"
    ).fetchall()

    assert {generation_id for _, generation_id in violations(connection)} == {*generations, newer}
    assert found == [
        ("a number is missing or double", newer),
        ("a success whose generation says otherwise", newer),
    ]


def test_since_long_ago_asks_about_all(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Where a hundred thousand attempts were closed since, all are asked about: older damage shows as well."""
    user_id = world.new_user()
    old = world.new_generation(user_id)
    succeed(world, begin(world, user_id, old))
    world.advance(timedelta(days=30))
    connection.execute("update public.generations set status = 'error'")
    question = (
        "select generation_id from jsonb_to_recordset(public.ai_retry_books("
        "p_since => clock_timestamp() - interval '20 days')) as v (generation_id uuid)"
    )
    few = connection.execute(question).fetchall()
    fill(connection, user_id, 100_000)

    assert (few, connection.execute(question).fetchall()) == ([], [(old,)])


def test_list_is_bounded(world: SqlWorld, connection: psycopg.Connection) -> None:
    """However many there are, a thousand of each kind are listed."""
    user_id = world.new_user()
    connection.execute(
        "insert into public.ai_retry_attempts (generation_id, number, user_id, token, started_at, closed_at, outcome,"
        " counted, charge, provider_outcome) select gen_random_uuid(), 3, %s, gen_random_uuid(), now(), now(),"
        " 'failed', true, true, 'unknown' from generate_series(1, 1200)",
        [user_id],
    )

    assert len(violations(connection)) == 1000


@pytest.mark.parametrize("since", [None, timedelta(minutes=1)], ids=["all", "since"])
def test_books_read_indexes(world: SqlWorld, connection: psycopg.Connection, since: timedelta | None) -> None:
    """Of 30,000 attempts, in a table that is vacuumed, no row is read; since a minute ago few are."""
    fill(connection, world.new_user(), 30_000)

    with connection.transaction():
        before = rows_read(connection)
        connection.execute("select public.ai_retry_books(5, 60, clock_timestamp() - %s::interval)", [since])
        read = rows_read(connection) - before

    assert read < (1_000 if since is None else 5_000)  # since when is known of 32 pages at a time


def test_estimate_reads_the_newest_thousand(world: SqlWorld, connection: psycopg.Connection) -> None:
    """What past calls took is read of the newest thousand attempts that recorded it, however many there are."""
    fill(connection, world.new_user(), 30_000)

    with connection.transaction():
        before = rows_read(connection)
        (row,) = connection.execute("select public.ai_retry_estimate()").fetchone() or ([],)
        read = rows_read(connection) - before

    assert row == [{"model": "small", "tokens": 300, "cost": 0.25}]
    assert read <= 1000


def fill(connection: psycopg.Connection, user_id: UUID, count: int) -> None:
    """Add attempts, one each 10 s until now, half of them free successes of generations of the app; vacuum."""
    connection.execute(
        "with made as (insert into public.generations (user_id, status, model) select %s, 'success', 'small'"
        " from generate_series(1, %s / 2) returning id, user_id), numbered as ("
        " select id, user_id, row_number() over () as place from made)"
        " insert into public.ai_retry_attempts (generation_id, number, user_id, token, started_at, closed_at, outcome,"
        " counted, session_id, charge, provider_outcome, usage) select id, k, user_id, gen_random_uuid(), at, at,"
        " case k when 3 then 'succeeded' else 'failed' end, true, case k when 3 then gen_random_uuid() end, false,"
        " 'generated', case k when 3 then '{\"total_tokens\": 300, \"cost\": 0.25}'::jsonb end"
        " from numbered, generate_series(2, 3) k,"
        " lateral (select clock_timestamp() - (%s / 2 - place) * interval '10 s' as at) t",
        [user_id, count, count],
    )
    connection.execute("vacuum analyze public.ai_retry_attempts")
    connection.execute("vacuum analyze public.generations")


def rows_read(connection: psycopg.Connection) -> int:
    """How many rows of closed attempts this connection has read of late, through an index or without."""
    row = connection.execute(
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'ai_retry_attempts'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("arguments", "environ", "exit_code"),
    [
        ((), {}, 0),
        (("--limit", "1"), {}, 1),
        (("--limit", "1", "--window", "10m"), {}, 0),
        (("--limit", "1", "--since", "1h"), {}, 0),
        ((), {"AI_RETRY_QUOTA_LIMIT": "1"}, 1),
        ((), {"AI_RETRY_QUOTA_LIMIT": "1", "AI_RETRY_QUOTA_WINDOW_SECONDS": "600"}, 0),
        (("--limit", "2"), {"AI_RETRY_QUOTA_LIMIT": "1"}, 0),
    ],
)
def test_command_asks_about_a_limit(
    world: SqlWorld,
    connection: psycopg.Connection,
    migrated_database: str,
    arguments: tuple[str, ...],
    environ: Mapping[str, str],
    exit_code: int,
) -> None:
    """The client's own limit and window, unless others are given."""
    user_id = world.new_user()
    spent(connection, user_id, 10_000, 9_000)
    second = spent(connection, user_id, 8_000, 7_500)

    result = books({"DATABASE_URL": migrated_database, **environ}, *arguments)

    assert result.exit_code == exit_code, result.output
    assert (f"a unit above the limit  {second}" in result.output) == bool(exit_code)


@pytest.mark.parametrize(
    "arguments", [("--window", "soon"), ("--since", "someday"), ("--window", "0h"), ("--limit", "-1")]
)
def test_wrong_option_is_named(arguments: tuple[str, str]) -> None:
    """A wrong option is named; nothing is asked."""
    result = books({"DATABASE_URL": "postgresql://127.0.0.1:9/x"}, *arguments)

    assert result.exit_code == 2
    assert arguments[0] in result.output


def test_books_of_the_whole_run_balance(stack: Stack) -> None:
    """Whatever the other tests did to the shared database so far, no captured unit lacks its success."""
    with psycopg.connect(stack.database_url) as connection:
        found = {name for name, _ in violations(connection)}

    assert found <= {"a success whose generation says otherwise"}  # some tests write as a careless app would
