"""The body of a first call: read as JSON within bounds, and turned into a prompt by the host's own function.

What can't be used is refused with the fields that are at fault, as the host's marshmallow schema names them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

from marshmallow import ValidationError

from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.first_call import is_flat, new_generation
from ai_retry.domain.policy import storable
from ai_retry.problems import UNSUPPORTED_MEDIA_TYPE, Refused, invalid_request

MAX_BODY_BYTES: Final = 65_536
MAX_PROMPT_BYTES: Final = 33_554_432  # what a host's function may make of a body, which is bounded
_DEEPEST: Final = 64  # lists and objects within each other; a host's function may put them into some more
_CHARSETS: Final = ("", "utf-8", "utf8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a generation is created from, where more than the prompt has to be said."""

    prompt: Any = field(repr=False)  # as the app stores it, and its reader reads it: JSON, or one message as a string
    model: str | None = None  # that the generation names; None: the reader, or the provider, chooses
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False)  # what else the binding needs of the request


PromptFrom: TypeAlias = Callable[[dict[str, Any]], Any]
"""Turns a request's JSON into a prompt: a ``Prompt``, or only its ``prompt``; or raises marshmallow's
``ValidationError``."""


def check_media_type(media_type: str, charset: str, encoding: str) -> None:
    """Refuse what is not plain JSON.

    Raises:
        Refused: 415.
    """
    plain = media_type == "application/json" and charset.lower() in _CHARSETS
    if not plain or encoding.strip().lower() not in ("", "identity"):
        raise Refused(UNSUPPORTED_MEDIA_TYPE)


def read_body(data: bytes) -> dict[str, Any]:
    """Read a JSON object that a database can hold.

    Raises:
        Refused: it is something else; with what is wrong with it, and nothing of it.
    """
    try:
        body: Any = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        _refuse("The body must be a JSON object in UTF-8.")
    if not is_flat(body, _DEEPEST):
        _refuse(f"The body must not be nested deeper than {_DEEPEST} levels.")
    if not storable(body):
        _refuse("The body must not hold NUL, a lone surrogate, or a number that is too large.")
    return body


def prompt_of(prompt_from: PromptFrom, body: dict[str, Any]) -> Prompt:
    """Let the host's function turn a body into a prompt.

    Raises:
        Refused: it says what is wrong with the body.
        NotConfigured: it returned what no generation can be created from.
        Exception: whatever it raises.
    """
    refused = None
    try:
        made = prompt_from(body)
    except ValidationError as error:
        refused = invalid_request(error.messages if isinstance(error.messages, dict) else {"_schema": error.messages})
    if refused is not None:
        raise Refused(refused)
    prompt = made if isinstance(made, Prompt) else Prompt(prompt=made)
    fault = _fault(prompt)
    if fault is not None:
        raise NotConfigured(f"prompt_from returned what can't be used: {fault}")
    return prompt


def _fault(prompt: Prompt) -> str | None:
    """Say what is wrong with it, without its content."""
    try:
        new_generation(prompt.prompt, model=prompt.model, columns=prompt.columns, max_bytes=MAX_PROMPT_BYTES)
    except ValueError as error:
        return str(error)
    return None


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _refuse(message: str) -> NoReturn:
    raise Refused(invalid_request({"_schema": [message]}))
