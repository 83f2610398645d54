"""The rules of a retry, and the numbers behind them, as pure functions over a snapshot.

The endpoint, the status page, a dry run and an operator's "why not?" all ask ``admit``, so they can't disagree. The
database counts, and compares with numbers that were chosen here; what it decides by itself, because only it can see
it, is listed in ``supabase/schemas/schema.sql``.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import (
    AlreadySucceeded,
    AttemptsExhausted,
    BackoffNotElapsed,
    NotConfigured,
    QuotaExhausted,
    RetryExpired,
    RetryInProgress,
    RetryPoisoned,
    SessionConflict,
    TooManyParallel,
)
from ai_retry.domain.model import (
    Admission,
    Attempt,
    Context,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    Purpose,
    QuotaRule,
    Snapshot,
    Waiver,
)
from ai_retry.domain.reader import ContextFrom, OtherReader, read_context, reader_name

OUTAGE_REFUSALS = 3  # requests in a row, no answer between them, that are turned away where there is an outage
OUTAGE_DOUBTS = 10  # failures in a row, each perhaps of its own request's making
BUSY_WAIT = timedelta(seconds=5)  # at most, before asking again whether the other attempt has finished
LONGEST_DEADLINE = timedelta(hours=1)
SHORTEST_CALL = timedelta(seconds=1)  # with less time left the attempt is given back without calling
NO_SESSION_FUNCTION = "the function public.ai_retry_create_session(generations, jsonb) does not exist"
_IN_PROGRESS = (GenerationStatus.QUEUED, GenerationStatus.PROCESSING)
_sorted: Final = json.JSONEncoder(sort_keys=True, default=str).encode
_strict: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The numbers behind the rules. A wrong one is a ``ValueError`` that names it."""

    max_attempts: int = 4  # counted ones: the first call and three retries
    hard_cap: int = 20  # attempts of ours per generation in any ``hard_cap_window``, but for operators' faults
    hard_cap_window: timedelta = timedelta(hours=24)  # in which ``hard_cap`` counts
    backoff_base: timedelta = timedelta(seconds=2)  # the first wait, at most; each further one doubles it
    backoff_cap: timedelta = timedelta(minutes=5)  # the longest wait of our own
    max_wait: timedelta = timedelta(hours=24)  # of what a provider may ask
    max_parallel: int = 2  # live attempts per user
    quota: QuotaRule = field(default_factory=QuotaRule)
    deadline: timedelta = timedelta(seconds=15)  # for the calls of an attempt, all together; at most an hour
    lease: timedelta = timedelta(seconds=35)  # of one attempt, until others may take over; renewed while it lives
    settle_margin: timedelta = timedelta(seconds=5)  # after the deadline, for settling
    left_behind: timedelta = timedelta(minutes=15)  # for which the app's own ``processing`` is believed
    max_queued: timedelta = timedelta(hours=24)  # for which an accepted retry is tried
    max_abandoned: int = 3  # of an accepted retry's attempts in a row, before it is given up
    outage_cap: timedelta = timedelta(seconds=10)  # the longest wait between two probes of an unavailable provider
    answer_max_age: timedelta | None = None  # of a stored answer, before a call replaces it; None: any

    def __post_init__(self) -> None:
        """Refuse numbers that can't work together."""
        for name in ("max_attempts", "hard_cap", "max_parallel", "max_abandoned"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        for name in (
            *("hard_cap_window", "backoff_base", "backoff_cap", "max_wait", "deadline", "lease"),
            *("left_behind", "max_queued", "outage_cap"),
        ):
            _require(getattr(self, name) > timedelta(0), f"{name} must be positive")
        _require(self.answer_max_age is None or self.answer_max_age > timedelta(0), "answer_max_age must be positive")
        _require(self.settle_margin >= timedelta(0), "settle_margin must not be negative")
        _require(self.quota.limit >= 0, "quota.limit must not be negative")
        _require(self.quota.window > timedelta(0), "quota.window must be positive")
        _require(self.backoff_base <= self.backoff_cap, "backoff_base must not exceed backoff_cap")
        _require(self.deadline <= LONGEST_DEADLINE, "deadline must be at most an hour")
        _require(self.lease > self.settle_margin, "lease must be longer than settle_margin")

    @property
    def longest(self) -> timedelta:
        """Until when the lease of an attempt can be renewed: its calls and its settle end before."""
        return max(self.lease, self.deadline + self.settle_margin)

    def within_lease(self) -> "RetryPolicy":
        """Give the policy of a process that renews no lease: its calls end with the lease."""
        longest = self.lease - self.settle_margin
        return self if self.deadline <= longest else replace(self, deadline=longest)


DEFAULT_POLICY = RetryPolicy()


def admit(
    snapshot: Snapshot,
    policy: RetryPolicy = DEFAULT_POLICY,
    *,
    purpose: Purpose = Purpose.RETRY,
    context_from: ContextFrom = stored_context,
    waive: frozenset[Waiver] = frozenset(),
    charge: bool = True,
) -> Admission:
    """Decide whether the generation may be tried now, or later; the first rule that refuses wins.

    One that does not exist yet is asked about as it would be created.

    Args:
        snapshot: what the storage holds, as of its own time.
        policy: the numbers.
        purpose: what is asked for. A retry for later is accepted during a wait, and while others run: it waits itself.
            A worker asks about the attempt that was accepted: its quota is held already.
        context_from: reads the context out of the generation, or raises ``ContextMissing``. A worker asks no other
            reader than the one with which the retry was accepted.
        waive: limits that an operator lifts for this attempt.
        charge: False when the user shall not pay: no unit is held, so the quota is not asked.

    Raises:
        AlreadySucceeded, RetryInProgress, NotConfigured, SessionConflict, ContextMissing, AttemptsExhausted,
        BackoffNotElapsed, TooManyParallel, QuotaExhausted: in this order.
        RetryExpired, RetryPoisoned: only to a worker, before SessionConflict; OtherReader: before ContextMissing.
    """
    snapshot = with_young_answer(snapshot, policy)
    generation = snapshot.generation
    running = purpose is Purpose.RUN_QUEUED
    if is_success(snapshot):
        raise AlreadySucceeded(generation.id, generation.session_id)
    if not running and snapshot.exists:
        refuse_in_progress(snapshot, policy)
    _refuse_without_function(snapshot)
    if running:
        _refuse_ended(snapshot, policy)
    _refuse_conflict(snapshot)
    context = None if snapshot.stored_answer else _read(snapshot, context_from, running=running)
    _refuse_exhausted(snapshot, policy)
    if Waiver.BACKOFF not in waive:
        _refuse_too_soon(snapshot, later=policy.max_queued if purpose is Purpose.ENQUEUE else timedelta(0))
    if purpose is not Purpose.ENQUEUE:
        _refuse_too_many(snapshot, policy)
    ask_quota = charge and Waiver.QUOTA not in waive and not running
    if ask_quota:
        _refuse_without_quota(snapshot)
    number = next_number(snapshot)
    return Admission(
        number=number,
        max_live=policy.max_parallel,
        max_used=snapshot.quota.limit if ask_quota else None,
        abandoned_wait=ceiling(number, policy),
        context=context,
        stored_answer=snapshot.stored_answer,
        due_at=None if Waiver.BACKOFF in waive else next_attempt_at(snapshot),
    )


def with_young_answer(snapshot: Snapshot, policy: RetryPolicy) -> Snapshot:
    """Leave out a stored answer that is too old to become a session: the next attempt calls."""
    stored, max_age = snapshot.stored_answer, policy.answer_max_age
    if stored is None or max_age is None or stored.stored_at is None or snapshot.as_of - stored.stored_at <= max_age:
        return snapshot
    return replace(snapshot, stored_answer=None)


def queued_attempt(snapshot: Snapshot) -> Attempt | None:
    """Return the attempt that waits for a worker, if there is one."""
    last = snapshot.last_attempt
    return last if last is not None and last.is_queued else None


def next_number(snapshot: Snapshot) -> int:
    """Number of the next attempt to run: every attempt counts, the first call being number 1, ours or the app's."""
    last = snapshot.last_attempt
    if last is None:
        return 2 if snapshot.exists else 1
    return last.number if last.is_queued else last.number + 1


def counted_attempts(snapshot: Snapshot) -> int:
    """Attempts that use up ``max_attempts``, the app's own first call included."""
    is_apps = snapshot.exists and snapshot.first_call is None
    return is_apps + sum(attempt.counted for attempt in _begun(snapshot))


def waiting_helps(snapshot: Snapshot) -> bool:
    """Whether it pays to come back: the identical request may succeed later, as far as the last attempt shows.

    A stored answer needs no request.
    """
    last = snapshot.last_attempt
    return snapshot.stored_answer is not None or last is None or last.passes


def next_attempt_at(snapshot: Snapshot) -> datetime | None:
    """When the backoff of the last attempt ends, or when a queued one is due; None before the first one."""
    return snapshot.last_attempt.next_attempt_at if snapshot.last_attempt else None


def ceiling(number: int, policy: RetryPolicy = DEFAULT_POLICY) -> timedelta:
    """Longest backoff after attempt ``number``: ``min(cap, base * 2**(n-1))``; n counts retries, and is 1 at least."""
    doublings = max(number - 2, 0)
    if doublings >= (policy.backoff_cap // policy.backoff_base).bit_length():  # past the cap; timedelta would overflow
        return policy.backoff_cap
    return policy.backoff_base * (1 << doublings)


def wait_after(
    number: int, failure: Failure | None, policy: RetryPolicy = DEFAULT_POLICY, *, fraction: float
) -> timedelta:
    """Wait between attempt ``number`` and the next.

    Uniform in [ceiling/2, ceiling], ``fraction`` in [0, 1] saying where, so that clients that failed together do not
    come back together; what the provider asked for is a floor, itself at most ``policy.max_wait``.
    """
    longest = ceiling(number, policy)
    backoff = longest * (0.5 + fraction / 2)
    return max(backoff, asked_wait(failure, policy))


def asked_wait(failure: Failure | None, policy: RetryPolicy = DEFAULT_POLICY) -> timedelta:
    """Wait that the provider asked this request for, at most ``policy.max_wait``."""
    asked = failure.retry_after if failure and failure.retry_after else timedelta(0)
    return min(asked, policy.max_wait)


def call_timeout(elapsed: timedelta, policy: RetryPolicy = DEFAULT_POLICY) -> timedelta:
    """How long the provider may take, ``elapsed`` after the begin was sent, so that the call fits the lease.

    A lease is renewed from when the begin has been replied to; where that took longer than the lease allows, others
    may have taken over, and no call may begin.
    """
    left = policy.lease - elapsed - policy.settle_margin
    return min(policy.deadline, policy.longest - elapsed - policy.settle_margin) if left > timedelta(0) else left


def provider_key(snapshot: Snapshot, context: Context, route: str | None = None) -> str:
    """Name the question for providers that honour an idempotency key: 64 hexadecimal digits.

    The same for as long as it is unknown what came of it at this route, so that such a provider can give back the
    answer that was lost; another one as soon as its outcome, or the context, is another: what is known would only come
    once more.
    """
    import hashlib  # noqa: PLC0415 (loads OpenSSL; importing ai_retry shall be quick)

    asked_first_in = next_number(snapshot)
    for attempt in reversed(_begun(snapshot)):
        if attempt.provider_outcome is ProviderOutcome.NOT_GENERATED and attempt.lease_expires_at is None:
            continue  # it never ran
        known = attempt.in_doubt is not None and route not in attempt.in_doubt
        if known or attempt.provider_outcome is not ProviderOutcome.UNKNOWN:
            break
        asked_first_in = attempt.number
    question = [
        str(snapshot.generation.id),
        asked_first_in,
        context.model,
        *map(dict, (*context.messages, context.parameters, context.response_schema or {}, context.extra_body)),
    ]
    return hashlib.sha256(_sorted(question).encode()).hexdigest()


def storable(output: object) -> bool:
    """Whether an output is JSON that PostgreSQL's ``jsonb`` holds: no NaN, no lone surrogate, no U+0000.

    Providers of this library build no other; one that a user brings may.
    """
    try:
        text = _strict(output)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return "\\u0000" not in text or re.search(r"(?<!\\)(?:\\\\)*\\u0000", text) is None


def attempts_left(snapshot: Snapshot, failure: Failure, policy: RetryPolicy = DEFAULT_POLICY) -> bool:
    """Whether there is a next attempt after the one that ``snapshot`` admitted ended with ``failure``."""
    recent = len(_recent_attempts(snapshot, policy)) + (not failure.operator_fault)
    counted = counted_attempts(snapshot) + failure.counted
    return counted < policy.max_attempts and recent < policy.hard_cap


def may_go_on(snapshot: Snapshot, policy: RetryPolicy = DEFAULT_POLICY) -> bool:
    """Whether attempts are left after those that were begun."""
    return (
        counted_attempts(snapshot) < policy.max_attempts and len(_recent_attempts(snapshot, policy)) < policy.hard_cap
    )


def outage_wait(failures: int, failure: Failure, policy: RetryPolicy = DEFAULT_POLICY, *, fraction: float) -> timedelta:
    """Until the next probe of an unavailable provider, after so many failures in a row.

    Doubles from the backoff's base to ``policy.outage_cap``, uniform in its upper half; what the provider asked for is
    a floor, itself at most ``policy.backoff_cap``: it asked one request, perhaps for its size, and others wait, too.
    """
    longest = min(policy.outage_cap, ceiling(failures + 1, policy))
    return max(longest * (0.5 + fraction / 2), min(asked_wait(failure, policy), policy.backoff_cap))


def is_outage(failure: Failure) -> bool:
    """Whether a failure speaks of the provider, or the operator's account there, perhaps of nothing else."""
    return failure.operator_fault or failure.code in (FailureCode.RATE_LIMITED, FailureCode.UNAVAILABLE)


def outage_doubts(failure: Failure) -> int:
    """How many failures in a row it takes to believe in an outage when one like this comes.

    One, when no connection was possible, or the provider asks to wait. More, when others may well be answered:
    a request that is turned away now and then; or when the request itself may have broken something.
    """
    if failure.retry_after or _found_no_provider(failure):
        return 1
    turned_away = failure.certainly_not_generated or failure.operator_fault or failure.overloaded
    return OUTAGE_REFUSALS if turned_away or failure.code is FailureCode.RATE_LIMITED else OUTAGE_DOUBTS


def wait_left(closed: Attempt) -> timedelta:
    """The wait that followed an attempt when it was closed."""
    assert closed.closed_at is not None  # noqa: S101 (it is closed)
    return max((closed.next_attempt_at or closed.closed_at) - closed.closed_at, timedelta(0))


def _found_no_provider(failure: Failure) -> bool:
    """Whether not a byte was sent, for no operator's reason."""
    return failure.wire_requests == 0 and failure.code is FailureCode.UNAVAILABLE and failure.transient


def _begun(snapshot: Snapshot) -> Sequence[Attempt]:
    """Return the attempts without the one that still waits for a worker."""
    return snapshot.attempts[:-1] if queued_attempt(snapshot) else snapshot.attempts


def is_success(snapshot: Snapshot) -> bool:
    """Whether either side says ``success``: the app may write a status back, but not our attempt's outcome."""
    ours = any(attempt.outcome is Outcome.SUCCEEDED for attempt in snapshot.attempts)
    return ours or snapshot.generation.status is GenerationStatus.SUCCESS


def refuse_in_progress(snapshot: Snapshot, policy: RetryPolicy) -> None:
    """Refuse while something works on the generation.

    Raises:
        RetryInProgress: our open attempt, or the app's own call.
    """
    until = _busy_until(snapshot, policy)
    if until is not None and until > snapshot.as_of:
        queued = queued_attempt(snapshot) is not None
        raise RetryInProgress(wait=min(until - snapshot.as_of, BUSY_WAIT), queued=queued)


def _busy_until(snapshot: Snapshot, policy: RetryPolicy) -> datetime | None:
    """Until when the generation is busy: with our open attempt, or with the app's own call.

    A status that an attempt of ours left there is no call of the app's.
    """
    generation = snapshot.generation
    touched_at = min(generation.updated_at or generation.created_at, snapshot.as_of)  # the app's may be any
    last = snapshot.last_attempt
    if last is not None and last.outcome is None:
        lease_expires_at = last.lease_expires_at or snapshot.as_of + BUSY_WAIT  # queued: a worker may begin any time
        if lease_expires_at > snapshot.as_of:
            return lease_expires_at
    if generation.status not in _IN_PROGRESS:
        return None
    if last is None:
        return touched_at + policy.left_behind
    ours_until = min(each for each in (last.closed_at, last.lease_expires_at) if each is not None)
    left_by_us = last.outcome is not Outcome.FAILED or last.refused_constraint is not None  # else we wrote error
    if left_by_us and touched_at <= ours_until:
        return None
    return max(touched_at, ours_until) + policy.left_behind


def _read(snapshot: Snapshot, context_from: ContextFrom, *, running: bool) -> Context:
    """Read the context; a worker only with the reader that the accepted retry was promised with, if that is known."""
    promised = snapshot.last_attempt.context_reader if running and snapshot.last_attempt else None
    if promised is not None and promised != (ours := reader_name(context_from)):
        raise OtherReader(accepted_with=promised, ours=ours)
    return read_context(context_from, snapshot.generation)


def _refuse_exhausted(snapshot: Snapshot, policy: RetryPolicy) -> None:
    """A stored answer costs no call: it may be used after the last attempt, and does not count towards the hard cap."""
    counted = counted_attempts(snapshot)
    if counted >= policy.max_attempts and not snapshot.stored_answer:
        raise AttemptsExhausted(attempts=counted, max_attempts=policy.max_attempts)
    recent = _recent_attempts(snapshot, policy)
    if len(recent) >= policy.hard_cap:
        passes_at = recent[-policy.hard_cap] + policy.hard_cap_window
        wait, helps = passes_at - snapshot.as_of, waiting_helps(snapshot)
        raise AttemptsExhausted(attempts=len(recent), max_attempts=policy.hard_cap, wait=wait, helps=helps)


def _recent_attempts(snapshot: Snapshot, policy: RetryPolicy) -> Sequence[datetime]:
    """When those attempts began that count towards the hard cap: all that called, but for an operator's faults."""
    since = snapshot.as_of - policy.hard_cap_window
    calls = [each for each in _begun(snapshot) if each.answer_from is None and not each.operator_fault]
    return sorted(attempt.started_at for attempt in calls if attempt.started_at > since)


def _refuse_ended(snapshot: Snapshot, policy: RetryPolicy) -> None:
    """An accepted retry is tried for a while, and not for as long as it kills its workers."""
    queued = queued_attempt(snapshot)
    if queued is not None and queued.expires_at is not None and queued.expires_at <= snapshot.as_of:
        raise RetryExpired
    accepted_at = queued.accepted_at if queued is not None else None
    last = _begun(snapshot)[-policy.max_abandoned :]
    deaths = [each for each in last if each.outcome is Outcome.ABANDONED and each.accepted_at == accepted_at]
    if len(deaths) == policy.max_abandoned:
        raise RetryPoisoned(policy.max_abandoned)


def _refuse_without_function(snapshot: Snapshot) -> None:
    if not snapshot.can_create_session:
        raise NotConfigured(NO_SESSION_FUNCTION)


def _refuse_conflict(snapshot: Snapshot) -> None:
    """A stored answer is not tried in vain either; it stays."""
    if snapshot.session_conflict is not None:
        raise SessionConflict(reason=snapshot.session_conflict, answer_kept=snapshot.stored_answer is not None)


def _refuse_too_soon(snapshot: Snapshot, *, later: timedelta) -> None:
    """Who is accepted for later may wait for less than that, and be tried in time."""
    due_at = next_attempt_at(snapshot)
    if due_at is not None and due_at > snapshot.as_of and due_at >= snapshot.as_of + later:
        raise BackoffNotElapsed(due_at, wait=due_at - snapshot.as_of, helps=waiting_helps(snapshot))


def _refuse_too_many(snapshot: Snapshot, policy: RetryPolicy) -> None:
    if snapshot.live >= policy.max_parallel:
        until = (snapshot.live_until or snapshot.as_of) - snapshot.as_of
        raise TooManyParallel(policy.max_parallel, wait=min(until, BUSY_WAIT), helps=waiting_helps(snapshot))


def _refuse_without_quota(snapshot: Snapshot) -> None:
    quota = snapshot.quota
    if quota.remaining == 0:
        wait = quota.resets_at - snapshot.as_of if quota.limit and quota.resets_at else None
        raise QuotaExhausted(limit=quota.limit, resets_at=quota.resets_at, wait=wait, helps=waiting_helps(snapshot))
