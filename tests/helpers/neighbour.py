"""An app that lives beside ai-retry: its tables, and sessions of it that write all the time.

What a session does is random but for its seed. It records every statement, and lets an error pass by only to go on.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, LiteralString
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
Role = Literal["authenticated", "service_role"]


@dataclass(frozen=True)
class Said:
    """One statement of the app. Instants are seconds since the epoch."""

    pid: int  # of the session's backend
    kind: str
    began: float
    ended: float
    error: str | None


class Pace:
    """Lets an app get ahead of the work beside it by so many rounds for each piece of that, and no further.

    Which of the two has more of a busy processor would else decide whether the work meets a row before it is deleted.

    Args:
        rounds: of the app, for each piece of work.
        most: that it may have left to do.
    """

    def __init__(self, *, rounds: int, most: int) -> None:
        self._rounds, self._most = rounds, most
        self._left = most
        self._has_some = threading.Condition()

    def worked(self) -> None:
        """Count a piece of work."""
        with self._has_some:
            self._left = min(self._left + self._rounds, self._most)
            self._has_some.notify_all()

    def take_round(self, until: Callable[[], bool]) -> None:
        """Wait for a round, or for the end."""
        with self._has_some:
            while not self._left and not until():
                self._has_some.wait(0.02)
            self._left = max(self._left - 1, 0)


class AppSession:
    """A session of the app as one role, in autocommit and in transactions of several statements.

    It alone writes the generations of its users: whatever it waits for is not the app's doing.

    Attributes:
        pid: of its backend.
        said: every statement.
        generations: of each of its users; another thread may read it at any time.
    """

    def __init__(self, url: str, role: Role, *, users: int, seed: int) -> None:
        self.said: list[Said] = []
        self.generations: dict[UUID, tuple[UUID, ...]] = {}
        self.role = role
        self._random = random.Random(seed)
        self._connection = psycopg.connect(url, autocommit=True, application_name=f"app as {role}")
        self.pid = self._connection.info.backend_pid
        for _ in range(users):
            self._sign_up()

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def work(self, until: Callable[[], bool], pace: Pace | None = None) -> None:
        """Write, as fast as the pace allows, until it is enough; nothing is locked between two rounds."""
        while not until():
            if pace is not None:
                pace.take_round(until)
            user_id = self._random.choice(list(self.generations))
            self._act_as(user_id)
            chance = self._random.random()
            before = self.generations
            try:
                if chance < 0.03:
                    self._delete_user(user_id)
                elif chance < 0.5:
                    self._write(user_id)
                else:
                    with self._connection.transaction():
                        for _ in range(self._random.randint(2, 6)):
                            self._write(self._somebody(user_id))
            except psycopg.Error:  # it is among the things said
                self.generations = before

    def _somebody(self, user_id: UUID) -> UUID:
        """Choose whose rows a statement writes: a user their own, the service anyone's."""
        return user_id if self.role == "authenticated" else self._random.choice(list(self.generations))

    def _write(self, user_id: UUID) -> None:
        mine = self.generations[user_id]
        if len(mine) < 4:
            self._insert(user_id)
            return
        some = self._random.sample(mine, self._random.randint(1, len(mine)))
        match self._random.randrange(7):
            case 0 if len(mine) < 8:
                self._insert(user_id)
            case 0 | 1:
                self._delete(user_id, some[:2])
            case 2:
                self._say("lock", "select from public.generations where id = any(%s) for update", some)
            case 3 if self.role == "service_role":
                self._log_and_update(some[0])
            case 4 if self.role == "service_role":
                self._say("delete sessions", "delete from public.sessions where user_id = %s", user_id)
            case 5:
                self._say(
                    "update many",
                    "update public.generations set updated_at = clock_timestamp(), response_data = '{}'"
                    " where id = any(%s) or user_id = %s",
                    some,
                    user_id,
                )
            case _:
                self._say(
                    "update one",
                    "update public.generations set updated_at = clock_timestamp(), status = 'error' where id = %s",
                    some[0],
                )

    def _insert(self, user_id: UUID) -> None:
        new = [uuid4() for _ in range(self._random.randint(1, 4))]
        self._say(
            "insert",
            "insert into public.generations (id, user_id, model, status, prompt_data)"
            " select g, %s, 'small', 'error', %s from unnest(%s::uuid[]) g",
            user_id,
            PROMPT_DATA,
            new,
        )
        self.generations = self.generations | {user_id: (*self.generations[user_id], *new)}

    def _delete(self, user_id: UUID, gone: Sequence[UUID]) -> None:
        self._say("delete", "delete from public.generations where id = any(%s)", gone)
        left = tuple(each for each in self.generations[user_id] if each not in gone)
        self.generations = self.generations | {user_id: left}

    def _log_and_update(self, generation_id: UUID) -> None:
        """Refer to a generation, which locks its key, and then write it."""
        self._say(
            "log an error",
            "insert into public.generation_error_logs (generation_id, error_type, error_message)"
            " select g.id, 'app', 'app' from public.generations g where g.id = %s",
            generation_id,
        )
        self._say("update one", "update public.generations set duration_ms = 1 where id = %s", generation_id)

    def _delete_user(self, user_id: UUID) -> None:
        """Do as Auth does, which has a role of its own; then a new user signs up."""
        self._connection.execute("reset role")
        self._say("delete user", "delete from auth.users where id = %s", user_id)
        self.generations = {each: rows for each, rows in self.generations.items() if each != user_id}
        self._sign_up()

    def _sign_up(self) -> None:
        user_id = uuid4()
        self._connection.execute("reset role")
        self._connection.execute("insert into auth.users (id) values (%s)", [user_id])
        self.generations = self.generations | {user_id: ()}
        self._act_as(user_id)
        self._insert(user_id)

    def _act_as(self, user_id: UUID) -> None:
        self._connection.execute(
            "select set_config('request.jwt.claims', jsonb_build_object('sub', %s::text)::text, false),"
            " set_config('request.jwt.claim.sub', %s::text, false)",
            [user_id, user_id],
        )
        self._connection.execute(sql.SQL("set role {}").format(sql.Identifier(self.role)))

    def _say(self, kind: str, statement: LiteralString, *arguments: Any) -> None:
        began = time.time()
        error = None
        try:
            self._connection.execute(statement, arguments)
        except psycopg.Error as failure:
            error = f"{failure.sqlstate} {failure}"
            raise
        finally:
            self.said.append(Said(self.pid, kind, began, time.time(), error))
