"""Routes, quotas and actions on the command line; what operators do there is on record."""

import json
import shlex
from collections.abc import Iterator
from datetime import UTC
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner

from ai_retry.cli.commands import cli
from ai_retry.testing.provider import ScriptedServer, chat
from tools.outage import failed_generations

ROUTE = "127.0.0.1/scripted"
BY = ("--operator", "ada", "--reason", "it has to be")


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """A database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def environment(migrated_database: str) -> Iterator[dict[str, str | None]]:
    """The settings of an app, and a provider that answers every request."""
    with ScriptedServer(default=lambda _: chat({"title": "x"})) as provider:
        yield dict.fromkeys(("SUPABASE_URL", "SUPABASE_SECRET_KEY")) | {
            "DATABASE_URL": migrated_database,
            "AI_BASE_URL": provider.base_url,
            "AI_MODEL": "scripted",
        }


def run(environment: dict[str, str | None], *arguments: object, code: int = 0) -> str:
    """Run a command; return what it prints."""
    result = CliRunner(env=environment).invoke(cli, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.output


def recorded(environment: dict[str, str | None]) -> list[tuple[str, str, str]]:
    """What is on record, the newest first."""
    document: list[dict[str, Any]] = json.loads(run(environment, "actions", "--json"))
    return [(each["action"], each["outcome"], each["reason"]) for each in document]


def route_of(database: psycopg.Connection) -> str:
    """The route that the last attempt asked."""
    row = database.execute("select route from public.ai_retry_attempts order by closed_at desc limit 1").fetchone()
    assert row is not None
    return str(row[0])


def test_route_is_held_and_opened(database: psycopg.Connection, environment: dict[str, str | None]) -> None:
    """A held route is listed with who holds it; a retry is refused until it is opened."""
    first, second = failed_generations(database, 2)
    run(environment, "retry", first)
    route = route_of(database)
    assert run(environment, "routes") == "No route is held, and none is known to be unavailable.\n"

    held = run(environment, "routes", "hold", route, "--for", "30m", *BY)
    listed, document = run(environment, "routes"), json.loads(run(environment, "routes", "--json"))
    refused = run(environment, "retry", second, code=1)
    opened, again = (run(environment, "routes", "open", route, *BY) for _ in range(2))

    assert held.startswith("Held.")
    assert "held by ada" in listed
    assert [(each["route"], each["held_by"], each["failures"]) for each in document] == [(route, "ada", 0)]
    assert "ROUTE_UNAVAILABLE" in refused
    assert (opened, again) == ("Open.\n", "Nothing was known of it: it was open.\n")
    run(environment, "retry", second)
    assert recorded(environment) == [
        ("open_route", "nothing", "it has to be"),
        ("open_route", "done", "it has to be"),
        ("hold_route", "done", "it has to be"),
    ]


@pytest.mark.usefixtures("database")
def test_command_that_opens_a_route_works_as_printed(environment: dict[str, str | None]) -> None:
    """Whatever the names of model and operator are, the printed command opens what was held."""
    route, operator = "provider.example/a model; it's free", "Ada O'Hara"
    held = run(environment, "routes", "hold", route, "--for", "30m", "--operator", operator, "--reason", "x")

    command = held.partition("or by: ")[2]

    assert run(environment, *shlex.split(command)[1:]) == "Open.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("routes", "hold", ROUTE, "--for", "soon", *BY), "must be a duration"),
        (("routes", "hold", ROUTE, "--for", "25h", *BY), "must be at most 24h"),
        (("routes", "hold", ROUTE, "--for", "1h", "--operator", "ada"), "Missing option '--reason'"),
        (("routes", "open", ROUTE, "--operator", " ", "--reason", "x"), "operator must be given"),
        (("quota", uuid4(), "--limit", "2"), "needs --operator and --reason"),
        (("quota", uuid4(), "--per", "2h"), "give --limit"),
        (("quota", uuid4(), "--limit", "2", "--reset", *BY), "give --limit"),
        (("quota", uuid4(), "--limit", "2", "--per", "soon", *BY), "--per must be a duration"),
        (("quota", uuid4(), "--limit", "-1", *BY), "--limit must be from 0"),
        (("quota", uuid4(), "--limit", "2", *BY), "USER must be the id of a user"),
        (("actions", "--limit", "0"), "0 is not in the range"),
        (("actions", "--target", "x"), "must begin with generation:, user:, route: or plan:"),
    ],
)
def test_what_can_t_be_used_is_refused(
    environment: dict[str, str | None], arguments: tuple[object, ...], said: str
) -> None:
    """Wrong durations, names, reasons and numbers are usage errors that say what would be right."""
    assert said in run(environment, *arguments, code=2)


def test_quota_is_shown_and_changed(database: psycopg.Connection, environment: dict[str, str | None]) -> None:
    """A user's quota is shown with what is used of it, set, and reset; the books balance in between."""
    generations = failed_generations(database, 3)
    run(environment, "retry", generations[0])
    (user_id,) = (
        database.execute("select user_id from public.generations where id = %s", [generations[0]]).fetchone() or ()
    )

    usual = run(environment, "quota", user_id)
    run(environment, "quota", user_id, "--limit", "0", "--per", "7d", *BY)
    own = json.loads(run(environment, "quota", user_id, "--json"))
    balance = run(environment, "books")
    run(environment, "quota", user_id, "--limit", "3", *BY)
    wider = json.loads(run(environment, "quota", user_id, "--json"))
    reset = run(environment, "quota", user_id, "--reset", *BY)

    assert "own        no" in usual
    assert "spent      1" in usual
    assert (own["limit"], own["per"], own["remaining"], own["own"]) == (0, "168 h", 0, "yes: 0 per 168 h")
    assert balance == "The books balance.\n"
    assert (wider["limit"], wider["per"], wider["spent"]) == (3, "168 h", 1)
    assert "own        no" in reset
    assert [each[0] for each in recorded(environment)] == ["reset_quota", "set_quota", "set_quota"]
    assert "set_quota" in run(environment, "actions", "--target", f"user:{user_id}")
    assert run(environment, "actions", "--target", "route:x") == "No action of an operator is recorded on route:x.\n"


def test_actions_and_routes_can_be_read_and_typed(
    database: psycopg.Connection, environment: dict[str, str | None]
) -> None:
    """In 80 columns the time of an action and the name of a route are whole; a short id is enough for a target."""
    (generation,) = failed_generations(database, 1)
    route = "a-provider-with-a-long-name.example.com/a-model-with-a-long-name"
    run(environment, "routes", "hold", route, "--for", "30m", *BY)
    run(environment, "retry", generation, "--async", *BY)
    (at,) = database.execute("select at from public.ai_retry_actions where action = 'enqueue'").fetchone() or ()

    listed = run(environment, "actions", "--target", f"generation:{str(generation)[:8]}")

    assert route in run(environment, "routes")
    assert listed.splitlines()[1:] == [
        f"{at.astimezone(UTC):%Y-%m-%d} (UTC)",
        f"{at.astimezone(UTC):%H:%M:%S}  ada       enqueue  generation:{str(generation)[:8]}  done     it has to be",
    ]
    assert "give the whole id" in run(environment, "actions", "--target", "generation:00000000", code=1)


def test_commands_record_who_is_named(database: psycopg.Connection, environment: dict[str, str | None]) -> None:
    """Retry, acceptance, cancellation and discarding are on record where an operator is named, else not."""
    database.execute("select public.ai_retry_create_queue()")
    first, second, third = failed_generations(database, 3)

    run(environment, "retry", first)
    run(environment, "retry", second, "--operator", "ada", "--reason", "she asked")
    run(environment, "retry", third, "--async", "--operator", "ada")
    run(environment, "cancel", third, *BY)
    run(environment, "cancel", third)
    run(environment, "discard-answer", third, "--operator", "ada", "--yes", code=1)
    run(environment, "retry", second, "--operator", "ada", code=1)

    assert recorded(environment) == [
        ("retry", "ALREADY_SUCCEEDED", "by command"),
        ("discard_answer", "nothing", "by command"),
        ("cancel", "done", "it has to be"),
        ("enqueue", "done", "by command"),
        ("retry", "done", "she asked"),
    ]


def test_books_judge_by_the_quota_that_held(database: psycopg.Connection, environment: dict[str, str | None]) -> None:
    """A quota that is lowered, or reset, makes no unit that was admitted before a violation; later ones still are."""
    failed = failed_generations(database, 8)
    (user_id,) = database.execute("select user_id from public.generations where id = %s", [failed[0]]).fetchone() or ()
    database.execute("update public.generations set user_id = %s", [user_id])
    run(environment, "quota", user_id, "--limit", "9", *BY)
    for each in failed[:7]:
        run(environment, "retry", each)

    run(environment, "quota", user_id, "--limit", "2", *BY)
    lowered = run(environment, "books")
    run(environment, "quota", user_id, "--reset", *BY)
    reset = run(environment, "books")
    database.execute(_UNIT, {"user": user_id, "generation": failed[7]})

    assert (lowered, reset) == ("The books balance.\n", "The books balance.\n")
    assert str(UUID(str(failed[7]))) in run(environment, "books", code=1)


_UNIT = """
with session as (insert into public.sessions (user_id, content) values (%(user)s, '{}') returning id),
  named as (
    update public.generations g set status = 'success', session_id = s.id from session s where g.id = %(generation)s
    returning g.id, s.id as session_id)
insert into public.ai_retry_attempts (
  generation_id, number, user_id, token, started_at, closed_at, outcome, counted, session_id, charge, captured_at,
  provider_outcome)
select n.id, 2, %(user)s, gen_random_uuid(), t, t, 'succeeded', true, n.session_id, true, t, 'generated'
from named n, clock_timestamp() t
"""
