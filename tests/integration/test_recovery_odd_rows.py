"""One row that can't be understood is listed with its column, and stops no operator; a page is bounded in bytes."""

import os
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.cli.doctor.contexts import newest
from ai_retry.cli.doctor.model import Database
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import Answer, Outcome
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.recovery import Decision, UnreadableRow
from ai_retry.recovery.listing import text_listing
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.ai import ScriptedAiProvider
from tests.helpers.attempts import add_closed
from tools.outage import failed_generations, recovering_client
from tools.stack import Stack

HOUR = timedelta(hours=1)
UNUSED = ScriptedAiProvider()

NO_INSTANT = "is no instant between the years 1 and 9999"
TOO_MUCH = "is nested too deeply, or holds too large a number"
ODD = {
    "an infinite instant": ("update public.generations set updated_at = 'infinity'", "updated_at", NO_INSTANT),
    "an instant before Christ": (
        "update public.generations set created_at = '0044-03-15 BC', updated_at = '-infinity'",
        "created_at",
        NO_INSTANT,
    ),
    "created in the minus infinite": (
        "update public.generations set created_at = '-infinity'",
        "created_at",
        NO_INSTANT,
    ),
    "never created": (
        "alter table public.generations alter created_at drop not null;"
        " update public.generations set created_at = null",
        "created_at",
        "is null",
    ),
    "many brackets": (
        "update public.generations set prompt_data = (repeat('[', 3000) || repeat(']', 3000))::jsonb",
        "prompt_data",
        TOO_MUCH,
    ),
    "a long number": (
        """update public.generations set prompt_data = ('{"messages": ' || repeat('9', 6000) || '}')::jsonb""",
        "prompt_data",
        TOO_MUCH,
    ),
    "a long column": (
        """update public.generations set prompt_data = to_jsonb(repeat('x', 33554432))""",
        "prompt_data",
        "is longer than a search reads",
    ),
    "an odd duration": (
        "alter table public.generations alter duration_ms type numeric;"
        " update public.generations set duration_ms = 1e30",
        "duration_ms",
        "is no duration",
    ),
    "no user": (
        "alter table public.generations alter user_id drop not null; update public.generations set user_id = null",
        "user_id",
        "is null",
    ),
}
RAISES = """
alter function ai_retry.app_read(uuid) rename to app_read_before;
create function ai_retry.app_read(p_generation_id uuid) returns jsonb language plpgsql stable as $$
begin
  if p_generation_id = '{id}' then
    {statement};
  end if;
  return ai_retry.app_read_before(p_generation_id);
end
$$;
"""


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """A database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(migrated_database: str) -> Iterator[Client]:
    """A client of that database, whose provider answers once."""
    with recovering_client(migrated_database, ScriptedAiProvider(Answer(output={"title": "x"}))) as client:
        yield client


@pytest.fixture
def odd(database: psycopg.Connection, request: pytest.FixtureRequest) -> UUID:
    """A failed generation, the only one so far, and what was done to it."""
    (generation_id,) = failed_generations(database, 1, ago=9 * HOUR)
    for statement in request.param.split(";"):
        database.execute(statement.encode())
    return generation_id


@pytest.mark.parametrize(("odd", "column", "reason"), ODD.values(), ids=ODD.keys(), indirect=["odd"])
def test_row_that_cannot_be_understood_is_listed(
    database: psycopg.Connection, client: Client, odd: UUID, column: str, reason: str
) -> None:
    """It is listed as never, with its id, column and reason; find, plan, why and a recovery of the others go on."""
    older, newer = (failed_generations(database, 1, ago=ago)[0] for ago in (10 * HOUR, HOUR))
    found = client.find()

    listed = {each.generation_id: each for each in found}
    plan = client.plan(found, everything=True, per_user=1)
    explained = client.why(odd)

    assert set(listed) == {older, odd, newer}
    assert (listed[odd].decision, listed[odd].reason) == (Decision.NEVER, "NOT_CONFIGURED")
    assert listed[odd].problem == f"{column} {reason}"
    assert (listed[odd].code, listed[odd].model, listed[odd].status) == ("AI_UNAVAILABLE", "small", "error")
    assert {listed[each].problem for each in (older, newer)} == {None}
    assert plan.counts == {(Decision.NOW, None): 2, (Decision.NEVER, "NOT_CONFIGURED"): 1}
    assert found.summary().by_decision == {Decision.NOW: 2, Decision.LATER: 0, Decision.NEVER: 1}
    assert f"{column} {reason}" in text_listing(found.first(3), width=80)
    assert f"{column} {reason}" in unescape(found._repr_html_())
    assert (explained.decision, explained.code) == (Decision.NEVER, "NOT_CONFIGURED")
    assert (
        f"can't be retried as things are (NOT_CONFIGURED). Its row can't be read: {column} {reason}." in explained.text
    )
    assert found.plot() is not None
    assert len(found.to_frame()) == 3


@pytest.mark.parametrize("limit", [1, 20])
@pytest.mark.parametrize(("odd", "column", "reason"), list(ODD.values())[:-1], ids=list(ODD)[:-1], indirect=["odd"])
def test_own_row_that_cannot_be_understood_is_listed(
    database: psycopg.Connection, client: Client, odd: UUID, column: str, reason: str, limit: int
) -> None:
    """A user's list has it, too, with what is wrong with it; the others before and after it are judged."""
    others = [failed_generations(database, 1, ago=ago)[0] for ago in (10 * HOUR, HOUR)]
    (user_id,) = database.execute("select user_id from public.generations where id = %s", [odd]).fetchone() or (None,)
    database.execute("update public.generations set user_id = %s", [user_id])

    page = client.generations(user_id, limit=limit)
    rows = [*page.generations]
    while page.next is not None:
        page = client.generations(user_id, limit=limit, cursor=page.next)
        rows += page.generations

    assert {each.snapshot.generation.id for each in rows if isinstance(each, Outlook)} == set(others)
    (unreadable,) = (each for each in rows if isinstance(each, UnreadableRow))
    assert (unreadable.generation_id, unreadable.problem) == (odd, f"{column} {reason}")


@pytest.mark.parametrize("odd", [ODD["never created"][0]], indirect=True, ids=["never created"])
def test_generations_without_an_instant_are_pages_too(
    database: psycopg.Connection, client: Client, odd: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They follow all others, page by page; since when excludes them, since they were not created then."""
    monkeypatch.setattr("ai_retry.recovery.found._PAGE", 2)
    failed_generations(database, 4, ago=11 * HOUR)
    database.execute("update public.generations set created_at = null where created_at < now() - interval '5h'")
    newer = failed_generations(database, 3, ago=HOUR)

    listed = [each.generation_id for each in client.find()]

    rows = database.execute("select id from public.generations order by created_at desc nulls last, id desc").fetchall()
    assert listed == [row[0] for row in rows]
    assert {each.generation_id for each in client.find(since="7d")} == set(newer)


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("raise exception 'no'", "P0001"),
        ("perform 1 / 0", "22012"),
        ("perform 'x'::uuid", "22P02"),
        ("assert false", "P0004"),
        ("perform (select 1 union select 2)", "21000"),
    ],
)
def test_row_that_the_binding_fails_on_is_listed(
    database: psycopg.Connection, client: Client, statement: str, sqlstate: str
) -> None:
    """Where the app's own function raises for a row, that row is listed with the SQLSTATE."""
    good, bad = failed_generations(database, 2)
    database.execute(RAISES.format(id=bad, statement=statement).encode())

    listed = {each.generation_id: each for each in client.find()}

    assert (listed[bad].decision, listed[bad].problem) == (Decision.NEVER, f"the row is refused by {sqlstate}")
    assert listed[good].decision is Decision.NOW
    assert f"Its row can't be read: the row is refused by {sqlstate}." in client.why(bad).text


def test_failure_of_everything_is_none_of_a_row(database: psycopg.Connection, client: Client) -> None:
    """A binding that lacks a table is a failure of the search, and not of each row."""
    (generation_id,) = failed_generations(database, 1)
    database.execute(RAISES.format(id=generation_id, statement="perform 1 from public.nowhere").encode())

    with pytest.raises(NotConfigured):
        list(client.find())


def test_error_log_with_an_infinite_instant_is_read(database: psycopg.Connection, client: Client) -> None:
    """When the app logged an error matters to no decision: an instant that can't be read is unknown."""
    (generation_id,) = failed_generations(database, 1)
    database.execute("update public.generation_error_logs set created_at = 'infinity'")

    (found,) = client.find()

    assert (found.decision, found.code, found.problem) == (Decision.NOW, "AI_UNAVAILABLE", None)
    assert client.why(generation_id).last_error is not None


def test_extreme_instants_are_judged(database: psycopg.Connection, client: Client) -> None:
    """The first and the last instant that Python can hold stop nothing."""
    failed_generations(database, 2)
    database.execute(
        "update public.generations set created_at = '0001-01-01', updated_at = '9999-12-31 23:59:59.999999'"
    )

    assert len(list(client.find())) == 2
    assert client.find().summary().total == 2
    assert client.find().plot() is not None


def test_doctor_reads_the_others(database: psycopg.Connection, migrated_database: str) -> None:
    """The doctor counts such a row among those that the reader can't read, and reads the others."""
    _, bad = failed_generations(database, 2)
    database.execute("update public.generations set updated_at = 'infinity' where id = %s", [bad])
    storage = PostgresStorage(migrated_database, max_connections=1)
    settings = Settings.from_env({"DATABASE_URL": migrated_database, "AI_BASE_URL": "http://127.0.0.1:9/v1"})

    read = newest(storage, Database.from_row(storage.inspect()), settings, stored_context)
    storage.close()

    assert [isinstance(each, NotConfigured) for each in read] == [True, False]
    assert f"generation {bad}: updated_at" in str(read[0])


@pytest.mark.parametrize("over", ["a connection", "the Data API"])
def test_large_prompts_are_found(stack: Stack, over: str) -> None:
    """200 failed generations with 1.5 MB of prompt_data each, incompressible: found in pages of some megabytes."""
    user_id = uuid4()
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("insert into auth.users (id) values (%s)", [user_id])
        connection.execute(
            "insert into public.generations (user_id, status, prompt_data) select %s, 'error', jsonb_build_object("
            " 'messages', jsonb_build_array(jsonb_build_object('role', 'user', 'content', %s::text || n)))"
            " from generate_series(1, 200) n",
            [user_id, os.urandom(750_000).hex()],
        )
    storage = (
        PostgresStorage(stack.database_url, max_connections=2)
        if over == "a connection"
        else SupabaseStorage(stack.url, stack.secret_key)
    )
    try:
        with Client(storage=storage, recovery_storage=storage, ai=UNUSED, on_close=storage.close) as client:
            found = client.find(user_id=user_id)
            assert sum(each.problem is None for each in found) == 200
            page, pages = client.generations(user_id, limit=100), [0]
            pages[0] = len(page.generations)
            while page.next is not None:
                page = client.generations(user_id, limit=100, cursor=page.next)
                pages.append(len(page.generations))
            assert sum(pages) == 200
            assert max(pages) < 10
    finally:
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            connection.execute("delete from auth.users where id = %s", [user_id])


def test_stored_answer_is_found_without_its_output(database: psycopg.Connection, migrated_database: str) -> None:
    """What a provider answered is not read by a search, whatever its size; that it is there, is."""
    (generation_id,) = failed_generations(database, 1)
    (user_id,) = database.execute("select user_id from public.generations").fetchone() or (None,)
    add_closed(database, user_id, generation_id, code="SESSION_REJECTED")
    database.execute(
        "insert into public.ai_retry_answers values (%s, 2, jsonb_build_object('output', repeat('9', 6000)::numeric,"
        " 'model', 'small', 'usage', null, 'provider_id', null), now())",
        [generation_id],
    )
    with recovering_client(migrated_database, UNUSED) as client:
        (row,) = client.find().rows()
        assert client.find().first(1)[0].decision is Decision.NOW

    assert row.snapshot.stored_answer.number == 2  # type: ignore[union-attr]
    assert row.snapshot.stored_answer.answer.output is None  # type: ignore[union-attr]


@pytest.mark.parametrize("odd", [ODD["many brackets"][0]], indirect=True, ids=["many brackets"])
def test_recovery_beside_an_odd_row(database: psycopg.Connection, client: Client, odd: UUID) -> None:
    """A plan retries what can be retried, and its report counts the odd one among what was left."""
    failed_generations(database, 1, ago=HOUR)

    report = client.plan(client.find(), everything=True).run(operator="ada")

    assert [line.outcome for line in report.lines] == [Outcome.SUCCEEDED]
    assert report.not_selected == {"never: NOT_CONFIGURED": 1}
