"""The world around the storage of changes in memory, for today's contracts, which it passes through ``OldPort``."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.model import Generation, GenerationStatus, QuotaRule, Snapshot
from ai_retry.domain.ports import QueueStorage
from ai_retry.domain.queue_model import Message
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.contract import PROMPT_DATA, Row
from ai_retry.testing.memory import MemoryStorage
from ai_retry.testing.memory import Row as AttemptRow
from ai_retry.testing.memory.app import MemoryApp, Session, SessionRefused, new_session
from tests.support.old_port import OldPort


class CoreWorld:
    """Implements ``ai_retry.testing.queue_contract.QueueWorld``."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.app = MemoryApp(self._create_session)
        self.core = MemoryStorage(self.clock, self.app)
        self._port = OldPort(self.core, self._message_of)
        self._constraint: str | None = None

    @property
    def storage(self) -> QueueStorage:
        """Today's port over it."""
        return self._port

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
        row = self.app.generations[generation_id]
        return {
            **{name: getattr(row, name) for name in ("status", "session_id", "created_at", "updated_at", "user_id")},
            "duration_ms": row.duration / timedelta(milliseconds=1) if row.duration is not None else None,
        }

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
        """Forget the user's generations, attempts and answers."""
        self.app.generations = {key: row for key, row in self.app.generations.items() if row.user_id != user_id}
        self.core.rows = {key: row for key, row in self.core.rows.items() if row.user_id != user_id}
        self.core.quotas.pop(user_id, None)

    def set_quota(self, user_id: UUID, limit: int, window: timedelta) -> None:
        """Override limit and window."""
        self.core.quotas[user_id] = QuotaRule(limit=limit, window=window)

    def refuse_sessions(self, constraint: str | None) -> None:
        """Make the session function refuse, or accept again."""
        self._constraint = constraint

    def advance(self, duration: timedelta) -> None:
        """Move the clock."""
        self.clock.advance(duration)

    def attempts(self, generation_id: UUID) -> Sequence[Row]:
        """Rows with today's names."""
        rows = [row for row in self.core.rows.values() if row.generation_id == generation_id]
        return [self._row(row) for row in sorted(rows, key=lambda row: row.number)]

    def _row(self, row: AttemptRow) -> Row:
        names = (
            *("user_id", "generation_id", "number", "token", "started_at", "lease_expires_at", "outcome", "closed_at"),
            *("code", "counted", "idempotency_key", "charge", "waived", "operator", "captured_at", "accepted_at"),
            *("expires_at", "route", "message_id", "next_attempt_at", "transient", "operator_fault", "context_reader"),
        )
        return {
            **{name: getattr(row, name) for name in names},
            "refused_constraint": row.cause,
            "stored_answer": self.core.answers.get((row.generation_id, row.number)),
            "provider_outcome": row.call.provider_outcome,
            "wire_requests": row.call.wire_requests,
            "model": row.call.model,
            "usage": row.call.usage,
            "discarded_by": row.discarded_by,
        }

    def sessions(self, user_id: UUID) -> Sequence[Row]:
        """Sessions of the user, their ids as UUID."""
        rows = [row for row in self.app.sessions.values() if row["user_id"] == str(user_id)]
        return [{**row, "id": UUID(row["id"])} for row in rows]

    def events(self, user_id: UUID) -> Sequence[Row]:
        """Events of the user."""
        return [row for row in self.app.events if row["user_id"] == user_id]

    def error_logs(self, generation_id: UUID) -> Sequence[Row]:
        """Error log of the generation."""
        return [row for row in self.app.error_logs if row["generation_id"] == generation_id]

    def _message_of(self, snapshot: Snapshot) -> int | None:
        return next((row.message_id for row in self.core.rows.values() if row.token == snapshot.open_token), None)

    def messages(self) -> Sequence[Row]:
        """Rows of the line."""
        now, line = self.clock.now(), self.core.line
        return [
            {"id": each.id, "generation_id": each.generation_id, "ready": line.visible_at[each.id] <= now}
            for each in line.messages.values()
        ]

    def send_message(self, payload: Any) -> None:
        """Put a message at the end; what is not a message of ours never reaches a storage in memory."""
        message = Message(id=0, user_id=UUID(payload["user_id"]), generation_id=UUID(payload["generation_id"]))
        self.core.line.send(message.user_id, message.generation_id, self.clock.now())

    def lose_messages(self) -> None:
        """Forget them."""
        self.core.line.messages.clear()

    def _create_session(self, generation: Generation, output: Any) -> Session:
        if self._constraint is not None:
            raise SessionRefused(self._constraint)
        return new_session(generation, output)
