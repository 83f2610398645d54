"""The synchronous driver of the loops: it does, step by step, what a loop yields."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from ai_retry.domain.change import Begin, CloseOver, Discard, Keep, Postpone, PutBack, Renew, Running, Settle
from ai_retry.domain.errors import AiRetryError, GenerationFailed
from ai_retry.domain.loop import Call, Load, Loop, Result, Step
from ai_retry.domain.model import Answer, Failure, QuotaRule
from ai_retry.domain.ports import AiProvider, Storage

Renewing: TypeAlias = Callable[[UUID, UUID], AbstractContextManager[None]]


class Watch(Protocol):
    """Looks at the steps of one loop, and may stop it: what it raises ends the loop, and leaves the driver."""

    def before(self, step: Step) -> None:
        """Look at a step that is about to be done."""
        ...

    def after(self, step: Step, result: Any) -> None:
        """Look at a step that was done, and at its result."""
        ...


def drive(
    loop: Loop[Result],
    *,
    storage: Storage,
    ai: AiProvider | None,
    rule: QuotaRule,
    renewing: Renewing | None = None,
    watches: Sequence[Watch] = (),
) -> Result:
    """Run a loop to its end; return or raise what it does.

    Args:
        loop: such as ``retrying``.
        storage: repeats changes whose reply was lost by itself; what it raises is thrown into the loop.
        ai: is asked for the loop's calls; its failures are results. None: the loop makes no call.
        rule: which units count as used.
        renewing: renews the lease of a generation's attempt, by its token, while the loop runs; None: leases are not
            renewed.
        watches: look at each step.
    """
    with ExitStack() as leases:
        return _Driver(storage, ai, rule, renewing, watches, leases).run(loop)


@dataclass(frozen=True, slots=True)
class _Driver:
    storage: Storage
    ai: AiProvider | None
    rule: QuotaRule
    renewing: Renewing | None
    watches: Sequence[Watch]
    leases: ExitStack

    def run(self, loop: Loop[Result]) -> Result:
        try:
            step = next(loop)
            while True:
                for watch in self.watches:
                    watch.before(step)
                try:
                    result = self._do(step)
                except AiRetryError as error:
                    step = loop.throw(error)
                    continue
                for watch in self.watches:
                    watch.after(step, result)
                if isinstance(step, Begin):
                    self._renew(step)
                step = loop.send(result)
        except StopIteration as done:
            value: Result = done.value
            return value

    def _renew(self, change: Begin) -> None:
        """Renew from now on; an attempt that is not open ends that at the first renewal."""
        if self.renewing is not None and isinstance(change.attempt.start, Running):
            self.leases.enter_context(self.renewing(change.generation_id, change.token))

    def _do(self, step: Step) -> Any:
        storage = self.storage
        result: Any = None
        match step:
            case Load():
                result = storage.load(step.user_id, step.generation_id, self.rule, step.token, creating=step.creating)
            case Begin() | CloseOver():
                result = storage.begin(step)
            case Settle():
                result = storage.settle(step)
            case PutBack() | Postpone() | Renew() | Discard():
                result = storage.amend(step)
            case Keep():
                storage.keep(step)
            case _:
                result = _call(step, self.ai)
        return result


def _call(step: Call, ai: AiProvider | None) -> Answer | Failure:
    assert ai is not None  # noqa: S101 (a loop that calls is driven with a provider)
    try:
        return ai.generate(step.context, timeout=step.timeout, idempotency_key=step.idempotency_key)
    except GenerationFailed as failed:
        return failed.failure
