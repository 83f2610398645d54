"""What a client offers for first calls. The work is done in ``ai_retry.domain.first_call``."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from ai_retry.domain import first_call
from ai_retry.domain.first_call import MAX_PROMPT_BYTES
from ai_retry.domain.model import Context, RetryResult
from ai_retry.domain.names import WaiverWord
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import AiProvider, QueueStorage, Storage
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.domain.reader import ContextFrom
from ai_retry.hooks import current_origin
from ai_retry.renewal import LeaseRenewer
from ai_retry.slots import CallSlot, CallSlots
from ai_retry.watched import Watched


class FirstCalls(Watched, ABC):
    """The methods of a client for first calls; the client has the parts."""

    _storage: Storage
    _ai: AiProvider
    _policy: RetryPolicy
    _context_from: ContextFrom
    _slots: CallSlots
    _renewer: LeaseRenewer

    @abstractmethod
    def _route_of(self, context: Context) -> str | Sequence[str]: ...

    @abstractmethod
    def _queue(self) -> QueueStorage: ...

    def generate(
        self,
        user_id: UUID | str,
        prompt: Any,
        *,
        model: str | None = None,
        columns: Mapping[str, Any] | None = None,
        generation_id: UUID | str | None = None,
        idempotency_key: str | None = None,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        operator: str | None = None,
        max_prompt_bytes: int = MAX_PROMPT_BYTES,
        request: Any = None,
    ) -> RetryResult:
        """Create a generation, make its first call, and return its session: see ``first_call.generate``.

        A failure leaves a generation that can be retried; the error's ``generation_id`` names it. The same key or id
        again returns, or raises, what became of it, without a call.

        Raises:
            TooManyParallel: also when ``max_calls`` calls are running here; nothing was written.
            AiRetryError: see there.
            ValueError: an argument can't be used, or a limit is lifted without ``operator``; nothing was read.
        """
        with self._watch("generate", user_id, generation_id) as watch, CallSlot(self._slots) as slot:
            return first_call.generate(
                user_id,
                prompt,
                storage=self._storage,
                ai=self._ai,
                clock=self._clock,
                policy=self._policy,
                context_from=self._context_from,
                route_of=self._route_of,
                model=model,
                columns=columns,
                generation_id=generation_id,
                idempotency_key=idempotency_key,
                waive=waive,
                charge=charge,
                operator=operator,
                max_prompt_bytes=max_prompt_bytes,
                request=request,
                origin=current_origin(),
                renewing=self._renewer.renewing,
                watches=[slot, watch],
            )

    def enqueue_generation(
        self,
        user_id: UUID | str,
        prompt: Any,
        *,
        model: str | None = None,
        columns: Mapping[str, Any] | None = None,
        generation_id: UUID | str | None = None,
        idempotency_key: str | None = None,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        operator: str | None = None,
        max_prompt_bytes: int = MAX_PROMPT_BYTES,
        request: Any = None,
    ) -> QueuedRetry:
        """Create a generation, and accept its first call for later: see ``first_call.generate_later``.

        ``cancel`` takes it back, and leaves a failed generation, which can be retried.

        Raises:
            NotConfigured: there is no queue.
            AiRetryError: see there.
            ValueError: an argument can't be used, or a limit is lifted without ``operator``; nothing was read.
        """
        storage = self._queue()
        with self._watch("generate", user_id, generation_id) as watch:
            return first_call.generate_later(
                user_id,
                prompt,
                storage=storage,
                policy=self._policy,
                context_from=self._context_from,
                model=model,
                columns=columns,
                generation_id=generation_id,
                idempotency_key=idempotency_key,
                waive=waive,
                charge=charge,
                operator=operator,
                max_prompt_bytes=max_prompt_bytes,
                request=request,
                origin=current_origin(),
                watches=[watch],
            )
