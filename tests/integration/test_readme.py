"""The README's examples run as they are, and so do those of the pages that it leads to."""

import re
import sys
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from flask import Flask
from psycopg.types.json import Jsonb
from werkzeug.test import TestResponse

from ai_retry.testing.provider import ScriptedServer, chat, reply
from tools.examples import example as example_of
from tools.examples import run
from tools.npm import REPOSITORY
from tools.outage import failed_generations
from tools.stack import SignedInUser, Stack

README = REPOSITORY / "README.md"
HOW_TO = REPOSITORY / "docs/how-to"
PROMPTS, QUEUE, OPERATE = HOW_TO / "prompts.md", HOW_TO / "queue.md", HOW_TO / "operate.md"
OUTPUT = {"title": "Easy run"}
QUESTION = {"question": "How far?"}
example = partial(example_of, README)


@pytest.fixture
def user(stack: Stack) -> SignedInUser:
    """A new user."""
    return stack.sign_up(f"{uuid4()}@example.com", "correct horse battery staple")


@pytest.fixture
def environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The stack's settings, as the README names them."""
    for name, value in stack.env().items():
        if name != "DATABASE_URL":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AI_MODEL", "scripted")
    return monkeypatch


def failed_generation(stack: Stack, user: SignedInUser, prompt_data: object = None) -> UUID:
    """Store a generation that failed."""
    data = prompt_data or {"messages": [{"role": "user", "content": "plan"}], "response_schema": {"type": "object"}}
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute(
            "insert into public.generations (user_id, status, prompt_data) values (%s, 'error', %s) returning id",
            [user.id, Jsonb(data)],
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def test_service_example_prints_failure_and_refusal(
    stack: Stack, user: SignedInUser, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service's example prints a failure of the provider, and a refusal when it is run again at once."""
    generation_id = failed_generation(stack, user)
    with ScriptedServer(reply(500, json={"error": {"message": "broken"}})) as provider:
        environment.setenv("AI_BASE_URL", provider.base_url)

        with run(example("python", "the provider failed"), user_id=user.id, generation_id=generation_id):
            pass
        with run(example("python", "the provider failed"), user_id=user.id, generation_id=generation_id):
            pass

    printed = capsys.readouterr().out
    assert "the provider failed: AI_UNAVAILABLE" in printed
    assert "not now: RETRY_TOO_SOON" in printed


def test_first_call_example_names_what_can_be_retried(
    stack: Stack, user: SignedInUser, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first call's example prints which generation a failure left, and a retry of that one succeeds."""
    with ScriptedServer(reply(500, json={"error": {"message": "broken"}}), chat(OUTPUT)) as provider:
        environment.setenv("AI_BASE_URL", provider.base_url)
        with run(example("python", "client.generate("), user_id=user.id):
            pass
        printed = capsys.readouterr().out
        assert "it failed: AI_UNAVAILABLE retry " in printed
        (found,) = re.findall(r"[0-9a-f-]{36}", printed)
        with psycopg.connect(stack.database_url) as connection:
            connection.execute(
                "update public.ai_retry_attempts set next_attempt_at = now() where user_id = %s", [user.id]
            )

        with run(example("python", "the provider failed"), user_id=user.id, generation_id=UUID(found)):
            pass

    assert "session " in capsys.readouterr().out


def test_service_example_prints_session(
    stack: Stack, user: SignedInUser, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a provider that answers, the service's example prints the session and what remains."""
    with ScriptedServer(chat(OUTPUT)) as provider:
        environment.setenv("AI_BASE_URL", provider.base_url)

        with run(
            example("python", "the provider failed"), user_id=user.id, generation_id=failed_generation(stack, user)
        ):
            pass

    assert re.search(r"session [0-9a-f-]{36} remaining 4", capsys.readouterr().out)


def test_blueprint_example_serves(stack: Stack, user: SignedInUser, environment: pytest.MonkeyPatch) -> None:
    """The blueprint's example answers under its prefix."""
    generation_id = failed_generation(stack, user)
    with ScriptedServer(chat(OUTPUT)) as provider:
        environment.setenv("AI_BASE_URL", provider.base_url)
        with run(example("python", "create_blueprint")) as names:
            app = names["app"]
            assert isinstance(app, Flask)
            answer = click(app, generation_id, user)

    assert answer.status_code == 200
    assert answer.get_json()["data"]["session"]["content"] == OUTPUT


def test_waiver_example_lifts_the_wait(stack: Stack, user: SignedInUser, environment: pytest.MonkeyPatch) -> None:
    """The example of a waiver lifts the wait, charges nothing, and is recorded."""
    generation_id = failed_generation(stack, user)
    with ScriptedServer(reply(500, json={"error": {"message": "broken"}}), chat(OUTPUT)) as provider:
        environment.setenv("AI_BASE_URL", provider.base_url)
        with run(example("python", "the provider failed"), user_id=user.id, generation_id=generation_id):
            pass

        with run(example_of(OPERATE, "python", "Waiver.BACKOFF"), user_id=user.id, generation_id=generation_id):
            pass

    with psycopg.connect(stack.database_url) as connection:
        attempt = connection.execute(
            "select outcome, waived, operator, captured_at from public.ai_retry_attempts"
            " where generation_id = %s and number = 3",
            [generation_id],
        ).fetchone()
    assert attempt == ("succeeded", ["backoff"], "ada@example.com", None)


def test_recovery_example_recovers(
    migrated_database: str, environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example after an outage shows what happened and what would be done, does it, and reports."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        failed_generations(connection, 2)
    environment.chdir(tmp_path)
    environment.setenv("DATABASE_URL", migrated_database)
    with ScriptedServer(default=chat(OUTPUT)) as provider:
        environment.setenv("AI_BASE_URL", provider.base_url)

        with run(example("python", "client.find(since")):
            pass

    printed = capsys.readouterr().out
    assert "2 failed generations of 2 users" in printed
    assert re.search(r"succeeded: +2\n", printed)
    assert (tmp_path / "recovery.json").exists()


@pytest.fixture
def own_prompts(environment: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The example with an app's own prompts, saved and named as the page says."""
    (tmp_path / "prompts.py").write_text(example_of(PROMPTS, "python", "def context_from"))
    environment.syspath_prepend(tmp_path)
    environment.delitem(sys.modules, "prompts", raising=False)
    (setting,) = re.findall(r"^export (AI_RETRY_CONTEXT_FROM=\S+)$", PROMPTS.read_text(), flags=re.MULTILINE)
    environment.setenv(*setting.split("=", maxsplit=1))
    return environment


@pytest.mark.parametrize("contains", ["the provider failed", "create_blueprint"])
def test_examples_read_own_prompts_when_named(
    stack: Stack, user: SignedInUser, own_prompts: pytest.MonkeyPatch, contains: str
) -> None:
    """Service and blueprint of the README ask the app's question once the variable is set."""
    generation_id = failed_generation(stack, user, QUESTION)
    with ScriptedServer(chat(OUTPUT)) as provider:
        own_prompts.setenv("AI_BASE_URL", provider.base_url)
        with run(example("python", contains), user_id=user.id, generation_id=generation_id) as names:
            if isinstance(app := names.get("app"), Flask):
                click(app, generation_id, user)

        assert provider.requests[0].json()["messages"][-1] == {"role": "user", "content": "How far?"}


def test_queue_example_keeps_the_reader_when_named(
    stack: Stack, user: SignedInUser, own_prompts: pytest.MonkeyPatch
) -> None:
    """What the example accepts for later carries the name of the app's function."""
    generation_id = failed_generation(stack, user, QUESTION)
    own_prompts.setenv("AI_BASE_URL", "http://127.0.0.1:9")

    with run(example_of(QUEUE, "python", "client.enqueue"), user_id=user.id, generation_id=generation_id):
        pass

    with psycopg.connect(stack.database_url) as connection:
        query = "select context_reader from public.ai_retry_open where generation_id = %s and number = 2"
        assert connection.execute(query, [generation_id]).fetchone() == ("prompts:context_from",)


def test_recovery_example_reads_own_prompts_when_named(
    migrated_database: str, own_prompts: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The notebook's example finds, plans and asks what the app's function reads."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        failed_generations(connection, 1)
        connection.execute("update public.generations set prompt_data = %s", [Jsonb(QUESTION)])
    own_prompts.chdir(tmp_path)
    own_prompts.setenv("DATABASE_URL", migrated_database)
    with ScriptedServer(default=chat(OUTPUT)) as provider:
        own_prompts.setenv("AI_BASE_URL", provider.base_url)
        with run(example("python", "client.find(since")):
            pass

    assert [each.json()["messages"][-1]["content"] for each in provider.requests] == ["How far?"]


def click(app: Flask, generation_id: UUID, user: SignedInUser) -> TestResponse:
    """Retry as the user, below the README's prefix."""
    return app.test_client().post(
        f"/api/sessions/ai/{generation_id}/retry", headers={"Authorization": f"Bearer {user.access_token}"}
    )


def test_seam_example_is_sound(bare_database: str) -> None:
    """The example of a seam is taken by PostgreSQL, survives the migrations, and no end user may execute it."""
    from tests.integration.test_migrations import AN_APP, apply, connected  # noqa: PLC0415

    with connected(bare_database) as connection:
        connection.execute(AN_APP.replace("content jsonb);", "title text not null, plan jsonb);").encode())
        function = example_of(
            HOW_TO / "sessions-table.md", "sql", "create or replace function public.ai_retry_create_session"
        )
        connection.execute(function.encode())

    notices = apply(bare_database)

    assert not any("ai_retry_create_session" in notice for notice in notices)
    with connected(bare_database) as connection:
        allowed = connection.execute(
            "select has_function_privilege('authenticated', oid, 'execute') from pg_proc"
            " where proname = 'ai_retry_create_session'"
        ).fetchone()
    assert allowed == (False,)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_named_commands_exist(target: str) -> None:
    """The two commands of the README are targets of the Makefile."""
    assert f"make {target} " in README.read_text()
    assert re.search(rf"^{target}:", Path(REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
