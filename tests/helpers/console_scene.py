"""What the tests of the console look at: generations in every state, in a real database, and a client for it."""

import threading
from collections.abc import Mapping
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

import ai_retry
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.errors import SessionRejected
from ai_retry.domain.model import Answer
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import AiCall, ScriptedAiProvider
from tests.helpers.queue_steps import accept
from tests.helpers.steps import ANSWER, begin, fail, succeed
from tests.helpers.world import SqlWorld

TABLES = """
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname in ('public', 'auth', 'pgmq', 'refusals') order by 1, 2
"""


class Scene:
    """A database with generations in every state, and a client for it that calls no real provider."""

    def __init__(self, database_url: str, connection: psycopg.Connection, storage: PostgresStorage) -> None:
        self.connection, self.world = connection, SqlWorld(storage, connection)
        self.gate = threading.Event()  # closed: calls wait, as a busy provider lets them
        self.gate.set()
        self.ai = ScriptedAiProvider(default=self._answer)
        url = f"{database_url}?options=-c%20role%3Dservice_role"
        settings = Settings.from_env({"DATABASE_URL": url}, asks_provider=False)
        self.client: Client = ai_retry.connect(settings, ai=self.ai)

    def _answer(self, _: AiCall) -> Answer:
        self.gate.wait(30)
        return ANSWER

    def failed(self, user_id: UUID | None = None) -> UUID:
        """A generation that failed, whose first retry failed, too; of a new user or this one."""
        user_id = user_id or self.world.new_user()
        generation_id = self.world.new_generation(user_id)
        fail(self.world, begin(self.world, user_id, generation_id))
        return generation_id

    def queued(self) -> UUID:
        """A generation whose retry waits for a worker."""
        user_id = self.world.new_user()
        generation_id = self.world.new_generation(user_id)
        accept(self.world, user_id, generation_id)
        return generation_id

    def kept(self) -> UUID:
        """A generation whose paid answer is kept, since the app's tables reject the session."""
        user_id = self.world.new_user()
        generation_id = self.world.new_generation(user_id)
        begun = begin(self.world, user_id, generation_id)
        self.world.refuse_sessions("sessions_title_check")
        with pytest.raises(SessionRejected):
            succeed(self.world, begun)
        self.world.refuse_sessions(None)
        return generation_id

    def owner(self, generation_id: UUID) -> UUID:
        """Its user."""
        return UUID(str(self.world.generation(generation_id)["user_id"]))

    def everything(self) -> Mapping[str, str]:
        """A fingerprint of every table of the app, of Auth, of the queue and of ours."""
        tables = self.connection.execute(TABLES).fetchall()
        return {f"{schema}.{table}": self._fingerprint(schema, table) for schema, table in tables}

    def _fingerprint(self, schema: str, table: str) -> str:
        query = sql.SQL("select md5(coalesce(string_agg(t::text, ' ' order by t::text), '')) from {} t")
        row = self.connection.execute(query.format(sql.Identifier(schema, table))).fetchone()
        assert row is not None
        return str(row[0])
