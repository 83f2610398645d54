"""What tables and columns are called in apps: names that are guessed, the likeliest first."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ai_retry.cli.init.facts import Column, Table

USERS: Final = (
    *(
        "user_id",
        "owner_id",
        "owner",
        "profile_id",
        "author_id",
        "created_by",
        "account_id",
        "customer_id",
        "member_id",
    ),
    *("uid", "user_uuid", "userid", "requested_by"),
)
STATUS: Final = ("status", "state", "generation_status", "job_status", "phase", "progress_status")
MODEL: Final = ("model", "model_name", "ai_model", "llm_model", "model_id", "engine", "llm", "model_used")
PROMPT_JSON: Final = (
    *("prompt_data", "request_data", "request", "prompt_json", "request_payload", "payload", "input_data", "input"),
    *("inputs", "brief", "outline", "context", "params", "prompt_params", "messages", "prompt"),
)
PROMPT_TEXT: Final = (
    *("prompt", "prompt_text", "user_prompt", "input_text", "input", "source_text", "source", "question", "topic"),
    *("instructions", "query", "notes", "brief", "text", "message", "request_text", "description", "original_prompt"),
)
PROMPT_OPTIONS: Final = (
    *("system_prompt", "system", "negative_prompt", "options", "parameters", "params", "settings", "config"),
    *("generation_params", "temperature", "max_tokens", "language", "locale", "style", "tone", "format", "level"),
    *("difficulty", "count", "num_cards", "size", "voice", "preferences", "goal", "goals", "messages", "topic", "kind"),
)
DURATION: Final = (
    *("duration_ms", "generation_duration_ms", "generation_duration", "latency_ms", "elapsed_ms", "processing_time_ms"),
    *("duration", "response_time_ms", "took_ms", "duration_seconds", "processing_seconds"),
)
CREATED: Final = (
    "created_at",
    "inserted_at",
    "created",
    "requested_at",
    "created_on",
    "made_at",
    "queued_at",
    "timestamp",
)
UPDATED: Final = (
    *("updated_at", "modified_at", "updated", "last_updated", "changed_at", "updated_on", "modified", "last_modified"),
)
SESSION: Final = ("session_id", "result_id", "output_id")
DELETED: Final = (
    "deleted_at",
    "archived_at",
    "removed_at",
    "is_deleted",
    "deleted",
    "archived",
    "is_archived",
    "removed",
)
OUTPUT: Final = (
    *("response_data", "output", "output_data", "result", "result_data", "response", "generated_content", "content"),
    *(
        "completion",
        "answer",
        "response_json",
        "data",
        "body",
        "payload",
        "output_text",
        "generated_text",
        "raw_output",
    ),
    *("session_data", "plan", "details", "generated", "response_text", "reply", "summary", "caption", "translation"),
    *("result_text", "result_json", "output_json", "answer_text", "completion_text", "ai_response", "ai_output"),
    *("transcript", "output_url", "result_url", "image_url", "file_url", "html", "markdown"),
)
RESPONSE: Final = (
    *("response_data", "output", "output_data", "result", "result_data", "response", "response_json", "completion"),
    *("answer", "generated_content", "output_text", "generated_text", "raw_output", "response_text"),
)
FINISHED: Final = ("completed_at", "finished_at", "succeeded_at", "ended_at", "done_at", "generated_at")
FAILED_AT: Final = ("failed_at", "errored_at", "error_at")
ERROR_CODE: Final = (
    "error_code",
    "error_type",
    "code",
    "type",
    "error_kind",
    "failure_code",
    "reason_code",
    "kind",
    "error",
)
ERROR_MESSAGE: Final = (
    *("error_message", "message", "error_text", "error_details", "failure_reason", "details", "reason", "error"),
    *("last_error", "description", "fail_reason"),
)
OWN_CODE: Final = ("error_code", "error_type", "failure_code", "error_kind")
OWN_MESSAGE: Final = (
    *("error_message", "error_text", "last_error", "failure_reason", "failure_message", "fail_reason", "failure"),
    *("error_details", "error_detail", "error_info", "error_reason", "error"),
)
EVENT_TYPE: Final = ("event_type", "event_name", "type", "event", "action", "name", "kind", "activity", "activity_type")
EVENT_DATA: Final = (
    "event_data",
    "data",
    "payload",
    "properties",
    "metadata",
    "meta",
    "details",
    "props",
    "attributes",
    "context",
)


def pick(
    table: Table, names: Sequence[str], fits: Callable[[Column], bool], but: Iterable[Column] = ()
) -> Column | None:
    """Find the first column of such a name, in whatever spelling, that fits and is not taken."""
    taken = {each.name for each in but}
    spelt = {_spelt(each): column for each, column in table.columns.items()} | dict(table.columns)
    for name in names:
        column = spelt.get(name)
        if column is not None and column.name not in taken and fits(column):
            return column
    return None


def _spelt(name: str) -> str:
    """``userId`` as ``user_id``."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


_ASKED: Final = re.compile(r"(job|request|completion|_run|task)s?$")  # Django's names are singular, and one word


def generation_score(table: Table) -> int:
    """How much a table looks like one of generations; at least 6: it may be."""
    name = table.name.lower()
    score = 6 if "generation" in name else 0
    score += 4 if _ASKED.search(name) else 0
    score += 2 if "ai" in name.split("_") or "llm" in name or "gpt" in name else 0
    has = {_spelt(each) for each in table.columns}
    score += 2 if has & set(STATUS) else 0
    score += 3 if has & {*PROMPT_JSON[:6], *PROMPT_TEXT[:4]} else 0
    score += 3 if has & set(MODEL) else 0
    if any(
        word in name for word in ("log", "error", "event", "ledger", "credit", "feedback", "audit", "history", "usage")
    ):
        score -= 8
    return score
