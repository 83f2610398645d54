"""The world around a storage in memory: for the storage contract, and for tests that need generations in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.model import Generation, GenerationStatus, QuotaRule
from ai_retry.storage.codec import write
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.memory import GenerationRefused, MemoryApp, MemoryStorage, SessionRefused, new_session
from ai_retry.testing.memory import Row as AttemptRow
from ai_retry.testing.memory.app import Session
from tests.helpers.worlds import PROMPT_DATA, Row


class _App(MemoryApp):
    """An app whose own rule may refuse generations, after it has inserted them."""

    refusal: GenerationRefused | None = None

    def create_generation(self, user_id: UUID, generation_id: UUID, request: Mapping[str, Any], now: datetime) -> bool:
        """Insert it, unless it is refused."""
        created = super().create_generation(user_id, generation_id, request, now)
        if created and self.refusal is not None:
            raise self.refusal
        return created


class MemoryWorld:
    """Implements ``tests.helpers.worlds.World``.

    Attributes:
        clock: the storage's time.
        app: the app's tables.
        storage: the storage, whose public attributes are its tables.
    """

    def __init__(self, storage_type: type[MemoryStorage] = MemoryStorage) -> None:
        self.clock = ManualClock()
        self.app = _App(self._create_session)
        self.storage = storage_type(self.clock, self.app)
        self._refusal: SessionRefused | None = None

    def new_user(self) -> UUID:
        """Return an id; in memory a user is no more than that."""
        return uuid4()

    def new_generation(self, user_id: UUID, *, status: str = "error", age: timedelta = timedelta(0)) -> UUID:
        """Add a generation."""
        generation = Generation(
            id=uuid4(),
            user_id=user_id,
            status=GenerationStatus(status),
            model="small",
            prompt_data=PROMPT_DATA,
            session_id=None,
            duration=None,
            created_at=self.clock.now() - age,
            updated_at=None,
        )
        self.app.generations[generation.id] = generation
        return generation.id

    def generation(self, generation_id: UUID) -> Row:
        """Read it as a row."""
        row = asdict(self.app.generations[generation_id])
        duration = row.pop("duration")
        return {**row, "duration_ms": duration / timedelta(milliseconds=1) if duration is not None else None}

    def set_generation(self, generation_id: UUID, **columns: Any) -> None:
        """Replace columns, and touch ``updated_at``."""
        if "status" in columns:
            columns["status"] = GenerationStatus(columns["status"])
        columns = {"updated_at": self.clock.now(), **columns}
        self.app.generations[generation_id] = replace(self.app.generations[generation_id], **columns)

    def delete_generation(self, generation_id: UUID) -> None:
        """Forget it."""
        del self.app.generations[generation_id]

    def delete_user(self, user_id: UUID) -> None:
        """Forget the user's generations, attempts with their answers, and quota."""
        app, storage = self.app, self.storage
        app.generations = {key: row for key, row in app.generations.items() if row.user_id != user_id}
        storage.rows = {key: row for key, row in storage.rows.items() if row.user_id != user_id}
        storage.answers = {key: answer for key, answer in storage.answers.items() if key in storage.rows}
        storage.quotas.pop(user_id, None)

    def set_quota(self, user_id: UUID, limit: int, window: timedelta) -> None:
        """Override limit and window."""
        self.storage.quotas[user_id] = QuotaRule(limit=limit, window=window)

    def refuse_sessions(self, constraint: str | None, *, conflict: bool = False) -> None:
        """Make the session function refuse, or accept again."""
        self._refusal = None if constraint is None else SessionRefused(constraint, conflict=conflict)

    def refuse_generations(self, sqlstate: str | None, constraint: str = "") -> None:
        """Make the app refuse, or accept again."""
        self.app.refusal = None if sqlstate is None else GenerationRefused(sqlstate, constraint or None)

    def foresee_conflict(self, user_id: UUID, reason: str | None) -> None:
        """Say it, or forget it."""
        self.app.conflicts.pop(user_id, None)
        if reason is not None:
            self.app.conflicts[user_id] = reason

    def advance(self, duration: timedelta) -> None:
        """Move the clock."""
        self.clock.advance(duration)

    def attempts(self, generation_id: UUID) -> Sequence[Row]:
        """Rows with the names of the columns over SQL."""
        rows = [row for row in self.storage.rows.values() if row.generation_id == generation_id]
        return [self._columns(row) for row in sorted(rows, key=lambda row: row.number)]

    def _columns(self, row: AttemptRow) -> Row:
        return {
            **{name: value for name, value in asdict(row).items() if name != "call"},
            **asdict(row.call),
            "calls": [write(each) for each in row.call.calls] or None,
            "cause": row.refused_constraint,
            "stored_answer": self.storage.answers.get((row.generation_id, row.number)),
        }

    def sessions(self, user_id: UUID) -> Sequence[Row]:
        """Sessions of the user."""
        return [row for row in self.app.sessions.values() if row["user_id"] == str(user_id)]

    def events(self, user_id: UUID) -> Sequence[Row]:
        """Events of the user."""
        return [row for row in self.app.events if row["user_id"] == user_id]

    def error_logs(self, generation_id: UUID) -> Sequence[Row]:
        """Error log of the generation."""
        return [row for row in self.app.error_logs if row["generation_id"] == generation_id]

    def messages(self) -> Sequence[Row]:
        """Rows of the line."""
        now, line = self.clock.now(), self.storage.line
        return [
            {"id": each.id, "generation_id": each.generation_id, "ready": line.visible_at[each.id] <= now}
            for each in line.messages.values()
        ]

    def send_message(self, payload: Any) -> None:
        """Put a message at the end; in memory only a message of ours can be sent."""
        user_id, generation_id = UUID(payload["user_id"]), UUID(payload["generation_id"])
        self.storage.line.send(user_id, generation_id, self.clock.now())

    def lose_messages(self) -> None:
        """Forget them."""
        self.storage.line.messages.clear()

    def _create_session(self, generation: Generation, output: Any) -> Session:
        if self._refusal is not None:
            raise self._refusal
        return new_session(generation, output)
