"""`ai-retry books`: the documented proof, run as a person does; and what it finds."""

import json
from collections.abc import Iterator, Mapping
from uuid import UUID

import psycopg
import pytest
from click.testing import CliRunner, Result

from ai_retry.commands import cli
from ai_retry.storage.postgres import PostgresStorage
from tests.support.books import violations
from tests.support.stack import Stack
from tests.support.steps import abandon, answer_too_late, begin, begin_new, close_over, discard, fail, keep, succeed
from tests.support.world import SqlWorld


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
    result = books({name: value for name, value in stack.env().items() if name != "DATABASE_URL"}, "--json")

    assert result.exit_code in (0, 1)  # other tests write to this database as a careless app would
    assert {each["violation"] for each in json.loads(result.output)} <= {"a success whose generation says otherwise"}


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
    "a unit spent later": (
        "update public.ai_retry_attempts set captured_at = captured_at + interval '1 s' where generation_id = %(id)s"
        " and number = 3",
        {"captured at another time than closed"},
    ),
    "an end before the beginning": (
        "update public.ai_retry_attempts set closed_at = started_at - interval '1 s' where generation_id = %(id)s"
        " and number = 2",
        {"closed before it began"},
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
        "update public.ai_retry_attempts set outcome = 'succeeded', session_id = gen_random_uuid(), captured_at = now()"
        " where generation_id = %(id)s and number = 2",
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
        "update public.ai_retry_attempts set captured_at = now() where generation_id = %(id)s and number = 2",
        "only_charged_success_captures",
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


def test_books_of_the_whole_run_balance(stack: Stack) -> None:
    """Whatever the other tests did to the shared database so far, no captured unit lacks its success."""
    with psycopg.connect(stack.database_url) as connection:
        found = {name for name, _ in violations(connection)}

    assert found <= {"a success whose generation says otherwise"}  # some tests write as a careless app would
