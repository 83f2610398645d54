"""What is asked: the body of a request to ``chat/completions``.

A context says what the app wants to know. The deployment adds how its provider has to be asked: in which form an output
under a schema is demanded, and which further fields go along.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING
from typing import TYPE_CHECKING, Any

from ai_retry.domain.context import refuse_reserved
from ai_retry.domain.model import Context, ResponseFormat
from ai_retry.logs import write_line

if TYPE_CHECKING:
    from ai_retry.providers.response_schema import ResponseSchema

_SECRET_NAME = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)
_SYSTEM = ("system", "developer")  # two names of one role; a provider may refuse both in one request
_DEMAND = (
    "Answer in JSON: with one JSON value that is valid under the following JSON Schema, and with nothing before or"
    " after it.\n"
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request's body, and what has to be known of it to judge the answer."""

    body: Mapping[str, Any] = field(repr=False)
    added: frozenset[str]  # the fields that the deployment, and no user, has put there
    secrets: Sequence[str] = field(repr=False)  # in its fields; no reason or log may hold them
    schema: "ResponseSchema | None" = None  # that the answer must be valid under


def question(
    context: Context, *, model: str, response_format: ResponseFormat, extra_body: Mapping[str, Any]
) -> Question:
    """Put a request together; of fields with the same name the later one counts.

    First come the context's parameters, then the response format, then the deployment's ``extra_body``, then the
    context's. The context is not changed.

    Raises:
        ContextMissing: the schema can't be applied, or the context's ``extra_body`` holds a field that is not its own.
    """
    refuse_reserved(context.extra_body)
    shape, messages, schema = _shape(context, response_format)
    extra = {**extra_body, **context.extra_body}
    body = {**context.parameters, "model": model, "messages": messages, "stream": False, **shape, **extra}
    return Question(body, frozenset(shape) | frozenset(extra), secrets_in(extra), schema)


def secrets_in(fields: Mapping[str, Any]) -> list[str]:
    """List the strings, at any depth, whose names say that they are secret."""
    return list(_secrets(fields))


def _shape(
    context: Context, response_format: ResponseFormat
) -> tuple[dict[str, Any], list[Mapping[str, Any]], "ResponseSchema | None"]:
    """Demand the output's form: by a field of the body, in the messages, or not at all."""
    messages: list[Mapping[str, Any]] = [dict(each) for each in context.messages]  # JSON knows no other mappings
    if context.response_schema is None:
        return {}, messages, None
    wanted = dict(context.response_schema)
    from ai_retry.providers.response_schema import schema_of  # noqa: PLC0415 - imports jsonschema

    schema = schema_of(wanted)
    match response_format:
        case ResponseFormat.JSON_SCHEMA:
            _warn_once(schema)
            demanded = {"name": "output", "strict": schema.strict, "schema": wanted}
            return {"response_format": {"type": "json_schema", "json_schema": demanded}}, messages, schema
        case ResponseFormat.JSON_OBJECT:
            demand = _DEMAND + json.dumps(wanted, ensure_ascii=False)
            return {"response_format": {"type": "json_object"}}, _demanding(messages, demand), schema
        case ResponseFormat.NONE:
            return {}, messages, schema


def _demanding(messages: Sequence[Mapping[str, Any]], demand: str) -> list[Mapping[str, Any]]:
    """Append a demand to the first system message, or put one in front."""
    for index, message in enumerate(messages):
        if message.get("role") in _SYSTEM:
            content = message.get("content")
            longer: Any = f"{content}\n\n{demand}" if content else demand
            if isinstance(content, list):
                longer = [*content, {"type": "text", "text": demand}]
            return [*messages[:index], {**message, "content": longer}, *messages[index + 1 :]]
    return [{"role": "system", "content": demand}, *messages]


def _warn_once(schema: "ResponseSchema") -> None:
    """Log that a schema is not sent as strict: once for each schema, however often it is asked for."""
    if outside := schema.take_warning():
        write_line(WARNING, "schema_not_strict", first_outside=outside)


def _secrets(value: Any, *, named: bool = False) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _secrets(each, named=named or _SECRET_NAME.search(str(name)) is not None)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(each, named=named)
    elif isinstance(value, str) and named:
        yield value
