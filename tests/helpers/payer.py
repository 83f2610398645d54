"""A user with a failed generation, and a process that retries it and counts what it pays for."""

from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from ai_retry.client import Client
from ai_retry.domain.model import RetryResult, Waiver
from ai_retry.domain.ports import QueueStorage
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.spool import Spool
from tests.helpers.builders import an_answer
from tests.helpers.scene import Provider
from tests.helpers.world import SqlWorld


class Payer:
    """A process: its client, and its app's world.

    Attributes:
        client: of the process.
        world: the database around it.
        provider: counts its calls.
    """

    def __init__(self, storage: QueueStorage, connection: psycopg.Connection, spool: Spool | None = None) -> None:
        self.provider = Provider(an_answer(output="paid"))
        self.client = Client(storage=storage, queue_storage=storage, ai=self.provider, spool=spool)
        self.world = SqlWorld(storage, connection)
        self.start_anew()

    def start_anew(self) -> None:
        """Go on with another user and generation."""
        self.user_id = self.world.new_user()
        self.generation_id = self.world.new_generation(self.user_id)
        self.provider.calls = 0

    def retry(self) -> RetryResult:
        """Click; the wait is lifted."""
        return self.client.retry_generation(
            self.user_id, self.generation_id, waive=frozenset({Waiver.BACKOFF}), operator="ann"
        )

    @property
    def outcomes(self) -> list[Any]:
        """How the generation's attempts ended."""
        return [row["outcome"] for row in self.world.attempts(self.generation_id)]

    @property
    def contents(self) -> list[Any]:
        """What the user's sessions hold."""
        return [row["content"] for row in self.world.sessions(self.user_id)]


class Killed(BaseException):
    """The process ends here, as by SIGKILL."""


def killed(
    url: str, connection: psycopg.Connection, directory: Path, *, of: tuple[UUID, UUID] | None = None
) -> tuple[UUID, UUID]:
    """Let a process pay for an answer, write it into its spool, and be killed before its settle.

    Returns:
        The user's id and the generation's: new ones, unless they are given.
    """
    with closing(PostgresStorage(url, max_connections=2)) as storage:

        def call(function: str, arguments: Mapping[str, Any]) -> Any:
            if function == "ai_retry_settle":
                raise Killed
            return storage._transport(function, arguments)

        payer = Payer(FunctionStorage(call, spool=Spool(directory)), connection)
        payer.user_id, payer.generation_id = of or (payer.user_id, payer.generation_id)
        with suppress(Killed):
            payer.retry()
        return payer.user_id, payer.generation_id
