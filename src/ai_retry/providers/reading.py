"""Reads the body of a 2xx, and errors wherever they are: to an output, or to the row of the table that applies.

An error beats content, a refusal or a cut beats whether the content parses. Pure, like ``classify``, which uses it.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, TypeAlias

from ai_retry.domain.model import FailureCode, InvalidAnswer
from ai_retry.providers import answer_signals, signals, validation, wrapping
from ai_retry.providers.bodies import ErrorBody, is_error, read_error, read_words
from ai_retry.providers.completion import Choice, read_choice, refused_prompt
from ai_retry.providers.signal import Signal
from ai_retry.providers.vocabulary import WORD_STATUSES

_FIELD = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ABOUT_FIELDS = (HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_LONGEST_PLAIN = 300  # characters: an answer without an envelope may hold any word
_RESPONSE_FORMAT = ("response_format", "json_schema", "json_object", "strict")  # the field, and what we put into it


@dataclass(frozen=True, slots=True)
class Finding:
    """Why there is no usable answer."""

    signal: Signal
    error: ErrorBody = field(default_factory=ErrorBody)
    detail: str = ""  # in our own words
    invalid: InvalidAnswer | None = None  # what may be asked about again


Output: TypeAlias = tuple[Any]  # of one element, so that an output of null differs from no output


def read(envelope: Mapping[str, Any], schema: "validation.Wanted | None", added: Collection[str]) -> Output | Finding:
    """Read an envelope; it may hold an error in spite of its status."""
    began = bool(envelope.get("choices") or envelope.get("usage"))
    refusals = answer_signals.REFUSED.words
    choice = read_choice(envelope, refusals)
    if choice is None and (refused := refused_prompt(envelope, refusals)):
        return Finding(answer_signals.REFUSED, detail=refused)
    if is_error(envelope):
        return _inside(read_error(envelope), added, began=began)
    if choice is None:
        other = _inside(read_error(envelope), added, began=began)
        return Finding(answer_signals.NO_CHOICE) if other.signal.code is FailureCode.UNAVAILABLE else other
    return _unfinished(choice, added) or _output(choice, schema)


def read_plain(text: str, added: Collection[str]) -> Finding | None:
    """Read a 2xx that is no JSON and no page; None unless it says, in a few words, that no API answered."""
    found = _inside(read_words(text), added, began=False) if len(text) <= _LONGEST_PLAIN else None
    return found if found is not None and found.signal.operator_fault else None


def of_error(status: int, error: ErrorBody, added: Collection[str]) -> Finding:
    """Find the row for an error; where it names a field that we added, say which.

    The message of an error about a field may quote its value, which users write: then its phrases say nothing.
    """
    name = _added(error, added)
    model = ("model_named",) if error.param == "model" else ()
    signs = (*error.signs, "added_parameter") if name else (*error.signs, *model)
    signal = signals.find(
        status, (*error.words, *signs), "" if error.param and status in _ABOUT_FIELDS else error.message
    )
    return Finding(signal, error, detail=name if "added_parameter" in signal.words else "")


def _added(error: ErrorBody, added: Collection[str]) -> str:
    """Return the first of our own fields that the error's ``param`` names, or its texts where it has no ``param``."""
    names = {*added, *_RESPONSE_FORMAT} if _RESPONSE_FORMAT[0] in added else set(added)
    return next(
        (word for word in _FIELD.findall(error.param or f"{error.message} {error.upstream}") if word in names), ""
    )


def _unfinished(choice: Choice, added: Collection[str]) -> Finding | None:
    """Say why a choice is no answer whatever its content is: refused, failed or cut."""
    if choice.refused:
        return Finding(answer_signals.REFUSED, detail=choice.refused)
    for signal in (answer_signals.REFUSED, answer_signals.PARTIAL, answer_signals.TOO_LONG, answer_signals.ABORTED):
        says = next((f"{name} {word}" for name, word in choice.words if word in signal.words), "")
        if signal is answer_signals.PARTIAL and (says or choice.error is not None):
            return _inside(read_error({"error": choice.error}), added, partial=bool(choice.content.strip()))
        if says:
            return Finding(signal, detail=says)
    return None


def _inside(error: ErrorBody, added: Collection[str], *, began: bool = True, partial: bool = False) -> Finding:
    """Judge an error in a 2xx: a model had been started, so something may have been generated (OpenRouter, Errors).

    Only an error without a number, a known word, choices and usage may be certain: rows for status 200 say when.
    """
    status = error.number or 0
    if status < HTTPStatus.BAD_REQUEST:
        named = (WORD_STATUSES[word] for word in error.words if word in WORD_STATUSES)
        status = next(named, HTTPStatus.INTERNAL_SERVER_ERROR if began else HTTPStatus.OK)
    if partial and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Finding(answer_signals.PARTIAL, error)
    found = of_error(status, error, added)
    certain = status == HTTPStatus.OK and found.signal.operator_fault
    doubtful = replace(found.signal, not_generated=False, overloaded=found.signal.overloaded and not began)
    return found if certain else replace(found, signal=doubtful)


def _output(choice: Choice, schema: "validation.Wanted | None") -> Output | Finding:
    """Read the output from a choice that is neither refused nor known to be cut."""
    unusual = _unusual_end(choice)
    if choice.kind:
        return unusual or Finding(answer_signals.NO_TEXT, detail=f"content is {choice.kind}")
    text = wrapping.bare_text(choice.content) if schema is None else wrapping.trimmed(choice.content)
    if not text.strip():
        return unusual or Finding(answer_signals.NO_CONTENT)
    if schema is None and (unusual or choice.mixed):
        return unusual or Finding(answer_signals.NO_TEXT, detail="a part of the content is not text")
    try:
        if schema is None:
            return (validation.storable(text),)
        output = json_of(text)
        validation.validate(output, schema)
    except validation.InvalidOutput as problem:
        broken = problem.broken and not choice.reason
        signal = answer_signals.BROKEN if broken else answer_signals.INVALID
        invalid = (
            InvalidAnswer(content=choice.content, problems=problem.problems)
            if schema is not None and not broken
            else None
        )
        return unusual or Finding(signal, detail=str(problem), invalid=invalid)
    whole = isinstance(output, dict | list)  # it has an end of its own, which a number has not
    return (output,) if whole or unusual is None else unusual


def json_of(text: str) -> Any:
    """Read the JSON that ``text`` is, since its strings may hold any tag; else the JSON without what is around it.

    Raises:
        InvalidOutput: there is no JSON.
    """
    try:
        return validation.parse(text)
    except validation.InvalidOutput:
        bare = wrapping.bare_json(text)
        if bare == text:
            raise
    with suppress(validation.InvalidOutput):
        return validation.parse(wrapping.early_json(text))
    if not bare:
        raise validation.InvalidOutput("there is nothing but thoughts")
    return validation.parse(bare)


def _unusual_end(choice: Choice) -> Finding | None:
    """Say what an end means that is neither known to be whole nor to be a cut."""
    if choice.tool or choice.end in answer_signals.TOOL_CALL.words:
        return Finding(answer_signals.TOOL_CALL)
    if choice.end in answer_signals.ENDS:
        return None
    return Finding(answer_signals.UNKNOWN_END, ErrorBody(message=choice.reason), detail="finish_reason")
