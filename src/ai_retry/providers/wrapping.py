"""Takes off what models and chat templates put around an answer: thoughts, their tokens, a byte order mark, one fence.

Pure, in linear time whatever the content is, and without judgement: what is left may still be no answer.
"""

import re
import string
from collections.abc import Iterable
from itertools import chain

_NAMES = (
    "think|thinking|thought|thoughts|reasoning|reasoning_content|reflection|scratchpad|antthinking|thought_process"
    "|thinking_process|inner_monologue|internal_monologue|seed:think|longcat_think"
)  # DeepSeek R1, Qwen 3, Claude and many prompts; ByteDance Seed; LongCat
_OPENING = (
    rf"<(?:{_NAMES})(?:\s++[\w-]{{1,30}}+\s*+=[^<>]{{0,100}}+)?+\s*+>",  # with attributes, perhaps
    r"\[THINK\]",  # Mistral, Magistral
    "◁think▷",  # Moonshot, Kimi
    r"<\|START_THINKING\|>",  # Cohere, Command A Reasoning
    r"<\|begin_of_thought\|>",  # Sky-T1, OpenThinker
    r"<\|inner_prefix\|>",  # Apertus
    r"<\|think\|>",
    r"<\|channel>thought",  # Gemma 4
    "<unused94>thought",  # MedGemma
    r"(?:<\|start\|>assistant)?<\|channel\|>analysis",  # OpenAI, Harmony response format
)
_CLOSING = (
    rf"</(?:{_NAMES})\s*+>",
    r"\[/THINK\]",
    "◁/think▷",
    r"<\|END_THINKING\|>",
    r"<\|end_of_thought\|>",
    r"<\|inner_suffix\|>",
    r"<\|/think\|>",
    r"<channel\|>",
    "<unused95>",
    r"<\|channel\|>final(?: ?<\|constrain\|>\w{1,20})?<\|message\|>",  # gpt-oss names the form asked for
)
_TAG = re.compile(rf"(?P<opening>{'|'.join(_OPENING)})|(?:{'|'.join(_CLOSING)})", re.IGNORECASE)
_TAG_BEGINS = re.compile(r"[<\[◁]")
_QUOTES = ("``", '""', "''")  # around a tag: it is mentioned, not used
_BLANK = string.whitespace + "\ufeff\u200b"
_BLANKS = re.compile(rf"[{_BLANK}]*+")
_END_TOKENS = (
    "<|im_end|>",  # Qwen, ChatML
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",
    "<|eot|>",  # Llama 4
    "<|end|>",  # Phi, Harmony
    "<|return|>",  # Harmony
    "<|endoftext|>",  # GPT-2, Qwen
    "<|end_of_text|>",  # Llama 3, Granite
    "<end_of_turn>",  # Gemma
    "<turn|>",  # Gemma 4
    "<|user|>",  # GLM
    "<|observation|>",
    "<eos>",
    "<|END_OF_TURN_TOKEN|>",  # Cohere
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek
    "</s>",  # Llama 2, Mistral
)
_FIRST_TOKENS = re.compile(
    r"(?:<\|im_start\|>assistant\s"  # Qwen, ChatML
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>"  # Llama 3
    r"|<\|start_of_role\|>assistant<\|end_of_role\|>"  # Granite
    r"|<start_of_turn>model\s"  # Gemma 3
    r"|<\|turn>model\s"  # Gemma 4
    r"|<\|assistant\|>)"  # Phi, GLM
)
_BOXES = (  # tokens around all of an answer
    ("<|begin_of_box|>", "<|end_of_box|>"),  # GLM 4.1V and 4.5V
    ("<|begin_of_solution|>", "<|end_of_solution|>"),  # Sky-T1, OpenThinker
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),  # Cohere
)
_JSON_BOXES = tuple(
    (f"<{name}>", f"</{name}>") for name in ("answer", "response", "output", "json")
)  # Hunyuan; prompts
_STRUCK_OUT = re.compile(r"<s[\s>]")  # where HTML strikes text out, its end tag is no token
_FENCE = "```"
_JSON_BEGINS = ("{", "[", _FENCE)
_LANGUAGE = re.compile(r"json(?:5|c)?|(?:javascript|js|text|txt)(?=\s)", re.IGNORECASE)


def bare_text(content: str) -> str:
    """Return ``content`` without thoughts before it, tokens of its template around it and a byte order mark.

    Fences stay, and so does white space that is next to none of these. A tag of thoughts that is opened before
    any text begins thoughts; thoughts that are never closed leave no answer. A closing tag without an opening one
    ends thoughts, too, since some templates write the opening one into the prompt. Other tags are text: an answer may
    speak of them.
    """
    content = _without_first_tokens(_without_mark(_without_end_tokens(content)))
    answer = _after_thoughts(content)
    return _without_box(content[answer:].lstrip(_BLANK) if answer else content, _BOXES)


def bare_json(content: str) -> str:
    """Return what may be JSON in ``content``: without thoughts, end tokens, byte order marks and a fence around it."""
    text = _before_thoughts(bare_text(content).strip(_BLANK))
    return _without_fence(_without_box(text, (*_BOXES, *_JSON_BOXES)))


def early_json(content: str) -> str:
    """Return what may be JSON in ``content`` if its strings hold tags of thoughts, which mislead ``bare_json``.

    It begins where ``content`` does, or after the first closing tag after which JSON or a fence begins.
    """
    content = trimmed(content)
    ends = (tag.end() for tag in _TAG.finditer(content) if not tag["opening"])
    begins = (_first(content, end) for end in chain((0,), ends))
    first = next((begin for begin in begins if content.startswith(_JSON_BEGINS, begin)), 0)
    return _without_fence(_before_thoughts(content[first:]))


def trimmed(content: str) -> str:
    """Return ``content`` without white space, end tokens and byte order marks around it."""
    return _without_end_tokens(content).strip(_BLANK)


def _after_thoughts(content: str) -> int:
    """Find where the answer begins: 0 without thoughts, the end if they are not closed."""
    begins, inside, mentioned = 0, False, 0
    if not _TAG_BEGINS.search(content):  # by far the most contents; this search is ten times as fast
        return begins
    first = _first(content, 0)
    for tag in _TAG.finditer(content):
        if content[max(0, tag.start() - 1) : tag.start()] + content[tag.end() : tag.end() + 1] in _QUOTES:
            continue
        if tag["opening"]:
            inside = inside or tag.start() == first
            mentioned += not inside
        elif inside or not mentioned:
            begins, inside, mentioned = tag.end(), False, 0
            first = _first(content, begins)
        else:
            mentioned -= 1
    return len(content) if inside else begins


def _before_thoughts(text: str) -> str:
    """Return what precedes the thoughts with which ``text`` ends, else ``text``."""
    tags = list(_TAG.finditer(text))
    if not tags or tags[-1]["opening"] or tags[-1].end() < len(text):
        return text
    begins = next((tag.start() for tag in reversed(tags) if tag["opening"]), len(text))
    return text[:begins].rstrip(_BLANK)


def _first(content: str, start: int) -> int:
    """Find the first character from ``start`` that is not blank."""
    found = _BLANKS.match(content, start)
    return found.end() if found else start


def _without_first_tokens(content: str) -> str:
    found = _FIRST_TOKENS.match(content, _first(content, 0))
    return content[found.end() :].lstrip(_BLANK) if found else content


def _without_box(text: str, boxes: Iterable[tuple[str, str]]) -> str:
    """Return the inside of one pair of tokens around all of ``text``, else ``text``."""
    for begin, end in boxes:
        inner = text.strip(_BLANK)
        if inner.startswith(begin) and inner.endswith(end) and len(inner) >= len(begin) + len(end):
            return inner[len(begin) : -len(end)].strip(_BLANK)
    return text


def _without_mark(content: str) -> str:
    first = _first(content, 0)
    return content[first:] if "\ufeff" in content[:first] else content


def _without_end_tokens(content: str) -> str:
    tokens = _END_TOKENS[:-1] if _STRUCK_OUT.search(content) else _END_TOKENS
    end = whole = len(content.rstrip(_BLANK))
    while content.endswith(tokens, 0, end):
        end -= next(len(token) for token in tokens if content.endswith(token, 0, end))
        while end and content[end - 1] in _BLANK:
            end -= 1
    return content if end == whole else content[:end]


def _without_fence(text: str) -> str:
    """Return the inside of a fence that is all of ``text``, else ``text``."""
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    inner = text[len(_FENCE) : -len(_FENCE)]
    language = _LANGUAGE.match(inner)
    return (inner[language.end() :] if language else inner).strip(_BLANK)
