"""The table of signals: how providers show that a call has no usable answer, and what each of these means.

Here are the signals before there is an answer and those of a status or an error; ``answer_signals`` holds the rest.

A rule about a provider is a row here with its source, so that a person on call can read why an attempt was judged as it
was. In doubt a row says that something may have been generated: that costs one of the attempts, while a wrong "nothing
was generated" would repeat a paid call. Nothing is parsed here; ``classify`` finds the facts, ``find`` the row.
"""

from collections.abc import Collection
from functools import partial

from ai_retry.domain.model import FailureCode
from ai_retry.providers import vocabulary
from ai_retry.providers.signal import Signal

_operators = partial(Signal, code=FailureCode.REJECTED, not_generated=True, operator_fault=True)
_moderated = partial(Signal, code=FailureCode.REJECTED, refused=True)
_at_the_door = partial(Signal, not_generated=True, transient=True)
_passing = partial(Signal, transient=True)

# Before there is an answer.

UNREACHABLE = _at_the_door(
    "the provider could not be reached",
    FailureCode.UNAVAILABLE,
    source="refused, no route, no such name, connect timed out, TLS or a proxy's tunnel failed: no request was sent",
)
CERTIFICATE = Signal(
    "the provider's certificate is not valid",
    FailureCode.UNAVAILABLE,
    not_generated=True,
    operator_fault=True,
    source="TLS; no request was sent, and the operator must act",
)
UNSENDABLE = _operators(
    "the request can't be made", source="address, proxy, model, schema or parameters as configured; no request was sent"
)
DROPPED = _passing(
    "the connection broke after the request was sent",
    FailureCode.UNAVAILABLE,
    source="closed, reset, or no HTTP status line",
)
SILENT = _passing(
    "no answer came in time",
    FailureCode.TIMEOUT,
    source="dropping the connection does not stop the work (OpenRouter, Streaming)",
)

BEFORE = (UNREACHABLE, CERTIFICATE, UNSENDABLE, DROPPED, SILENT)

# A status that is not 2xx, or the same inside a 2xx. The first row that applies counts. Rows with status 200 are for an
# error inside a 2xx that names no status and comes with neither choices nor usage. Machine words come before phrases,
# and phrases before bare statuses: texts mislead.

_MOST_LOOKED_AT = 2000  # characters of a message
_CLIENT_ERRORS = tuple(range(400, 500))

STATUS: tuple[Signal, ...] = (
    _operators(
        "no credit, or a spending limit is reached",
        words=vocabulary.NO_CREDIT,
        source="OpenAI, Error codes and Spend limits; Anthropic, Errors; LiteLLM, Error diagnosis; Moonshot, Errors;"
        " Alibaba Model Studio, Error codes (Arrearage); One API: whatever the status",
    ),
    _operators(
        "the account may not do this",
        statuses=(400,),
        words={"organization_restricted"},
        source="Groq, with status 400 and type invalid_request_error",
    ),
    _operators("the key is not accepted", words=vocabulary.BAD_KEY, source="Gemini, API errors; OpenAI, Error codes"),
    Signal(
        "the request is larger than the whole limit",
        FailureCode.REJECTED,
        not_generated=True,
        statuses=(413, 429),
        words={"requested_over_limit"},
        source="OpenAI and Groq: the message says Requested above Limit, so no wait helps",
    ),
    _at_the_door(
        "the budget for requests in flight is used up",
        FailureCode.RATE_LIMITED,
        statuses=(402,),
        words={"openrouter_in_flight_budget"},
        source="OpenRouter, Limits: refused before any provider, with Retry-After",
    ),
    _moderated(
        "the prompt was refused by moderation",
        statuses=(400, 403, 422),
        words=vocabulary.MODERATION,
        source="Azure OpenAI, Content filtering; OpenRouter, Errors; Alibaba Model Studio, Error codes: some refuse"
        " after seconds of work",
    ),
    _passing(
        "the model's output was not the JSON asked for",
        FailureCode.INVALID_OUTPUT,
        statuses=(400,),
        words={"failed_generation", "json_validate_failed"},
        source="Groq, Errors",
    ),
    _moderated(
        "the prompt was refused by moderation",
        not_generated=True,
        statuses=(403,),
        words={"flagged_input"},
        source="OpenRouter, Errors: input moderation comes before routing",
    ),
    _operators(
        "there is no such model or address",
        statuses=(400, 404, 422),
        words=vocabulary.NO_MODEL,
        source="OpenRouter, Errors: with status 400; Groq, Errors; any error whose param is the model",
    ),
    Signal(
        "the request is too long for the model",
        FailureCode.REJECTED,
        not_generated=True,
        statuses=(400, 413, 422),
        words={"context_length_exceeded", "exceed_context_size_error"},
        source="OpenAI, Error codes; OpenRouter, Errors; llama.cpp, server README; vLLM and others name it in words",
    ),
    _operators(
        "a parameter of this deployment is not accepted",
        statuses=(400, 422, 501),
        words={"added_parameter"},
        source="OpenAI, Error object (param); DeepSeek (json_schema); RFC 9110, section 15.6.2: the deployment, not"
        " the user, added what the error names",
    ),
    _moderated(
        "the prompt was refused by moderation",
        statuses=(400, 422),
        phrases=vocabulary.MODERATION_PHRASES,
        source="OpenAI (safety system, usage policies), Azure OpenAI, Z.AI (1301): in words only",
    ),
    _at_the_door(
        "turned away for pace",
        FailureCode.RATE_LIMITED,
        statuses=(429,),
        words={"limit_per_time", "rate_limit_exceeded", "wait_named"},
        source="Gemini, RetryInfo and QuotaFailure; RFC 9110, Retry-After: they beat a message that speaks of billing",
    ),
    _at_the_door(
        "turned away for pace",
        FailureCode.RATE_LIMITED,
        statuses=(200, 429),
        phrases=vocabulary.PACE_PHRASES,
        source="OpenAI, whose rate limits advise a payment method; OpenRouter, whose daily limit advises credits;"
        " Gemini through LiteLLM, and its link to the rate limits: a limit on a time passes",
    ),
    _operators(
        "no credit, or a spending limit is reached",
        statuses=(200, *_CLIENT_ERRORS, 500),
        phrases=vocabulary.NO_CREDIT_PHRASES,
        source="OpenAI and Moonshot (current quota, plan and billing); Anthropic (credit balance, Plans & Billing, API"
        " usage limits, with status 400); Gemini (prepayment credits, spending cap); xAI (available credits, spending"
        " limit, any credits: 403 and 429); DeepSeek and SiliconFlow (balance); Hugging Face (monthly included credits)"
        "; Z.AI (1113); some gateways answer 500",
    ),
    _operators(
        "the key is not accepted",
        statuses=(200, 400),
        phrases=vocabulary.BAD_KEY_PHRASES,
        source="MiniMax, Error codes (1004, with status 200); gateways that answer 400",
    ),
    _operators(
        "there is no such model or address",
        statuses=(200, 400),
        phrases=vocabulary.NO_MODEL_PHRASES,
        source="DeepSeek (Model Not Exist), OpenRouter (is not a valid model ID), Groq: with status 400, in words only",
    ),
    _operators(
        "the account may not do this",
        statuses=(400,),
        phrases=vocabulary.NO_COUNTRY_PHRASES,
        source="Gemini, API errors: FAILED_PRECONDITION, where the free tier is not available in the country",
    ),
    _operators(
        "something else than the API answered",
        statuses=(400, 405, 406, 411, 415, 418, 421, 422, 426, 501),
        words={"web_page"},
        source="nginx: plain HTTP sent to a TLS port (400), a site without an API (405); no API answers with a page",
    ),
    _operators(
        "something else than the API answered",
        statuses=(200,),
        phrases=vocabulary.WRONG_ADDRESS_PHRASES,
        source="LM Studio without /v1 in AI_BASE_URL answers 200 with an error text (lmstudio-bug-tracker, issue 618)",
    ),
    _passing(
        "the provider failed",
        FailureCode.UNAVAILABLE,
        statuses=(200,),
        phrases=vocabulary.BEGUN_PHRASES,
        source="texts of servers that had begun, or will take the request later: in doubt something was generated",
    ),
    _operators(
        "something else than the API answered",
        statuses=(200,),
        words={"error_text"},
        source="chat completions answer an error with an object; a bare text comes from what is before them (Ollama,"
        " Errors; LM Studio)",
    ),
    _operators("no credit", statuses=(402,), source="OpenRouter, Errors; DeepSeek, Error codes"),
    _at_the_door(
        "turned away for pace",
        FailureCode.RATE_LIMITED,
        statuses=(429, 498),
        source="RFC 6585, section 4; Groq, Flex processing (498)",
    ),
    _operators("the key is not accepted", statuses=(401, 407), source="RFC 9110, sections 15.5.2 and 15.5.8"),
    _operators(
        "the account may not do this",
        statuses=(403, 451),
        source="RFC 9110, section 15.5.4; OpenRouter, Guardrails; RFC 7725",
    ),
    _operators(
        "there is no such model or address",
        statuses=(404, 405, 410, 421),
        source="OpenAI, Error codes; Azure OpenAI, DeploymentNotFound; Ollama, Errors; RFC 9110, section 15.5: another"
        " address (405, 421), or one that is gone (410)",
    ),
    _operators(
        "the form of requests is not accepted",
        statuses=(406, 411, 414, 415, 426, 428, 431, 505),
        source="RFC 9110, section 15.5, and RFC 6585: address, headers and protocol are the deployment's",
    ),
    _operators(
        "something else than the API answered",
        statuses=(511,),
        source="RFC 6585, section 6: a log-in page of the network",
    ),
    _passing(
        "the provider's own time was up",
        FailureCode.TIMEOUT,
        statuses=(408, 504, 524),
        source="OpenRouter and LiteLLM use 408 for an upstream's timeout; Cloudflare, Error 524: delivered",
    ),
    _passing(
        "the provider could not take the request now",
        FailureCode.UNAVAILABLE,
        statuses=(409, 425, 499),
        source="RFC 9110, section 15.5.10; RFC 8470; Groq, Errors (499)",
    ),
    _at_the_door(
        "the request did not reach the provider's server",
        FailureCode.UNAVAILABLE,
        statuses=(521, 523, 525, 526),
        source="Cloudflare, 5xx errors: no connection to the origin",
    ),
    _at_the_door(
        "the model is being loaded",
        FailureCode.UNAVAILABLE,
        statuses=(503,),
        words={"unavailable_error"},
        phrases={"loading model"},
        source="llama.cpp, server README",
    ),
    _at_the_door(
        "the provider's queue is full",
        FailureCode.UNAVAILABLE,
        statuses=(503,),
        phrases={"maximum pending requests"},
        source="Ollama, scheduler: refused before it is queued",
    ),
    _passing(
        "the provider is overloaded",
        FailureCode.UNAVAILABLE,
        overloaded=True,
        statuses=(503, 529),
        source="OpenAI, Error codes; Anthropic, Errors: no document promises that nothing was generated",
    ),
    Signal(
        "the provider refused the request",
        FailureCode.REJECTED,
        not_generated=True,
        statuses=(*_CLIENT_ERRORS, 501),
        source="RFC 9110, section 15.5",
    ),
    _operators(
        "a redirect, which is not followed",
        statuses=range(300, 400),
        source="a wrong base_url or a log-in page; following would send the prompt, or a GET, elsewhere",
    ),
    _passing(
        "the provider failed",
        FailureCode.UNAVAILABLE,
        source="RFC 9110, section 15.6, and any other status; vLLM answers 500 after it has generated",
    ),
)


def find(status: int, words: Collection[str], message: str) -> Signal:
    """The first row of ``STATUS`` that applies; the last one always does."""
    lowered = message[:_MOST_LOOKED_AT].lower()
    return next(signal for signal in STATUS if signal.applies(status, words, lowered))
