"""An app's tables in memory, and the binding through which the storage reads and writes them.

The counterpart of the SQL functions ``ai_retry.app_*``: the only code of a storage in memory that knows generations,
sessions, events and error logs. Tests and examples fill and read the tables directly.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from ai_retry.domain.errors import StorageUnavailable
from ai_retry.domain.model import Generation, GenerationStatus

Session: TypeAlias = Mapping[str, Any]
CreateSession: TypeAlias = Callable[[Generation, Any], Session]  # may raise SessionRefused; with an ``id``, a string


class SessionRefused(Exception):
    """What the app's session function raises when a constraint rejects the session.

    Args:
        constraint: its name.
        conflict: it is a unique or an exclusion constraint.
    """

    def __init__(self, constraint: str, *, conflict: bool = False) -> None:
        super().__init__(constraint)
        self.constraint, self.conflict = constraint, conflict


class GenerationRefused(Exception):
    """An error of the database, as it is when the app refuses to create a generation.

    Args:
        sqlstate: of the error.
        name: of the constraint or column that refuses it.
    """

    def __init__(self, sqlstate: str, name: str | None = None) -> None:
        super().__init__(sqlstate, name)
        self.sqlstate, self.name = sqlstate, name


def new_session(generation: Generation, output: Any) -> Session:
    """Create a session that keeps the output as its content."""
    return {"id": str(uuid4()), "user_id": str(generation.user_id), "content": output}


class MemoryApp:
    """The app's tables.

    Args:
        create_session: the app's session function.

    Attributes:
        hidden: generations that the app hides from their users, such as softly deleted ones.
        locked: generations whose row a transaction of the app holds.
        conflicts: users who can get no session now, and why.
    """

    def __init__(self, create_session: CreateSession = new_session) -> None:
        self.generations: dict[UUID, Generation] = {}
        self.sessions: dict[str, Session] = {}
        self.events: list[dict[str, Any]] = []
        self.error_logs: list[dict[str, Any]] = []
        self.hidden: set[UUID] = set()
        self.locked: set[UUID] = set()
        self.conflicts: dict[UUID, str] = {}
        self.create_session = create_session
        self.can_create_session = True  # False: the session function is missing

    def read(self, generation_id: UUID) -> Generation | None:
        """Return the row of any user; None when it is absent."""
        return self.generations.get(generation_id)

    def create_generation(self, user_id: UUID, generation_id: UUID, request: Mapping[str, Any], now: datetime) -> bool:
        """Insert a generation for its first call, as the app itself does; False: the id is there already.

        Raises:
            GenerationRefused: the app does not accept it.
        """
        if generation_id in self.generations:
            return False
        self.generations[generation_id] = Generation(
            id=generation_id,
            user_id=user_id,
            status=GenerationStatus.PROCESSING,
            model=request["model"],
            prompt_data=request["prompt_data"],
            session_id=None,
            duration=None,
            created_at=now,
            updated_at=None,
        )
        return True

    def lock(self, generation_id: UUID) -> Generation | None:
        """Return the row for a write.

        Raises:
            StorageUnavailable: the app holds it; nothing was written.
        """
        if generation_id in self.locked:
            raise StorageUnavailable("55P03")
        return self.generations.get(generation_id)

    def write(
        self,
        generation_id: UUID,
        now: datetime,
        status: GenerationStatus,
        *,
        duration: timedelta | None = None,
        session_id: str | None = None,
    ) -> None:
        """Write what changed."""
        row = self.generations[generation_id]
        self.generations[generation_id] = replace(
            row,
            status=status,
            updated_at=now,
            duration=row.duration if duration is None else duration,
            session_id=row.session_id if session_id is None else session_id,
        )

    def session(self, session_id: str | None, user_id: UUID) -> Session | None:
        """Return a session, as it is now; None when it is absent, or another user's."""
        found = self.sessions.get(session_id or "")
        return found if found is None or found.get("user_id", str(user_id)) == str(user_id) else None

    def log_failure(self, generation: Generation, now: datetime, code: str, message: str) -> None:
        """Write the error log and the event."""
        log = {"error_type": code, "error_message": message, "created_at": now}
        self.error_logs.append({"generation_id": generation.id, **log})
        self.record_event(generation, now, "ai_generation_failed")

    def record_event(self, generation: Generation, now: datetime, event_type: str) -> None:
        """Write an event."""
        ids = {"user_id": generation.user_id, "generation_id": generation.id}
        self.events.append({**ids, "event_type": event_type, "created_at": now})
