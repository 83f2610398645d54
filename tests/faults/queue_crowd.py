"""Users with failed generations, and those of their retries that were accepted for later."""

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from ai_retry import bootstrap
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.errors import AiRetryError, StorageFailure
from tests.faults.plan import prompt_data


class Crowd:
    """Many users; each one's quota is exactly what all of theirs need.

    Args:
        database_url: the owner's.
        sizes: generations of each user.
    """

    def __init__(self, database_url: str, sizes: list[int]) -> None:
        self.users = {uuid4(): [uuid4() for _ in range(size)] for size in sizes}
        self.accepted: list[UUID] = []  # generations, in this order
        self.problems: list[str] = []
        with closing(psycopg.connect(database_url)) as connection, connection.cursor() as cursor:
            cursor.executemany("insert into auth.users (id) values (%s)", [[user_id] for user_id in self.users])
            cursor.executemany(
                "insert into public.ai_retry_quotas (user_id, quota_limit) values (%s, %s)",
                [[user_id, len(generations)] for user_id, generations in self.users.items()],
            )
            cursor.executemany(
                "insert into public.generations (id, user_id, status, model, prompt_data)"
                " values (%s, %s, 'error', 'any', %s)",
                [[each, user_id, Jsonb(prompt_data(each))] for user_id, all_ in self.users.items() for each in all_],
            )
            connection.commit()

    def ask(self, env: Mapping[str, str]) -> threading.Thread:
        """Ask for all of them, one user after the other, whatever happens meanwhile; the thread ends when all are."""
        thread = threading.Thread(target=self._ask, args=(Settings.from_env(env),), daemon=True)
        thread.start()
        return thread

    def _ask(self, settings: Settings) -> None:
        with bootstrap.connect(settings) as client:
            for user_id, generations in self.users.items():
                for generation_id in generations:
                    self._insist(client, user_id, generation_id)

    def _insist(self, client: Client, user_id: UUID, generation_id: UUID) -> None:
        failed = False
        while True:
            try:
                answer = client.enqueue(user_id, generation_id)
            except StorageFailure:
                failed = True
                time.sleep(0.1)  # safe to repeat
                continue
            except AiRetryError as error:  # it was accepted, the reply was lost, and it has ended meanwhile
                if not failed:
                    self.problems.append(f"{generation_id} was answered {error.code}, not accepted")
            else:
                if answer.is_done:
                    self.problems.append(f"{generation_id} was answered with a session, not accepted")
            self.accepted.append(generation_id)
            return
