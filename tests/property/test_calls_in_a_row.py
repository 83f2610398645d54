"""However often is asked, and of whom: what becomes an answer is one whole, valid, unrefused output that was sent."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode
from ai_retry.domain.ports import AiProvider
from ai_retry.providers.fallback import FallbackProvider
from ai_retry.providers.http import HttpAiProvider
from ai_retry.providers.reask import ReaskProvider
from ai_retry.testing.provider import Request, Script, ScriptedServer, reply
from tests.property.test_answers import (
    MORE,
    PROMPT,
    SCHEMA,
    SIGNS,
    Signs,
    Wrapped,
    envelope,
    wrapped_json,
    wrapped_text,
)

CONTEXT = Context(messages=[{"role": "user", "content": PROMPT}], model="small")
STATUSES = st.sampled_from([200] * 8 + [400, 404, 500, 503])


class Line:
    """A server that sends one body after the other, and the providers that ask it."""

    def __init__(self) -> None:
        self.bodies: list[Script] = []
        self.server = ScriptedServer(default=self._next)

    def _next(self, _: Request) -> Script:
        return self.bodies.pop(0)

    def ask(self, ai: AiProvider, context: Context) -> Answer | Failure:
        """Ask; what is raised is returned."""
        try:
            return ai.generate(context, timeout=timedelta(seconds=60), idempotency_key="k")
        except GenerationFailed as failed:
            return failed.failure


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    """One server for all examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        line = Line()
        with line.server:
            yield line


@pytest.fixture(scope="module")
def ai(line: Line) -> Iterator[AiProvider]:
    """Re-asks of fallbacks: up to three models, each asked twice."""

    def one(model: str) -> ReaskProvider:
        http = HttpAiProvider(clock=SystemClock(), base_url=line.server.base_url, model=model, max_requests=1)
        return ReaskProvider(http)

    with closing(
        FallbackProvider([one("small"), one("large")], models=["middle"], fallback_on=["refusal", "timeout"])
    ) as ai:
        yield ai


def is_whole(wrapped: Wrapped, sign: Signs, status: int, *, schema: bool) -> bool:
    """Whether the pieces of a body are an answer."""
    passes = ("", "unknown", "tool") if schema else ("",)
    return status == 200 and wrapped.output is not None and sign.spoils in passes


def check(line: Line, ai: AiProvider, drawn: list[tuple[Wrapped, Signs, int]], *, schema: bool) -> None:
    """Play the bodies in their order, and compare."""
    line.bodies = [reply(status, body=envelope(wrapped.content, sign)) for wrapped, sign, status in drawn]
    context = replace(CONTEXT, response_schema=SCHEMA if schema else None)

    outcome = line.ask(ai, context)

    asked = drawn[: len(drawn) - len(line.bodies)]
    assert outcome.wire_requests == len(outcome.calls) == len(asked)
    whole = [is_whole(*each, schema=schema) for each in asked]
    assert not any(whole[:-1])
    codes: list[FailureCode | None] = [each.code for each in outcome.calls]
    assert [code is None for code in codes] == whole
    if isinstance(outcome, Answer):
        assert whole[-1]
        assert outcome.output == asked[-1][0].output
    else:
        assert not any(whole)
        assert outcome.invalid is None


def bodies(content: st.SearchStrategy[Wrapped]) -> st.SearchStrategy[Any]:
    """Draw as many bodies as may be asked for."""
    return st.lists(st.tuples(content, SIGNS, STATUSES), min_size=6, max_size=6)


@settings(max_examples=100 * MORE, deadline=None)
@given(drawn=bodies(wrapped_json()))
def test_json_after_reasks_and_fallbacks(line: Line, ai: AiProvider, drawn: list[tuple[Wrapped, Signs, int]]) -> None:
    """Under a schema, whichever request it is that brings it."""
    check(line, ai, drawn, schema=True)


@settings(max_examples=60 * MORE, deadline=None)
@given(drawn=bodies(wrapped_text()))
def test_text_after_fallbacks(line: Line, ai: AiProvider, drawn: list[tuple[Wrapped, Signs, int]]) -> None:
    """Without a schema nothing is asked about again, and others are asked all the same."""
    check(line, ai, drawn, schema=False)
