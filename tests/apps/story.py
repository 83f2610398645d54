"""What happens to an app: its own first call, failed retries, a retry, a queued one, a recovery of twenty.

Every step goes through the parts that a real process has: a ``Client`` and a ``Worker`` over PostgreSQL, as
service_role; only the provider is scripted. After each stage the app's own expectations are asked.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from ai_retry.client import Client
from ai_retry.domain.errors import (
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    RetryRefused,
    SessionConflict,
)
from ai_retry.domain.model import Answer, Failure, FailureCode, RetryResult, Usage, Waiver
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from tests.apps.book import App, filled
from tests.apps.project import Project
from tests.apps.reader import read
from tests.helpers.books import violations
from tools.waiting import eventually

RECOVERED = 20
STAGES = ("migrated", "failed", "succeeded", "accepted", "queued", "recovered")
WORDS = """
select status, count(*)::integer from ai_retry.app_find(
  null, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', null, 1000) group by 1
"""
FAILURE = Failure(
    code=FailureCode.INVALID_OUTPUT, reason="not the form asked for", transient=True, certainly_not_generated=False
)


class Story:
    """One app's story; each method is a stage."""

    def __init__(self, app: App, project: Project, *, recovered: int = RECOVERED) -> None:
        self.app, self.project, self.recovered = app, project, recovered
        self.answer = Answer(output=app.output, model="scripted", usage=Usage(total_tokens=7))

    def play(self) -> None:
        """All stages, in their order."""
        self.look_back()
        user_id = self.project.new_user(self.app)
        first = self.failed_call(user_id)
        self.fail_twice(user_id, first)
        self.refuse_others(first)
        self.refuse_while_busy(user_id, first)
        self.succeed(user_id, first)
        self.conflict(user_id)
        self.cure(user_id)
        self.queue(user_id)
        self.hide(user_id)
        self.recover()
        self.balance()

    @contextmanager
    def client(self, *script: AiStep, default: AiStep | None = None) -> Iterator[tuple[Client, ScriptedAiProvider]]:
        """What the app's endpoint has."""
        storage = PostgresStorage(self.project.service_url, max_connections=10)
        ai = ScriptedAiProvider(*script, default=default)
        with Client(
            storage=storage,
            queue_storage=storage,
            recovery_storage=storage,
            ai=ai,
            context_from=read,
            on_close=storage.close,
        ) as client:
            yield client, ai

    def expect(self, stage: str, **places: UUID | list[UUID]) -> None:
        """Ask what the app expects by now."""
        expected = self.app.expects(stage)
        assert expected, f"{self.app.name} expects nothing when it is {stage}"
        broken = [each.promise for each in expected if self.project.rows(filled(each.query, **places)) != [(True,)]]
        assert broken == [], f"{self.app.name}, {stage}: {broken}"

    def first_call(self, user_id: UUID) -> UUID:
        """The app's own insert."""
        ((generation_id,),) = self.project.act(self.app.act("call"), user_id)
        assert isinstance(generation_id, UUID)
        return generation_id

    def failed_call(self, user_id: UUID) -> UUID:
        """The app's own call, and what it writes when that fails."""
        generation_id = self.first_call(user_id)
        self.project.act(self.app.act("fail"), user_id, generation=generation_id)
        return generation_id

    def look_back(self) -> None:
        """What failed before ai-retry came is found by ai-retry's words, and its rows are as they were."""
        words = dict(self.project.rows(WORDS))
        assert words == {word: count for word, count in self.app.old.items() if count}
        with self.client() as (client, _):
            assert len(list(client.find())) == words.get("error", 0) + words.get("timeout", 0)
        self.expect("migrated")

    def fail_twice(self, user_id: UUID, generation_id: UUID) -> None:
        """Two retries fail; the provider was asked what the user had asked."""
        with self.client(FAILURE, FAILURE) as (client, ai):
            for _ in range(2):
                with pytest.raises(GenerationFailed):
                    self.retry(client, user_id, generation_id)
            asked = {str(message["content"]) for call in ai.calls for message in call.context.messages}
        assert all(self.app.asks in content for content in asked), asked
        self.expect("failed", user=user_id, generation=generation_id)

    def retry(self, client: Client, user_id: UUID, generation_id: UUID) -> RetryResult:
        """Click, without waiting for the backoff."""
        return client.retry_generation(
            user_id, generation_id, waive=frozenset({Waiver.BACKOFF}), operator="the app's story"
        )

    def refuse_others(self, generation_id: UUID) -> None:
        """Another user's generation is none of a user's."""
        stranger = self.project.new_user(self.app)
        with self.client() as (client, _), pytest.raises(GenerationNotFound):
            self.retry(client, stranger, generation_id)

    def refuse_while_busy(self, user_id: UUID, generation_id: UUID) -> None:
        """Where the app lets a user have one active generation, a second one is refused as busy, without a call."""
        if (busy := self.app.act("busy")) is None:
            return
        self.project.act(busy, user_id)
        with self.client() as (client, ai), pytest.raises(RetryRefused) as caught:
            self.retry(client, user_id, generation_id)
        assert (caught.value.http_status, ai.calls) == (429, [])
        self.project.act(self.app.act("free"), user_id)

    def succeed(self, user_id: UUID, generation_id: UUID) -> None:
        """The retry that succeeds gives the session, and is the last one."""
        with self.client(self.answer) as (client, ai):
            result = self.retry(client, user_id, generation_id)
            with pytest.raises(AlreadySucceeded):
                self.retry(client, user_id, generation_id)
            ai.assert_finished()
        assert (str(result.session["id"]), result.attempt) == (result.generation.session_id, 4)
        self.expect("succeeded", user=user_id, generation=generation_id)

    def conflict(self, user_id: UUID) -> None:
        """Where the app allows one session of a kind, the second answer is kept until its user cures the conflict."""
        if not self.app.expects("conflict"):
            return
        generation_id = self.failed_call(user_id)
        with self.client(self.answer) as (client, ai):
            with pytest.raises(SessionConflict):
                self.retry(client, user_id, generation_id)
            self.expect("conflict", user=user_id, generation=generation_id)
            self.cure(user_id)
            self.retry(client, user_id, generation_id)
            ai.assert_finished()

    def cure(self, user_id: UUID) -> None:
        """The user makes room for another session."""
        self.project.act(self.app.act("cure"), user_id)

    def queue(self, user_id: UUID) -> None:
        """A retry that was accepted is run by a worker: one failure, then a session."""
        generation_id = self.failed_call(user_id)
        with self.client(self.answer) as (client, ai):
            accepted = client.enqueue(user_id, generation_id)
            assert isinstance(accepted, QueuedRetry)
            self.expect("accepted", user=user_id, generation=generation_id)
            self.work(client, user_id, generation_id)
            ai.assert_finished()
        self.expect("queued", user=user_id, generation=generation_id)

    def work(self, client: Client, user_id: UUID, generation_id: UUID) -> None:
        """Let a worker run until the generation has its session."""
        stop = threading.Event()
        thread = threading.Thread(target=client.worker(concurrency=2).run, args=[stop], name="the app's worker")
        thread.start()
        try:
            eventually(lambda: client.status(user_id, generation_id).snapshot.generation.session_id is not None)
        finally:
            stop.set()
            thread.join()

    def hide(self, user_id: UUID) -> None:
        """What the app hides is not found, neither by its user nor by a search."""
        if (hide := self.app.act("hide")) is None:
            return
        generation_id = self.failed_call(user_id)
        self.project.act(hide, user_id, generation=generation_id)
        with self.client() as (client, _):
            with pytest.raises(GenerationNotFound):
                self.retry(client, user_id, generation_id)
            assert generation_id not in {each.generation_id for each in client.find(user_id=user_id)}

    def recover(self) -> None:
        """Twenty generations that failed are found, planned and recovered in one run."""
        users = [self.project.new_user(self.app) for _ in range(self.app.users)]
        ids = [self.failed_call(users[number % len(users)]) for number in range(self.recovered)]
        with self.client(default=self.answer) as (client, ai):
            found = client.find(since=timedelta(minutes=30))
            assert {each.generation_id for each in found} == set(ids)
            report = client.plan(found).run(operator="the app's story", max_workers=4)
            assert len(ai.calls) == self.recovered
        assert report.totals["succeeded"] == self.recovered
        self.expect("recovered", users=users, generations=ids)

    def balance(self) -> None:
        """The books balance, and nothing is left open."""
        with psycopg.connect(self.project.superuser_url, autocommit=True) as superuser:
            assert violations(superuser) == []
            left = superuser.execute("select count(*) from public.ai_retry_open").fetchone()
            waiting = superuser.execute("select count(*) from pgmq.q_ai_retry").fetchone()
        assert (left, waiting) == ((0,), (0,))
