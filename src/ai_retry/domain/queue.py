"""A retry that is accepted now and run later, as functions over the ports: see ``queue_loop``.

The queued attempt is the truth and holds the user's unit; messages only say that it is time to look. An accepted retry
ends in its session, or in an error with its reason: when the identical request can't succeed, its attempts are used
up, its time is up, or its workers keep dying. While its provider is unavailable it waits and uses no attempt. It also
waits for a worker that has the reader with which it was accepted: no other may judge its context.
"""

from collections.abc import Callable, Collection, Sequence
from uuid import UUID, uuid4

from ai_retry.domain.change import Taken
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.route import Reader, RouteOf
from ai_retry.domain.drive import Renewing, Watch, drive
from ai_retry.domain.model import UNKNOWN_ORIGIN, Origin
from ai_retry.domain.names import WaiverWord, as_uuid
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, QueueStorage
from ai_retry.domain.queue_loop import accepting, cancelling, working
from ai_retry.domain.queue_model import QueuedRetry, QueueOutcome
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.retry import asked_for, setting_of


def enqueue_generation(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    storage: QueueStorage,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    idempotency_key: str | None = None,
    waive: Collection[WaiverWord] = (),
    charge: bool = True,
    operator: str | None = None,
    origin: Origin = UNKNOWN_ORIGIN,
    watches: Sequence[Watch] = (),
) -> QueuedRetry:
    """Accept a retry for later, and describe it; one that is queued or running already is only described.

    The user's quota is held from now on, captured by its success and released by any other end. A wait that is not
    over is no refusal: the attempt is due when it is. Safe to repeat whatever it raised. Arguments as for
    ``retry_generation``.

    Returns:
        The accepted retry; its ``result`` is what an earlier request with the same ``idempotency_key`` achieved.

    Raises:
        ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
            nothing was read.
        RetryRefused: a rule refuses it now; nothing was written.
        NotConfigured: there is no queue.
        AiRetryError: see ``ai_retry.domain.errors`` for the others.
    """
    asked = asked_for(
        user_id,
        generation_id,
        idempotency_key=idempotency_key,
        waive=waive,
        charge=charge,
        operator=operator,
        origin=origin,
    )
    loop = accepting(asked, Reader(context_from=context_from), policy)
    return drive(loop, storage=storage, ai=None, rule=policy.quota, watches=watches)


def cancel_retry(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    storage: QueueStorage,
    policy: RetryPolicy = DEFAULT_POLICY,
    watches: Sequence[Watch] = (),
) -> None:
    """Take a queued retry back, and release its unit; nothing happens when none is queued.

    Raises:
        RetryInProgress: a worker has begun it; nothing was changed.
        StorageFailure: safe to repeat.
        ValueError: an id is not a UUID.
    """
    user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
    loop = cancelling(user_id, generation_id, policy)
    drive(loop, storage=storage, ai=None, rule=policy.quota, watches=watches)


def run_taken(
    taken: Taken,
    *,
    storage: QueueStorage,
    ai: AiProvider,
    clock: Clock,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    route_of: RouteOf | None = None,
    jitter: Callable[[], float] | None = None,
    renewing: Renewing | None = None,
    watches: Sequence[Watch] = (),
) -> QueueOutcome:
    """Do what a message hints at: run its generation's queued attempt, end it, or put the message back.

    Arguments as for ``retry_generation``; ``taken`` is what ``QueueStorage.take`` returned.

    Raises:
        NotConfigured: an operator has to act; the attempt is put back for a minute. ``OtherReader`` is one.
        ContextUnusable: the reader or the settings here are at fault; the attempt is put back for a minute.
        StorageFailure: the message comes again.
    """
    policy = policy if renewing is not None else policy.within_lease()
    loop = working(taken, uuid4(), setting_of(policy, context_from, route_of, clock, jitter))
    return drive(loop, storage=storage, ai=ai, rule=policy.quota, renewing=renewing, watches=watches)
