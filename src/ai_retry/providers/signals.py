"""The table of signals: how providers show that a call has no usable answer, and what each of these means.

A rule about a provider is a row here with its source, so that a person on call can read why an attempt was judged as it
was. In doubt a row says that something may have been generated: that costs one of the attempts, while a wrong "nothing
was generated" would repeat a paid call. Nothing is parsed here; ``classify`` finds the facts, ``find`` the row.
"""

from collections.abc import Collection, Set
from dataclasses import dataclass
from functools import partial

from ai_retry.domain.model import FailureCode


@dataclass(frozen=True, slots=True)
class Signal:
    """One way to have no usable answer.

    A row of ``STATUS`` applies when all that it names is there: one of its statuses, one of its machine words, one of
    its phrases in the message. What a row leaves empty does not matter.
    """

    shows: str  # in one phrase, with which the reason of a failure begins
    code: FailureCode
    not_generated: bool = False  # positive evidence that no token was produced
    transient: bool = False  # the identical request may succeed later
    operator_fault: bool = False
    overloaded: bool = False  # nobody's requests are taken now, whatever they ask
    statuses: Collection[int] = ()
    words: Set[str] = frozenset()  # in lower case
    phrases: Set[str] = frozenset()  # in lower case, where no machine word tells
    source: str = ""  # a document by its name; needed in every row

    def applies(self, status: int, words: Collection[str], message: str) -> bool:
        """Whether an answer shows this."""
        return (
            (not self.statuses or status in self.statuses)
            and (not self.words or not self.words.isdisjoint(words))
            and (not self.phrases or any(phrase in message.lower() for phrase in self.phrases))
        )


_operators = partial(Signal, code=FailureCode.REJECTED, not_generated=True, operator_fault=True)
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
    source="TLS; no request was sent, and somebody must act",
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

# A status that is not 2xx, or the same inside a 2xx. The first row that applies counts.

STATUS: tuple[Signal, ...] = (
    _operators(
        "no credit, or a spending limit is reached",
        words={
            "billing_error",
            "budget_exceeded",
            "credit_balance_exhausted",
            "enforced_spend_limit_reached",
            "insufficient_quota",
            "organization_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "project_spend_limit_exceeded",
        },
        source="OpenAI, Error codes and Spend limits; Anthropic, Errors; LiteLLM, Error diagnosis: whatever the status",
    ),
    _operators("the key is not accepted", words={"api_key_invalid", "invalid_api_key"}, source="Gemini, API errors"),
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
    _operators("no credit", statuses=(402,), source="OpenRouter, Errors; DeepSeek, Error codes"),
    _at_the_door(
        "turned away for pace",
        FailureCode.RATE_LIMITED,
        statuses=(429, 498),
        source="RFC 6585, section 4; Groq, Flex processing (498)",
    ),
    Signal(
        "the prompt was refused by moderation",
        FailureCode.REJECTED,
        statuses=(400,),
        words={"content_filter", "content_policy_violation", "invalid_prompt", "refusal"},
        source="Azure OpenAI, Content filtering; OpenRouter, Errors: some refuse after seconds of work",
    ),
    _passing(
        "the model's output was not the JSON asked for",
        FailureCode.INVALID_OUTPUT,
        statuses=(400,),
        words={"failed_generation", "json_validate_failed"},
        source="Groq, Errors",
    ),
    _operators("the key is not accepted", statuses=(401, 407), source="RFC 9110, sections 15.5.2 and 15.5.8"),
    Signal(
        "the prompt was refused by moderation",
        FailureCode.REJECTED,
        not_generated=True,
        statuses=(403,),
        words={"flagged_input"},
        source="OpenRouter, Errors: input moderation comes before routing",
    ),
    _operators(
        "the account may not do this", statuses=(403,), source="RFC 9110, section 15.5.4; OpenRouter, Guardrails"
    ),
    _operators(
        "there is no such model or address",
        statuses=(400, 404),
        words={"model_not_found", "wrong_endpoint"},
        source="OpenRouter, Errors: with status 400",
    ),
    _operators(
        "there is no such model or address",
        statuses=(404,),
        source="OpenAI, Error codes; Azure OpenAI, DeploymentNotFound; Ollama, Errors",
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
        source="OpenAI, Error codes; Anthropic, Errors: nobody promises that nothing was generated",
    ),
    Signal(
        "the provider refused the request",
        FailureCode.REJECTED,
        not_generated=True,
        statuses=(*range(400, 500), 501),
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

WORD_STATUSES = {
    **dict.fromkeys(("content_policy_violation", "context_length_exceeded", "invalid_prompt", "refusal"), 400),
    **dict.fromkeys(("invalid_request", "invalid_request_error"), 400),
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "rate_limit_exceeded": 429,
    "timeout": 504,
}  # of errors inside a 2xx that tell no number: OpenRouter, Errors, and OpenAI's types; any other word is a 500

# A 2xx without a usable answer. Where words stand, they are finish reasons.

CUT = _passing(
    "the answer was cut off on its way",
    FailureCode.INCOMPLETE,
    source="Content-Length, chunk end or encoding broken, half an envelope, or no body at all",
)
STALLED = _passing("the answer did not end in time", FailureCode.TIMEOUT, source="silent or dripping after the headers")
TOO_LARGE = _passing("the answer is larger than allowed", FailureCode.INVALID_OUTPUT, source="max_body_bytes")
NOT_JSON = _passing(
    "something else than the provider answered",
    FailureCode.UNAVAILABLE,
    source="a log-in page, an event stream, a wrong base_url",
)
PARTIAL = _passing(
    "the provider failed while it was answering",
    FailureCode.INCOMPLETE,
    words={"error"},
    source="OpenRouter, Errors: choices[0].error beside partial content",
)
NO_CHOICE = _passing(
    "the answer holds no choice", FailureCode.INVALID_OUTPUT, source="seen at OpenRouter and at gateways to Gemini"
)
REFUSED = Signal(
    "the model or its filter refused",
    FailureCode.REJECTED,
    words={"content_filter", "sensitive"},
    source="OpenAI, Structured outputs: message.refusal; Azure OpenAI, Content filtering",
)
TOO_LONG = Signal(
    "the answer was cut off at the token limit",
    FailureCode.INCOMPLETE,
    words={"length", "max_tokens", "model_length"},
    source="OpenAI, Chat completions; Mistral (model_length): cut again by the same limit, even if the JSON is whole",
)
ABORTED = _passing(
    "the provider broke off the answer",
    FailureCode.INCOMPLETE,
    words={"abort", "insufficient_system_resource", "model_context_window_exceeded", "network_error"},
    source="DeepSeek, Chat completions; vLLM; Z.AI",
)
NO_CONTENT = _passing(
    "the answer is empty",
    FailureCode.INVALID_OUTPUT,
    source="null or blank content, tool calls or reasoning alone: DeepSeek, JSON output; vLLM; Ollama",
)
BROKEN = _passing(
    "the answer breaks off",
    FailureCode.INCOMPLETE,
    source="content that is not JSON, without a finish reason: Ollama, when its runner ended early",
)
INVALID = _passing(
    "the answer is not valid",
    FailureCode.INVALID_OUTPUT,
    source="RFC 8259, RFC 7493 and the schema; a fence or prose around the JSON is not taken off",
)

BEFORE = (UNREACHABLE, CERTIFICATE, UNSENDABLE, DROPPED, SILENT)
CONTENT = (
    CUT,
    STALLED,
    TOO_LARGE,
    NOT_JSON,
    PARTIAL,
    NO_CHOICE,
    REFUSED,
    TOO_LONG,
    ABORTED,
    NO_CONTENT,
    BROKEN,
    INVALID,
)
SIGNALS = (*BEFORE, *STATUS, *CONTENT)


def find(status: int, words: Collection[str], message: str) -> Signal:
    """The first row of ``STATUS`` that applies; the last one always does."""
    return next(signal for signal in STATUS if signal.applies(status, words, message))
