"""What every ``AiProvider`` has to keep, checked against a provider on real sockets that misbehaves.

::

    def test_my_provider_keeps_the_contract() -> None:
        provider_contract(lambda base_url: MyProvider(base_url, api_key=KEY), secrets=[KEY])
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure
from ai_retry.domain.policy import storable
from ai_retry.domain.ports import AiProvider
from ai_retry.testing.provider import Reply, Script, ScriptedServer, chat, close, drip, raw, reply, reset, stall

Make: TypeAlias = Callable[[str], AiProvider]

PROMPT: Final = "contract-prompt-that-no-error-may-hold"
OUTPUT: Final[Mapping[str, Any]] = {"title": "contract"}
SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}
CONTEXT: Final = Context(messages=({"role": "user", "content": PROMPT},), model="contract", response_schema=SCHEMA)

_TIMEOUT: Final = timedelta(seconds=2)
_PATIENCE: Final = 20.0  # seconds beyond the timeout, after which a call is taken for one that never ends
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
_REFUSALS: Final = {f"status {each}": reply(each, json={"error": {"message": PROMPT}}) for each in (400, 401, 404, 429)}
_BROKEN: Final = {f"status {each}": reply(each, json={"error": {"message": PROMPT}}) for each in (500, 503)}
_GARBAGE: Final[Mapping[str, Script]] = {
    "a web page": reply(body="<!doctype html><title>Log in</title>", headers={"Content-Type": "text/html"}),
    "no JSON": reply(body=b"\xff\xfe{{{", headers={"Content-Type": "application/json"}),
    "JSON of another shape": reply(json=[1, 2, 3]),
    "JSON without an answer": reply(json={"choices": [], "data": []}),
    "an empty body": reply(body=""),
    "half a body": raw(_HEAD + b'{"choices": [{"mess'),
    "no HTTP": raw(b"\x00\x01\x02 not a status line\r\n\r\n"),
}
_CUT: Final[Mapping[str, Script]] = {"a closed connection": close(), "a reset connection": reset()}
_LATE: Final[Mapping[str, Script]] = {
    "silence": stall(),
    "silence after the headers": raw(_HEAD, stall()),
    "a byte now and then": raw(_HEAD, drip(b" " * 200, 0.2)),
}
_MAY_BE_CERTAIN: Final = {*_REFUSALS, "status 503", "a web page"}


def provider_contract(
    make: Make,
    *,
    good: Reply | None = None,
    output: Any = OUTPUT,
    invalid: Reply | None = None,
    context: Context = CONTEXT,
    secrets: Sequence[str] = (),
) -> None:
    """Check that an adapter keeps the port's promises: an ``Answer``, or ``GenerationFailed``, and that in time.

    Whatever comes over the wire, it raises nothing else; it ends within its timeout, or soon after; it does not say
    that certainly nothing was generated where something may have been; and no failure holds a prompt or a key.

    Args:
        make: builds the adapter, given the address of a provider.
        good: what a provider sends as an answer; a chat completion of ``OUTPUT`` when None.
        output: what the adapter makes of it.
        invalid: an answer that is not valid under the context's schema; None: a chat completion of another form, if
            the context has a schema.
        context: what is asked.
        secrets: what no failure may hold, beside the prompt.

    Raises:
        AssertionError: lists every promise that is broken.
    """
    case = _Case(make, context, (PROMPT, *secrets))
    found = case.answers(good or chat(dict(OUTPUT)), output)
    if context.response_schema is not None:
        found += case.fails("an answer that is not valid", invalid or chat({"other": 1}), certain=False)
    found += case.fails("no connection", None, certain=None)
    for name, script in {**_REFUSALS, **_BROKEN, **_GARBAGE, **_CUT, **_LATE}.items():
        found += case.fails(name, script, certain=None if name in _MAY_BE_CERTAIN else False)
    if found:
        raise AssertionError("\n".join(["the adapter breaks its contract:", *found]))


class _Case:
    """One adapter, asked again and again."""

    def __init__(self, make: Make, context: Context, secrets: Sequence[str]) -> None:
        self._make, self._context, self._secrets = make, context, secrets

    def answers(self, script: Reply, output: Any) -> list[str]:
        """Ask a provider that answers."""
        result = self._ask(script)
        if not isinstance(result, Answer):
            return [f"an answer: {_told(result)}, where an Answer was due"]
        found = [] if result.output == output else ["an answer: its output is another one"]
        return found if storable(result.output) else [*found, "an answer: its output is not JSON"]

    def fails(self, name: str, script: Reply | None, *, certain: bool | None) -> list[str]:
        """Ask a provider that fails; None as the script: one that is not there.

        Args:
            name: of the case.
            script: what it sends.
            certain: what the failure may say of whether certainly nothing was generated; None: either.
        """
        result = self._ask(script)
        if not isinstance(result, Failure):
            return [f"{name}: {_told(result)}, where GenerationFailed was due"]
        found = []
        if certain is False and result.certainly_not_generated:
            found.append(f"{name}: it says that certainly nothing was generated")
        if any(secret in f"{result.reason} {result!r}" for secret in self._secrets):
            found.append(f"{name}: its failure holds a prompt or a secret")
        return found

    def _ask(self, script: Reply | None) -> Answer | Failure | BaseException | None:
        """Make one call; None: it does not end."""
        if script is None:
            with ScriptedServer() as gone:
                base_url = gone.base_url
            return self._call(base_url)
        with ScriptedServer(default=script) as server:
            return self._call(server.base_url)

    def _call(self, base_url: str) -> Answer | Failure | BaseException | None:
        results: list[Answer | Failure | BaseException] = []

        def call() -> None:
            try:
                provider = self._make(base_url)
                results.append(provider.generate(self._context, timeout=_TIMEOUT, idempotency_key="contract"))
            except GenerationFailed as failed:
                results.append(failed.failure)
            except BaseException as error:  # noqa: BLE001 (whatever it raises is what is looked for)
                results.append(error)

        thread, began = threading.Thread(target=call, name="provider-contract", daemon=True), time.monotonic()
        thread.start()
        thread.join(_TIMEOUT.total_seconds() + _PATIENCE - (time.monotonic() - began))
        return results[0] if results else None


def _told(result: object) -> str:
    match result:
        case None:
            return "it does not end in time"
        case Failure():
            return f"it failed with {result.code}"
        case Answer():
            return "it answered"
        case _:
            return f"it raised {type(result).__qualname__}"
