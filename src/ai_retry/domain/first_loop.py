"""First calls, as loops: create the generation with its attempt number 1, or say what an earlier request came to."""

from dataclasses import replace
from types import TracebackType
from typing import Self
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.change import Begin, CloseOver, NewGeneration, Reply
from ai_retry.domain.decide import begin, first, queue
from ai_retry.domain.decide.begin import Asked, owned
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.errors import AiRetryError, ContextMissing, NotConfigured, RetryInProgress, StorageOutcomeUnknown
from ai_retry.domain.loop import TRIES, Ended, Load, Loop, RunningAttempt, Setting, has_begun, result_of
from ai_retry.domain.model import Context, RetryResult, Snapshot
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.domain.reader import read_context


def generating(asked: Asked, setting: Setting) -> Loop[RetryResult]:
    """Create a generation, run its first call, and return its session; raises what ``generate`` does."""
    new = _new(asked)
    with _Naming(asked.generation_id) as naming:
        snapshot = yield from _load(asked)
        for _ in range(TRIES):
            current = first.proposed(owned(snapshot, asked.user_id, asked.generation_id), new)
            if current.exists:
                naming.exists = True
                first.check_same(current, new)
                if not first.is_left(current):
                    return first.replayed(current, setting.policy)
                snapshot = yield from _closed(asked)
                continue
            began = setting.monotonic()
            change, context = begin.retry_now(current, asked, setting.reader, setting.policy)
            reply: Reply = yield change
            snapshot = reply.snapshot
            if has_begun(reply) and snapshot is not None:
                naming.exists = True
                attempt = RunningAttempt(current, change, began, setting)
                return result_of((yield from _run(attempt, change, context, snapshot, setting)))
        raise RetryInProgress(wait=rules.SHORTEST_CALL)


def accepting_first(asked: Asked, reader: Reader, policy: RetryPolicy) -> Loop[QueuedRetry]:
    """Create a generation and accept its first call for later, or describe the attempt that is open already.

    Raises what ``generate_later`` does.
    """
    new = _new(asked)
    with _Naming(asked.generation_id) as naming:
        snapshot = yield from _load(asked)
        for _ in range(TRIES):
            current = first.proposed(owned(snapshot, asked.user_id, asked.generation_id), new)
            if current.exists:
                naming.exists = True
                first.check_same(current, new)
                if first.is_left(current):
                    snapshot = yield from _closed(asked)
                    continue
                return queue.accepted(current) or queue.done(first.replayed(current, policy), current)
            reply: Reply = yield begin.accept(current, asked, reader, policy)
            snapshot = reply.snapshot
            if reply.applied and snapshot is not None and (accepted := queue.accepted(snapshot)) is not None:
                return accepted
        raise RetryInProgress(wait=rules.SHORTEST_CALL)


def _run(
    attempt: RunningAttempt, change: Begin, proposal: Context | None, created: Snapshot, setting: Setting
) -> Loop[Ended]:
    """Run the first call with what the app has stored, which is what every retry will read."""
    try:
        context = read_context(setting.reader.context_from, created.generation)
    except (ContextMissing, NotConfigured) as error:
        fault = error
    else:
        assert proposal is not None  # noqa: S101 (no answer is stored yet, so that a call was decided)
        context = replace(context, unavailable=proposal.unavailable, recovering=proposal.recovering)
        return (yield from attempt.run(context))
    return (yield from attempt.end(lambda now: first.unreadable(now, change, fault, setting.policy.quota), fault))


def _load(asked: Asked) -> Loop[Snapshot | None]:
    snapshot: Snapshot | None = yield Load(
        user_id=asked.user_id, generation_id=asked.generation_id, token=asked.token, creating=True
    )
    return snapshot


def _closed(asked: Asked) -> Loop[Snapshot | None]:
    """Close what a dead process left, and read again."""
    yield CloseOver(user_id=asked.user_id)
    return (yield from _load(asked))


def _new(asked: Asked) -> NewGeneration:
    assert asked.create is not None  # noqa: S101 (a first call brings what it creates)
    return asked.create


class _Naming:
    """Writes a generation's id on the errors of its first call, once it exists, or may exist."""

    def __init__(self, generation_id: UUID) -> None:
        self._generation_id = generation_id
        self.exists = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        may_exist = self.exists or isinstance(error, StorageOutcomeUnknown)
        if may_exist and isinstance(error, AiRetryError):
            error.generation_id = self._generation_id
