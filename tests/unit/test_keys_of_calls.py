"""Every call of every attempt has the key that it needs, through the loop and what falls back and asks again."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, InvalidAnswer
from ai_retry.domain.ports import AiProvider
from ai_retry.domain.retry import retry_generation
from ai_retry.providers.fallback import FallbackProvider
from ai_retry.providers.reask import ReaskProvider
from tests.helpers.builders import a_failure
from tests.helpers.scene import Scene

LATE = a_failure(FailureCode.TIMEOUT)
INVALID = a_failure(FailureCode.INVALID_OUTPUT, invalid=InvalidAnswer(content="{}", problems=("/: required",)))
BUSY = a_failure(overloaded=True)


@dataclass
class Honours:
    """A provider that honours keys: what it has answered under one comes again, and costs nothing.

    Attributes:
        paid: what it was paid for: its keys.
        results: what comes of the questions that it has not seen, in order.
    """

    name: str
    results: list[Failure | Answer]
    paid: list[str] = field(default_factory=list)
    answered: dict[str, Failure | Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Answer once for a key; what took too long is ready when it is asked for again."""
        self.asked.append(idempotency_key)
        result = self.answered.get(idempotency_key)
        if result is None:
            result = self.results.pop(0)
            self.paid.append(idempotency_key)
            later = Answer(output={"title": self.name}) if result is LATE else result
            self.answered[idempotency_key] = later
        if isinstance(result, Failure):
            raise GenerationFailed(result)
        return result


def attempt(scene: Scene, ai: AiProvider) -> Any:
    """Retry once, with the wait lifted; what it comes to."""
    scene.world.advance(timedelta(minutes=10))
    try:
        return retry_generation(
            scene.user_id,
            scene.generation_id,
            storage=scene.storage,
            ai=ai,
            clock=scene.world.clock,
            route_of=getattr(ai, "routes", lambda _: "one/small"),
        )
    except GenerationFailed as failed:
        return failed


def falling_back(*providers: Honours) -> FallbackProvider:
    """Ask these in their order, each once more when its answer is invalid, and the next one also when it is late."""
    return FallbackProvider([ReaskProvider(each) for each in providers], fallback_on={"timeout"})


@pytest.fixture
def scene() -> Scene:
    """A failed generation."""
    return Scene()


def test_answer_that_was_lost_is_found_while_the_other_is_asked_anew(scene: Scene) -> None:
    """The first was late, the second invalid: the first's answer comes under its old key, and is paid for once."""
    first = Honours("one", [LATE])
    second = Honours("two", [INVALID, INVALID])
    ai = falling_back(first, second)

    failed = attempt(scene, ai)
    result = attempt(scene, ai)

    assert failed.code == "AI_INVALID_OUTPUT"
    assert result.session is not None
    assert (len(first.asked), len(first.paid), len(second.paid)) == (2, 1, 2)


def test_answer_of_a_provider_that_names_no_route_is_found(scene: Scene) -> None:
    """Its calls went where the attempt began: what is in doubt there is asked for under the old key."""
    only = Honours("one", [LATE])

    attempt(scene, only)
    result = attempt(scene, only)

    assert scene.rows[0].as_attempt().in_doubt == ["one/small"]
    assert result.session is not None
    assert (len(only.asked), len(only.paid)) == (2, 1)


def test_known_answer_is_not_asked_for_again(scene: Scene) -> None:
    """While the first one stays busy, an invalid answer of the second does not come again and again."""
    first = Honours("one", [BUSY, BUSY])
    second = Honours("two", [INVALID, INVALID, Answer(output={"title": "two"})])
    ai = falling_back(first, second)

    attempt(scene, ai)
    first.answered.clear()  # what it turned away it has not seen
    result = attempt(scene, ai)

    assert result.session is not None
    assert len(set(second.paid)) == 3


def test_reask_that_was_lost_is_found(scene: Scene) -> None:
    """An answer to a reask that was late comes under its key, if the invalid answer before it comes again, too."""
    first = Honours("one", [INVALID, LATE])
    ai = FallbackProvider([ReaskProvider(first)])

    attempt(scene, ai)
    row = scene.rows[0]
    result = attempt(scene, ai)

    assert row.call.provider_outcome == "unknown"
    assert result.session is not None
    assert len(first.paid) == 2


def test_reask_of_another_answer_is_another_question(scene: Scene) -> None:
    """A key names one question: where the invalid answer differs, so does the key of what is asked about it."""
    keys = []
    for content in ("{}", "[]"):
        first = Honours("one", [replace(INVALID, invalid=InvalidAnswer(content=content, problems=())), LATE])
        ai = ReaskProvider(first)
        with pytest.raises(GenerationFailed):
            ai.generate(Context(messages=(), model=None), timeout=timedelta(seconds=15), idempotency_key="key")
        keys.append(first.asked)

    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]
