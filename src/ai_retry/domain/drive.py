"""The synchronous driver of the loops: it does, step by step, what a loop yields."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeAlias
from uuid import UUID

from ai_retry.domain.change import Begin, CloseOver, Discard, Keep, Postpone, PutBack, Renew, Running, Settle
from ai_retry.domain.change_storage import ChangeStorage
from ai_retry.domain.errors import AiRetryError, GenerationFailed
from ai_retry.domain.loop import Call, Load, Loop, Result, Step
from ai_retry.domain.model import Answer, Failure, QuotaRule
from ai_retry.domain.ports import AiProvider

Renewing: TypeAlias = Callable[[UUID, UUID], AbstractContextManager[None]]


def drive(
    loop: Loop[Result], *, storage: ChangeStorage, ai: AiProvider, rule: QuotaRule, renewing: Renewing | None = None
) -> Result:
    """Run a loop to its end; return or raise what it does.

    Args:
        loop: such as ``retrying``.
        storage: repeats changes whose reply was lost by itself; what it raises is thrown into the loop.
        ai: is asked for the loop's calls; its failures are results.
        rule: which units count as used.
        renewing: renews the lease of a generation's attempt, by its token, while the loop runs; None: leases are not
            renewed.
    """
    with ExitStack() as leases:
        return _drive(loop, storage, ai, rule, lambda change: _renew(change, renewing, leases))


def _drive(
    loop: Loop[Result], storage: ChangeStorage, ai: AiProvider, rule: QuotaRule, begun: Callable[[Begin], None]
) -> Result:
    try:
        step = next(loop)
        while True:
            try:
                result = _do(step, storage, ai, rule)
            except AiRetryError as error:
                step = loop.throw(error)
            else:
                if isinstance(step, Begin):
                    begun(step)
                step = loop.send(result)
    except StopIteration as done:
        value: Result = done.value
        return value


def _renew(change: Begin, renewing: Renewing | None, leases: ExitStack) -> None:
    """Renew from now on; an attempt that is not open ends that at the first renewal."""
    if renewing is not None and isinstance(change.attempt.start, Running):
        leases.enter_context(renewing(change.generation_id, change.token))


def _do(step: Step, storage: ChangeStorage, ai: AiProvider, rule: QuotaRule) -> Any:
    result: Any = None
    match step:
        case Load():
            result = storage.load(step.user_id, step.generation_id, rule, step.token)
        case Begin() | CloseOver():
            result = storage.begin(step)
        case Settle():
            result = storage.settle(step)
        case PutBack() | Postpone() | Renew() | Discard():
            result = storage.amend(step)
        case Keep():
            storage.keep(step)
        case _:
            result = _call(step, ai)
    return result


def _call(step: Call, ai: AiProvider) -> Answer | Failure:
    try:
        return ai.generate(step.context, timeout=step.timeout, idempotency_key=step.idempotency_key)
    except GenerationFailed as failed:
        return failed.failure
