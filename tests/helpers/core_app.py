"""An app's database with the core, a failed generation in it, and a process that retries by the core's loops."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg

from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.loop import Setting, retrying
from ai_retry.domain.model import Answer, Context, Failure, RetryResult, Snapshot, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_loop import accepting, working
from ai_retry.domain.queue_model import QueuedRetry, QueueOutcome
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.spool import Spool
from tests.helpers.world import SqlWorld

AT_ONCE = timedelta(0)  # what fails fails at once
POLICY = RetryPolicy()
SETTING = Setting(
    policy=POLICY, reader=Reader(context_from=stored_context), monotonic=lambda: 0.0, fraction=lambda: 0.0
)


class _Provider:
    """Answers or fails, after something has happened during the call."""

    def __init__(self, result: object, during: Callable[[], object]) -> None:
        self._result, self._during = result, during

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        self._during()
        if isinstance(self._result, Failure):
            raise GenerationFailed(self._result)
        return Answer(output=self._result, model="small")


class App:
    """The app's database, a failed generation in it, and a process that retries."""

    def __init__(self, url: str, connection: psycopg.Connection, spool: Spool | None = None) -> None:
        self.url = url
        self._postgres = PostgresStorage(url, spool=spool, read_for=AT_ONCE, settle_for=AT_ONCE)
        self.functions: FunctionStorage = self._postgres
        self.world = SqlWorld(self.functions, connection)
        self.user_id = self.world.new_user()
        self.generation_id = self.world.new_generation(self.user_id)

    def asked(self, user_id: UUID | None = None) -> Asked:
        """A click that waives the backoff."""
        return Asked(
            user_id=user_id or self.user_id,
            generation_id=self.generation_id,
            token=uuid4(),
            waive=frozenset({Waiver.BACKOFF}),
        )

    def retry(self, during: Any = lambda: None, output: object = "first", user_id: UUID | None = None) -> RetryResult:
        """Retry; something happens during the call. An output that is a failure is what the provider answers."""
        loop = retrying(self.asked(user_id), SETTING)
        return drive(loop, storage=self.functions, ai=_Provider(output, during), rule=POLICY.quota)

    def accept(self) -> QueuedRetry:
        """Accept a retry for later."""
        loop = accepting(self.asked(), SETTING.reader, SETTING.policy)
        return drive(loop, storage=self.functions, ai=_Provider("none", lambda: None), rule=POLICY.quota)

    def work(self, during: Any = lambda: None, output: object = "first") -> list[QueueOutcome]:
        """Take what is due, as a worker does."""
        taken = self.functions.take(10, timedelta(seconds=60), POLICY.quota)
        provider = _Provider(output, during)
        return [
            drive(working(each, uuid4(), SETTING), storage=self.functions, ai=provider, rule=POLICY.quota)
            for each in taken
        ]

    def load(self) -> Snapshot:
        """Read the generation, which is there."""
        snapshot = self.functions.load(self.user_id, self.generation_id, POLICY.quota, None)
        assert snapshot is not None
        return snapshot

    def run(self, statements: LiteralString) -> None:
        """Change the app's schema, as its migration would."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statements)

    def close(self) -> None:
        """Give connections back."""
        self._postgres.close()
