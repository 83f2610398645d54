"""Makes a provider of a function: of whatever SDK, endpoint or model in this process a team calls already."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from ai_retry.domain.calls import noted
from ai_retry.domain.errors import ContextMissing, GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, InvalidAnswer
from ai_retry.providers import answer_signals, signals, validation, wrapping
from ai_retry.providers.classify import judge_error
from ai_retry.providers.exceptions import reply_of, signal_of
from ai_retry.providers.reading import json_of
from ai_retry.providers.response_schema import schema_of

Function: TypeAlias = Callable[[Context, float], Any]


class FunctionProvider:
    """Calls a function with a context and the seconds that it may take: an ``AiProvider``.

    The function returns an ``Answer``, or its output: what a model wrote, as a string, or a JSON value. Under a schema,
    a string is read as JSON. The output is checked under the schema here in any case. Without a schema a
    string is left without thoughts, and one that is blank then, like ``None``, is no answer.

    What it raises becomes a failure: ``GenerationFailed`` its own; an exception with an HTTP status, such as those of
    the SDKs, what the same answer over HTTP would mean; any other one, that the provider failed, and may have
    generated, unless a connection was refused. No text of an exception, which may hold a prompt, is kept.

    A call that does not end in time is left to itself, in its thread: give your client the seconds as its timeout,
    and let it repeat nothing.

    Thread-safe if the function is.

    Args:
        function: makes one call.
        name: of the provider, in routes and records.
        model: that is asked where a context names none.
    """

    def __init__(self, function: Function, *, name: str = "function", model: str | None = None) -> None:
        self._function = function
        self.name, self.model = name, model

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, model={self.model!r})"

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Call the function; see the port.

        Raises:
            GenerationFailed: nothing else.
        """
        asked = context if context.model is not None else replace(context, model=self.model)
        began = time.monotonic()
        result = _unusable(asked) or self._in_time(asked, timeout)
        duration = timedelta(seconds=time.monotonic() - began)
        if isinstance(result, Failure):
            failure = replace(result, model=result.model or asked.model)
            raise GenerationFailed(noted(failure, duration=duration, provider=self.name))
        return noted(replace(result, model=result.model or asked.model), duration=duration, provider=self.name)

    def _in_time(self, context: Context, timeout: timedelta) -> Answer | Failure:
        results: list[Answer | Failure] = []
        thread = threading.Thread(
            target=lambda: results.append(self._result(context, timeout)), name="ai-retry-call", daemon=True
        )
        thread.start()
        thread.join(timeout.total_seconds())
        return results[0] if results else signals.SILENT.failure("the function has not returned")

    def _result(self, context: Context, timeout: timedelta) -> Answer | Failure:
        try:
            returned = self._function(context, timeout.total_seconds())
        except GenerationFailed as failed:
            return failed.failure
        except BaseException as error:  # noqa: BLE001 (the port promises GenerationFailed alone)
            return _failure_of(error, context)
        answer = returned if isinstance(returned, Answer) else Answer(output=returned)
        return _checked(answer, context.response_schema)


def _unusable(context: Context) -> Failure | None:
    """Say why no output can be checked: the schema is none."""
    try:
        schema_of(context.response_schema or {})
    except ContextMissing as error:
        return signals.UNSENDABLE.failure(str(error.details["problem"]), wire_requests=0)
    return None


def _checked(answer: Answer, schema: Mapping[str, Any] | None) -> Answer | Failure:
    """Read and check an output."""
    output: Any = answer.output
    spent: dict[str, Any] = {"usage": answer.usage, "provider_id": answer.provider_id}
    if schema is None:
        output = wrapping.bare_text(output) if isinstance(output, str) else output
        if output is None or (isinstance(output, str) and not output.strip()):
            return answer_signals.NO_CONTENT.failure(**spent)
    try:
        if schema is not None:
            output = json_of(output) if isinstance(output, str) else output
            validation.validate(output, schema)
        return replace(answer, output=validation.whole(output))
    except validation.InvalidOutput as problem:
        content = answer.output if isinstance(answer.output, str) else None
        invalid = InvalidAnswer(content=content, problems=problem.problems) if content and schema is not None else None
        return answer_signals.INVALID.failure(str(problem), invalid=invalid, **spent)


def _failure_of(error: BaseException, context: Context) -> Failure:
    """Read what an exception says by its attributes: a status, headers, and a body."""
    reply, kind = reply_of(error), type(error).__name__
    if reply is None:
        return signal_of(error).failure(kind)
    ours = {*context.extra_body, *(("response_format",) if context.response_schema is not None else ())}
    signal, wait = judge_error(reply, now=datetime.now(UTC), added=ours)
    return signal.failure(f"HTTP {reply.status}, {kind}", wait=wait)
