"""What operations work with: the client's own methods, and the parts behind them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from ai_retry.domain.model import RetryResult
from ai_retry.domain.names import WaiverWord
from ai_retry.domain.operation import OperatorStorage
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.recovery.methods import Diagnosis
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.when import When


class Acting(Protocol):
    """The methods of a client that operations call."""

    def retry_generation(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        operator: str | None = None,
    ) -> RetryResult:
        """See ``Client``."""
        ...

    def enqueue(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        operator: str | None = None,
    ) -> QueuedRetry:
        """See ``Client``."""
        ...

    def cancel(self, user_id: UUID | str, generation_id: UUID | str) -> None:
        """See ``Client``."""
        ...

    def discard_answer(self, user_id: UUID | str, generation_id: UUID | str, *, operator: str) -> bool:
        """See ``Client``."""
        ...

    def books(self, *, since: When | None = None) -> Sequence[Mapping[str, Any]]:
        """See ``Client``."""
        ...

    def doctor(self) -> Diagnosis:
        """See ``Client``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a client lends to operations."""

    client: Acting
    storage: OperatorStorage
    parts: Callable[[], Parts]  # of recovery: raises NotConfigured where the client has none
    spool_files: Callable[[], int | None]  # counts answers that wait on this machine; None: there is no spool
