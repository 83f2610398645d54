"""Two apps move their own first call over, step by step as ``docs/how-to/first-calls.md`` says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ai_retry.client import Client
from ai_retry.domain.errors import AiRetryError, GenerationFailed, RetryCancelled, SessionConflict
from ai_retry.domain.model import RetryResult
from ai_retry.testing.ai import AiCall
from tests.apps.book import APPS
from tests.apps.install import installed
from tests.apps.project import Project, project_of
from tests.apps.story import FAILURE, Story
from tests.helpers.books import violations
from tests.helpers.racing import at_once
from tools.examples import examples, execute
from tools.npm import REPOSITORY
from tools.stack import Stack

PAGE = REPOSITORY / "docs" / "how-to" / "first-calls.md"


def block(title: str) -> str:
    """The page's block that has this file's name."""
    (found,) = [each.code for each in examples(PAGE) if each.title == title]
    return found


def function(title: str, name: str) -> Callable[..., RetryResult]:
    """A function that the page defines."""
    found: Any = execute(block(title))[name]
    return found  # type: ignore[no-any-return]


@contextmanager
def moved(stack: Stack, folder: Path, name: str, statements: str) -> Iterator[Story]:
    """An app with ai-retry, and with the page's statements; its books balance at the end."""
    app = APPS[name]
    with project_of(stack, app, folder) as project:
        installed(project, app)
        project.run(statements)
        yield Story(app, project)
        with psycopg.connect(project.superuser_url) as connection:
            assert list(violations(connection)) == []


def value(project: Project, query: str, user_id: UUID) -> Any:
    """The one value of a query about a user."""
    ((found,),) = project.rows(query.replace(":user", f"'{user_id}'"))
    return found


def test_the_coach_moves_over(stack: Stack, tmp_path: Path) -> None:
    """Its first call becomes a session; one that fails is logged as the app's own was, and its retry succeeds."""
    ask = function("coach.py", "ask_coach")
    with moved(stack, tmp_path, "seed", block("coach.sql")) as story:
        project, user_id = story.project, story.project.new_user(story.app)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            story.first_call(user_id)
        with story.client(story.answer, FAILURE, story.answer) as (client, ai):
            first = ask(client, user_id, story.app.asks, "key-1")
            again = ask(client, user_id, story.app.asks, "key-1")
            failed = _failed(GenerationFailed, ask, client, user_id, story.app.asks, "key-2")
            retried = story.retry(client, user_id, failed)

        assert (first.attempt, again.replayed, retried.attempt, retried.generation.id) == (1, True, 2, failed)
        assert len(ai.calls) == 3
        assert value(project, "select count(*) from public.sessions where user_id = :user", user_id) == 2
        query = "select string_agg(error_type, ',') from public.generation_error_logs where user_id = :user"
        assert value(project, query, user_id) == "AI_INVALID_OUTPUT"
        _ends_as_before(story, user_id)


def test_the_writer_moves_over(stack: Stack, tmp_path: Path) -> None:
    """Each text takes a credit, each failure gives it back, a retry takes none, and without credits nothing begins."""
    ask = function("writer.py", "ask_writer")
    balance = "select credits from public.credit_balances where user_id = :user"
    with moved(stack, tmp_path, "credits", block("writer.sql")) as story:
        project, user_id = story.project, story.project.new_user(story.app)
        with story.client(story.answer, FAILURE, story.answer, default=story.answer) as (client, ai):
            ask(client, user_id, story.app.asks, "calm", "key-1")
            assert value(project, balance, user_id) == 9
            failed = _failed(GenerationFailed, ask, client, user_id, story.app.asks, "calm", "key-2")
            assert value(project, balance, user_id) == 10 - 1
            story.retry(client, user_id, failed)
            assert value(project, balance, user_id) == 10 - 1

            project.run(f"update public.credit_balances set credits = 1 where user_id = '{user_id}'")
            posts = [lambda key=key: ask(client, user_id, story.app.asks, "calm", key) for key in ("key-3", "key-4")]
            outcomes = at_once(posts)
            with pytest.raises(SessionConflict, match="You have no credits left"):
                ask(client, user_id, story.app.asks, "calm", "key-5")

        assert sorted(type(each).__name__ for each in outcomes) == ["RetryResult", "SessionConflict"]
        assert [each.generation_id for each in outcomes if isinstance(each, AiRetryError)] == [None]
        assert len(ai.calls) == 4
        assert value(project, balance, user_id) == 0
        assert value(project, "select count(*) from public.ai_generations where user_id = :user", user_id) == 3
        asked = {str(message["content"]) for call in ai.calls for message in call.context.messages}
        assert all(story.app.asks in content for content in asked)


def _failed(error: type[AiRetryError], ask: Callable[..., RetryResult], *arguments: Any) -> UUID:
    with pytest.raises(error) as caught:
        ask(*arguments)
    assert caught.value.generation_id is not None
    return caught.value.generation_id


def _ends_as_before(story: Story, user_id: UUID) -> None:
    """What is accepted, cancelled and retried is the same generation, and the app's words say so."""

    def prompt(client: Client) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": story.app.asks}]}

    with story.client(default=_unexpected) as (client, _):
        queued = client.enqueue_generation(user_id, prompt(client), idempotency_key="key-3")
        client.cancel(user_id, queued.generation.id)
        with pytest.raises(RetryCancelled):
            client.enqueue_generation(user_id, prompt(client), idempotency_key="key-3")
    status = f"select status from public.generations where id = '{queued.generation.id}'"
    assert story.project.rows(status) == [("error",)]
    with story.client(story.answer) as (client, _):
        assert story.retry(client, user_id, queued.generation.id).attempt == 2


def _unexpected(_: AiCall) -> Any:
    raise AssertionError("nothing is called for what was cancelled")
