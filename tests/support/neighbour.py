"""An app that lives beside ai-retry: its tables, sessions of it that write all the time, and whether it had to wait.

What a session of the app does is random; which of it failed, and what waited for whom, is told by PostgreSQL.
"""

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

AN_APP = """
create table public.sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  content jsonb
);
create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  model text,
  status text not null check (status in ('success', 'error', 'timeout')),
  duration_ms integer,
  prompt_data jsonb,
  response_data jsonb,
  session_id uuid unique references public.sessions (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table public.generation_error_logs (
  id bigint generated always as identity primary key,
  generation_id uuid not null references public.generations (id) on delete cascade,
  error_type text not null,
  error_message text not null,
  error_stack text,
  created_at timestamptz not null default now()
);
create table public.events (
  id bigint generated always as identity primary key,
  user_id uuid references auth.users (id) on delete cascade,
  event_type text not null,
  event_data jsonb,
  created_at timestamptz not null default now()
);
create function public.ai_retry_create_session(p_generation public.generations, p_output jsonb) returns jsonb
language sql set search_path = '' as $$
  insert into public.sessions as s (user_id, content) values (p_generation.user_id, p_output)
  returning pg_catalog.to_jsonb(s)
$$;
alter table public.generations enable row level security;
create policy "read own" on public.generations for select to authenticated using (auth.uid() = user_id);
create policy "insert own" on public.generations for insert to authenticated with check (auth.uid() = user_id);
create policy "update own" on public.generations for update to authenticated
  using (auth.uid() = user_id) with check (auth.uid() = user_id);
create policy "delete own" on public.generations for delete to authenticated using (auth.uid() = user_id);
grant select, insert, update, delete on public.generations to authenticated, service_role;
grant select, insert, delete on public.sessions, public.generation_error_logs, public.events to service_role;
"""

PROMPT_DATA = '{"messages": [{"role": "user", "content": "Plan an easy run."}]}'
_STILL_WAITING = re.compile(r"\[(?P<pid>\d+)\] LOG:  process (?P=pid) still waiting for (?P<what>.*) after")


@dataclass
class Said:
    """One statement of the app: what kind, how long it took, and how it failed, if it did."""

    kind: str
    at: float
    seconds: float
    error: str | None


class AppSession:
    """A session of the app as one role. It alone writes the generations of its users, so it never waits for the app.

    Attributes:
        generations: of each of its users; others may read it at any time.
        said: every statement.
    """

    def __init__(self, url: str, role: LiteralString, *, users: int, seed: int) -> None:
        self.generations: dict[UUID, tuple[UUID, ...]] = {}
        self.said: list[Said] = []
        self._role = role
        self._random = random.Random(seed)
        self._connection = psycopg.connect(url, autocommit=True, application_name=f"app as {role}")
        self.pid = self._connection.info.backend_pid
        for _ in range(users):
            self._add_user()

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def pick(self, choice: random.Random) -> tuple[UUID, UUID]:
        """Choose a user and one of their generations; it may be gone by the time it is used."""
        while True:
            user_id, generations = choice.choice(list(self.generations.items()))
            if generations:
                return user_id, choice.choice(generations)

    def work(self, until: Callable[[], bool]) -> None:
        """Write like an app with many users, until told to stop."""
        while not until():
            user_id = self._random.choice(list(self.generations))
            self._act_as(user_id)
            if self._random.random() < 0.5:
                self._write(user_id)
            elif self._random.random() < 0.05:
                self._delete_user(user_id)
            else:
                self._write_in_transaction(user_id)

    def _write_in_transaction(self, user_id: UUID) -> None:
        before = self.generations
        try:
            with self._connection.transaction():
                for _ in range(self._random.randint(2, 6)):
                    self._write(self._some_user(user_id))
        except psycopg.Error:  # the statement that failed is in the records
            self.generations = before

    def _some_user(self, user_id: UUID) -> UUID:
        """The user themselves, or with the key of the service anybody."""
        return user_id if self._role == "authenticated" else self._random.choice(list(self.generations))

    def _write(self, user_id: UUID) -> None:
        mine = self.generations[user_id]
        if len(mine) < 4:
            return self._insert(user_id)
        some = self._random.sample(mine, self._random.randint(1, len(mine)))
        deed = self._random.choice([self._update, self._update, self._lock, self._insert, self._delete, self._log])
        return deed(user_id) if deed == self._insert else deed(user_id, some)

    def _insert(self, user_id: UUID) -> None:
        ids = [uuid4() for _ in range(self._random.randint(1, 4))]
        self._say(
            "insert",
            "insert into public.generations (id, user_id, model, status, prompt_data)"
            " select g, %s, 'small', 'error', %s from unnest(%s::uuid[]) g",
            user_id,
            PROMPT_DATA,
            ids,
        )
        self.generations = self.generations | {user_id: (*self.generations[user_id], *ids)}

    def _update(self, user_id: UUID, some: Sequence[UUID]) -> None:
        if self._random.random() < 0.5:
            change = "update public.generations set updated_at = clock_timestamp(), status = 'error' where "
        else:
            change = "update public.generations set updated_at = clock_timestamp(), response_data = '{}' where "
        if self._random.random() < 0.5:
            self._say("update one", change + "id = %s", some[0])
        else:
            self._say("update many", change + "id = any(%s) or user_id = %s", some, user_id)

    def _lock(self, user_id: UUID, some: Sequence[UUID]) -> None:
        self._say("select for update", "select from public.generations where id = any(%s) for update", some)

    def _log(self, user_id: UUID, some: Sequence[UUID]) -> None:
        """Write a row that refers to a generation, then, perhaps in the same transaction, the generation."""
        if self._role == "service_role":
            self._say(
                "log an error",
                "insert into public.generation_error_logs (generation_id, error_type, error_message)"
                " select g.id, 'app', 'app' from public.generations g where g.id = %s",
                some[0],
            )
        self._say("update one", "update public.generations set duration_ms = 1 where id = %s", some[0])

    def _delete(self, user_id: UUID, some: Sequence[UUID]) -> None:
        gone = some[: self._random.choice([1, 2])]
        self._say("delete", "delete from public.generations where id = any(%s)", gone)
        left = tuple(each for each in self.generations[user_id] if each not in gone)
        self.generations = self.generations | {user_id: left}

    def _delete_user(self, user_id: UUID) -> None:
        """Do it as Auth does, which is nobody's role; then somebody new signs up."""
        self._connection.execute("reset role")
        self._say("delete user", "delete from auth.users where id = %s", user_id)
        self.generations = {key: value for key, value in self.generations.items() if key != user_id}
        self._add_user()

    def _add_user(self) -> None:
        user_id = uuid4()
        self._connection.execute("reset role")
        self._connection.execute("insert into auth.users (id) values (%s)", [user_id])
        self.generations = self.generations | {user_id: ()}
        self._act_as(user_id)
        for _ in range(3):
            self._insert(user_id)

    def _act_as(self, user_id: UUID) -> None:
        self._connection.execute(
            "select set_config('request.jwt.claims', jsonb_build_object('sub', %s::text)::text, false),"
            " set_config('request.jwt.claim.sub', %s::text, false)",
            [user_id, user_id],
        )
        self._connection.execute(sql.SQL("set role {}").format(sql.Identifier(self._role)))

    def _say(self, kind: str, statement: LiteralString, *arguments: Any) -> None:
        at, began = time.time(), time.monotonic()
        error = None
        try:
            self._connection.execute(statement, arguments)
        except psycopg.Error as failure:
            error = f"{failure.sqlstate} {failure}"
            raise
        finally:
            self.said.append(Said(kind, at, time.monotonic() - began, error))
