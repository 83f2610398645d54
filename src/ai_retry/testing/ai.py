"""An ``AiProvider`` in memory, for tests of everything around the call.

It speaks no HTTP; ``ai_retry.testing.provider`` does, for tests of the call itself.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class AiCall:
    """One call that the provider was asked to make."""

    context: Context = field(repr=False)
    timeout: timedelta
    idempotency_key: str


AiStep: TypeAlias = Answer | Failure | BaseException | Callable[[AiCall], "Answer | Failure | BaseException"]


class ScriptedAiProvider:
    """Answers call after call from a script; a call beyond it is an error.

    A step is an ``Answer`` to return, a ``Failure`` to raise as ``GenerationFailed``, any exception to raise, or a
    function of the call that gives one of these: a function may also wait, or look at the database meanwhile. May be
    called from several threads; each call takes the next step.

    ::

        ai = ScriptedAiProvider(failure, Answer(output={"title": "Intervals"}))
        ...
        assert [call.context.model for call in ai.calls] == ["small", "small"]
        ai.assert_finished()

    Attributes:
        calls: what was asked, in order.
    """

    def __init__(self, *script: AiStep, default: AiStep | None = None) -> None:
        """Play ``script``; after its end ``default`` if given, else an ``AssertionError``."""
        self.calls: list[AiCall] = []
        self._script = list(script)
        self._default = default
        self._lock = threading.Lock()

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Play the next step of the script.

        Raises:
            GenerationFailed: the step is a ``Failure``.
            AssertionError: the script has no step left.
        """
        call = AiCall(context=context, timeout=timeout, idempotency_key=idempotency_key)
        step = self._next(call)
        if callable(step):
            step = step(call)
        if isinstance(step, Failure):
            raise GenerationFailed(step)
        if isinstance(step, BaseException):
            raise step
        return step

    def assert_finished(self) -> None:
        """Raise an ``AssertionError`` if steps of the script were not played."""
        if self._script:
            raise AssertionError(f"{len(self._script)} scripted steps were not asked for")

    def _next(self, call: AiCall) -> AiStep:
        with self._lock:
            self.calls.append(call)
            if self._script:
                return self._script.pop(0)
        if self._default is None:
            raise AssertionError(f"call number {len(self.calls)} was not expected")
        return self._default
