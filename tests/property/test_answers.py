"""No body whatever becomes an answer but a whole, valid, unrefused output; and each such output becomes one.

The words are written out here again, from the providers' documents, so that a mistake in the table shows. Bodies are
built from pieces of which each is known to leave an answer whole or to spoil it: that is the oracle.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_retry.domain.model import Answer, Failure, FailureCode
from ai_retry.providers.classify import Reply, classify
from ai_retry.providers.redaction import Redactor

MORE = int(os.environ.get("FUZZ", "1"))  # times as many examples
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROMPT = "Plan a week of running for a beginner whose left knee hurts"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["title"],
    "additionalProperties": False,
}

ENDS = ["stop", "eos", "end_turn", "stop_sequence", "COMPLETE", "", None]
REFUSALS = [
    *("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "refusal", "content_filter"),
    *("content_filtered", "guardrail_intervened", "sensitive"),
]
LIMITS = ["length", "MAX_TOKENS", "model_length", "model_context_window_exceeded"]
BREAKS = ["abort", "cancelled", "insufficient_system_resource", "malformed_function_call", "network_error", "error"]
TAGS = [
    *(
        (f"<{name}>", f"</{name}>")
        for name in ("think", "thinking", "thought", "reasoning", "longcat_think", "scratchpad")
    ),
    ('<think time="3">', "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]
BOXES = [("<|begin_of_box|>", "<|end_of_box|>"), ("<answer>", "</answer>"), ("<output>\n", "\n</output>")]
TOKENS = ["<turn|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "</s>", "<|endoftext|>"]
SPACE = st.text(st.sampled_from(" \n\t\r"), max_size=3)
PLAIN = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters=" .,!{}:"), min_size=1, max_size=20
)


def cased(words: list[Any]) -> st.SearchStrategy[Any]:
    """Draw words in any case."""
    return st.sampled_from(words).flatmap(
        lambda word: st.sampled_from([word, word.lower(), word.upper(), word.title()] if word else [word])
    )


UNKNOWN = st.text(st.characters(categories=["L"], codec="ascii"), max_size=12).map("moon{}".format)


@dataclass(frozen=True)
class Wrapped:
    """Content, and what it holds: None where it holds no answer."""

    content: str
    output: Any


OBJECTS = st.builds(
    lambda title, days: {"title": title} | ({} if days is None else {"days": days}),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12).filter(str.isprintable)
    | st.sampled_from(["<think>", "a </think> b", "```", "<|im_end|>", "`", "\ufeff", "</s>"]),
    st.none() | st.integers(0, 9),
)
THOUGHTS = st.builds(lambda tags, text, space: tags[0] + text + tags[1] + space, st.sampled_from(TAGS), PLAIN, SPACE)
BEFORE = st.lists(THOUGHTS, max_size=2).map("".join)
AFTER = st.lists(st.builds("{}{}".format, SPACE, st.sampled_from(TOKENS)), max_size=2).map("".join)
MARKS = st.sampled_from(["", "\ufeff"])


@st.composite
def wrapped_json(draw: st.DrawFn) -> Wrapped:
    """Draw JSON with things around it, of which some spoil it."""
    value = draw(OBJECTS)
    body = json.dumps(value, ensure_ascii=draw(st.booleans()))
    quiet = "</" not in body and "<th" not in body and "[THINK]" not in body  # tags in a fence are not looked into
    kind = draw(
        st.sampled_from(
            ["bare", "bare", "fence", "box", "open box", "two", "prose", "after", "comma", "open", "type", "unclosed"]
        )
    )
    before = draw(BEFORE) if quiet else ""
    fence = draw(st.sampled_from(["```json\n", "```\n", "```JSON\r\n", "```javascript\n"]))
    box = draw(st.sampled_from(BOXES))
    content = {
        "bare": body,
        "fence": f"{fence}{body}\n```" if quiet else body,
        "box": f"{box[0]}{body}{box[1]}" if quiet else body,
        "open box": f"{box[0]}{body}",
        "two": f"{body}{draw(SPACE)}{body}",
        "prose": f"Here you are: {body}",
        "after": f"{body} Good luck!",
        "comma": f"{body[:-1]},}}",
        "open": f"{fence}{body}",
        "type": json.dumps({"title": 5}),
        "unclosed": f"<think>{body}" if quiet else f"{body} x",
    }[kind]
    whole = kind in ("bare", "fence", "box")
    return Wrapped(f"{draw(MARKS)}{draw(SPACE)}{before}{content}{draw(SPACE)}{draw(AFTER)}", value if whole else None)


@st.composite
def wrapped_text(draw: st.DrawFn) -> Wrapped:
    """Draw text with things around it."""
    value = draw(PLAIN.filter(lambda text: text == text.strip() != ""))
    kind = draw(st.sampled_from(["text", "text", "mention", "fence", "unclosed", "nothing", "closing"]))
    before, after = draw(BEFORE), draw(AFTER)
    if kind == "mention":
        value = f"{value} <think>{value}</think> {value}"
    if kind == "fence":
        value = f"```\n{value}\n```"
    content = {"unclosed": f"<think>{value}", "nothing": "", "closing": f"{value}</think>\n{value}"}.get(kind, value)
    output = None if kind in ("unclosed", "nothing") else value
    return Wrapped(f"{draw(MARKS)}{before}{content}{after}", output)


@dataclass(frozen=True)
class Signs:
    """What an envelope says of its content."""

    choice: dict[str, Any]
    message: dict[str, Any]
    spoils: str  # why it is no answer; "unknown" and "tool" leave JSON to decide; empty: nothing


def signs(choice: dict[str, Any], spoils: str = "", message: dict[str, Any] | None = None) -> Signs:
    """Build signs."""
    return Signs(choice, message or {}, spoils)


def reasons(name: str) -> st.SearchStrategy[Signs]:
    """Draw a finish reason under one of its names, in one of the forms in which they come."""
    forms = st.sampled_from(FORMS)
    return st.one_of(
        st.builds(lambda word, form: signs({name: form(word)}, "refused"), cased(REFUSALS), forms),
        st.builds(lambda word, form: signs({name: form(word)}, "limit"), cased(LIMITS), forms),
        st.builds(lambda word, form: signs({name: form(word)}, "broken"), cased(BREAKS), forms),
    )


FORMS: list[Callable[[str], Any]] = [
    lambda word: word,
    "FinishReason.{}".format,
    "FINISH_REASON_{}".format,
    "stopped: {}".format,
    "stop ({})".format,
    lambda word: [word],
    lambda word: {"type": word},
    lambda word: {"reason": word},
]


FILTERS = st.sampled_from(["content_filter", "content_filter_results"])
SIGNS = st.one_of(
    st.just(signs({})),
    *[cased(ENDS).map(lambda word: signs({"finish_reason": word}))] * 3,
    UNKNOWN.map(lambda word: signs({"finish_reason": word}, "unknown")),
    *[reasons(name) for name in ("finish_reason", "finishReason", "stop_reason", "finish_details", "done_reason")],
    cased(REFUSALS).map(lambda word: signs({"native_finish_reason": word}, "refused")),
    cased(LIMITS).map(lambda word: signs({"native_finish_reason": word}, "limit")),
    UNKNOWN.map(lambda word: signs({"finishReason": word}, "unknown")),
    cased(ENDS).map(lambda word: signs({"finish_reason": None, "stop_reason": word})),
    st.sampled_from(["length", "SAFETY", "x"]).map(lambda word: signs({"finish_reason": "stop", "stop_reason": word})),
    st.sampled_from([[{"id": "a"}], {"name": "a"}]).map(
        lambda call: signs(
            {"finish_reason": "stop"}, "tool", {"tool_calls" if isinstance(call, list) else "function_call": call}
        )
    ),
    st.sampled_from([None, []]).map(lambda call: signs({"finish_reason": "stop"}, message={"tool_calls": call})),
    st.just(signs({"refusal": "No"}, "refused")),
    st.sampled_from(["input_sensitive", "output_sensitive"]).map(lambda name: signs({name: True}, "refused")),
    st.just(signs({"amazon-bedrock-guardrailAction": "INTERVENED"}, "refused")),
    cased(ENDS).map(lambda word: signs({"native_finish_reason": word})),
    PLAIN.filter(str.strip).map(lambda text: signs({}, "refused", {"refusal": text})),
    st.sampled_from([None, "", " "]).map(lambda text: signs({}, message={"refusal": text})),
    FILTERS.map(lambda name: signs({name: {"hate": {"filtered": True, "severity": "high"}}}, "refused")),
    FILTERS.map(lambda name: signs({name: {"hate": {"filtered": False, "severity": "safe"}}})),
    st.builds(lambda name, word: signs({name: word}, "refused"), FILTERS, cased(REFUSALS)),
    FILTERS.map(lambda name: signs({name: {"error": {"code": "content_filter_error"}}})),
    st.sampled_from([500, 502, 503, 504, 520, 529, 599]).map(lambda code: signs({"error": {"code": code}}, "broken")),
)


def envelope(content: Any, sign: Signs) -> bytes:
    """Write a completion."""
    choice = {"message": {"content": content, **sign.message}, **sign.choice}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": 5}}).encode()


def judge(body: bytes, schema: dict[str, Any] | None) -> Answer | Failure:
    """Classify a whole answer with status 200."""
    redactor = Redactor(prompt=[{"role": "user", "content": PROMPT}], secrets=[])
    return classify(Reply(status=200, headers={}, body=body), schema=schema, now=NOW, redactor=redactor)


def parts(content: str, cut: int) -> list[dict[str, str]]:
    """Write content as two parts."""
    return [{"type": "text", "text": content[:cut]}, {"type": "output_text", "text": content[cut:]}]


def check(outcome: Answer | Failure, wrapped: Wrapped, sign: Signs, *, unknown_passes: bool) -> None:
    """Compare an outcome with what the pieces say."""
    spoilt = sign.spoils not in ("", "unknown", "tool") or (sign.spoils != "" and not unknown_passes)
    if wrapped.output is not None and not spoilt:
        assert isinstance(outcome, Answer), outcome
        assert outcome.output == wrapped.output
        return
    assert isinstance(outcome, Failure), outcome
    assert outcome.counted
    assert not outcome.certainly_not_generated
    if sign.spoils == "refused":
        assert (outcome.code, outcome.transient) == (FailureCode.REJECTED, False)
    if sign.spoils in ("limit", "unknown"):
        assert (outcome.code, outcome.transient) == (FailureCode.INCOMPLETE, False)
    if sign.spoils == "tool":
        assert (outcome.code, outcome.transient) == (FailureCode.INVALID_OUTPUT, True)
    if sign.spoils == "broken":
        assert outcome.transient


@settings(max_examples=600 * MORE, deadline=None)
@given(wrapped_json(), SIGNS, st.integers(-1, 30))
def test_json_is_an_answer_only_if_whole(wrapped: Wrapped, sign: Signs, cut: int) -> None:
    """With a schema the output is used if nothing spoils it, also after an unknown finish reason, and else never."""
    content: Any = wrapped.content if cut < 0 else parts(wrapped.content, cut)

    check(judge(envelope(content, sign), SCHEMA), wrapped, sign, unknown_passes=True)


@settings(max_examples=400 * MORE, deadline=None)
@given(wrapped_text(), SIGNS, st.integers(-1, 30))
def test_text_is_an_answer_only_if_whole(wrapped: Wrapped, sign: Signs, cut: int) -> None:
    """Without a schema text is used if nothing spoils it and its finish reason is known to be an end."""
    content: Any = wrapped.content if cut < 0 else parts(wrapped.content, cut)

    check(judge(envelope(content, sign), None), wrapped, sign, unknown_passes=False)


KEYS = [
    *("finishReason", "stop_reason", "finish_details", "reason", "thought", "tool_calls", "base_resp", "status_code"),
    *("errors", "success", "output_sensitive", "status_msg"),
    *("choices", "message", "content", "finish_reason", "native_finish_reason", "refusal", "error", "type", "text"),
    *("content_filter", "content_filter_results", "filtered", "promptFeedback", "blocked", "usage", "detail", "code"),
]
VALUES = [
    *(*ENDS, *REFUSALS, *LIMITS, *BREAKS, "output_text", "tool_calls", "moonphase", '{"title": "x"}', "Run!"),
    *(
        "<think>a</think>Run!",
        '```json\n{"title": "x"}\n```',
        "<think>",
        "Unexpected endpoint or method",
        True,
        False,
        5,
    ),
]
ANY = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
CHOICE = st.fixed_dictionaries(
    {"message": st.fixed_dictionaries({"content": ANY}, optional={"refusal": ANY, "tool_calls": ANY})},
    optional=dict.fromkeys(("finish_reason", "native_finish_reason", "content_filter", "error"), ANY),
)


def said_by(value: Any) -> str:
    """Write a finish reason as a word, in whatever form it came."""
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value or "").lower()


@settings(max_examples=600 * MORE, deadline=None)
@given(
    st.fixed_dictionaries(
        {"choices": st.lists(CHOICE, max_size=1)},
        optional=dict.fromkeys(("error", "errors", "usage", "success", "output_sensitive", "base_resp"), ANY),
    )
)
@example({"choices": [{"message": {"content": "Run!"}, "finish_reason": "tool_calls"}]})
@example({"choices": [{"message": {"content": "Run!"}}], "error": [[]]})  # a list of nothing is no error
@example({"choices": [{"message": {"content": "Run!"}}], "error": ["", {"message": "overloaded"}]})
def test_any_envelope_keeps_the_promise(body: dict[str, Any]) -> None:
    """Whatever an envelope holds, an answer has no error, no refusal, no cut, and an end that is known."""
    for schema in (None, SCHEMA):
        outcome = judge(json.dumps(body).encode(), schema)
        if isinstance(outcome, Failure):
            assert not (outcome.transient and outcome.operator_fault)
            continue
        (choice,) = body["choices"]
        said = [said_by(choice.get(name)) for name in ("finish_reason", "native_finish_reason")]
        spoiling = {word.lower() for word in (*REFUSALS, *LIMITS, *BREAKS)}
        assert not spoiling & set(said)
        assert not (any(body["error"]) if isinstance(body.get("error"), list) else body.get("error"))
        assert not choice.get("error")
        assert not str(choice["message"].get("refusal") or "").strip()
        assert choice.get("content_filter") not in REFUSALS
        assert not (isinstance(body.get("errors"), list) and any(body["errors"]))
        assert body.get("success") is not False
        assert body.get("output_sensitive") is not True
        if schema is None:
            assert not choice["message"].get("tool_calls")
            assert said[0].strip() in {str(word or "").lower() for word in ENDS}
            assert isinstance(outcome.output, str)
            assert outcome.output.strip()
            assert not outcome.output.startswith("<think>")
        else:
            assert isinstance(outcome.output, dict)
            assert isinstance(outcome.output["title"], str)


ERRORS = st.text(max_size=30) | st.sampled_from(
    ["Unexpected endpoint or method. (POST /chat/completions)", "out of memory", "busy", "insufficient balance", "rate"]
)


@settings(max_examples=300 * MORE, deadline=None)
@given(
    st.sampled_from(["text", "object", "detail"]),
    ERRORS,
    st.sampled_from([{}, {"usage": {"total_tokens": 3}}, {"choices": [{"message": {"content": "Run!"}}]}]),
)
def test_error_inside_a_200_is_never_an_answer(shape: str, message: str, more: dict[str, Any]) -> None:
    """An error in a 200 fails; it is certainly free only where neither choices nor usage say that a model began."""
    if shape == "detail" and "choices" in more:
        return  # an answer with a detail beside it
    error: dict[str, Any] = {"text": message or "x", "object": {"message": message}, "detail": message}
    name = "detail" if shape == "detail" else "error"

    outcome = judge(json.dumps({name: error[shape], **more}).encode(), None)

    assert isinstance(outcome, Failure)
    assert not (outcome.certainly_not_generated and more)
    assert not (outcome.certainly_not_generated and outcome.transient)
    assert outcome.certainly_not_generated <= outcome.operator_fault
