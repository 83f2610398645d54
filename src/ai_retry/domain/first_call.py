"""The first call of a generation as functions over the ports: see ``first_loop``.

On the core it is an attempt like any other: hold, lease, call, session, capture, and every rule of a retry. What it
adds is that its begin creates the generation, through the app's binding, in the same transaction. So a generation that
exists can be retried, and one that does not was never charged.

The generation's id is the caller's, or follows from the user and the idempotency key, or is random. Who asks for the
same id again, with the same request, is answered what became of it; no second call is made. The next one is a retry's.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

from ai_retry.domain.change import NewGeneration
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader, RouteOf
from ai_retry.domain.drive import Renewing, Watch, drive
from ai_retry.domain.first_loop import accepting_first, generating
from ai_retry.domain.model import UNKNOWN_ORIGIN, Origin, RetryResult
from ai_retry.domain.names import WaiverWord, as_uuid, check_key, check_readable
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy, storable
from ai_retry.domain.ports import AiProvider, Clock, QueueStorage, Storage
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.retry import asked_for, setting_of

NAMESPACE: Final = UUID("64819714-3776-5830-a10a-0aee535b80c3")  # of the ids that follow from a user and a key
MAX_PROMPT_BYTES: Final = 65_536
_DEEPEST: Final = 100  # lists and objects within each other
_RESERVED: Final = ("prompt_data", "model")


def generate(
    user_id: UUID | str,
    prompt: Any,
    *,
    storage: Storage,
    ai: AiProvider,
    clock: Clock,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    route_of: RouteOf | None = None,
    model: str | None = None,
    columns: Mapping[str, Any] | None = None,
    generation_id: UUID | str | None = None,
    idempotency_key: str | None = None,
    waive: Collection[WaiverWord] = (),
    charge: bool = True,
    operator: str | None = None,
    max_prompt_bytes: int = MAX_PROMPT_BYTES,
    request: Any = None,
    origin: Origin = UNKNOWN_ORIGIN,
    jitter: Callable[[], float] | None = None,
    renewing: Renewing | None = None,
    watches: Sequence[Watch] = (),
) -> RetryResult:
    """Create a generation, make its first call, and return its session.

    The user's quota is held while the attempt runs, captured by its success and released by any other end. A failure
    leaves a generation that can be retried; the error carries its id. Safe to repeat with the same key or id, whatever
    it raised: no repeat makes a second call, and what became of the first one is returned, or raised, again.

    Args:
        user_id: whose generation it will be; as ``UUID`` or as its canonical string.
        prompt: as the app stores it, and its reader reads it: JSON. A string is one message of the user.
        storage: where generations and attempts live.
        ai: which provider is called.
        clock: measures durations; instants are the storage's.
        policy: the numbers behind the rules.
        context_from: reads what to ask out of the generation, as the app has stored it.
        route_of: names the provider and model that a context asks, so that a known outage is refused; None: outages
            don't matter.
        model: that the generation names; None: the reader, or the provider, chooses.
        columns: what else the binding's ``app_create_generation`` needs of the request: JSON.
        generation_id: the generation's id, chosen by the caller; by it a repeat is recognised.
        idempotency_key: makes the id, with the user's. Only one of both can be given: two ids under one key would be
            two generations.
        waive: limits that an operator lifts for this attempt; recorded on it.
        charge: False gives the user the session without spending quota; recorded.
        operator: who lifted a limit; recorded. Without a name no limit is lifted.
        max_prompt_bytes: of prompt and columns, as JSON, together.
        request: JSON by which a repeat is recognised, where the same request does not always give the same prompt, such
            as one with the day's date; None: prompt, model and columns.
        origin: the request that asks; recorded.
        jitter: where in its range a wait is, in [0, 1]; at random when None.
        renewing: renews the attempt's lease while it runs; None: the call ends within the policy's lease, whatever its
            deadline.
        watches: look at each step.

    Raises:
        ValueError: an argument can't be used, and the message names it; nothing was read.
        RetryRefused: a rule refuses it now, and nothing was written; or, with the generation's id, an attempt works on
            it.
        IdempotencyConflict: the key or the id belongs to another request.
        GenerationFailed: the provider gave no usable answer; the attempt is recorded.
        AiRetryError: see ``ai_retry.domain.errors`` for the others. Its ``generation_id`` is set where the generation
            exists, or, after ``StorageOutcomeUnknown``, may exist.
    """
    asked = first_asked(
        user_id,
        new_generation(prompt, model=model, columns=columns, max_bytes=max_prompt_bytes, request=request),
        generation_id=generation_id,
        idempotency_key=idempotency_key,
        waive=waive,
        charge=charge,
        operator=operator,
        origin=origin,
    )
    policy = policy if renewing is not None else policy.within_lease()
    loop = generating(asked, setting_of(policy, context_from, route_of, clock, jitter))
    return drive(loop, storage=storage, ai=ai, rule=policy.quota, renewing=renewing, watches=watches)


def generate_later(
    user_id: UUID | str,
    prompt: Any,
    *,
    storage: QueueStorage,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    model: str | None = None,
    columns: Mapping[str, Any] | None = None,
    generation_id: UUID | str | None = None,
    idempotency_key: str | None = None,
    waive: Collection[WaiverWord] = (),
    charge: bool = True,
    operator: str | None = None,
    max_prompt_bytes: int = MAX_PROMPT_BYTES,
    request: Any = None,
    origin: Origin = UNKNOWN_ORIGIN,
    watches: Sequence[Watch] = (),
) -> QueuedRetry:
    """Create a generation, and accept its first call for later: a worker makes it.

    Arguments as for ``generate``. The user's quota is held from now on. Cancelled, it leaves a failed generation, which
    can be retried. With the same key or id again, the attempt that is open is described, or what the generation has
    come to is returned, or raised.

    Raises:
        NotConfigured: there is no queue; nothing was written.
        ValueError, AiRetryError: see ``generate``.
    """
    asked = first_asked(
        user_id,
        new_generation(prompt, model=model, columns=columns, max_bytes=max_prompt_bytes, request=request),
        generation_id=generation_id,
        idempotency_key=idempotency_key,
        waive=waive,
        charge=charge,
        operator=operator,
        origin=origin,
    )
    loop = accepting_first(asked, Reader(context_from=context_from), policy)
    return drive(loop, storage=storage, ai=None, rule=policy.quota, watches=watches)


def new_generation(
    prompt: Any,
    *,
    model: str | None,
    columns: Mapping[str, Any] | None,
    max_bytes: int = MAX_PROMPT_BYTES,
    request: Any = None,
) -> NewGeneration:
    """Check what a generation is to be created from, and copy it.

    Raises:
        ValueError: names the argument, never its content.
    """
    import hashlib  # noqa: PLC0415 (loads OpenSSL; importing ai_retry shall be quick)

    if model is not None:
        check_readable(model, "model")
    if prompt is None:
        raise ValueError("prompt must not be None")
    if isinstance(prompt, str):
        prompt = {"messages": [{"role": "user", "content": prompt}]}
    if columns is not None and not isinstance(columns, Mapping):
        raise ValueError("columns must be a mapping")
    further = dict(columns or {})
    if taken := [name for name in _RESERVED if name in further]:
        raise ValueError(f"columns must not hold {' or '.join(taken)}: give it as an argument of its own")
    parts = [_canonical(prompt, "prompt"), _canonical(further, "columns")]
    if sum(len(part.encode()) for part in parts) > max_bytes:
        raise ValueError(f"prompt must have at most {max_bytes} bytes as JSON, columns included")
    same = json.dumps([*parts, model] if request is None else [_canonical(request, "request")])
    return NewGeneration(
        prompt_data=json.loads(parts[0]),
        model=model,
        columns=json.loads(parts[1]),
        digest=hashlib.sha256(same.encode()).hexdigest(),
    )


def first_asked(
    user_id: UUID | str,
    new: NewGeneration,
    *,
    generation_id: UUID | str | None,
    idempotency_key: str | None,
    waive: Collection[WaiverWord],
    charge: bool,
    operator: str | None,
    origin: Origin = UNKNOWN_ORIGIN,
) -> Asked:
    """Read what a caller asks for, under a new token, and choose the generation's id.

    Raises:
        ValueError: names the argument.
    """
    user_id = as_uuid(user_id, "user_id")
    check_key(idempotency_key)
    if generation_id is not None and idempotency_key is not None:
        raise ValueError("idempotency_key must not be given with generation_id: either one names the request")
    if generation_id is None:
        named = idempotency_key is not None
        generation_id = uuid5(NAMESPACE, f"{user_id}:{idempotency_key}") if named else uuid4()
    return asked_for(
        user_id,
        generation_id,
        idempotency_key=idempotency_key,
        waive=waive,
        charge=charge,
        operator=operator,
        origin=origin,
        create=new,
    )


def _canonical(value: Any, name: str) -> str:
    """Write JSON in the one way that the same value always has.

    Raises:
        ValueError: names the argument.
    """
    if not is_flat(value, _DEEPEST):
        raise ValueError(f"{name} must not be nested deeper than {_DEEPEST} levels")
    problem = f"{name} must be JSON that a database can hold: no NaN, no NUL, no lone surrogate"
    if not storable(value):
        raise ValueError(problem)
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    except TypeError:  # names of several types in one object
        raise ValueError(problem) from None


def is_flat(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested no deeper than so."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return levels >= 0 and all(is_flat(each, levels - 1) for each in inner)
