"""The provider of a simulation: it takes its time, fails, and answers; the product's fallback and re-ask sit on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from ai_retry.domain.calls import noted
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.loop import Call
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, InvalidAnswer, ProviderOutcome, Usage
from ai_retry.providers.fallback import FallbackProvider
from ai_retry.providers.reask import ReaskProvider
from ai_retry.testing.clock import ManualClock
from tests.helpers.builders import a_failure
from tests.simulation.books import Books

FAILURES = (
    a_failure(),
    a_failure(FailureCode.TIMEOUT),
    a_failure(certainly_not_generated=True),
    a_failure(operator_fault=True),
    a_failure(FailureCode.INVALID_OUTPUT, transient=False),
    a_failure(FailureCode.INVALID_OUTPUT, invalid=InvalidAnswer(content="{}", problems=("/: required",))),
    a_failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=timedelta(minutes=2)),
    a_failure(FailureCode.UNAVAILABLE, overloaded=True),
)
COSTLY = (ProviderOutcome.GENERATED,)


@dataclass
class Asked:
    """The attempt for which is asked just now."""

    generation_id: UUID
    token: UUID | None
    ends: float  # by the clock, when its time is up


class Provider:
    """Takes a part of the time that it is given, now and then all of it."""

    def __init__(self, name: str, model: str | None, made: "Providers") -> None:
        self.name, self.model, self._made = name, model, made

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Make one call; it has a name, by which its record is known again."""
        made, asked = self._made, self._made.asked
        assert asked is not None
        assert timedelta(0) < timeout, "a call without time"
        left = timedelta(seconds=asked.ends - made.clock.monotonic())
        assert timeout <= left + timedelta(milliseconds=1), "a call beyond the deadline"
        result = made.result()
        made.clock.advance(timeout * (1.0 if result.model == "late" else made.random.choice((0.0, 0.0, 0.1, 0.5))))
        made.books.wire[asked.generation_id] += result.wire_requests
        name = made.books.called(asked.generation_id, asked.token, idempotency_key, result)
        result = noted(replace(result, model=None), duration=timedelta(seconds=1), provider=name)
        if isinstance(result, Failure):
            raise GenerationFailed(result)
        return replace(result, model="small")


class Providers:
    """What the simulation's attempts ask.

    Attributes:
        asked: the attempt for which is asked just now.
    """

    def __init__(self, random: Random, clock: ManualClock, books: Books) -> None:
        self.random, self.clock, self.books = random, clock, books
        self.asked: Asked | None = None
        one, two = (ReaskProvider(Provider(each, model, self), clock=clock) for each, model in PROVIDERS)
        self._alone = FallbackProvider([one], clock=clock)
        self._both = FallbackProvider([one, two], clock=clock, fallback_on={"timeout"})

    def routes(self, context: Context) -> Sequence[str]:
        """Where a call may go; the large model has another one to fall back on."""
        return self._of(context).routes(context)

    def call(self, step: Call, generation_id: UUID, token: UUID | None) -> Answer | Failure:
        """Make the calls of one attempt."""
        began = self.clock.monotonic()
        self.asked = Asked(generation_id, token, began + step.timeout.total_seconds())
        assert [each for each in self.routes(step.context) if each not in step.context.unavailable], "no route is open"
        result: Answer | Failure
        try:
            result = self._of(step.context).generate(
                step.context, timeout=step.timeout, idempotency_key=step.idempotency_key
            )
        except GenerationFailed as failed:
            result = failed.failure
        took = timedelta(seconds=self.clock.monotonic() - began)
        assert took <= step.timeout + timedelta(milliseconds=1), "calls that took longer than their attempt may"
        return result

    def result(self) -> Answer | Failure:
        """Draw what a call comes to."""
        result: Answer | Failure
        if self.random.random() < 0.45:
            result = self.random.choice(FAILURES)
            result = replace(result, model="late" if result.code is FailureCode.TIMEOUT else None)
        else:
            self.books.calls += 1
            result = Answer(output={"call": self.books.calls}, wire_requests=self.random.randint(1, 3))
        cost = Usage(total_tokens=self.random.randint(1, 9)) if result.provider_outcome in COSTLY else None
        drawn: Any = replace(result, usage=cost)
        return drawn  # type: ignore[no-any-return]

    def _of(self, context: Context) -> FallbackProvider:
        return self._alone if context.model == "small" else self._both


PROVIDERS: Sequence[tuple[str, str | None]] = (("one", None), ("two", "spare"))
