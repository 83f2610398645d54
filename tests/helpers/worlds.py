"""What a storage's tests know of the app, the queue and the time around it; a world in memory and one over SQL have it.

Each test has a world of its own. Time may go on by itself during a test, but by less than ten seconds.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

from ai_retry.domain.ports import QueueStorage

Row: TypeAlias = Mapping[str, Any]  # of a table: instants aware, ids of users and generations as UUID

PROMPT_DATA: Final = {"messages": [{"role": "user", "content": "Plan an easy run."}]}


class World(Protocol):
    """A storage under test, and what is around it."""

    @property
    def storage(self) -> QueueStorage:
        """The storage; up to eight threads use it at once."""
        ...

    def new_user(self) -> UUID:
        """Add a user without anything."""
        ...

    def new_generation(self, user_id: UUID, *, status: str = "error", age: timedelta = timedelta(0)) -> UUID:
        """Add a generation that the app created ``age`` ago, its ``prompt_data`` being ``PROMPT_DATA``."""
        ...

    def generation(self, generation_id: UUID) -> Row:
        """Read the app's row: ``status``, ``session_id``, ``duration_ms`` and ``created_at`` at least."""
        ...

    def set_generation(self, generation_id: UUID, **columns: Any) -> None:
        """Write columns of the app's row as the app would, behind our back: ``status`` or ``user_id``."""
        ...

    def delete_generation(self, generation_id: UUID) -> None:
        """Delete the app's row, and what the app deletes with it."""
        ...

    def delete_user(self, user_id: UUID) -> None:
        """Delete the user and all that is theirs."""
        ...

    def set_quota(self, user_id: UUID, limit: int, window: timedelta) -> None:
        """Override the user's quota."""
        ...

    def refuse_sessions(self, constraint: str | None, *, conflict: bool = False) -> None:
        """Make the app refuse sessions by this constraint from now on, a unique one or not; None: accept them again."""
        ...

    def refuse_generations(self, sqlstate: str | None, constraint: str = "") -> None:
        """Make the app refuse to create generations of this world's users by this error; None: accept them again."""
        ...

    def foresee_conflict(self, user_id: UUID, reason: str | None) -> None:
        """Let the app know that the user can get no session now; None: they can again."""
        ...

    def advance(self, duration: timedelta) -> None:
        """Let time pass.

        Where the storage's time can't be set, move every stored instant of this world's generations and attempts back
        by as much. Tests hold no snapshot, change or instant across it.
        """
        ...

    def attempts(self, generation_id: UUID) -> Sequence[Row]:
        """Rows of our attempts at it, by number: open ones have no ``outcome``."""
        ...

    def sessions(self, user_id: UUID) -> Sequence[Row]:
        """Rows of the user's sessions, linked or not: ``id`` and ``content`` at least."""
        ...

    def events(self, user_id: UUID) -> Sequence[Row]:
        """Rows of the user's events, oldest first: ``event_type`` at least."""
        ...

    def error_logs(self, generation_id: UUID) -> Sequence[Row]:
        """Rows of its error log, oldest first: ``error_type`` and ``error_message`` at least."""
        ...

    def messages(self) -> Sequence[Row]:
        """Rows of the queue in their order: ``id``, ``generation_id`` (None in what is not ours), ``ready``."""
        ...

    def send_message(self, payload: Any) -> None:
        """Put a message at the end of the queue, ready at once."""
        ...

    def lose_messages(self) -> None:
        """Delete all messages, behind our back."""
        ...
