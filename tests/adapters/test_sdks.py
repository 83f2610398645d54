"""Each example of an SDK runs as it is on the page, keeps the contract, and repeats nothing by itself."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Failure, FailureCode, Usage
from ai_retry.domain.ports import AiProvider
from ai_retry.testing import provider_contract
from ai_retry.testing.contract import CONTEXT, OUTPUT
from ai_retry.testing.provider import Reply, ScriptedServer, chat, close, reply
from tools.examples import example, execute
from tools.npm import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "providers.md"
KEY = "sk-sdk-0123456789"
EXAMPLES = ("def ask_openai", "def ask_agent", "def ask_litellm")
BUSY = reply(503, json={"error": {"message": "overloaded"}})

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are theirs


@pytest.fixture(autouse=True)
def own_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM takes its list of prices from itself."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.fixture
def make() -> Iterator[Callable[[str, str], AiProvider]]:
    """Run an example for a provider at this address; what runs in its thread is ended after the test."""
    before, loops = set(threading.enumerate()), list[asyncio.AbstractEventLoop]()

    def make(words: str, base_url: str) -> AiProvider:
        names = execute(example(PAGE, "python", words), {"BASE_URL": base_url, "API_KEY": KEY})
        loop, ai = names.get("loop"), names["ai"]
        loops.extend([loop] if isinstance(loop, asyncio.AbstractEventLoop) else [])
        return ai  # type: ignore[return-value]

    yield make
    for loop in loops:
        loop.call_soon_threadsafe(loop.stop)
    for thread in set(threading.enumerate()) - before:
        if thread.name == "pydantic-ai":
            thread.join()


def result_of(ai: AiProvider, timeout: timedelta = timedelta(seconds=10)) -> Answer | Failure:
    """Make one call."""
    try:
        return ai.generate(CONTEXT, timeout=timeout, idempotency_key="key")
    except GenerationFailed as failed:
        return failed.failure


@pytest.mark.parametrize("words", EXAMPLES)
def test_example_keeps_the_contract(words: str, make: Callable[[str, str], AiProvider]) -> None:
    """Whatever comes over the wire, within the deadline, and without a word of the prompt."""
    provider_contract(lambda base_url: make(words, base_url), secrets=[KEY])


@pytest.mark.parametrize("words", EXAMPLES)
@pytest.mark.parametrize(
    ("script", "code", "transient"),
    [
        (BUSY, FailureCode.UNAVAILABLE, True),
        (close(), FailureCode.UNAVAILABLE, True),
        (reply(429, json={"error": {"message": "slow down"}}), FailureCode.RATE_LIMITED, True),
        (reply(401, json={"error": {"message": "no such key"}}), FailureCode.REJECTED, False),
        (chat({"other": 1}), FailureCode.INVALID_OUTPUT, True),
    ],
    ids=["overloaded", "broken", "limited", "key", "invalid"],
)
def test_one_call_is_one_request(
    words: str, script: Reply, code: FailureCode, transient: bool, make: Callable[[str, str], AiProvider]
) -> None:
    """An SDK that repeats would pay unseen; what its error means is read all the same."""
    with ScriptedServer(default=script) as server:
        failure = result_of(make(words, server.base_url))

        assert isinstance(failure, Failure)
        assert (failure.code, failure.transient) == (code, transient)
        assert len(server.requests) == 1


@pytest.mark.parametrize("words", EXAMPLES)
def test_request_says_what_the_context_says(words: str, make: Callable[[str, str], AiProvider]) -> None:
    """The model that is asked, and the prompt."""
    with ScriptedServer(chat(dict(OUTPUT))) as server:
        answer = result_of(make(words, server.base_url))
        (request,) = server.requests

    assert isinstance(answer, Answer)
    assert answer.output == OUTPUT
    body: dict[str, Any] = request.json()
    assert body["model"] in ("contract", "small")
    assert body["messages"][-1]["content"] == CONTEXT.messages[0]["content"]


def test_openai_tells_tokens_and_what_was_cut_off(make: Callable[[str, str], AiProvider]) -> None:
    """Tokens and the model that answered are on the record; a cut answer becomes no session."""
    whole, cut = chat(dict(OUTPUT), model="small-1"), chat(dict(OUTPUT), finish_reason="length")
    with ScriptedServer(whole, cut) as server:
        ai = make("def ask_openai", server.base_url)
        answer, failure = result_of(ai), result_of(ai)

    assert isinstance(answer, Answer)
    assert isinstance(failure, Failure)
    assert (answer.model, answer.usage) == ("small-1", Usage(total_tokens=18))
    assert failure.code is FailureCode.INCOMPLETE
