"""One retry as a function over three ports: the loop of ``loop.retrying``, driven to its end.

::

    snapshot = storage.load(…)               one read
    change   = decide.begin.retry_now(…)     pure; raises the refusal that applies
    reply    = storage.begin(change)         one transaction; stale: decide again on what it carries
    answer   = ai.generate(…)                the one slow call, outside of any transaction; or the stored answer
    change   = decide.settle…                pure
    reply    = storage.settle(change)        one transaction; the last resort is ``keep``
"""

from collections.abc import Callable, Collection, Sequence
from uuid import UUID, uuid4

from ai_retry.domain.change import NewGeneration
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked, owned
from ai_retry.domain.decide.route import Reader, RouteOf
from ai_retry.domain.drive import Renewing, Watch, drive
from ai_retry.domain.loop import Setting, retrying
from ai_retry.domain.model import UNKNOWN_ORIGIN, Origin, RetryResult
from ai_retry.domain.names import WaiverWord, as_uuid, as_waivers, check_key, check_operator, lifting
from ai_retry.domain.outlook import Outlook, outlook
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, Storage
from ai_retry.domain.reader import ContextFrom


def retry_generation(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    storage: Storage,
    ai: AiProvider,
    clock: Clock,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    route_of: RouteOf | None = None,
    idempotency_key: str | None = None,
    waive: Collection[WaiverWord] = (),
    charge: bool = True,
    operator: str | None = None,
    origin: Origin = UNKNOWN_ORIGIN,
    jitter: Callable[[], float] | None = None,
    renewing: Renewing | None = None,
    watches: Sequence[Watch] = (),
) -> RetryResult:
    """Try a failed generation again, once, and return its session.

    The user's quota is held while the attempt runs, captured by its success and released by any other end. Safe to
    repeat whatever it raised: no repeat creates a second session, charges a second unit or starts a second call beside
    a running one.

    Args:
        user_id: whose generation it must be.
        generation_id: which one; as ``UUID`` or as its canonical string, like ``user_id``.
        storage: where generations and attempts live.
        ai: which provider is called.
        clock: measures durations; instants are the storage's.
        policy: the numbers behind the rules.
        context_from: reads what to ask out of the generation.
        route_of: names the provider and model that a context asks, so that a known outage is refused; None: outages
            don't matter.
        idempotency_key: if the latest attempt with it succeeded, its session is returned instead. A key that begins
            with ``plan:`` belongs to a recovery plan, and is refused.
        waive: limits that an operator lifts for this attempt, such as ``{"quota"}``; recorded on it.
        charge: False gives the user the session without spending quota; recorded.
        operator: who lifted a limit; recorded. Without a name no limit is lifted.
        origin: the request that asks; recorded.
        jitter: where in its range a wait is, in [0, 1]; at random when None.
        renewing: renews the attempt's lease while it runs; None: the call ends within the policy's lease, whatever its
            deadline.
        watches: look at each step.

    Raises:
        ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
            nothing was read.
        RetryRefused: a rule refuses it now; nothing was written.
        GenerationFailed: the provider gave no usable answer; the attempt is recorded.
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
    policy = policy if renewing is not None else policy.within_lease()
    loop = retrying(asked, setting_of(policy, context_from, route_of, clock, jitter))
    return drive(loop, storage=storage, ai=ai, rule=policy.quota, renewing=renewing, watches=watches)


def retry_status(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    storage: Storage,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    route_of: RouteOf | None = None,
) -> Outlook:
    """Return what a retry would be answered now. Reads only.

    Raises:
        ValueError: an id is not a UUID.
        GenerationNotFound: the user has no such generation.
        StorageFailure: safe to repeat.
    """
    user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
    snapshot = storage.load(user_id, generation_id, policy.quota, None)
    reader = Reader(context_from=context_from, route_of=route_of)
    return outlook(owned(snapshot, user_id, generation_id), reader, policy)


def asked_for(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    idempotency_key: str | None,
    waive: Collection[WaiverWord],
    charge: bool,
    operator: str | None,
    origin: Origin = UNKNOWN_ORIGIN,
    create: NewGeneration | None = None,
) -> Asked:
    """Read what a caller asks for, under a new token.

    Raises:
        ValueError: names the argument.
    """
    user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
    check_key(idempotency_key)
    lifted = as_waivers(waive)
    check_operator(operator, lifted=lifting(waive=lifted, charge=charge))
    return Asked(
        user_id=user_id,
        generation_id=generation_id,
        token=uuid4(),
        idempotency_key=idempotency_key,
        waive=lifted,
        charge=charge,
        operator=operator,
        origin=origin,
        create=create,
    )


def setting_of(
    policy: RetryPolicy,
    context_from: ContextFrom,
    route_of: RouteOf | None,
    clock: Clock,
    jitter: Callable[[], float] | None,
) -> Setting:
    """Collect what all loops of a process have in common."""
    return Setting(
        policy=policy,
        reader=Reader(context_from=context_from, route_of=route_of),
        monotonic=clock.monotonic,
        fraction=jitter or _at_random,
    )


def _at_random() -> float:
    import random  # noqa: PLC0415 (importing ai_retry shall be quick)

    return random.random()  # noqa: S311 (spreads waits, guards nothing)
