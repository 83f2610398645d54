"""Another model when the first one fails, within one attempt and one deadline."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, ProviderOutcome
from ai_retry.domain.ports import AiProvider
from ai_retry.providers.fallback import FallbackProvider
from ai_retry.providers.reask import ReaskProvider
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from tests.helpers.builders import SECOND, a_context, a_failure, an_answer

DEADLINE = 15 * SECOND
KEY = "key"
PASSED_ON = [
    a_failure(certainly_not_generated=True, wire_requests=0),
    a_failure(overloaded=True),
    a_failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=timedelta(minutes=5)),
    a_failure(FailureCode.REJECTED, operator_fault=True, transient=False, certainly_not_generated=True),
    a_failure(FailureCode.REJECTED, transient=False, certainly_not_generated=True),
    a_failure(FailureCode.INVALID_OUTPUT),
]
REFUSED = a_failure(FailureCode.REJECTED, transient=False, refused=True)
TIMED_OUT = a_failure(FailureCode.TIMEOUT)
CUT = a_failure(FailureCode.INCOMPLETE, transient=False)


class Providers:
    """Scripted providers, and one that falls back on them in their order."""

    def __init__(self, *scripts: Sequence[AiStep], **options: Any) -> None:
        self.clock = ManualClock()
        self.scripted = [ScriptedAiProvider(*script) for script in scripts]
        names = options.pop("names", [f"p{at}" for at in range(1, len(scripts) + 1)])
        self.ai = FallbackProvider(self.scripted, names=names, clock=self.clock, **options)

    def ask(self, timeout: timedelta = DEADLINE, **context: Any) -> Answer | Failure:
        """Ask, and see that no provider has an answer left."""
        try:
            result: Answer | Failure = self.ai.generate(a_context(**context), timeout=timeout, idempotency_key=KEY)
        except GenerationFailed as failed:
            result = failed.failure
        for each in self.scripted:
            each.assert_finished()
        return result

    @property
    def calls(self) -> list[list[AiCall]]:
        """What each provider was asked."""
        return [each.calls for each in self.scripted]

    def taking(self, seconds: float, step: AiStep) -> AiStep:
        """Let a call take some time."""

        def take(_: AiCall) -> Any:
            self.clock.advance(timedelta(seconds=seconds))
            return step

        return take


@pytest.mark.parametrize("failure", PASSED_ON, ids=lambda failure: failure.code.value)
def test_next_provider_is_asked(failure: Failure) -> None:
    """Where another model may not share the failure; both calls are listed, with their routes."""
    providers = Providers([failure], [an_answer(model="big")])

    answer = providers.ask()

    assert isinstance(answer, Answer)
    assert answer.model == "big"
    assert [(each.provider, each.model, each.code, each.route) for each in answer.calls] == [
        ("p1", "small", failure.code, "p1/small"),
        ("p2", "big", None, "p2/small"),
    ]


@pytest.mark.parametrize(
    ("failure", "word"), [(REFUSED, "refusal"), (TIMED_OUT, "timeout"), (CUT, None)], ids=["refused", "late", "cut"]
)
def test_what_may_have_generated_or_is_refused_for_good_is_passed_on_only_on_demand(
    failure: Failure, word: str | None
) -> None:
    """A time-out with ``timeout``, a refusal by moderation with ``refusal``; an answer that was cut off never."""
    others = {"refusal", "timeout"} - {word}

    result = Providers([failure], [], fallback_on=others).ask()

    assert isinstance(result, Failure)
    assert (result.code, len(result.calls)) == (failure.code, 1)
    if word is not None:
        answer = Providers([failure], [an_answer()], fallback_on={word}).ask()
        assert isinstance(answer, Answer)
        assert answer.provider_outcome is ProviderOutcome.UNKNOWN or word == "refusal"


def test_models_of_a_context_are_asked_in_order() -> None:
    """At the first provider: the context's own, then its fallbacks; else those of the configuration."""
    busy = a_failure(overloaded=True)
    providers = Providers([busy, busy, an_answer()], models=["never"])

    providers.ask(fallbacks=["b", "small", "c"])

    asked = [each.context for each in providers.calls[0]]
    assert [each.model for each in asked] == ["small", "b", "c"]
    assert all(each.fallbacks is None for each in asked)
    assert Providers([], models=["d"]).ai.routes(a_context()) == ["p1/small", "p1/d"]
    assert Providers([], models=["d"]).ai.routes(a_context(fallbacks=())) == ["p1/small"]


def test_further_provider_is_asked_for_its_own_model() -> None:
    """Where it names one; else for the context's. Two of the same name are distinguished."""
    own = ScriptedAiProvider()
    own.model = "local"  # type: ignore[attr-defined]
    ai = FallbackProvider([ScriptedAiProvider(), own, ScriptedAiProvider()], names=["one", "two", "one"])

    assert ai.routes(a_context()) == ["one/small", "two/local", "one#3/small"]
    assert ai.routes(a_context(model=None)) == ["one/default", "two/local", "one#3/default"]


def test_unavailable_route_is_skipped_at_once() -> None:
    """No request is sent there, and it takes no time of the others."""
    providers = Providers([], [a_failure(overloaded=True)], [an_answer()])

    answer = providers.ask(unavailable=frozenset({"p1/small"}))

    assert isinstance(answer, Answer)
    assert [each.provider for each in answer.calls] == ["p2", "p3"]
    assert providers.calls[1][0].timeout == DEADLINE - 3 * SECOND
    assert providers.calls[1][0].context.unavailable == frozenset()


def test_all_but_the_last_leave_time() -> None:
    """So much for each that follows; what one does not use is the next one's."""
    providers = Providers([], [], [], reserve=4 * SECOND)
    busy = a_failure(overloaded=True)
    for at, each in enumerate(providers.scripted):
        each._script = [providers.taking(2, an_answer() if at == 2 else busy)]

    providers.ask()

    assert [calls[0].timeout for calls in providers.calls] == [7 * SECOND, 9 * SECOND, 11 * SECOND]


def test_first_call_has_a_second_whatever_follows() -> None:
    """Of those that follow, so many wait for their share as fit."""
    busy = a_failure(overloaded=True)
    providers = Providers([busy], [busy], [an_answer()])

    providers.ask(timeout=5 * SECOND)

    assert [calls[0].timeout for calls in providers.calls] == [2 * SECOND, 2 * SECOND, 5 * SECOND]


def test_no_call_begins_without_time() -> None:
    """The last failure is the attempt's."""
    providers = Providers([], [])
    providers.scripted[0]._script = [providers.taking(14.5, a_failure(overloaded=True))]

    result = providers.ask()

    assert isinstance(result, Failure)
    assert [len(calls) for calls in providers.calls] == [1, 0]


def test_each_call_has_a_key_of_its_own() -> None:
    """The first has the attempt's; the others have the same one whenever the attempt has."""
    busy = a_failure(overloaded=True)

    def keys(**context: Any) -> list[str]:
        skipped = context.get("unavailable", ())
        providers = Providers([] if skipped else [busy], [busy], [an_answer()])
        providers.ask(**context)
        return [each.idempotency_key for calls in providers.calls for each in calls]

    first, *others = keys()
    assert first == KEY
    assert len({first, *others}) == 3
    assert keys(unavailable=frozenset({"p1/small"})) == others


def test_question_has_the_key_of_its_route() -> None:
    """Where the context names one: what came of the call before is known of one model and not of the other."""
    busy = a_failure(overloaded=True)

    def keys(**context: Any) -> list[str]:
        providers = Providers([busy], [an_answer()])
        providers.ask(**context)
        return [each.idempotency_key for calls in providers.calls for each in calls]

    first, second = keys()

    assert keys(keys={"p2/small": KEY}) == [first, second]
    assert keys(keys={"p2/small": "fresh"})[0] == first
    assert keys(keys={"p2/small": "fresh"})[1] not in (second, "fresh")
    assert keys(keys={"p1/small": "old"}) == ["old", second]


def test_route_that_recovers_gets_no_more_calls_than_have_room() -> None:
    """A call that would be one too many goes to the next model; the first model's calls are not counted here."""
    busy, inside, leave = a_failure(overloaded=True), threading.Barrier(2), threading.Event()

    def slow(_: AiCall) -> Answer:
        inside.wait(10)
        leave.wait(10)
        return an_answer(model="slow")

    providers = Providers([busy, busy, busy], [slow, an_answer(model="later")], [an_answer(model="third")])
    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(providers.ai.generate, recovering(), timeout=DEADLINE, idempotency_key=KEY)
        inside.wait(10)
        beside = providers.ai.generate(recovering(), timeout=DEADLINE, idempotency_key=KEY)
        leave.set()
        assert one.result().model == "slow"
    after = providers.ask(recovering={"p2/small": 1})

    assert isinstance(after, Answer)
    assert (beside.model, [each.provider for each in beside.calls], after.model) == ("third", ["p1", "p3"], "later")


def recovering() -> Context:
    """Give a context whose second model has room for one call."""
    return a_context(recovering={"p2/small": 1})


@pytest.mark.parametrize("wrap", [ReaskProvider, lambda inner: FallbackProvider([inner])], ids=["reask", "fallback"])
def test_provider_that_falls_back_is_not_wrapped(wrap: Callable[[AiProvider], AiProvider]) -> None:
    """Its routes would be hidden, and with them every outage: the other order is named."""
    with pytest.raises(ValueError, match="must not fall back"):
        wrap(FallbackProvider([ScriptedAiProvider()]))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"providers": []}, "providers"),
        ({"fallback_on": {"weather"}}, "fallback_on"),
        ({"fallback_on": "timeout"}, "fallback_on"),
        ({"reserve": -SECOND}, "reserve"),
        ({"names": []}, "names"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], word: str) -> None:
    """At once, and not at the first failure."""
    with pytest.raises(ValueError, match=word):
        FallbackProvider(**{"providers": [ScriptedAiProvider()], **arguments})
