"""What all runs share: the stack, the provider, the processes' forkserver, and a storage that no fault touches."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ai_retry.clock import SystemClock
from ai_retry.domain.ports import Storage
from ai_retry.providers.http import HttpAiProvider
from ai_retry.storage.postgres import PostgresStorage
from tests.faults.plan import prompt_data
from tests.faults.provider import FakeProvider
from tests.helpers.world import REFUSALS
from tools.stack import Stack

_LOCK_KEY = "hashtextextended('ai_retry:' || %s::text, 0)"  # as in ai_retry.lock_user


@dataclass(frozen=True)
class Stage:
    """Where runs take place."""

    stack: Stack
    provider: FakeProvider
    processes: ForkServerContext
    storage: Storage
    ai: HttpAiProvider
    directory: Path

    @property
    def database_port(self) -> int:
        """Where PostgreSQL listens."""
        return int(urlsplit(self.stack.database_url).port or 0)

    @property
    def api_port(self) -> int:
        """Where the Data API listens."""
        return int(urlsplit(self.stack.url).port or 0)

    def connect(self) -> psycopg.Connection[dict[str, Any]]:
        """Connect as the owner, past every proxy."""
        return psycopg.connect(self.stack.database_url, autocommit=True, row_factory=dict_row)

    def rows(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """Read, or write."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    def fsync(self) -> str:
        """Whether PostgreSQL waits for its disk, as a line to print."""
        return f"PostgreSQL: fsync {self.rows('show fsync')[0]['fsync']}"

    def new_generation(self, user_id: UUID | None = None) -> tuple[UUID, UUID]:
        """Add a failed generation, of a new user unless one is named."""
        generation_id = uuid4()
        with self.connect() as connection:
            if user_id is None:
                user_id = uuid4()
                connection.execute("insert into auth.users (id) values (%s)", [user_id])
            connection.execute(
                "insert into public.generations (id, user_id, status, model, prompt_data)"
                " values (%s, %s, 'error', 'any', %s)",
                [generation_id, user_id, Jsonb(prompt_data(generation_id))],
            )
        return user_id, generation_id

    def new_request(self) -> tuple[UUID, UUID]:
        """Add a user, and choose the id of a generation that is not there yet."""
        user_id = uuid4()
        self.rows("insert into auth.users (id) values (%s)", user_id)
        return user_id, uuid4()

    def waiting_for(self, user_id: UUID, *, within: float = 2.0) -> list[int]:
        """Wait until back ends wait for the user's lock; return their ids."""
        ends = time.monotonic() + within
        while time.monotonic() < ends:
            found = self.rows(
                "select pid from pg_locks where locktype = 'advisory' and not granted"
                f" and ((classid::bigint << 32) | objid::bigint) = {_LOCK_KEY}",
                user_id,
            )
            if found:
                return [row["pid"] for row in found]
            time.sleep(0.01)
        return []


@contextmanager
def a_stage(stack: Stack, seed: int) -> Iterator[Stage]:
    """Set the stage on a stack with our migrations; at its end everything that was begun is over."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.faults.preloaded"])
    forkserver.ensure_running()  # by this thread: the forkserver ends with it
    provider = FakeProvider(seed)
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="ai-retry-faults-")))
        opened.enter_context(provider.server)
        storage = opened.enter_context(closing(PostgresStorage(stack.database_url)))
        ai = HttpAiProvider(base_url=provider.server.base_url, model="any", clock=SystemClock())
        ai.prepare()
        opened.enter_context(closing(ai))
        stage = Stage(stack, provider, processes, storage, ai, directory)
        with stage.connect() as connection:
            connection.execute(REFUSALS)
        yield stage
