"""What providers really send, over a real socket: the verdict, who pays with an attempt, and what is asked again."""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode
from ai_retry.providers.http import HttpAiProvider
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.provider import Script, ScriptedServer, drip, raw, reply

KEY = "sk-test-0123456789abcdef"
PROMPT = "Plan a week of running for a beginner whose left knee hurts"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}
TITLE = {"title": "Intervals"}
JSON = json.dumps(TITLE)
HTML = "<!DOCTYPE html><html><head><title>Log in</title></head></html>"
CURRENT_QUOTA = "You exceeded your current quota, please check your plan and billing details."
TIMEOUT, RATE_LIMITED, UNAVAILABLE = FailureCode.TIMEOUT, FailureCode.RATE_LIMITED, FailureCode.UNAVAILABLE
REJECTED, INVALID, INCOMPLETE = FailureCode.REJECTED, FailureCode.INVALID_OUTPUT, FailureCode.INCOMPLETE


@dataclass(frozen=True)
class Good:
    """A script that ends as an answer."""

    script: Script
    output: Any
    text: bool = False  # asked without a schema


@dataclass(frozen=True)
class Bad:
    """A script that ends as a failure."""

    script: Script
    code: FailureCode
    counted: bool
    transient: bool
    requests: int = 1
    wait: float | None = None
    says: str = ""
    text: bool = False


def whole(script: Script) -> Good:
    """Expect the object."""
    return Good(script, TITLE)


def text(script: Script, output: str) -> Good:
    """Expect text."""
    return Good(script, output, text=True)


def refused(script: Script, says: str, *, text: bool = False) -> Bad:
    """Expect a refusal: paid for, and not asked again."""
    return Bad(script, REJECTED, counted=True, transient=False, says=says, text=text)


def operators(script: Script, says: str) -> Bad:
    """Expect the operator's fault: uncounted, not asked again, and no wait."""
    return Bad(script, REJECTED, counted=False, transient=False, says=says)


def pace(script: Script, wait: float | None = None) -> Bad:
    """Expect a limit on a time: uncounted, and asked again in the call."""
    return Bad(script, RATE_LIMITED, counted=False, transient=True, requests=3, wait=wait, says="turned away for pace")


def cut(script: Script, says: str, *, transient: bool = True, text: bool = False) -> Bad:
    """Expect an answer that was cut off."""
    return Bad(script, INCOMPLETE, counted=True, transient=transient, says=says, text=text)


def invalid(script: Script, says: str = "", *, text: bool = False) -> Bad:
    """Expect an answer that is not what was asked for."""
    return Bad(script, INVALID, counted=True, transient=True, says=says, text=text)


def choice(content: Any, reason: Any = "stop", *, message: Mapping[str, Any] | None = None, **more: Any) -> Script:
    """A completion whose choice has more fields."""
    return reply(
        json={"choices": [{"message": {"content": content, **(message or {})}, "finish_reason": reason, **more}]}
    )


def error(status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> Script:
    """An error in OpenAI's shape."""
    return reply(status, json={"error": {"message": message, **more}}, headers=headers)


def interim(*heads: str, answer: bytes = JSON.encode()) -> Script:
    """An answer after interim responses."""
    body = b'{"choices": [{"message": {"content": %s}}]}' % json.dumps(answer.decode()).encode()
    final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return raw(*(f"HTTP/1.1 {head}\r\n\r\n".encode() for head in heads), final)


def gemini(quota: str, *details: Mapping[str, Any]) -> Script:
    """Gemini's 429, whose message opens like OpenAI's about money."""
    violations = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}]
    said = {"code": 429, "message": CURRENT_QUOTA, "status": "RESOURCE_EXHAUSTED", "details": [*violations, *details]}
    return reply(429, json=[{"error": said}])


HINTS = "103 Early Hints\r\nLink: </style.css>; rel=preload"
FILTERED = {"hate": {"filtered": True, "severity": "high"}, "violence": {"filtered": False, "severity": "safe"}}
PASSED = {"hate": {"filtered": False, "severity": "safe"}, "custom_blocklists": {"filtered": False, "details": []}}

ROWS: dict[str, Good | Bad] = {
    # Finish reasons.
    **{f"text, {reason}": text(choice("Run!", reason), "Run!") for reason in ("stop", "STOP", "eos", "END_TURN")},
    **{f"text, end {reason!r}": text(choice("Run!", reason), "Run!") for reason in ("COMPLETE", "", None)},
    "text, stop sequence": text(choice("Run!", "stop_sequence"), "Run!"),
    "text, no reason": text(reply(json={"choices": [{"message": {"content": "Run!"}}]}), "Run!"),
    "text, unknown reason": cut(
        choice("Run!", "moon\nphase"),
        "unknown reason (HTTP 200): finish_reason: moon",
        transient=False,
        text=True,
    ),
    "text, a reason that is a number": cut(choice("Run!", 5), "a number", transient=False, text=True),
    "text, a tool": invalid(choice("Let me see.", "tool_calls"), "asked for a tool", text=True),
    "text, end": text(choice("Run!", "end"), "Run!"),
    "text, end in a list": text(choice("Run!", ["stop"]), "Run!"),
    "text, FINISH_REASON_STOP": text(choice("Run!", "FINISH_REASON_STOP"), "Run!"),
    "text, vLLM's stop string": text(choice("Run!", "stop", stop_reason="length"), "Run!"),
    "text, finishReason": refused(choice("Plan for", None, finishReason="SAFETY"), "finishReason safety", text=True),
    "text, stop_reason": cut(
        choice("Run", None, stop_reason="max_tokens"), "stop_reason max_tokens", transient=False, text=True
    ),
    "text, stop_reason refusal": refused(choice("I'd", None, stop_reason="refusal"), "stop_reason refusal", text=True),
    "text, reason of the envelope": cut(
        reply(json={"done_reason": "length", "choices": [{"message": {"content": "Run"}}]}),
        "done_reason length",
        transient=False,
        text=True,
    ),
    "JSON, finish_details": cut(
        choice(JSON, None, finish_details={"type": "max_tokens"}), "finish_details max_tokens", transient=False
    ),
    "JSON, reason is an object": cut(choice(JSON, {"reason": "max_output_tokens"}), "max_output", transient=False),
    "JSON, two words": refused(choice(JSON, "content_filter: RECITATION"), "finish_reason content_filter"),
    "JSON, one of two words": refused(choice(JSON, "stopped (SAFETY)"), "finish_reason safety"),
    "JSON, words in a list": refused(choice(JSON, ["stop", "SAFETY"]), "finish_reason safety"),
    "JSON, FinishReason.FINISH_REASON_SPII": refused(choice(JSON, "FinishReason.FINISH_REASON_SPII"), "spii"),
    "JSON, blacklist": refused(choice(JSON, "blacklist"), "blacklist"),
    "JSON, REASON_MAX_LEN": cut(choice(JSON, "REASON_MAX_LEN"), "max_len", transient=False),
    "text, a tool beside it": invalid(choice("Let me see.", message={"tool_calls": [{"id": "a"}]}), "tool", text=True),
    "text, a function beside it": invalid(
        choice("Let me see.", message={"function_call": {"name": "a"}}), "asked for a tool", text=True
    ),
    "text, no tools": text(choice("Run!", message={"tool_calls": [], "function_call": None}), "Run!"),
    "JSON, a tool beside it": whole(choice(JSON, message={"tool_calls": [{"id": "a"}]})),
    "JSON, unknown reason": whole(choice(JSON, "moonphase")),
    "no JSON, unknown reason": cut(choice("I won't.", "moonphase"), "finish_reason: moonphase", transient=False),
    "nothing, unknown reason": cut(choice(None, "moonphase"), "finish_reason: moonphase", transient=False),
    **{
        f"partial, {reason}": refused(choice("Plan for", reason), f"finish_reason {reason.lower()}", text=True)
        for reason in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "refusal", "content_filtered")
    },
    "JSON, guardrail": refused(choice(JSON, "guardrail_intervened"), "guardrail_intervened"),
    "JSON, content-filter": refused(choice(JSON, "content-filter"), "content_filter"),
    "JSON, FinishReason.SAFETY": refused(choice(JSON, "FinishReason.SAFETY"), "safety"),
    "nothing, SAFETY": refused(choice("", "SAFETY"), "safety"),
    "native reason SAFETY": refused(choice(JSON, native_finish_reason="SAFETY"), "native_finish_reason safety"),
    "native reason MAX_TOKENS": cut(choice(JSON, native_finish_reason="MAX_TOKENS"), "token limit", transient=False),
    "native reason end_turn": whole(choice(JSON, native_finish_reason="end_turn")),
    "length, JSON": cut(choice(JSON, "length"), "finish_reason length", transient=False),
    "length, text": cut(choice("Run", "MAX_TOKENS"), "max_tokens", transient=False, text=True),
    "window": cut(choice(JSON, "model_context_window_exceeded"), "token limit", transient=False),
    "MALFORMED_FUNCTION_CALL": cut(choice(None, "MALFORMED_FUNCTION_CALL"), "broke off"),
    "cancelled": cut(choice("Run", "cancelled"), "cancelled", text=True),
    # Refusals elsewhere.
    "refusal": refused(choice(None, message={"refusal": "I'd rather not"}), "refused (HTTP 200): refusal"),
    "refusal beside JSON": refused(choice(JSON, message={"refusal": "I'd rather not"}), "refused"),
    "refusal part": refused(choice([{"type": "refusal", "refusal": "No"}]), "a part of type refusal"),
    "refusal part beside JSON": refused(
        choice([{"type": "output_text", "text": JSON}, {"type": "refusal", "refusal": "No"}]), "refusal"
    ),
    "refusal of the choice": refused(choice(JSON, refusal="I'd rather not"), "refusal"),
    "Bedrock's guardrail": refused(
        reply(
            json={
                "amazon-bedrock-guardrailAction": "INTERVENED",
                "choices": [{"message": {"content": "Sorry."}, "finish_reason": "stop"}],
            }
        ),
        "guardrailAction",
        text=True,
    ),
    "Bedrock's guardrail passed": whole(
        reply(json={"amazon-bedrock-guardrailAction": "NONE", "choices": [{"message": {"content": JSON}}]})
    ),
    "MiniMax, sensitive output": refused(
        reply(json={"choices": [{"message": {"content": "Run"}}], "output_sensitive": True}),
        "output_sensitive",
        text=True,
    ),
    "MiniMax, sensitive input": refused(
        reply(json={"choices": None, "input_sensitive": True, "base_resp": {"status_code": 1026}}), "input_sensitive"
    ),
    "filter says SAFETY": refused(choice("Plan for", content_filter="SAFETY"), "content_filter", text=True),
    "filter result": refused(choice(JSON, content_filter={"result": "content_filtered"}), "content_filter"),
    "Azure filtered": refused(choice(JSON, content_filter_results=FILTERED), "content_filter_results"),
    "Azure passed": whole(choice(JSON, content_filter_results=PASSED)),
    "Azure's filter is down": whole(choice(JSON, content_filter_results={"error": {"code": "content_filter_error"}})),
    "blocked prompt": refused(reply(json={"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}), "prompt"),
    "filter inside an error": refused(reply(json={"error": {"code": "content_filter", "message": "No"}}), "moderation"),
    # What is around an answer.
    "thoughts, text": text(choice("<think>Knee…</think>\n\nRun!"), "Run!"),
    "thoughts only": invalid(choice("<think>Knee…</think>\n"), "empty", text=True),
    "thoughts, never closed": invalid(choice("<think>Knee… Run!"), "empty", text=True),
    "thoughts, no opening": text(choice("Knee…\n</think>\n\nRun!"), "Run!"),
    "thoughts mentioned": text(choice("The tags <think> and </think>."), "The tags <think> and </think>."),
    "thoughts, JSON": whole(choice(f"<thinking>\nKnee {{}}…\n</thinking>\n{JSON}")),
    "thoughts, fence": whole(choice(f"<reasoning>a</reasoning>\n```json\n{JSON}\n```")),
    "thoughts twice": whole(choice(f"<thought>a</thought> <think>b</think>{JSON}")),
    "thoughts mentioned in JSON": Good(choice('{"title": "</think>"}'), {"title": "</think>"}),
    "fence json": whole(choice(f"```json\n{JSON}\n```")),
    "fence": whole(choice(f"```\n{JSON}\n```\n")),
    "fence in text": text(choice(f"```json\n{JSON}\n```"), f"```json\n{JSON}\n```"),
    "end token": whole(choice(f"{JSON}<|im_end|>")),
    "end tokens": whole(choice(f"{JSON}\n</s> <|eot_id|>\n")),
    "end token in text": text(choice("Run!<|endoftext|>"), "Run!"),
    "byte order mark inside": whole(choice(f"\ufeff{JSON}")),
    "byte order mark in text": text(choice("\ufeffRun!"), "Run!"),
    "two fences": invalid(choice(f"```json\n{JSON}\n```\n```json\n{JSON}\n```"), "not JSON"),
    "open fence": invalid(choice(f"```json\n{JSON}"), "not JSON"),
    "two values": invalid(choice(f"{JSON} {JSON}"), "not JSON"),
    "prose": invalid(choice(f"Here you are: {JSON}"), "not JSON"),
    "prose after thoughts": invalid(choice(f"<think>a</think>Here you are: {JSON}"), "not JSON"),
    "trailing comma": invalid(choice('```json\n{"title": "x",}\n```'), "not JSON"),
    "fence, cut": cut(choice('```json\n{"title": "Int', None), "breaks off"),
    # Kinds of content.
    "output_text": whole(choice([{"type": "output_text", "text": JSON}])),
    "thinking parts": whole(choice([{"type": "thinking", "thinking": []}, {"type": "text", "text": JSON}])),
    "Gemini's thoughts": text(choice([{"type": "text", "text": "Knee…", "thought": True}, {"text": "Run!"}]), "Run!"),
    "a source of the answer": text(choice([{"type": "text", "text": "Run!"}, {"type": "reference"}]), "Run!"),
    "a part that is an image": invalid(
        choice([{"type": "text", "text": "Look:"}, {"type": "image_url"}]), "a part of the content", text=True
    ),
    "a part that is a string": invalid(choice(["Run", {"type": "text", "text": "!"}]), "a part of", text=True),
    "a part with an object as text": invalid(
        choice([{"type": "text", "text": "Run"}, {"type": "text", "text": {"value": "!"}}]), "a part of", text=True
    ),
    "JSON beside an image": whole(choice([{"type": "text", "text": JSON}, {"type": "image_url"}])),
    "an object": invalid(choice(TITLE), "content is an object"),
    "a number": invalid(choice(5), "content is a number", text=True),
    # What no model answered.
    "LM Studio without /v1": operators(
        reply(json={"error": "Unexpected endpoint or method. (POST /chat/completions)"}), "Unexpected endpoint"
    ),
    "error text": operators(reply(json={"error": "Wrong door"}), "something else than the API answered"),
    "not found inside": operators(reply(json={"detail": "Not Found"}), "something else than the API answered"),
    "error text with usage": Bad(
        reply(json={"error": "Wrong door", "usage": {"total_tokens": 9}}), UNAVAILABLE, counted=True, transient=True
    ),
    **{
        f"error text, {said}": Bad(reply(json={"error": said}), UNAVAILABLE, counted=True, transient=True)
        for said in ("err.supplier_error", "Upstream closed", "the backend is gone", "Error: 7")
    },
    "error text, busy": Bad(reply(json={"error": "The server is busy"}), UNAVAILABLE, counted=True, transient=True),
    "web page": operators(reply(body=HTML, headers={"Content-Type": "text/html"}), "a web page answered, not the API"),
    "web page without a type": operators(reply(body=f"\n{HTML}"), "a web page answered"),
    "event stream": Bad(reply(body="data: {}\n\n"), UNAVAILABLE, counted=True, transient=True),
    "XML": operators(reply(body="<?xml version='1.0'?><Error/>"), "a web page answered"),
    "LM Studio's text": operators(reply(body="Unexpected endpoint or method."), "something else than the API"),
    "text, not found": operators(reply(body="404 page not found\n"), "something else than the API answered"),
    "a JSON string": operators(
        reply(body=json.dumps("Unexpected endpoint or method.")), "something else than the API answered"
    ),
    "text that speaks of it": Bad(
        reply(body="The trail was not found. " * 20), UNAVAILABLE, counted=True, transient=True
    ),
    "plain HTTP to a TLS port": operators(reply(400, body="<html>400 The plain HTTP…</html>"), "something else than"),
    "plain HTTP to Go": operators(
        reply(400, body="Client sent an HTTP request to an HTTPS server.\n"), "something else"
    ),
    "a site without an API": operators(reply(405, body=HTML), "something else than the API answered"),
    "another address": operators(reply(405, json={"detail": "Method Not Allowed"}), "no such model or address"),
    "gone": operators(reply(410), "no such model or address"),
    "wrong form": operators(reply(415), "the form of requests"),
    "wrong country": operators(reply(451), "the account may not do this"),
    "Gemini, country": operators(error(400, "User location is not supported for the API use."), "the account may not"),
    "the network's log-in": operators(reply(511, body=HTML), "something else than the API answered"),
    "Cloudflare, no route": operators(
        reply(json={"success": False, "errors": [{"code": 7003, "message": "Could not route to /x"}]}), "something else"
    ),
    # Errors in a 200 by their words.
    "MiniMax, balance": operators(
        reply(json={"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
        "no credit",
    ),
    "MiniMax, key": operators(
        reply(json={"base_resp": {"status_code": 1004, "status_msg": "login fail: no key"}}), "the key is not accepted"
    ),
    "MiniMax, an error beside an answer": Bad(
        reply(json={"choices": [{"message": {"content": JSON}}], "base_resp": {"status_code": 1000}}),
        UNAVAILABLE,
        counted=True,
        transient=True,
    ),
    "MiniMax, no error": whole(
        reply(
            json={
                "choices": [{"message": {"content": JSON}, "finish_reason": "stop"}],
                "output_sensitive": False,
                "base_resp": {"status_code": 0, "status_msg": ""},
            }
        )
    ),
    "Anthropic, key inside": operators(
        reply(json={"type": "error", "error": {"type": "authentication_error"}}), "the key is not accepted"
    ),
    "Anthropic, pace inside": Bad(
        reply(json={"type": "error", "error": {"type": "rate_limit_error"}}), RATE_LIMITED, counted=True, transient=True
    ),
    "Google, pace inside": Bad(
        reply(json=[{"error": {"status": "RESOURCE_EXHAUSTED"}}]), RATE_LIMITED, counted=True, transient=True
    ),
    "no such model inside": operators(
        reply(json={"error": {"code": "model_not_found", "message": "No"}}), "there is no such model or address"
    ),
    "error without a name": operators(reply(json={"code": 401, "msg": "unauthorized"}), "the key is not accepted"),
    "overloaded, after it began": Bad(
        reply(json={"error": {"code": 503}, "usage": {"total_tokens": 9}}), UNAVAILABLE, counted=True, transient=True
    ),
    # Errors within errors, and moderation in words.
    "Mistral, a field of ours": operators(
        reply(
            422,
            json={
                "object": "error",
                "message": {"detail": [{"loc": ["body", "response_format"], "msg": "No"}]},
                "type": "invalid_request_error",
            },
        ),
        "a parameter of this deployment is not accepted (HTTP 422, invalid_request_error): response_format",
    ),
    "money in a text in a text": operators(
        reply(400, json={"detail": json.dumps({"error": {"message": "Your credit balance is too low"}})}), "no credit"
    ),
    "money in a message that is an object": operators(
        reply(400, json={"error": {"message": {"error": {"message": "insufficient balance", "code": 1}}}}), "no credit"
    ),
    "OpenAI, safety system": refused(
        error(400, "Your request was rejected by our safety system.", type="invalid_request_error"), "by moderation"
    ),
    "Azure, policy": refused(error(400, "The response was filtered by our content management policy."), "moderation"),
    "Z.AI, 1301": refused(error(400, "System detected potentially unsafe content.", code="1301"), "moderation"),
    "incomplete_details": cut(
        reply(
            json={
                "choices": [{"message": {"content": JSON}, "finish_reason": "stop"}],
                "incomplete_details": {"reason": "max_output_tokens"},
            }
        ),
        "incomplete_details max_output_tokens",
        transient=False,
    ),
    "an error in the message": cut(choice(JSON, message={"error": {"code": 500}}), "failed while it was answering"),
    "Apigee, pace": Bad(
        reply(json={"fault": {"faultstring": "Rate limit exceeded"}}), RATE_LIMITED, counted=True, transient=True
    ),
    "NestJS, key": operators(reply(json={"statusCode": 401, "message": "No"}), "the key is not accepted (HTTP 200"),
    "OpenRouter, the provider's object": operators(
        error(
            400, "Provider returned error", metadata={"raw": {"error": {"message": "No", "param": "response_format"}}}
        ),
        "response_format",
    ),
    # Models.
    "DeepSeek, model": operators(error(400, "Model Not Exist", code="invalid_request_error"), "no such model"),
    "OpenRouter, model": operators(error(400, "a/b is not a valid model ID", code=400), "no such model"),
    "Groq, model": operators(error(400, "Gone", code="model_decommissioned"), "no such model or address"),
    "param model": operators(error(400, "Wrong", param="model", code="invalid_value"), "no such model or address"),
    "half an envelope": cut(reply(body='{"choices": ['), "half an envelope"),
    # Money and pace.
    "xAI, 429": operators(
        reply(429, json={"code": "exhausted", "error": "Your team has used all available credits."}), "no credit"
    ),
    "xAI, 403": operators(reply(403, json={"error": "Your team doesn't have any credits yet."}), "no credit"),
    "current quota": operators(error(429, CURRENT_QUOTA), "no credit"),
    "LiteLLM, current quota": operators(error(429, f"RateLimitError: {CURRENT_QUOTA}", code="429"), "no credit"),
    "Anthropic, balance": operators(error(400, "Your credit balance is too low to access the API."), "no credit"),
    "insufficient balance": operators(error(403, "Sorry, your account balance is insufficient"), "no credit"),
    "insufficient balance inside": operators(reply(json={"error": {"message": "Insufficient Balance"}}), "no credit"),
    "Gemini, per minute": pace(gemini("GenerateRequestsPerMinutePerProjectPerModel")),
    "Gemini, wait": pace(gemini("x", {"@type": "RetryInfo", "retryDelay": "1.5s"}), 1.5),
    "current quota with a wait": pace(error(429, CURRENT_QUOTA, {"Retry-After": "2"}), 2.0),
    "OpenAI, per minute": pace(
        error(429, "Rate limit reached for tokens per min (TPM). Add a payment method to increase it.", code=None)
    ),
    "OpenRouter, free": pace(error(429, "Rate limit exceeded: free-models-per-day. Add credits to unlock more")),
    "pace": pace(error(429, "Slow down", {"Retry-After": "1"}), 1.0),
    "money with a wait": operators(error(429, "No", {"Retry-After": "1"}, code="insufficient_quota"), "no credit"),
    # Interim responses.
    "103": whole(interim(HINTS)),
    "102, 100 and 103": whole(interim("102 Processing", "102 Processing", "100 Continue", HINTS)),
    "20 interim": whole(interim(*["102 Processing"] * 20)),
    "21 interim": Bad(interim(*["102 Processing"] * 21), UNAVAILABLE, counted=True, transient=True),
    "103, dripped": whole(raw(drip(b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001), interim())),
    "103 alone": Bad(raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"), UNAVAILABLE, counted=True, transient=True),
}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach 127.0.0.1 directly, whatever the machine's proxy settings are."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(script: Script, *, schema: Mapping[str, Any] | None) -> tuple[Answer | Failure, int]:
    """Ask a server that plays the script again and again; return the outcome and how often it was asked."""
    context = Context(messages=[{"role": "user", "content": PROMPT}], model="small", response_schema=schema)
    with (
        ScriptedServer(default=script) as server,
        closing(HttpAiProvider(clock=ManualClock(), base_url=server.base_url, api_key=KEY)) as ai,
    ):
        try:
            outcome: Answer | Failure = ai.generate(context, timeout=timedelta(seconds=60), idempotency_key="g-1")
        except GenerationFailed as caught:
            outcome = caught.failure
        return outcome, len(server.requests)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if isinstance(row, Good)])
def test_whole_answer_is_used(name: str) -> None:
    """A whole answer is an answer after one request, without what models and servers put around it."""
    row = ROWS[name]
    assert isinstance(row, Good)

    outcome, requests = ask(row.script, schema=None if row.text else SCHEMA)

    assert isinstance(outcome, Answer), outcome
    assert outcome.output == row.output
    assert outcome.wire_requests == requests == 1


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if isinstance(row, Bad)])
def test_other_answer_is_a_failure(name: str) -> None:
    """Whatever is no whole answer has its kind, its count, its repeats and its wait, and says what it shows."""
    row = ROWS[name]
    assert isinstance(row, Bad)

    outcome, requests = ask(row.script, schema=None if row.text else SCHEMA)

    assert isinstance(outcome, Failure), outcome
    assert (outcome.code, outcome.counted, outcome.transient) == (row.code, row.counted, row.transient)
    assert outcome.wire_requests == requests == row.requests
    assert (outcome.retry_after and outcome.retry_after.total_seconds()) == row.wait
    assert row.says in outcome.reason
    assert outcome.reason.isprintable()
    assert KEY not in repr(outcome)


def test_unfinished_interim_response_ends_in_time() -> None:
    """A server that drips interim responses for ever is silent: the deadline ends the call."""
    script = raw(drip(b"HTTP/1.1 102 Processing\r\n" + b"X-Wait: a\r\n" * 90, 0.01))
    context = Context(messages=[{"role": "user", "content": PROMPT}], model="small")

    with (
        ScriptedServer(script) as server,
        closing(HttpAiProvider(clock=SystemClock(), base_url=server.base_url, api_key=KEY)) as ai,
        pytest.raises(GenerationFailed) as caught,
    ):
        ai.generate(context, timeout=timedelta(seconds=0.4), idempotency_key="g-1")

    assert (caught.value.failure.code, caught.value.failure.wire_requests) == (TIMEOUT, 1)


def test_table_is_large_enough() -> None:
    """The table has at least 60 rows, of both kinds."""
    assert len(ROWS) >= 60
