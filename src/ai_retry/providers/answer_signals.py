"""The second half of the table of signals: a 2xx that brings no usable answer.

The words here are finish reasons, normalised by ``completion.word``. Their vocabularies are closed: an answer without a
schema is whole only if its finish reason is one of ``ENDS``. With a schema, a reason in none of the rows, or one that
asks for a tool, lets the content decide: an object or a list that is valid under the schema is whole by itself, it was
paid for, and a refusal does not come in the form that was asked for. Content that is not valid then fails for its
reason. A reason that is known to be a cut or a refusal fails whatever the content is.
"""

from functools import partial

from ai_retry.domain.model import FailureCode
from ai_retry.providers.signal import Signal
from ai_retry.providers.vocabulary import MODERATION

_passing = partial(Signal, transient=True)

ENDS = frozenset({"", "stop", "end", "endoftext", "eos", "eos_token", "end_turn", "stop_sequence", "complete"})
# OpenAI, Chat completions; Together (eos, ""); Hugging Face TGI (eos_token); Anthropic and Bedrock (end_turn,
# stop_sequence); Cohere (COMPLETE); AI21 (endoftext); gateways (end). Null and missing are "": Ollama, Bifrost.

WEB_PAGE = Signal(
    "a web page answered, not the API",
    FailureCode.REJECTED,
    not_generated=True,
    operator_fault=True,
    source="a wrong AI_BASE_URL or a log-in page: no provider sends an answer as HTML",
)
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
    source="an event stream or plain text: a proxy that mixes modes may have generated",
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
    refused=True,
    words=MODERATION
    | {
        "blacklist",
        "blocked",
        "content_blocked",
        "error_toxic",
        "image_prohibited_content",
        "image_recitation",
        "image_safety",
        "language",
        "model_armor",
        "moderation",
        "sensitive",
    },
    source="OpenAI, message.refusal and parts; Azure OpenAI, content_filter_results; Gemini, FinishReason and prompt"
    " feedback; Anthropic and Bedrock, stop reasons; Z.AI (sensitive); Cohere (ERROR_TOXIC);"
    " GigaChat (blacklist); Bedrock, guardrailAction; MiniMax (output_sensitive)",
)
TOO_LONG = Signal(
    "the answer was cut off at the token limit",
    FailureCode.INCOMPLETE,
    words={
        "context_window_exceeded",
        "error_limit",
        "length",
        "max_completion_tokens",
        "max_context",
        "max_len",
        "max_length",
        "max_output_tokens",
        "max_tokens",
        "model_context_window_exceeded",
        "model_length",
        "token_limit",
    },
    source="OpenAI, Chat completions; Gemini; Mistral (model_length); Anthropic and Z.AI"
    " (model_context_window_exceeded); watsonx (token_limit); Cohere (ERROR_LIMIT); xAI (MAX_LEN, MAX_CONTEXT): cut"
    " again by the same limit, even if the JSON is whole",
)
ABORTED = _passing(
    "the provider broke off the answer",
    FailureCode.INCOMPLETE,
    words={
        "abort",
        "aborted",
        "canceled",
        "cancelled",
        "incomplete",
        "insufficient_system_resource",
        "interrupted",
        "malformed_function_call",
        "malformed_model_output",
        "malformed_response",
        "malformed_tool_use",
        "network_error",
        "not_finished",
        "other",
        "pause_turn",
        "time_limit",
        "timeout",
        "too_many_tool_calls",
        "unexpected_tool_call",
        "user_cancel",
    },
    source="DeepSeek, Chat completions; vLLM; Z.AI; Gemini, FinishReason; Bedrock, stop reasons; watsonx; Cohere",
)
NO_TEXT = _passing(
    "the answer is not text",
    FailureCode.INVALID_OUTPUT,
    source="OpenAI, Chat completions: content is a string, a list of parts or null",
)
NO_CONTENT = _passing(
    "the answer is empty",
    FailureCode.INVALID_OUTPUT,
    source="null or blank content, or thoughts only: DeepSeek, JSON output; vLLM; Ollama",
)
TOOL_CALL = _passing(
    "the model asked for a tool instead of answering",
    FailureCode.INVALID_OUTPUT,
    words={"function_call", "tool_call", "tool_calls", "tool_use"},
    source="OpenAI, Chat completions; Anthropic and Bedrock, stop reasons; a call beside text, which several servers"
    " end with stop (OpenAI, Ollama, Gemini): no tools were offered",
)
UNKNOWN_END = Signal(
    "the answer ended for an unknown reason",
    FailureCode.INCOMPLETE,
    source="a finish reason in none of these rows: it may be a refusal, or what this provider always says, so the same"
    " request is not repeated; with a schema, a valid object or list is whole by itself and was paid for, so it counts",
)
BROKEN = _passing(
    "the answer breaks off",
    FailureCode.INCOMPLETE,
    source="content that is not JSON, without a finish reason: Ollama, when its runner ended early",
)
INVALID = _passing(
    "the answer is not valid",
    FailureCode.INVALID_OUTPUT,
    source="RFC 8259, RFC 7493 and the schema; thoughts, end tokens and one fence around the JSON are taken off, prose"
    " is not",
)

CONTENT = (
    WEB_PAGE,
    STALLED,
    CUT,
    TOO_LARGE,
    NOT_JSON,
    NO_CHOICE,
    REFUSED,
    PARTIAL,
    TOO_LONG,
    ABORTED,
    TOOL_CALL,
    UNKNOWN_END,
    NO_TEXT,
    NO_CONTENT,
    BROKEN,
    INVALID,
)
