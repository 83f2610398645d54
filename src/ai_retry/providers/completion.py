"""Reads the first choice of a chat completion: its content, its finish reasons and the signs of a refusal.

Shapes only, read leniently: nothing raises, and nothing is cleaned. What the words mean is in ``answer_signals``.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ai_retry.providers.bodies import mapping

_TEXT_PARTS = ("text", "output_text")  # OpenAI, Chat completions and Responses
_FILTERS = ("content_filter", "content_filter_result", "content_filter_results", "safety_ratings")  # Azure, Gemini
_PROMPT_FILTERS = ("prompt_filter_results", "prompt_feedback", "promptFeedback")
_FLAGS = ("filtered", "blocked")
_LONGEST_WORD = 100
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a choice says.

    Attributes:
        content: its text; of a list of parts, the texts joined. Reasoning is never part of it.
        kind: what the content is instead, such as ``an object``; empty for text, parts and null.
        reason: the finish reason as it was written; empty when it is null, missing or blank.
        words: the field and the normalised word of each finish reason that there is.
        refused: where it says that the model or a filter refused; empty when it does not.
        error: an error beside the content, None when there is none.
    """

    content: str
    kind: str
    reason: str
    words: tuple[tuple[str, str], ...]
    refused: str
    error: Any


def word(value: Any) -> str:
    """Normalise a machine word: ``STOP``, ``contentFilter``, ``content-filter``, ``FinishReason.SAFETY``."""
    if not isinstance(value, str):
        return "" if value is None else _kind(value)
    text = _HUMP.sub("_", value.strip()[:_LONGEST_WORD]).lower()
    return re.sub(r"[\s.-]", "_", text).removeprefix("finish_reason_")


def read_choice(envelope: Mapping[str, Any], refusals: Collection[str]) -> Choice | None:
    """Read the first choice; None when there is none.

    Args:
        envelope: the body.
        refusals: normalised words that a filter's report uses for a refusal.
    """
    choices = envelope.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else {}
    if not choice:
        return None
    message = mapping(choice.get("message"))
    content, kind, refused = _content(message.get("content"))
    if not _is_blank(message.get("refusal")):
        refused = "refusal"
    for holder in (envelope, choice, message):
        refused = refused or _filtered(holder, _FILTERS, refusals)
    reason = choice.get("finish_reason")
    reasons = ((name, word(choice.get(name))) for name in ("finish_reason", "native_finish_reason"))
    return Choice(
        content=content,
        kind=kind,
        reason=reason.strip()[:_LONGEST_WORD] if isinstance(reason, str) else word(reason),
        words=tuple((name, each) for name, each in reasons if each),
        refused=refused,
        error=choice.get("error") or None,
    )


def refused_prompt(envelope: Mapping[str, Any], refusals: Collection[str]) -> str:
    """Name the field by which an answer without a choice says that the prompt was refused; empty when none does."""
    return _filtered(envelope, (*_FILTERS, *_PROMPT_FILTERS), refusals)


def _content(content: Any) -> tuple[str, str, str]:
    """Read a message's content: its text, else its kind, and where it says that it is a refusal."""
    if isinstance(content, list):
        parts = [mapping(part) for part in content]
        texts = [part.get("text") for part in parts if (part.get("type") or "text") in _TEXT_PARTS]
        refused = any(word(part.get("type")) == "refusal" or not _is_blank(part.get("refusal")) for part in parts)
        return "".join(text for text in texts if isinstance(text, str)), "", "a part of type refusal" if refused else ""
    if content is None or isinstance(content, str):
        return content or "", "", ""
    return "", _kind(content), ""


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "a boolean" if isinstance(value, bool) else "a number"


def _is_blank(value: Any) -> bool:
    return not (value.strip() if isinstance(value, str) else value)


def _filtered(holder: Mapping[str, Any], names: Iterable[str], refusals: Collection[str]) -> str:
    return next((name for name in names if _says_filtered(holder.get(name), refusals)), "")


def _says_filtered(report: Any, refusals: Collection[str]) -> bool:
    """Whether a filter's report holds a flag that is set, or a word for a refusal where there is no flag.

    An ``error`` in it says that the filter did not run: the answer is whole (Azure OpenAI, Content filtering).
    """
    pending = [report]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            flags = [item[name] for name in _FLAGS if isinstance(item.get(name), bool)]
            if any(flags):
                return True
            pending.extend(value for name, value in item.items() if not flags and name != "error")
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str) and word(item) in refusals:
            return True
    return False
