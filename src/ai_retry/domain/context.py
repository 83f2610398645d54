"""How a stored generation is read back as a question: the default of ``context_from``.

``prompt_data`` comes from the app and, where a policy lets end users write it, from anyone: it is read strictly, and
only sampling parameters get through to the provider.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ai_retry.domain.errors import ContextMissing
from ai_retry.domain.model import Context, Generation

PARAMETERS = frozenset(
    {
        "frequency_penalty",
        "max_completion_tokens",
        "max_tokens",
        "presence_penalty",
        "reasoning_effort",
        "seed",
        "stop",
        "temperature",
        "top_p",
    }
)  # those that shape one answer; none that asks for more of them, for tools or for another model


RESERVED = {
    "messages": "give them as the context's messages",
    "model": "set AI_MODEL, or name it in the generation or the context",
    "stream": "answers are read whole",
}  # fields of a request that no ``extra_body`` may hold, and what to do instead


def reserved_fields(extra_body: Mapping[str, Any]) -> str | None:
    """Say which fields of a request an ``extra_body`` must not hold, with a remedy for each; None: it may be merged."""
    found = [f"{name} ({remedy})" for name, remedy in RESERVED.items() if name in extra_body]
    return f"must not hold {', '.join(found)}" if found else None


def refuse_reserved(extra_body: Mapping[str, Any]) -> None:
    """Refuse an ``extra_body`` of a context that replaces what is not its own.

    Raises:
        ContextMissing: it holds a field that it must not hold.
    """
    problem = reserved_fields(extra_body)
    if problem is not None:
        raise ContextMissing(f"extra_body {problem}")


def stored_context(generation: Generation) -> Context:
    """Read ``{"messages": […], "parameters": {…}, "response_schema": {…}}`` out of ``prompt_data``.

    The model is ``generations.model``, else ``prompt_data.model``, else the provider adapter's default. Other keys of
    ``prompt_data`` are the app's business and are left as they are.

    Raises:
        ContextMissing: names the field that is absent or malformed, never its content.
    """
    data = generation.prompt_data
    if data is None:
        raise ContextMissing("prompt_data is null")
    if not isinstance(data, Mapping):
        raise ContextMissing("prompt_data must be a JSON object")
    return Context(
        messages=_messages(data.get("messages")),
        model=_model(generation.model or data.get("model")),
        parameters=_parameters(data.get("parameters")),
        response_schema=_object(data.get("response_schema"), "prompt_data.response_schema"),
    )


def _messages(value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ContextMissing("prompt_data.messages must be a list of at least one message")
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ContextMissing(f"prompt_data.messages[{index}] must be an object with a role")
        if not isinstance(message.get("content"), str | list):
            raise ContextMissing(f"prompt_data.messages[{index}].content must be a string or a list of parts")
    return tuple(value)


def _model(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ContextMissing("prompt_data.model must be a string")
    return value or None


def _parameters(value: Any) -> Mapping[str, Any]:
    parameters = _object(value, "prompt_data.parameters") or {}
    for name in parameters:
        if name not in PARAMETERS:
            raise ContextMissing(f"prompt_data.parameters may hold {', '.join(sorted(PARAMETERS))}, and nothing else")
    return parameters


def _object(value: Any, field: str) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, Mapping):
        raise ContextMissing(f"{field} must be a JSON object")
    return value
