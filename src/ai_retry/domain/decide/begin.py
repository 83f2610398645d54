"""May this generation be tried again, now or later? The changes that begin an attempt."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.change import Acceptance, Begin, Expected, NewGeneration, Open, Run, Running
from ai_retry.domain.decide.route import Reader, open_route, with_care
from ai_retry.domain.errors import GenerationNotFound
from ai_retry.domain.model import (
    UNKNOWN_ORIGIN,
    Admission,
    Context,
    GenerationStatus,
    Origin,
    Outcome,
    Purpose,
    RetryResult,
    Snapshot,
    Waiver,
)
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.reader import reader_name

_FAILED = (GenerationStatus.ERROR, GenerationStatus.TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a caller asks for: one retry of one generation, or its first call."""

    user_id: UUID
    generation_id: UUID
    token: UUID = field(repr=False)  # of the attempt to begin; a repeat of the same request has the same
    idempotency_key: str | None = None
    waive: frozenset[Waiver] = frozenset()
    charge: bool = True
    operator: str | None = None
    create: NewGeneration | None = None  # of a first call; None: the generation is there
    origin: Origin = UNKNOWN_ORIGIN


def visible(snapshot: Snapshot | None, user_id: UUID) -> Snapshot | None:
    """Return the snapshot if its user may see the generation; None when it is absent, hidden or someone else's.

    One that has attempts and does not exist was deleted: it is not created again.
    """
    if snapshot is None or snapshot.hidden or snapshot.generation.user_id != user_id:
        return None
    return None if not snapshot.exists and snapshot.attempts else snapshot


def owned(snapshot: Snapshot | None, user_id: UUID, generation_id: UUID) -> Snapshot:
    """Return the snapshot of a generation that its user may see.

    Raises:
        GenerationNotFound: it is absent, hidden or someone else's; coming back does not help.
    """
    seen = visible(snapshot, user_id)
    if seen is None:
        raise GenerationNotFound(generation_id)
    return seen


def may_run(
    snapshot: Snapshot,
    reader: Reader,
    policy: RetryPolicy,
    *,
    purpose: Purpose = Purpose.RETRY,
    waive: frozenset[Waiver] = frozenset(),
    charge: bool = True,
) -> tuple[Admission, str | None]:
    """Ask whether an attempt may run now: the rules first, then its routes. Returns the admission and the route.

    A context that falls back is asked of the first route that is open; it names those that are not.

    Raises:
        AiRetryError: the first rule that refuses, in the order of ``policy.admit``; the route is asked last.
    """
    admission = rules.admit(
        snapshot, policy, purpose=purpose, context_from=reader.context_from, waive=waive, charge=charge
    )
    route, rooms = open_route(snapshot, reader.routes(admission.context))
    context = with_care(admission.context, rooms)
    return (admission if context is admission.context else replace(admission, context=context)), route


def retry_now(snapshot: Snapshot, asked: Asked, reader: Reader, policy: RetryPolicy) -> tuple[Begin, Context | None]:
    """Decide to run an attempt at once; with what to ask, None when the stored answer is used.

    Raises:
        AiRetryError: see ``may_run``.
    """
    admission, route = may_run(snapshot, reader, policy, waive=asked.waive, charge=asked.charge)
    attempt = Open(
        start=running(admission, policy, route),
        create=asked.create,
        charge=asked.charge,
        idempotency_key=asked.idempotency_key,
        waived=asked.waive,
        operator=asked.operator,
        origin=asked.origin,
    )
    return _begin(snapshot, admission, asked.token, attempt, policy, max_live=admission.max_live), admission.context


def accept(snapshot: Snapshot, asked: Asked, reader: Reader, policy: RetryPolicy) -> Begin:
    """Decide to accept a retry, or a first call, for later.

    Raises:
        AiRetryError: the first rule that refuses, in the order of ``policy.admit``.
    """
    admission = rules.admit(
        snapshot,
        policy,
        purpose=Purpose.ENQUEUE,
        context_from=reader.context_from,
        waive=asked.waive,
        charge=asked.charge,
    )
    status, due_at = snapshot.generation.status, admission.due_at
    unless_failed = GenerationStatus.TIMEOUT if snapshot.exists else GenerationStatus.ERROR
    attempt = Open(
        start=Acceptance(
            wait=max(due_at - snapshot.as_of, timedelta(0)) if due_at is not None else timedelta(0),
            expires_after=policy.max_queued,
            status_before=status if status in _FAILED else unless_failed,
            in_line=policy.max_parallel,
            context_reader=reader_name(reader.context_from),
        ),
        create=asked.create,
        charge=asked.charge,
        idempotency_key=asked.idempotency_key,
        waived=asked.waive,
        operator=asked.operator,
        origin=asked.origin,
    )
    return _begin(snapshot, admission, asked.token, attempt, policy, max_live=None)


def run(snapshot: Snapshot, token: UUID, reader: Reader, policy: RetryPolicy) -> tuple[Begin, Context | None]:
    """Decide that a worker runs the queued attempt; with what to ask, None when the stored answer is used.

    Raises:
        AiRetryError: see ``may_run``.
    """
    admission, route = may_run(snapshot, reader, policy, purpose=Purpose.RUN_QUEUED)
    attempt = Run(number=admission.number, start=running(admission, policy, route))
    return _begin(snapshot, admission, token, attempt, policy, max_live=admission.max_live), admission.context


def replay(snapshot: Snapshot, idempotency_key: str | None) -> RetryResult | None:
    """Return what an earlier request with this key achieved: the key belongs to the latest attempt that has it."""
    with_key = [each for each in snapshot.attempts if each.idempotency_key == idempotency_key is not None]
    if not with_key or with_key[-1].outcome is not Outcome.SUCCEEDED or snapshot.session is None:
        return None
    return RetryResult(
        generation=snapshot.generation,
        session=snapshot.session,
        quota=snapshot.quota,
        attempt=with_key[-1].number,
        replayed=True,
    )


def running(admission: Admission, policy: RetryPolicy, route: str | None) -> Running:
    """How an admitted attempt runs."""
    return Running(
        lease=policy.lease,
        longest=policy.longest,
        abandoned_wait=admission.abandoned_wait,
        answer_from=admission.stored_answer.number if admission.stored_answer else None,
        route=route,
    )


def _begin(
    snapshot: Snapshot,
    admission: Admission,
    token: UUID,
    attempt: Open | Run,
    policy: RetryPolicy,
    *,
    max_live: int | None,
) -> Begin:
    return Begin(
        user_id=snapshot.generation.user_id,
        generation_id=snapshot.generation.id,
        token=token,
        attempt=attempt,
        expected=Expected(
            as_of=snapshot.as_of,
            version=snapshot.version,
            quota_rule=policy.quota,
            max_live=max_live,
            max_used=admission.max_used,
        ),
    )
