"""The table of signals, and the classifier on answers that need no socket."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ai_retry.domain.model import Answer, Failure, FailureCode, ProviderOutcome, Usage
from ai_retry.providers import answer_signals, signals, vocabulary
from ai_retry.providers.classify import Ending, Reply, classify
from ai_retry.providers.redaction import Redactor
from ai_retry.providers.signal import Signal
from ai_retry.secrecy import DROPPED

SIGNALS = (*signals.BEFORE, *signals.STATUS, *answer_signals.CONTENT)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROMPT = [
    {"role": "system", "content": "You are a trainer for long distance runners."},
    {"role": "user", "content": [{"type": "text", "text": "My knee hurts since the Boston marathon in April"}]},
]
KEY = "sk-or-v1-0123456789abcdef"
TITLE = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}


def judge(
    status: int,
    body: Any,
    *,
    headers: Mapping[str, str] | None = None,
    schema: Mapping[str, Any] | None = TITLE,
    ending: Ending = Ending.WHOLE,
    added: Collection[str] = (),
) -> Answer | Failure:
    """Classify an answer to ``PROMPT``."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = Reply(status=status, headers=headers or {}, body=content, ending=ending)
    redactor = Redactor(prompt=PROMPT, secrets=[KEY])
    return classify(reply, schema=schema, now=NOW, redactor=redactor, added=added)


def failure(status: int, body: Any, **more: Any) -> Failure:
    """Classify an answer that must be a failure."""
    outcome = judge(status, body, **more)
    assert isinstance(outcome, Failure), outcome
    return outcome


def completion(content: Any, *, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion."""
    return {"model": "m-1", "choices": [{"message": {"content": content}, "finish_reason": reason}], **more}


def error(**members: Any) -> dict[str, Any]:
    """An error body in OpenAI's shape."""
    return {"error": {"message": "No", **members}}


def test_every_row_has_its_source() -> None:
    """Each row of the table says where its rule is from, and fits into a reason."""
    for signal in SIGNALS:
        assert signal.source
        assert 5 < len(signal.shows) < 60


def test_no_row_is_free_and_paid_at_once() -> None:
    """No row says of a cut or invalid answer, or of a time-out, that certainly nothing was generated."""
    for signal in SIGNALS:
        if signal.not_generated:
            assert signal.code in (FailureCode.RATE_LIMITED, FailureCode.REJECTED, FailureCode.UNAVAILABLE)
        if signal.operator_fault:
            assert not signal.transient


def test_every_status_row_can_be_reached() -> None:
    """No row of the table is hidden by an earlier one."""
    for signal in signals.STATUS:
        status = next(iter(signal.statuses), 500)

        assert signals.find(status, signal.words, " ".join(signal.phrases)) is signal


@pytest.mark.parametrize("status", [*range(300, 600), 600, 999])
def test_every_status_alone_is_a_failure(status: int) -> None:
    """Whatever the status says without a body, it is judged; only what may pass carries a wait."""
    found = failure(status, b"", headers={"retry-after": "7"})

    assert found.retry_after == (timedelta(seconds=7) if found.transient else None)


MONEY = (
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "insufficient_quota",
)


@pytest.mark.parametrize("word", MONEY)
def test_money_is_not_pace(word: str) -> None:
    """A 429 about credit is permanent and the operator's, even with a Retry-After."""
    found = failure(429, error(type="insufficient_quota", code=word), headers={"retry-after": "1"})

    assert found.code is FailureCode.REJECTED
    assert found.operator_fault
    assert not found.transient
    assert found.retry_after is None
    assert not found.counted


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error(code="invalid_api_key")),
        (401, {"detail": "Unauthorized"}),
        (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}]),
        (402, error(code=402)),
        (403, error(code=403, metadata={"limit_source": "workspace_budget"})),
        (404, error(type="not_found_error", code=None)),
        (404, {"error": {"code": "DeploymentNotFound", "message": "No such deployment"}}),
        (400, error(error_type="invalid_request", availability={"code": "model_not_found", "retryable": False})),
        (429, error(details={"error_code": "enforced_spend_limit_reached"}, type="rate_limit_error")),
        (400, error(type="budget_exceeded", code="400")),
        (407, b"<html>proxy</html>"),
        (302, b""),
    ],
)
def test_what_the_operator_must_correct_is_not_counted(status: int, body: Any) -> None:
    """Bad keys, no credit and missing models are the operator's: permanent, and free for the user."""
    found = failure(status, body)

    assert found.code is FailureCode.REJECTED
    assert found.operator_fault
    assert not found.counted
    assert not found.transient


def test_too_large_for_the_limit_never_passes() -> None:
    """A request that alone exceeds the limit is rejected; one that found little left is only early."""
    words = {"type": "tokens", "code": "rate_limit_exceeded"}
    large = error(**words) | {"error": {**words, "message": "Too large: Limit 8000, Requested 9500."}}
    early = {"error": {**words, "message": "Limit 8000, Used 7000, Requested 1500."}}

    assert failure(429, large).code is FailureCode.REJECTED
    assert failure(413, large).code is FailureCode.REJECTED
    assert failure(429, early).code is FailureCode.RATE_LIMITED


def test_the_routers_own_verdict_wins() -> None:
    """OpenRouter's ``retryable`` and a client hint are obeyed, but a hint never makes a permanent error transient."""
    waits = {"code": "capacity_exhausted", "retryable": True, "retry_after": 40}
    gone = {"code": "free_variant_ended", "retryable": False}
    maybe = {"code": "no_endpoints", "retryable": True}

    assert failure(429, error(availability=waits)).retry_after == timedelta(seconds=40)
    assert failure(429, error(availability=waits)).code is FailureCode.RATE_LIMITED
    assert not failure(503, error(availability=gone)).transient
    assert failure(404, error(availability=maybe)).code is FailureCode.UNAVAILABLE
    assert failure(404, error(availability=maybe)).transient
    assert not failure(500, b"", headers={"x-should-retry": "false"}).transient
    assert not failure(401, b"", headers={"x-should-retry": "true"}).transient


def test_fallbacks_may_have_generated() -> None:
    """Where a router tried others before, only their 429s prove that nothing was generated."""
    only_pace = {"previous_errors": [{"code": "c", "status": 429}]}
    timed_out = {"previous_errors": [{"status": 429}, {"status": 504}]}

    assert failure(429, error(metadata=only_pace)).certainly_not_generated
    assert not failure(429, error(metadata=timed_out)).certainly_not_generated


@pytest.mark.parametrize(
    ("body", "code", "transient"),
    [
        (error(code=429), FailureCode.RATE_LIMITED, True),
        (error(code="429"), FailureCode.RATE_LIMITED, True),
        (error(code="rate_limit_exceeded"), FailureCode.RATE_LIMITED, True),
        (error(code=504), FailureCode.TIMEOUT, True),
        (error(code=400), FailureCode.REJECTED, False),
        (error(code=402), FailureCode.REJECTED, False),
        (error(code=502), FailureCode.UNAVAILABLE, True),
        (error(code="server_error"), FailureCode.UNAVAILABLE, True),
        (error(code=200), FailureCode.UNAVAILABLE, True),
        ({"error": "out of memory"}, FailureCode.UNAVAILABLE, True),
        ({"error": True}, FailureCode.UNAVAILABLE, True),
        ({"object": "error", "message": "No", "code": 40303}, FailureCode.UNAVAILABLE, True),
        ([{"error": {"code": 503, "status": "UNAVAILABLE"}}], FailureCode.UNAVAILABLE, True),
    ],
)
def test_an_error_inside_a_200_may_have_generated(body: Any, code: FailureCode, transient: bool) -> None:
    """An error in a 200 is judged by its own code, and never said to be free."""
    found = failure(200, body)

    assert (found.code, found.transient, found.certainly_not_generated) == (code, transient, False)


@pytest.mark.parametrize(
    ("choice", "code"),
    [
        ({"finish_reason": "error", "error": {"code": 502}, "message": {"content": '{"tit'}}, FailureCode.INCOMPLETE),
        ({"finish_reason": "error", "message": {"content": '{"title": "x"}'}}, FailureCode.INCOMPLETE),
        ({"finish_reason": "error", "error": {"code": 502}, "message": {"content": " "}}, FailureCode.UNAVAILABLE),
        ({"finish_reason": "error", "error": {"code": 429}, "message": {"content": "x"}}, FailureCode.RATE_LIMITED),
        ({"finish_reason": "error", "error": {"code": 400}, "message": {"content": "x"}}, FailureCode.REJECTED),
        ({"finish_reason": "stop", "error": {"message": "m"}, "message": {"content": '{"title": "x"}'}}, None),
        ({"finish_reason": "error"}, FailureCode.UNAVAILABLE),
    ],
)
def test_a_failed_choice_is_never_an_answer(choice: dict[str, Any], code: FailureCode | None) -> None:
    """An error beside partial content is a failure even when the content would be valid."""
    found = failure(200, {"choices": [choice]})

    assert found.code is (code or FailureCode.INCOMPLETE)
    assert not found.certainly_not_generated


@pytest.mark.parametrize(
    ("reason", "code", "transient"),
    [
        ("length", FailureCode.INCOMPLETE, False),
        ("model_length", FailureCode.INCOMPLETE, False),
        ("MAX_TOKENS", FailureCode.INCOMPLETE, False),
        ("insufficient_system_resource", FailureCode.INCOMPLETE, True),
        ("abort", FailureCode.INCOMPLETE, True),
        ("content_filter", FailureCode.REJECTED, False),
        ("sensitive", FailureCode.REJECTED, False),
    ],
)
def test_finish_reasons_beat_valid_content(reason: str, code: FailureCode, transient: bool) -> None:
    """Content that parses is no proof of being complete: the finish reason decides first."""
    found = failure(200, completion('{"title": "x"}', reason=reason))

    assert (found.code, found.transient, found.certainly_not_generated) == (code, transient, False)


@pytest.mark.parametrize("reason", ["stop", "eos", "end_turn", "tool_calls", "", None, "anything", 5])
def test_other_finish_reasons_let_the_content_decide(reason: Any) -> None:
    """Unknown, missing and plain finish reasons don't spoil a valid answer."""
    answer = judge(200, completion('{"title": "x"}', reason=reason))

    assert isinstance(answer, Answer)
    assert answer.output == {"title": "x"}


def test_broken_content_without_a_reason_was_cut() -> None:
    """Half an object with no finish reason was cut off; with one, the model wrote it so."""
    assert failure(200, completion('{"title": "x', reason=None)).code is FailureCode.INCOMPLETE
    assert failure(200, completion('{"title": "x', reason="stop")).code is FailureCode.INVALID_OUTPUT
    assert failure(200, completion('{"title": 5}', reason=None)).code is FailureCode.INVALID_OUTPUT


@pytest.mark.parametrize(
    "content",
    [
        "Here you are: {}",
        '```json\n{"title": "x"}\n```\n```\n{}\n```',
        '{"title": "x"} {"title": "y"}',
        '{"title": "x",}',
        '{"title": NaN}',
        '{"title": "x", "title": "y"}',
        "[]",
        '{"title": "\\u0000"}',
        '{"title": 12345678901234567890}',
    ],
)
def test_only_exact_output_is_an_answer(content: str) -> None:
    """Prose, two fences, duplicates, unstorable values and other shapes fail, are paid for, and may be tried again."""
    found = failure(200, completion(content, usage={"total_tokens": 5}))

    assert found.code is FailureCode.INVALID_OUTPUT
    assert found.transient
    assert found.usage == Usage(total_tokens=5)
    assert found.provider_outcome is ProviderOutcome.GENERATED


def test_parts_are_joined() -> None:
    """Content that comes in parts is the text of its text parts."""
    parts = [{"type": "text", "text": '{"title"'}, {"type": "image"}, {"text": ': "x"}'}, "odd", {"type": "text"}]
    answer = judge(200, completion(parts))

    assert isinstance(answer, Answer)
    assert answer.output == {"title": "x"}


def test_text_is_the_output_without_a_schema() -> None:
    """Without a schema the output is the content as it came, as a string."""
    answer = judge(200, completion(" Run! \n"), schema=None)

    assert isinstance(answer, Answer)
    assert answer.output == " Run! \n"
    assert failure(200, completion("a\0b"), schema=None).code is FailureCode.INVALID_OUTPUT


@pytest.mark.parametrize(
    ("body", "ending", "code"),
    [
        (b"", Ending.WHOLE, FailureCode.INCOMPLETE),
        (b" \n ", Ending.WHOLE, FailureCode.INCOMPLETE),
        (b'{"choices": [', Ending.WHOLE, FailureCode.INCOMPLETE),
        (b"[" * 100_000, Ending.WHOLE, FailureCode.INCOMPLETE),
        (b'{"a":' + b"9" * 5000 + b"}", Ending.WHOLE, FailureCode.INCOMPLETE),
        (b"data: {}\n\n", Ending.WHOLE, FailureCode.UNAVAILABLE),
        (b"<error>No</error>", Ending.WHOLE, FailureCode.UNAVAILABLE),
        (b"\xff\xfe{\x00}\x00", Ending.WHOLE, FailureCode.UNAVAILABLE),
        (b"{}", Ending.WHOLE, FailureCode.INVALID_OUTPUT),
        (b"[]", Ending.WHOLE, FailureCode.INVALID_OUTPUT),
        (b"[1]", Ending.WHOLE, FailureCode.INVALID_OUTPUT),
        (b'{"choices": {"0": 1}}', Ending.WHOLE, FailureCode.INVALID_OUTPUT),
        (b"{}", Ending.CUT, FailureCode.INCOMPLETE),
        (b"{}", Ending.LATE, FailureCode.TIMEOUT),
        (b"{}", Ending.TOO_LARGE, FailureCode.INVALID_OUTPUT),
    ],
)
def test_unreadable_answers_are_distinguished(body: bytes, ending: Ending, code: FailureCode) -> None:
    """Cut, late, over-long, foreign and empty answers have their own kinds, and all may pass."""
    found = failure(200, body, ending=ending)

    assert (found.code, found.transient, found.certainly_not_generated) == (code, True, False)


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<html>Log in</html>", {}),
        (b"\n <!-- a -->\n<!DOCTYPE HTML>", {}),
        (b"<!doctype html>", {"content-type": "application/json"}),
        (b"<p>Log in</p>", {"content-type": "text/html; charset=utf-8"}),
    ],
)
def test_web_page_is_the_operators_fault(body: bytes, headers: dict[str, str], ending: Ending) -> None:
    """A page with status 200, whole or not, was certainly no generation, and no repeat helps."""
    found = failure(200, body, headers=headers | {"retry-after": "1"}, ending=ending)

    assert (found.code, found.transient, found.certainly_not_generated) == (FailureCode.REJECTED, False, True)
    assert found.operator_fault
    assert found.retry_after is None


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, error(code="invalid_request_error", param="response_format"), "response_format"),
        (400, error(type="invalid_request_error", param="response_format.json_schema"), "response_format"),
        (422, {"detail": [{"loc": ["body", "response_format", "type"], "msg": "No"}]}, "response_format"),
        (400, {"error": {"message": "This response_format type is unavailable now"}}, "response_format"),
        (400, {"error": {"message": "Unknown name 'strict': cannot find field"}}, "strict"),
        (400, error(param="max_tokens", code="unsupported_parameter"), "max_tokens"),
        (501, error(param="top_k"), "top_k"),
        (200, error(code="invalid_request_error", param="top_k"), "top_k"),
    ],
)
def test_refused_field_of_ours_is_the_operators_fault(status: int, body: Any, says: str) -> None:
    """An error about a field that the deployment added is uncounted, not repeated, and names the field."""
    found = failure(status, body, added=("response_format", "max_tokens", "top_k"))

    assert (found.code, found.transient, found.counted) == (FailureCode.REJECTED, False, False)
    assert found.operator_fault
    assert f"): {says}: " in found.reason


@pytest.mark.parametrize(
    "body",
    [
        error(param="temperature"),
        error(param="messages", code="invalid_request_error"),
        {"error": {"message": "A top_k is wrong", "param": "messages[0].content"}},
        {"error": {"message": "max_tokens_to_sample is wrong"}},
        error(param="max_tokens", code="context_length_exceeded"),
        error(param="max_tokens", code="content_filter"),
    ],
)
def test_refused_field_of_the_user_is_theirs(body: Any) -> None:
    """An error about another field, or with a more specific word, is no fault of the operator."""
    assert not failure(400, body, added=("max_tokens", "top_k")).operator_fault


def test_response_format_counts_only_if_added() -> None:
    """The parts of ``response_format`` are ours only where the deployment added it."""
    body = {"error": {"message": "json_schema is wrong"}}

    assert not failure(400, body, added=("top_k",)).operator_fault
    assert failure(400, body, added=("response_format",)).operator_fault


@pytest.mark.parametrize("levels", [1, 4, 100, 900])
@pytest.mark.parametrize("name", ["message", "detail", "error"])
def test_error_within_errors_is_judged(name: str, levels: int) -> None:
    """However deep: a few levels are looked into, and no depth is anything else than a failure."""
    body: Any = {"message": "insufficient balance"}
    for _ in range(levels):
        body = {name: body}

    found = failure(400, body)

    assert found.code is FailureCode.REJECTED
    assert found.operator_fault is (levels < 6)


@pytest.mark.parametrize("phrase", sorted(vocabulary.MODERATION_PHRASES))
def test_moderation_in_words_is_a_refusal(phrase: str) -> None:
    """It is reported apart from what another model may take: a fallback on refusals has to be asked for."""
    found = failure(400, {"error": {"message": f"Sorry: {phrase.title()}!"}})

    assert (found.code, found.refused, found.counted) == (FailureCode.REJECTED, True, True)
    assert not failure(400, {"error": {"message": phrase, "param": "temperature"}}).refused


@pytest.mark.parametrize("phrase", sorted(vocabulary.NO_CREDIT_PHRASES))
@pytest.mark.parametrize("status", [400, 403, 429])
def test_no_credit_in_words_is_not_pace(status: int, phrase: str) -> None:
    """Each phrase about money is the operator's, unless the answer names a wait or a limit on a time."""
    body = {"error": {"message": f"Sorry: {phrase.title()}!"}}

    found = failure(status, body)

    assert (found.code, found.operator_fault, found.counted) == (FailureCode.REJECTED, True, False)
    assert failure(429, body, headers={"retry-after": "5"}).retry_after == timedelta(seconds=5)
    assert failure(429, {"error": {"message": f"Limit: 3 requests per minute. {phrase}"}}).transient


@pytest.mark.parametrize(
    ("message", "operator"),
    [
        ("Unexpected endpoint or method. (POST /chat/completions)", True),
        ("Endpoint is overloaded", False),
        ("Generation failed", False),
        ("", False),
    ],
)
def test_error_object_may_have_generated(message: str, operator: bool) -> None:
    """An error object without a number is certain only if it says that there is no such endpoint."""
    found = failure(200, {"error": {"message": message, "type": "t"}})

    assert (found.operator_fault, found.certainly_not_generated) == (operator, operator)


def test_number_beside_an_error_text_counts() -> None:
    """An error text with a status beside it is judged by that status, also inside a 200."""
    assert failure(200, {"error": "No", "code": 429}).code is FailureCode.RATE_LIMITED
    assert not failure(200, {"error": "No", "code": 429}).certainly_not_generated


@pytest.mark.parametrize("reason", sorted(answer_signals.ENDS - {""}))
def test_known_end_is_whole_in_any_case(reason: str) -> None:
    """Each word for an end lets text pass, in upper and lower case and with hyphens."""
    for written in (reason, reason.upper(), reason.title(), reason.replace("_", "-"), f" {reason} "):
        assert isinstance(judge(200, completion("Run!", reason=written), schema=None), Answer)


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (signal, reason)
        for signal in (answer_signals.REFUSED, answer_signals.TOO_LONG, answer_signals.ABORTED)
        for reason in sorted(signal.words)
    ],
)
@pytest.mark.parametrize("content", ['{"title": "x"}', "Run", "", None])
def test_known_cut_or_refusal_always_fails(signal: Signal, reason: str, content: str | None) -> None:
    """Each word for a cut or a refusal fails whatever the content is, with and without a schema, also as native."""
    bodies = [
        completion(content, reason=reason.upper()),
        {"choices": [{"message": {"content": content}, "finish_reason": "stop", "native_finish_reason": reason}]},
    ]
    for body in bodies:
        for schema in (None, TITLE):
            found = failure(200, body, schema=schema)

            assert (found.code, found.transient) == (signal.code, signal.transient)
            assert f"finish_reason {reason}" in found.reason


def test_vocabularies_do_not_overlap() -> None:
    """No finish reason means two things."""
    words = [word for signal in answer_signals.CONTENT for word in signal.words] + list(answer_signals.ENDS)

    assert len(words) == len(set(words))


def test_unknown_reason_is_cleaned_and_short() -> None:
    """A finish reason is the provider's text: no quotation of the prompt, no control character, at most one line."""
    quoted = failure(200, completion("Run", reason="since the Boston marathon in April"), schema=None)
    long = failure(200, completion("Run", reason="a\x00b\n" + "c" * 5000), schema=None)

    assert quoted.reason.endswith(f"finish_reason: {DROPPED}")
    assert long.reason.isprintable()
    assert len(long.reason) < 200


@pytest.mark.parametrize("output", [5, "x", True, None])
def test_scalar_needs_a_known_end(output: Any) -> None:
    """A scalar does not show whether it is whole, so an unknown finish reason fails it."""
    content = json.dumps(output)

    assert failure(200, completion(content, reason="moonphase"), schema={}).code is FailureCode.INCOMPLETE
    assert isinstance(judge(200, completion(content), schema={}), Answer)


@pytest.mark.parametrize(
    ("where", "report", "refused"),
    [
        ("choice", "safety", True),
        ("message", {"result": ["SAFETY"]}, True),
        ("envelope", [{"role": "assistant", "level": 3}], False),
        ("choice", {"hate": {"filtered": False}, "jailbreak": {"filtered": False, "detected": True}}, False),
        ("choice", {"custom_blocklists": {"filtered": False, "details": [{"filtered": False, "id": "safety"}]}}, False),
        ("choice", {"custom_blocklists": {"filtered": True}}, True),
        ("choice", [{"category": "HARM_CATEGORY_HARASSMENT", "blocked": True}], True),
        ("choice", {"error": {"code": "content_filter", "message": "refusal"}}, False),
        ("choice", None, False),
    ],
)
@pytest.mark.parametrize("name", ["content_filter", "content_filter_results", "safety_ratings"])
def test_filter_reports_are_read(name: str, where: str, report: Any, refused: bool) -> None:
    """A filter's report refuses by a flag that is set or a word, not by what it passed or could not look at."""
    body = completion('{"title": "x"}')
    holders = {"envelope": body, "choice": body["choices"][0], "message": body["choices"][0]["message"]}
    holders[where][name] = report

    assert isinstance(judge(200, body), Failure) is refused


@pytest.mark.parametrize(
    "prefix", [b"\n" * 300, b"\xef\xbb\xbf", b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n", b" \r\n\t"]
)
def test_what_precedes_json_is_skipped(prefix: bytes) -> None:
    """Blank lines, a byte order mark and stream comments before the envelope do no harm."""
    assert isinstance(judge(200, prefix + json.dumps(completion('{"title": "x"}')).encode()), Answer)


def test_constants_beside_the_content_do_no_harm() -> None:
    """A NaN in some statistic of the envelope is no reason to throw a paid answer away."""
    body = json.dumps(completion('{"title": "x"}', timings=float("nan"))).encode()

    assert isinstance(judge(200, body), Answer)


def test_bytes_that_are_not_utf8_spoil_only_their_text() -> None:
    """Bytes outside UTF-8 in the content are never replaced in silence; elsewhere they do no harm."""
    good = b'{"system": "\xff", "choices": [{"message": {"content": "{\\"title\\": \\"x\\"}"}}]}'
    bad = b'{"choices": [{"message": {"content": "{\\"title\\": \\"\xff\\"}"}, "finish_reason": "stop"}]}'

    assert isinstance(judge(200, good), Answer)
    assert failure(200, bad).code is FailureCode.INVALID_OUTPUT


@pytest.mark.parametrize(
    ("usage", "headers", "expected"),
    [
        (None, {}, None),
        ({}, {}, None),
        ("many", {}, None),
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost": 0.000123}, {}, Decimal("0.000123")),
        ({"cost": 1e-07}, {}, Decimal("1E-7")),
        ({"cost": "NaN"}, {}, None),
        ({"cost": -1}, {}, None),
        ({}, {"x-litellm-response-cost": "2.5e-05"}, Decimal("0.000025")),
        ({}, {"x-litellm-response-cost": "None"}, None),
    ],
)
def test_cost_is_read_exactly(usage: Any, headers: dict[str, str], expected: Decimal | None) -> None:
    """Cost comes from the usage or LiteLLM's header, as the decimal that was meant; anything else is unreported."""
    answer = judge(200, completion('{"title": "x"}', usage=usage), headers=headers)

    assert isinstance(answer, Answer)
    assert (answer.usage.cost if answer.usage else None) == expected


def test_absurd_counts_are_unnamed() -> None:
    """Counts that are no counts are left out one by one."""
    usage = {"prompt_tokens": -1, "completion_tokens": True, "total_tokens": 2**40}

    answer = judge(200, completion('{"title": "x"}', usage=usage | {"cost": 0}))

    assert isinstance(answer, Answer)
    assert answer.usage == Usage(cost=Decimal(0))


def test_zero_usage_proves_nothing() -> None:
    """A failure with zero tokens is not said to have generated."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

    assert failure(200, error(code=502) | {"usage": zeros}).provider_outcome is ProviderOutcome.UNKNOWN


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"x-request-id": "req-1", "cf-ray": "ray"}, {}, "req-1"),
        ({"x-generation-id": "gen-1", "x-request-id": "req-1"}, {}, "gen-1"),
        ({"request-id": "req-2"}, {}, "req-2"),
        ({}, {"type": "error", "request_id": "req-3"}, "req-3"),
        ({"cf-ray": "ray"}, {"id": "gen-4"}, "gen-4"),
        ({"cf-ray": "ray"}, {}, "ray"),
        ({}, {"id": 7}, None),
        ({}, {}, None),
    ],
)
def test_the_providers_id_is_kept(headers: dict[str, str], body: dict[str, Any], expected: str | None) -> None:
    """The id by which the provider's support finds the request is kept, on failures too."""
    assert failure(500, {"error": {"message": "No"}, **body}, headers=headers).provider_id == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"error": {"message": "Slow down", "type": "t", "code": "c"}}, "c, t): Slow down"),
        (
            {"object": "error", "message": "Slow down", "type": "rate_limited", "code": "1300"},
            "rate_limited): Slow down",
        ),
        ({"message": "Slow down"}, "HTTP 429): Slow down"),
        ({"detail": "Unauthorized"}, ": Unauthorized"),
        ({"detail": [{"loc": ["body", "messages"], "msg": "Field is missing"}]}, ": body.messages: Field is missing"),
        ({"detail": json.dumps({"error": {"message": "Inner", "code": "x"}})}, "x): Inner"),
        ({"error": "the reason"}, ": the reason"),
        ([{"error": {"message": "In a list", "status": "RESOURCE_EXHAUSTED"}}], "resource_exhausted): In a list"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}, "overloaded_error): Busy"),
        (b"upstream connect error", ": upstream connect error"),
        (b"<html><title>Bad gateway</title></html>", "HTTP 429)"),
        (b'{"error": {"message": "cut he', '): {"error": {"message": "cut he'),
    ],
)
def test_error_bodies_of_all_shapes_are_named(body: Any, says: str) -> None:
    """Whatever the shape, the reason ends with the provider's machine words and its message."""
    assert failure(429, body).reason.endswith(says)


@pytest.mark.parametrize(
    "quote",
    [
        "since the Boston marathon in April",
        "SINCE THE BOSTON MARATHON IN APRIL",
        "since  the\nBoston\tmarathon in April",
        "since\\nthe\\nBoston\\nmarathon in April",
        "since\\u0020the\\u0020Boston\\u0020marathon\\u0020in April",
        "since%20the%20Boston%20marathon%20in%20April",
        "since&#32;the&#32;Boston&#32;marathon&#32;in April",
        "s\u200bince the Boston marathon in April",
        "sincetheBostonmarathoninApril",
    ],
)
def test_quotations_of_the_prompt_are_dropped(quote: str) -> None:
    """A message that quotes the prompt, however it is written, is left out; the machine words stay."""
    found = failure(400, {"error": {"message": f"Bad content: {quote}!", "code": "invalid_prompt"}})

    assert found.reason == f"the prompt was refused by moderation (HTTP 400, invalid_prompt): {DROPPED}"


@pytest.mark.parametrize("text", [KEY, KEY[:12], KEY[-8:], f"({KEY})", "sk-ab***********wxyz"])
def test_keys_are_dropped(text: str) -> None:
    """The key, parts of it and masked keys are left out of messages, words and ids."""
    found = failure(
        401, {"error": {"message": f"Incorrect key {text} given", "code": text}}, headers={"x-request-id": f"id-{text}"}
    )

    assert f": Incorrect key {DROPPED} given" in found.reason
    assert found.provider_id == DROPPED
    assert text not in repr(found)


def test_short_prompts_are_dropped_as_words() -> None:
    """A prompt too short to quote in part is left out as a whole."""
    redactor = Redactor(prompt=[{"role": "user", "content": "knee pain"}], secrets=[])

    assert redactor.line("Unsafe: knee pain.", 300) == DROPPED
    assert redactor.line("Unsafe: knees.", 300) == "Unsafe: knees."


def test_reasons_are_one_clean_line() -> None:
    """Control, format and surrogate characters go, lines are joined, and 300 characters are the most."""
    message = "a\x00b\r\nc\u2028d\u202ee\x1b[31m \ud800 " + "word " * 200

    found = failure(400, {"error": {"message": message, "code": "x" * 500}})

    assert len(found.reason) <= 300
    assert found.reason.isprintable()
    assert found.reason.encode()


def test_all_outcomes_can_be_compared() -> None:
    """A failure is a plain value: the same answer gives an equal one."""
    assert failure(500, b"x") == failure(500, b"x")
    assert replace(failure(500, b"x"), wire_requests=2) != failure(500, b"x")


@pytest.mark.parametrize(
    "content",
    [
        '<think>a</think>{"title": "a</think>b"}',
        '```json\n{"title": "a</think>b"}\n```',
        [{"type": None, "text": '{"title": "a</think>b"}'}],
        '<|channel|>analysis<|message|>a<|channel|>final <|constrain|>json<|message|>{"title": "a</think>b"}<|return|>',
    ],
)
def test_answer_may_hold_tags_of_thoughts(content: Any) -> None:
    """What is in a string of the answer is not taken for thoughts: the answer was paid for."""
    answer = judge(200, completion(content))

    assert isinstance(answer, Answer)
    assert answer.output == {"title": "a</think>b"}


@pytest.mark.parametrize(
    ("raw", "operators"),
    [
        ({"error": {"message": "Invalid schema", "param": "response_format"}}, True),
        ({"error": {"message": "Unrecognized request argument: top_k"}}, True),
        ({"detail": [{"loc": ["body", "top_k"], "msg": "extra fields not permitted"}]}, True),
        ("top_k is not supported", True),
        ({"error": {"message": "one image at most", "param": "messages"}}, False),
        ("nonsense", False),
        ({}, False),
        (None, False),
        (5, False),
    ],
)
def test_provider_behind_a_router_names_the_field(raw: Any, operators: bool) -> None:
    """OpenRouter says only that the provider returned an error, and what that one said in ``metadata.raw``."""
    text = json.dumps(raw) if isinstance(raw, dict) else raw
    body = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": text}}}

    found = failure(400, body, added=("response_format", "top_k"))

    assert found.operator_fault is operators
    assert ("top_k" in found.reason or "response_format" in found.reason) is operators


def test_reason_repeats_the_provider_behind_a_router() -> None:
    """Whoever asks why reads what that provider said, cleaned as everything is."""
    body = {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error": {"message": "no images"}}'}}}
    quoting = {"error": {"message": "Provider returned error", "metadata": {"raw": "My knee hurts since the Boston"}}}

    assert "Provider returned error: no images" in failure(400, body).reason
    assert "knee" not in failure(400, quoting).reason


def test_value_of_a_field_is_no_sign() -> None:
    """An error about a field may quote what a user wrote into it: that is no word of the provider's."""
    body = error(message="Invalid value: 'out of credit'.", param="reasoning_effort", code="invalid_value")

    assert not failure(400, body).operator_fault
    for status, param in ((400, "None"), (400, "429"), (400, ""), (403, "quota"), (429, "quota")):
        assert failure(status, error(message="You are out of credit.", param=param)).operator_fault


def test_limit_of_gemini_without_details_passes() -> None:
    """Gateways drop the details of Gemini's limits per minute, whose message speaks of plan and billing."""
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this"
        " error, head over to: https://ai.google.dev/gemini-api/docs/rate-limits."
    )

    found = failure(429, error(message=message, status="RESOURCE_EXHAUSTED"))

    assert (found.code, found.operator_fault) == (FailureCode.RATE_LIMITED, False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, error(message="Your prepayment credits are depleted.", status="RESOURCE_EXHAUSTED")),
        (429, error(message="Your project has exceeded its monthly spending cap.", status="RESOURCE_EXHAUSTED")),
        (400, error(message="You have reached your specified API usage limits.", type="invalid_request_error")),
        (400, error(message="Organization has been restricted.", code="organization_restricted")),
    ],
)
def test_account_without_means_is_the_operators(status: int, body: Any) -> None:
    """What Gemini, Anthropic and Groq say of an account without means, or one that is restricted."""
    found = failure(status, body)

    assert (found.operator_fault, found.transient, found.counted) == (True, False, False)


@pytest.mark.parametrize(
    ("message", "operators"),
    [
        (
            "'max_tokens' is too large: 800. This model's maximum context length is 4096 tokens and your request has"
            " 3900 input tokens (800 > 4096 - 3900).",
            False,
        ),
        (
            "'max_tokens' is too large: 9000. This model's maximum context length is 4096 tokens and your request has"
            " 20 input tokens (9000 > 4096 - 20).",
            True,
        ),
        ("This endpoint's maximum context length is 8192 tokens. However, you requested about 9000 tokens.", False),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", False),
    ],
)
def test_long_prompt_is_no_fault_of_the_operator(message: str, *, operators: bool) -> None:
    """A prompt that does not fit beside ``max_tokens`` is too long, unless nothing would fit."""
    found = failure(400, error(message=message, param="max_tokens"), added=("max_tokens",))

    assert (found.operator_fault, found.transient, found.counted) == (operators, False, False)
    assert found.reason.startswith("the request is too long for the model") is not operators


@pytest.mark.parametrize(
    "piece",
    [
        '{"error": {"message": "No", "failed_generation": "Rest on',
        '{"choices": [{"message": {"content": "Rest on',
        'data: {"choices": [{"delta": {"content": "Rest on"}}]}',
        "<p>Rest on</p>",
    ],
)
def test_part_of_an_answer_is_in_no_reason(piece: str) -> None:
    """Half a body with an error's status may hold what the model said; so may what a router passes on."""
    bodies = (piece.encode(), error(metadata={"raw": piece}))

    assert all("Rest" not in failure(status, body).reason for status in (400, 500) for body in bodies)
