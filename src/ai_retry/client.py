"""What one does with ai-retry, over the parts that it was given. ``bootstrap.connect`` makes one from settings."""

from collections.abc import Callable
from types import TracebackType
from typing import Self
from uuid import UUID

from ai_retry.clock import SystemClock
from ai_retry.config import DEFAULT_MAX_CALLS
from ai_retry.domain import queue, retry
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import RetryResult, Waiver
from ai_retry.domain.names import check_operator
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, QueueStorage, Storage
from ai_retry.domain.queue_model import QueuedRetry, QueueState
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.recovery import RecoveryStorage
from ai_retry.domain.retry import RetryStatus, as_uuid
from ai_retry.recovery.methods import RecoveryMethods
from ai_retry.recovery.parts import Parts
from ai_retry.slots import CallSlots, SlottedStorage
from ai_retry.spool import Spool, SpoolReport
from ai_retry.worker import DEFAULT_CONCURRENCY, Worker

_LONGEST_ROUTE = 255  # characters: users may name the model, and an index holds it


class Client(RecoveryMethods):
    """Retries generations with what it was given; ``connect`` makes one from settings.

    Safe to share between threads. Close it, or use it as a context manager, to give back connections.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        ai: AiProvider,
        clock: Clock | None = None,
        policy: RetryPolicy = DEFAULT_POLICY,
        context_from: ContextFrom = stored_context,
        max_calls: int = DEFAULT_MAX_CALLS,
        queue_storage: QueueStorage | None = None,
        recovery_storage: RecoveryStorage | None = None,
        provider: str = "",
        spool: Spool | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the parts.

        Args:
            storage: where generations and attempts live.
            ai: whom to ask.
            clock: measures durations; this machine's when None.
            policy: the numbers behind the rules.
            context_from: reads what to ask out of a generation.
            max_calls: provider calls that run at once through this client.
            queue_storage: where retries wait that are accepted for later; None: none are.
            recovery_storage: where failed generations are found, and recoveries recorded; None: nowhere.
            provider: names whom ``ai`` asks, so that workers share what they learn of its outages.
            spool: where answers wait that ``storage`` could not settle, for ``settle``.
            on_close: frees what the client was given.
        """
        self._storage, self._ai, self._clock = storage, ai, clock or SystemClock()
        self._policy, self._context_from = policy, context_from
        self._slots = CallSlots(max_calls)
        self._queue_storage, self._provider = queue_storage, provider
        self._recovery_storage = recovery_storage
        self._spool = spool
        self._on_close = on_close

    def retry_generation(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        idempotency_key: str | None = None,
        waive: frozenset[Waiver] = frozenset(),
        charge: bool = True,
        operator: str | None = None,
    ) -> RetryResult:
        """Try a failed generation again, once, and return its session: see ``ai_retry.domain.retry``.

        Raises:
            TooManyParallel: also when ``max_calls`` calls are running here; nothing was written.
            AiRetryError: as told there.
            ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
                nothing was read.
        """
        with SlottedStorage(self._storage, self._slots) as storage:
            return retry.retry_generation(
                user_id,
                generation_id,
                storage=storage,
                ai=self._ai,
                clock=self._clock,
                policy=self._policy,
                context_from=self._context_from,
                idempotency_key=idempotency_key,
                waive=waive,
                charge=charge,
                operator=operator,
            )

    def enqueue(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        idempotency_key: str | None = None,
        waive: frozenset[Waiver] = frozenset(),
        charge: bool = True,
        operator: str | None = None,
    ) -> QueuedRetry | RetryResult:
        """Accept a retry for later: a worker runs it. See ``ai_retry.domain.queue.enqueue_generation``.

        Raises:
            NotConfigured: there is no queue.
            AiRetryError: as told there.
            ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
                nothing was read.
        """
        return queue.enqueue_generation(
            user_id,
            generation_id,
            storage=self._queue(),
            policy=self._policy,
            context_from=self._context_from,
            idempotency_key=idempotency_key,
            waive=waive,
            charge=charge,
            operator=operator,
        )

    def cancel(self, user_id: UUID | str, generation_id: UUID | str) -> None:
        """Take a queued retry back, and release its unit; nothing happens when none is queued.

        Raises:
            RetryInProgress: a worker has begun it; nothing was changed.
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID.
        """
        queue.cancel_retry(user_id, generation_id, storage=self._queue())

    def queue_state(self) -> QueueState:
        """Tell what waits and what runs of the retries that were accepted for later. Reads only.

        Raises:
            StorageFailure: safe to repeat.
        """
        return self._queue().queue_state()

    def worker(self, *, concurrency: int = DEFAULT_CONCURRENCY) -> Worker:
        """Make a worker of this client's parts; they are the client's to close.

        Args:
            concurrency: attempts that it runs at once.

        Raises:
            NotConfigured: there is no queue.
        """
        return Worker(
            storage=self._queue(),
            ai=self._ai,
            clock=self._clock,
            policy=self._policy,
            context_from=self._context_from,
            route_of=lambda context: f"{self._provider}/{context.model or 'default'}"[:_LONGEST_ROUTE],
            concurrency=concurrency,
            tidy=self.settle,
        )

    def status(self, user_id: UUID | str, generation_id: UUID | str) -> RetryStatus:
        """Tell where a generation stands and what a retry would be answered now. Reads only.

        Raises:
            GenerationNotFound: there is none for this user.
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID.
        """
        return retry.retry_status(
            user_id, generation_id, storage=self._storage, policy=self._policy, context_from=self._context_from
        )

    def discard_answer(self, user_id: UUID | str, generation_id: UUID | str, *, operator: str) -> bool:
        """Drop a stored answer that can never become a session, so that the next retry calls again; recorded.

        Returns:
            Whether there was one.

        Raises:
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID, or ``operator`` is blank or can't be read in a log; nothing was read.
        """
        user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
        check_operator(operator, lifted=["discard_answer"])
        return self._storage.discard_answer(user_id, generation_id, operator=operator)

    def settle(self) -> SpoolReport:
        """Send answers again that wait in the spool because the storage was away. Safe to repeat at any time."""
        return self._spool.send_again(self._storage) if self._spool is not None else SpoolReport()

    def _queue(self) -> QueueStorage:
        if self._queue_storage is None:
            raise NotConfigured("this client was given no queue_storage: pass one, or use ai_retry.connect()")
        return self._queue_storage

    def _recovery_parts(self) -> Parts:
        if self._recovery_storage is None:
            raise NotConfigured("this client was given no recovery_storage: pass one, or use ai_retry.connect()")
        return Parts(
            storage=self._storage,
            records=self._recovery_storage,
            ai=self._ai,
            clock=self._clock,
            policy=self._policy,
            context_from=self._context_from,
            slots=self._slots,
        )

    def close(self) -> None:
        """Give back connections. A repeat does nothing."""
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(storage={self._storage!r}, ai={self._ai!r})"
