"""Reads the first choice of a chat completion: its content, its finish reasons and the signs of a refusal.

Shapes only, read leniently: nothing raises, and nothing is cleaned. What the words mean is in ``answer_signals``.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ai_retry.providers.bodies import mapping

_TEXT_PARTS = ("text", "output_text")  # OpenAI, Chat completions and Responses
_QUIET_PARTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text", "thought", "reference")
# Thoughts: Anthropic, Mistral, OpenAI Responses. References: Mistral, where an answer names its source.
_REASONS = ("finish_reason", "finishReason", "stop_reason", "stopReason", "finish_details", "done_reason")
# OpenAI; Gemini and AI SDKs; Anthropic; Bedrock; early OpenAI vision models; Ollama. The first one that says anything
# counts: vLLM's stop_reason beside a finish_reason is the string that ended the text.
_FILTERS = ("content_filter", "content_filter_result", "content_filter_results", "safety_ratings", "safetyRatings")
_PROMPT_FILTERS = ("prompt_filter_results", "prompt_feedback", "promptFeedback")  # Azure, Gemini, as those before
_FLAGS = ("filtered", "blocked")
_SENSITIVE = ("input_sensitive", "output_sensitive")  # MiniMax
_GUARDRAIL = "amazon-bedrock-guardrailAction"  # whose words are NONE and INTERVENED
_LONGEST_WORD = 100
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PREFIXES = re.compile(r"(?:(?:finish_|stop_)?reason_)+")
_SEPARATORS = re.compile(r"[:;,/|()]+")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a choice says.

    Attributes:
        content: its text; of a list of parts, the texts joined. Reasoning is never part of it.
        kind: what the content is instead, such as ``an object``; empty for text, parts and null.
        mixed: there are parts of it that are neither text nor known to be none of the answer.
        reason: the finish reason as it was written; empty when it is null, missing or blank.
        end: its normalised word.
        words: the field and the normalised words of each finish reason that there is.
        refused: where it says that the model or a filter refused; empty when it does not.
        tool: it asks for a tool.
        error: an error beside the content, None when there is none.
    """

    content: str
    kind: str
    mixed: bool
    reason: str
    end: str
    words: tuple[tuple[str, str], ...]
    refused: str
    tool: bool
    error: Any


def word(value: Any) -> str:
    """Normalise a machine word: ``STOP``, ``contentFilter``, ``content-filter``, ``FinishReason.SAFETY``."""
    if not isinstance(value, str):
        return "" if value is None else _kind(value)
    text = _HUMP.sub("_", value.strip()[:_LONGEST_WORD]).lower()
    text = re.sub(r"[\s.-]", "_", text)
    prefix = _PREFIXES.match(text)
    return text[prefix.end() :] if prefix else text


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
    content, kind, mixed, refused = _content(message.get("content"))
    if not (_is_blank(message.get("refusal")) and _is_blank(choice.get("refusal"))):
        refused = "refusal"
    for holder in (envelope, choice, message):
        refused = refused or _filtered(holder, _FILTERS, refusals)
    name, value = _reason((choice, message, envelope))
    others = (
        ("native_finish_reason", choice.get("native_finish_reason")),  # OpenRouter
        ("incomplete_details", mapping(envelope.get("incomplete_details")).get("reason")),  # OpenAI Responses
    )
    return Choice(
        content=content,
        kind=kind,
        mixed=mixed,
        reason=value.strip()[:_LONGEST_WORD] if isinstance(value, str) else word(value),
        end=word(value),
        words=tuple((field, each) for field, said in ((name, value), *others) for each in _words(said)),
        refused=refused,
        tool=bool(message.get("tool_calls") or message.get("function_call")),
        error=choice.get("error") or message.get("error") or None,
    )


def refused_prompt(envelope: Mapping[str, Any], refusals: Collection[str]) -> str:
    """Name the field by which an answer without a choice says that the prompt was refused; empty when none does."""
    return _filtered(envelope, (*_FILTERS, *_PROMPT_FILTERS), refusals)


def _reason(holders: Iterable[Mapping[str, Any]]) -> tuple[str, Any]:
    """Find the finish reason and the field that it is in: a string as a rule, else what is in its place."""
    for holder in holders:
        for name in _REASONS:
            value = holder.get(name)
            if isinstance(value, Mapping):
                value = value.get("type") or value.get("reason") or value
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            if value is not None and not (isinstance(value, str) and not value.strip()):
                return name, value
    return _REASONS[0], None


def _words(value: Any) -> Iterator[str]:
    """Give the normalised word, then those of which it is put together, as in ``content_filter: SAFETY``."""
    values = value if isinstance(value, list) else [value]
    for each in values:
        yield from filter(None, (word(each),))
        if isinstance(each, str) and _SEPARATORS.search(each[:_LONGEST_WORD]):
            yield from filter(None, map(word, _SEPARATORS.split(each[:_LONGEST_WORD])))


def _content(content: Any) -> tuple[str, str, bool, str]:
    """Read a message's content: its text, else its kind, whether it has other parts, and where it says a refusal."""
    if not isinstance(content, list):
        return ("", _kind(content), False, "") if _is_other(content) else (content or "", "", False, "")
    texts, mixed, refused = [], False, ""
    for part in map(_part, content):
        kind, text = word(part.get("type") or "text"), part.get("text")
        if kind == "refusal" or not _is_blank(part.get("refusal")):
            refused = "a part of type refusal"
        elif kind in _QUIET_PARTS or part.get("thought") is True:  # the latter as Gemini marks them
            continue
        elif kind in _TEXT_PARTS and isinstance(text, str | None):
            texts.append(text or "")
        else:
            mixed = True
    return "".join(texts), "", mixed, refused


def _part(part: Any) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {"type": _kind(part)}


def _is_other(content: Any) -> bool:
    return content is not None and not isinstance(content, str)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a string"
    return "a boolean" if isinstance(value, bool) else "a number"


def _is_blank(value: Any) -> bool:
    return not (value.strip() if isinstance(value, str) else value)


def _filtered(holder: Mapping[str, Any], names: Iterable[str], refusals: Collection[str]) -> str:
    if word(holder.get(_GUARDRAIL)) == "intervened":
        return _GUARDRAIL
    flag = next((name for name in _SENSITIVE if holder.get(name) is True), "")
    return flag or next((name for name in names if _says_filtered(holder.get(name), refusals)), "")


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
