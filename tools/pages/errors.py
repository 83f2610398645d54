"""The reference of error codes: what each means, from the code, and what to do about it, from here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeGuard

from ai_retry.domain import errors
from ai_retry.domain.model import FailureCode
from ai_retry.problems import EDGE_PROBLEMS
from tools.pages.markdown import notice, one_line, page, prose, table
from tools.pages.sources import meaning, member

_INTRODUCTION = f"""# Errors

{notice("ai_retry.domain.errors and ai_retry.problems; the remedies are in tools/pages/errors.py")}

Over HTTP an error is `{{"error": {{"code", "message", "details"}}, "meta": {{"requestId"}}}}`; in Python it is an
exception with `code`, `http_status`, `retry_after`, `retryable` and `details`. Branch on the code or the class,
never on the message.

**Every request may be repeated.** A repeat can't make a second session, spend a second unit, or start a second call
beside a running one. Where there is a `Retry-After`, come back after it; browsers on other origins read
`details.retryAfterSeconds`. Where there is none, waiting does not help: the same request would fail again, or an
operator has to act first.
"""

REMEDIES: Mapping[str, str] = {
    "INVALID_GENERATION_ID": "Send the generation's id as it is in the database: a UUID with its hyphens.",
    "INVALID_IDEMPOTENCY_KEY": "Send another key, such as a new UUID for each click, or no key at all.",
    "INVALID_REQUEST": "Correct the fields that `details.fields` names; the same request is refused again.",
    "BODY_TOO_LARGE": "Send less than `details.maxBytes`: `create_blueprint(max_body_bytes=…)`, or your app's limit.",
    "UNSUPPORTED_MEDIA_TYPE": "Send JSON in UTF-8, with `Content-Type: application/json` and without compression.",
    "UNAUTHENTICATED": (
        "Sign in, or refresh the session, and send its access token as `Authorization: Bearer`. If fresh tokens are"
        " refused, compare `SUPABASE_URL`, `SUPABASE_JWT_ISSUER` and this machine's clock with the project's; see"
        " [Rotate keys](../how-to/keys.md). The debug log has one word for the check that failed."
    ),
    "GENERATION_NOT_FOUND": (
        "Check the id, and which user's token was sent: another user's generation looks exactly the same."
    ),
    "CONTEXT_MISSING": (
        "`details.problem` names the field. Correct `prompt_data`, allow the model in `AI_MODELS`, or name what reads"
        " your prompts in `AI_RETRY_CONTEXT_FROM`: [Use your own prompts](../how-to/prompts.md)."
    ),
    "ALREADY_SUCCEEDED": "Nothing: `details.sessionId` is its session.",
    "IDEMPOTENCY_KEY_REUSED": (
        "Send another key: this one belongs to a first call with another prompt. A generation whose first call was your"
        " app's own can be retried, but not asked for by its id."
    ),
    "RETRY_IN_PROGRESS": (
        "Come back after `Retry-After`, or read the status. A dead worker's attempt is closed when its lease ends."
    ),
    "RETRY_LIMIT_REACHED": (
        "Wait, where `Retry-After` is given: a day's attempts are used up. Else create a new generation."
        " An operator can allow more attempts in a recovery plan:"
        " [Recover an outage](../how-to/recovery.md)."
    ),
    "RETRY_TOO_SOON": (
        "Come back after `Retry-After`, or ask for it later: [Queue and workers](../how-to/queue.md). Without one,"
        " `ai-retry why ID` says what has to change first."
    ),
    "TOO_MANY_PARALLEL_RETRIES": (
        "Come back after `Retry-After`. If your tables let a user do one thing at a time, that one has to end first."
        " If it is the process that is full, raise `AI_RETRY_MAX_CALLS` and its threads, or let workers do it."
    ),
    "QUOTA_EXHAUSTED": (
        "Come back after `Retry-After`, if there is one: then the next unit returns. A row in `ai_retry_quotas` gives"
        " one user more: [Quota](../explanation/quota.md)."
    ),
    "AI_TIMEOUT": (
        "Come back after `Retry-After`. If it happens often, ask for shorter answers or raise"
        " `AI_RETRY_DEADLINE_SECONDS`, and the lease with it."
    ),
    "AI_RATE_LIMITED": (
        "Come back after `Retry-After`. If it happens often, buy a higher limit, or let workers keep the pace."
    ),
    "AI_UNAVAILABLE": "Come back after `Retry-After`. `ai-retry doctor` says whether the provider can be reached.",
    "AI_REJECTED": (
        "Look at the attempt's code and reason with `ai-retry why ID`: a wrong key, no credit, an unknown model, or a"
        " request that the provider won't serve. [How a provider's answer is judged](../provider-signals.md)."
    ),
    "AI_INVALID_OUTPUT": "Try again. If it happens often, ask for less in `response_schema`, or take a better model.",
    "AI_INCOMPLETE": (
        "Raise `max_tokens` in `AI_EXTRA_BODY` or the context's parameters, or ask for a shorter answer. Where there is"
        " a `Retry-After`, the answer was cut on its way: come back after it."
    ),
    "ROUTE_UNAVAILABLE": (
        "Come back after `Retry-After`, or ask for it later: [Queue and workers](../how-to/queue.md). `ai-retry queue`"
        " lists the providers and models that are unavailable, and until when."
    ),
    "SESSION_CONFLICT": (
        "Let the user remove what it conflicts with; `details.constraint` names the rule, and the next retry uses the"
        " kept answer, without a call. With `details.reason` nothing was called: your app knew [before the"
        " call](../how-to/sessions-table.md#say-what-is-impossible-before-it-is-paid-for), and says why in its words."
    ),
    "SESSION_REJECTED": (
        "`details.constraint` names what rejected it: a constraint, a column or an SQLSTATE. Correct the data or"
        " `ai_retry_create_session`; the next retry uses the kept answer, without a call. `55P03` means that your app"
        " held the row, or the table, for too long. If it can never fit, `client.discard_answer` drops it."
    ),
    "LEASE_LOST": (
        "Try again; a kept answer is used then. If it happens often, the machine or the database is too busy: look at"
        " how long settling takes, and raise `AI_RETRY_LEASE_SECONDS`."
    ),
    "NOT_CONFIGURED": "`details.missing` says what; `ai-retry doctor` says what to do about it.",
    "STORAGE_UNAVAILABLE": (
        "Repeat it: nothing was written. If it continues, look at the database and the network to it."
    ),
    "STORAGE_OUTCOME_UNKNOWN": (
        "Repeat it: what was written is found by its token or key. A paid answer is kept in the database, or waits in"
        " the spool, if there is one."
    ),
    "AUTH_UNAVAILABLE": "Repeat it. If it continues, check that Supabase Auth can be reached from here.",
    "INTERNAL": "Repeat it. Then look for the `requestId` in the log, which names the exception and its place.",
    "RETRY_EXPIRED": ("Retry it again; if no worker ran, start some. Workers try for `AI_RETRY_MAX_QUEUED_SECONDS`."),
    "RETRY_CANCELLED": "Retry it, if it is wanted again.",
    "RETRY_POISONED": (
        "Find out why workers die at it (memory, a crash in `context_from`), then retry it. It is given up after"
        " `AI_RETRY_MAX_ABANDONED` deaths."
    ),
}

WHO: Mapping[str, str] = {
    "INVALID_GENERATION_ID": "The client sends a UUID.",
    "INVALID_IDEMPOTENCY_KEY": "The client sends another key, or none.",
    "INVALID_REQUEST": "The client corrects the fields.",
    "BODY_TOO_LARGE": "The client sends less.",
    "UNSUPPORTED_MEDIA_TYPE": "The client sends JSON.",
    "UNAUTHENTICATED": "The user signs in again.",
    "GENERATION_NOT_FOUND": "The client checks the id.",
    "CONTEXT_MISSING": "The developer corrects the prompt or its reader.",
    "ALREADY_SUCCEEDED": "Nothing to do: the client shows the session.",
    "IDEMPOTENCY_KEY_REUSED": "The client sends another key.",
    "RETRY_IN_PROGRESS": "The user waits.",
    "RETRY_LIMIT_REACHED": "The user waits for a day, or starts anew.",
    "RETRY_TOO_SOON": "The user waits.",
    "TOO_MANY_PARALLEL_RETRIES": "The user waits for another one to end.",
    "QUOTA_EXHAUSTED": "The user waits, or an operator raises the quota.",
    "AI_TIMEOUT": "The user retries.",
    "AI_RATE_LIMITED": "The user retries later.",
    "AI_UNAVAILABLE": "The user retries later.",
    "AI_REJECTED": "The operator corrects the key, the credit or the model.",
    "AI_INVALID_OUTPUT": "The user retries.",
    "AI_INCOMPLETE": "The developer raises the limit of tokens.",
    "ROUTE_UNAVAILABLE": "The user waits for the provider.",
    "SESSION_CONFLICT": "The user removes what conflicts.",
    "SESSION_REJECTED": "The operator corrects the data or the session function.",
    "LEASE_LOST": "The user retries; the answer is kept.",
    "NOT_CONFIGURED": "The operator sets what is missing.",
    "STORAGE_UNAVAILABLE": "The client repeats the request.",
    "STORAGE_OUTCOME_UNKNOWN": "The client repeats the request.",
    "AUTH_UNAVAILABLE": "The client repeats the request.",
    "INTERNAL": "The client repeats the request; the operator reads the log.",
    "RETRY_EXPIRED": "The user retries; the operator starts workers.",
    "RETRY_CANCELLED": "Nothing to do.",
    "RETRY_POISONED": "The operator finds out why workers die.",
}

_PHRASES: Mapping[int, str] = {
    413: "Content Too Large",
    422: "Unprocessable Content",
}  # RFC 9110; Python before 3.13 differs


@dataclass(frozen=True)
class _Error:
    code: str
    status: int | None
    exception: str | None
    meaning: str


def render() -> str:
    """Render the page."""
    found = sorted(_all(), key=lambda each: (each.status or 600, each.code))
    over_http = [each for each in found if each.status is not None]
    return page(
        [
            _INTRODUCTION,
            *table(("code", "HTTP", "who does what"), (_row(each) for each in over_http)),
            *(line for each in over_http for line in _entry(each)),
            "## Codes of the error log",
            "",
            "They say in `generation_error_logs` why an accepted retry has ended. Only a first call that is asked for"
            " again, with the same key, is answered with them: status 409.",
            "",
            *(line for each in found if each.status is None for line in _entry(each)),
        ]
    )


def _all() -> Iterator[_Error]:
    for problem in EDGE_PROBLEMS:
        yield _Error(problem.code, problem.http_status, None, problem.message.replace("<", "&lt;"))
    for code in FailureCode:
        if code.value != errors.LeaseLost.code:
            said = meaning(member(f"domain.model.FailureCode.{code.name}"))
            yield _Error(code.value, errors.GenerationFailed.http_status, "GenerationFailed", f"The provider: {said}.")
    for name, error in vars(errors).items():
        if _is_coded(error):
            ended = issubclass(error, errors.RetryEnded)
            yield _Error(error.code, None if ended else error.http_status, name, one_line(prose(error.__doc__ or "")))


def _is_coded(found: object) -> TypeGuard[type[errors.AiRetryError]]:
    """Whether it is a class of errors that has a code of its own."""
    return (
        isinstance(found, type)
        and issubclass(found, errors.AiRetryError)
        and found is not errors.AiRetryError
        and isinstance(vars(found).get("code"), str)
    )


def _row(error: _Error) -> tuple[str, ...]:
    return f"[`{error.code}`](#{error.code.lower()})", _status(error), WHO[error.code]


def _status(error: _Error) -> str:
    if error.status is None:
        return ""
    return f"{error.status} {_PHRASES.get(error.status) or HTTPStatus(error.status).phrase}"


def _entry(error: _Error) -> Iterator[str]:
    about = [_status(error), f"`{error.exception}` in Python" if error.exception else ""]
    yield from (f"### {error.code}", "", " · ".join(each for each in about if each), "")
    yield from (error.meaning, "", f"**What to do.** {REMEDIES[error.code]}", "")
