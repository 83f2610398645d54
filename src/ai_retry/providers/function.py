"""Makes a provider of a function: of whatever SDK, endpoint or model in this process a team calls already."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from ai_retry.domain.errors import ContextMissing, GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, InvalidAnswer
from ai_retry.providers import answer_signals, signals, validation
from ai_retry.providers.bodies import ErrorBody, read_error
from ai_retry.providers.reading import json_of
from ai_retry.providers.response_schema import schema_of
from ai_retry.providers.signals import Signal
from ai_retry.providers.waits import retry_after

Function: TypeAlias = Callable[[Context, float], Any]


class FunctionProvider:
    """Calls a function with a context and the seconds that it may take: an ``AiProvider``.

    The function returns an ``Answer``, or its output: what a model wrote, as a string, or a JSON value. Under a schema,
    a string is read as JSON. The output is checked under the schema here, whoever else has done so.

    What it raises becomes a failure: ``GenerationFailed`` its own; an exception with an HTTP status, such as those of
    the SDKs, what the status and the error's code mean; any other one, that the provider failed, and may have
    generated. Their texts, which may hold a prompt, are not used.

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
        result = _unusable(asked) or self._in_time(asked, timeout)
        if isinstance(result, Failure):
            raise GenerationFailed(replace(result, model=result.model or asked.model))
        return replace(result, model=result.model or asked.model)

    def _in_time(self, context: Context, timeout: timedelta) -> Answer | Failure:
        results: list[Answer | Failure] = []
        thread = threading.Thread(
            target=lambda: results.append(self._result(context, timeout)), name="ai-retry-call", daemon=True
        )
        thread.start()
        thread.join(timeout.total_seconds())
        return results[0] if results else _failure(signals.SILENT, "the function has not returned")

    def _result(self, context: Context, timeout: timedelta) -> Answer | Failure:
        try:
            returned = self._function(context, timeout.total_seconds())
        except GenerationFailed as failed:
            return failed.failure
        except BaseException as error:  # noqa: BLE001 (the port promises GenerationFailed alone)
            return _failure_of(error)
        answer = returned if isinstance(returned, Answer) else Answer(output=returned)
        return _checked(answer, context.response_schema)


def _unusable(context: Context) -> Failure | None:
    """Say why no output can be checked: the schema is none."""
    try:
        schema_of(context.response_schema or {})
    except ContextMissing as error:
        return replace(_failure(signals.UNSENDABLE, str(error.details["problem"])), wire_requests=0)
    return None


def _checked(answer: Answer, schema: Mapping[str, Any] | None) -> Answer | Failure:
    """Read and check an output."""
    output = answer.output
    try:
        if schema is not None:
            output = json_of(output) if isinstance(output, str) else output
            validation.validate(output, schema)
        return replace(answer, output=validation.whole(output))
    except validation.InvalidOutput as problem:
        content = answer.output if isinstance(answer.output, str) else None
        invalid = InvalidAnswer(content=content, problems=problem.problems) if content and schema is not None else None
        failure = _failure(answer_signals.INVALID, str(problem))
        return replace(failure, usage=answer.usage, provider_id=answer.provider_id, invalid=invalid)


def _failure_of(error: BaseException) -> Failure:
    """Read what an exception says by its attributes: a status, headers, and the code in its body."""
    response = getattr(error, "response", None)
    status = next((each for each in map(_status, (error, response)) if each is not None), None)
    if status is None:
        late = isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower()
        return _failure(signals.SILENT if late else signals.DROPPED, type(error).__name__)
    body = getattr(error, "body", None)
    shape = read_error(body) if isinstance(body, Mapping) else ErrorBody()
    signal = signals.find(status, (*shape.words, *shape.signs), "")
    found = _failure(signal, f"HTTP {status}, {type(error).__name__}")
    headers = getattr(response, "headers", None)
    named = {str(name).lower(): str(value) for name, value in headers.items()} if isinstance(headers, Mapping) else {}
    return replace(found, retry_after=retry_after(named, shape.data, datetime.now(UTC)) if signal.transient else None)


def _status(source: object) -> int | None:
    """Return an HTTP status of an error, if the object has one."""
    status = getattr(source, "status_code", None)
    known = isinstance(status, int) and 300 <= status < 600  # noqa: PLR2004 (redirects and errors)
    return status if known else None


def _failure(signal: Signal, detail: str) -> Failure:
    return Failure(
        code=signal.code,
        reason=f"{signal.shows}: {detail}"[:300],
        transient=signal.transient,
        certainly_not_generated=signal.not_generated,
        operator_fault=signal.operator_fault,
        overloaded=signal.overloaded,
        refused=signal.refused,
    )
