"""The methods of ai-retry, over the parts that it was given. ``bootstrap.connect`` builds a client from settings."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Self
from uuid import UUID

from ai_retry.clock import SystemClock
from ai_retry.config import DEFAULT_CONCURRENCY, DEFAULT_MAX_CALLS
from ai_retry.domain import queue, retry
from ai_retry.domain.calls import route_name
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import Context, RetryResult
from ai_retry.domain.names import WaiverWord
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, QueueStorage, Storage
from ai_retry.domain.queue_model import QueuedRetry, QueueState
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.recovery import RecoveryStorage
from ai_retry.first_calls import FirstCalls
from ai_retry.hooks import Events, current_origin
from ai_retry.listings import Listings
from ai_retry.operate.methods import OperateMethods
from ai_retry.recovery.methods import Diagnosis, RecoveryMethods
from ai_retry.renewal import LeaseRenewer
from ai_retry.slots import CallSlot, CallSlots
from ai_retry.storage.spool import Spool, SpoolReport

if TYPE_CHECKING:
    from ai_retry.domain.operation import OperatorStorage
    from ai_retry.events import OnEvent
    from ai_retry.recovery.parts import Parts
    from ai_retry.worker import Worker


class Client(FirstCalls, Listings, OperateMethods, RecoveryMethods):
    """Makes first calls of generations, and retries, with what it was given; ``connect`` makes one from settings.

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
        operator_storage: "OperatorStorage | None" = None,
        provider: str = "",
        spool: Spool | None = None,
        doctor: Callable[[], Diagnosis] | None = None,
        on_event: "OnEvent" = (),
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the parts.

        Args:
            storage: where generations and attempts live.
            ai: which provider is called.
            clock: measures durations; this machine's when None.
            policy: the numbers behind the rules.
            context_from: reads what to ask out of a generation.
            max_calls: provider calls that run at once through this client.
            queue_storage: where retries wait that are accepted for later; None: none are.
            recovery_storage: where failed generations are found, and recoveries recorded; None: nowhere.
            operator_storage: what operators read, and where their actions are recorded; None: they can't act.
            provider: names what ``ai`` asks, so that all processes share what they learn of its outages.
            spool: where answers wait that ``storage`` could not settle, for ``settle``.
            doctor: examines the set-up, for ``doctor``; None: it can't be examined from here.
            on_event: hooks that get every event (``ai_retry.events``), in its thread; the log is written in any case.
            on_close: frees what the client was given.
        """
        self._storage, self._ai, self._clock = storage, ai, clock or SystemClock()
        self._policy, self._context_from = policy, context_from
        self._slots, self._on_close = CallSlots(max_calls), on_close
        self._queue_storage, self._recovery_storage, self._provider = queue_storage, recovery_storage, provider
        self._operator_storage, self._spool, self._doctor = operator_storage, spool, doctor
        self.events = Events(on_event)
        self._renewer = LeaseRenewer(storage, policy.lease, self.events)
        if spool is not None:
            spool.emit = self.events

    def retry_generation(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        idempotency_key: str | None = None,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        operator: str | None = None,
    ) -> RetryResult:
        """Try a failed generation again, once, and return its session: see ``ai_retry.domain.retry``.

        Raises:
            TooManyParallel: also when ``max_calls`` calls are running here; nothing was written.
            AiRetryError: see there.
            ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
                nothing was read.
        """
        with self._watch("retry", user_id, generation_id) as watch, CallSlot(self._slots) as slot:
            return retry.retry_generation(
                user_id,
                generation_id,
                storage=self._storage,
                ai=self._ai,
                clock=self._clock,
                policy=self._policy,
                context_from=self._context_from,
                route_of=self._route_of,
                idempotency_key=idempotency_key,
                waive=waive,
                charge=charge,
                operator=operator,
                origin=current_origin(),
                renewing=self._renewer.renewing,
                watches=[slot, watch],
            )

    def enqueue(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        idempotency_key: str | None = None,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
        operator: str | None = None,
    ) -> QueuedRetry:
        """Accept a retry for later: a worker runs it. See ``ai_retry.domain.queue.enqueue_generation``.

        Raises:
            NotConfigured: there is no queue.
            AiRetryError: see there.
            ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
                nothing was read.
        """
        storage = self._queue()
        with self._watch("enqueue", user_id, generation_id) as watch:
            return queue.enqueue_generation(
                user_id,
                generation_id,
                storage=storage,
                policy=self._policy,
                context_from=self._context_from,
                idempotency_key=idempotency_key,
                waive=waive,
                charge=charge,
                operator=operator,
                origin=current_origin(),
                watches=[watch],
            )

    def cancel(self, user_id: UUID | str, generation_id: UUID | str) -> None:
        """Take a queued retry back, and release its unit; nothing happens when none is queued.

        Raises:
            RetryInProgress: a worker has begun it; nothing was changed.
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID.
        """
        storage = self._queue()
        with self._watch("cancel", user_id, generation_id) as watch:
            queue.cancel_retry(user_id, generation_id, storage=storage, policy=self._policy, watches=[watch])

    def queue_state(self) -> QueueState:
        """Count what waits and what runs of the retries that were accepted for later. Reads only.

        Raises:
            StorageFailure: safe to repeat.
        """
        return self._queue().state()

    def worker(self, *, concurrency: int = DEFAULT_CONCURRENCY) -> "Worker":
        """Make a worker of this client's parts, which are the client's to close; it runs so many attempts at once.

        Raises:
            NotConfigured: there is no queue.
        """
        from ai_retry.worker import Worker  # noqa: PLC0415 - few programs are workers

        self.prepare()
        return Worker(
            storage=self._queue(),
            ai=self._ai,
            clock=self._clock,
            policy=self._policy,
            context_from=self._context_from,
            route_of=self._route_of,
            renewing=self._renewer.renewing,
            concurrency=concurrency,
            tidy=self._settle_beside,
            reports=self._reports,
        )

    def status(self, user_id: UUID | str, generation_id: UUID | str) -> Outlook:
        """Return a generation, and what a retry of it would be answered now. Reads only.

        Raises:
            GenerationNotFound: the user has no such generation.
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID.
        """
        return retry.retry_status(
            user_id,
            generation_id,
            storage=self._storage,
            policy=self._policy,
            context_from=self._context_from,
            route_of=self._route_of,
        )

    def settle(self) -> SpoolReport:
        """Settle what waits in the spool, such as after an outage of the database. Safe to repeat at any time."""
        return self._spool.send_again(self._storage) if self._spool is not None else SpoolReport()

    def _settle_beside(self) -> None:
        """Do the same in another thread: a worker's messages don't wait for it."""
        if self._spool is not None:
            self._spool.send_beside(self._storage)

    def _spool_files(self) -> int | None:
        return len(self._spool.names()) if self._spool is not None else None

    def _route_of(self, context: Context) -> str | Sequence[str]:
        routes = getattr(self._ai, "routes", None)  # a provider that falls back names where to
        return route_name(self._provider, context.model) if routes is None else routes(context)

    def _queue(self) -> QueueStorage:
        if self._queue_storage is None:
            raise NotConfigured("this client was given no queue_storage: pass one, or use ai_retry.connect()")
        return self._queue_storage

    def _recovery_parts(self) -> "Parts":
        from ai_retry.recovery.parts import Parts  # noqa: PLC0415 - most processes recover nothing

        if self._recovery_storage is None:
            raise NotConfigured("this client was given no recovery_storage: pass one, or use ai_retry.connect()")
        return Parts(
            storage=self._storage,
            records=self._recovery_storage,
            ai=self._ai,
            clock=self._clock,
            policy=self._policy,
            context_from=self._context_from,
            route_of=self._route_of,
            renewing=self._renewer.renewing,
            slots=self._slots,
            reports=self._reports_to(self.events.without_log()),
        )

    def doctor(self) -> Diagnosis:
        """Examine the set-up as ``ai-retry doctor`` does; print the outcome. Reads only.

        Raises:
            NotConfigured: this client's settings are not the environment's.
        """
        if self._doctor is None:
            raise NotConfigured("only a client of the environment's settings can be examined: run ai-retry doctor")
        return self._doctor()

    def prepare(self) -> None:
        """Import what the first retry needs, so that no user waits for it: servers do it when they start.

        Raises:
            NotConfigured: what it needs can't be made, such as a client that goes through an unknown kind of proxy.
        """
        import ai_retry.watching.loop_events  # noqa: F401, PLC0415 - with all events

        for part in (self._storage, self._ai):
            if callable(prepare := getattr(part, "prepare", None)):
                prepare()

    def close(self) -> None:
        """Give back connections. A repeat does nothing."""
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(storage={self._storage!r}, ai={self._ai!r})"
