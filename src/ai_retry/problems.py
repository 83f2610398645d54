"""What went wrong, as HTTP answers it and as the log has it, without a web framework.

The domain's errors carry their own code, status and details; here are the few that belong only to the HTTP edge, and
what an unexpected one becomes. No text of an exception that is not ours leaves this module: it may hold a row, a
prompt or a token.
"""

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ai_retry.domain.errors import (
    AiRetryError,
    AuthUnavailable,
    GenerationFailed,
    StorageUnavailable,
    Unauthenticated,
    whole_seconds,
)
from ai_retry.domain.names import PLAN_PREFIX

_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error answer: everything of it but the request's id."""

    code: str
    http_status: int
    message: str
    retry_after: timedelta | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def retry_after_seconds(self) -> int | None:
        """The wait, as the header has it."""
        return None if self.retry_after is None else whole_seconds(self.retry_after)

    @property
    def wire_details(self) -> dict[str, Any]:
        """The details in camelCase and JSON, with the wait: a browser on another origin does not see the header."""
        details = {camel_case(name): wire_value(value) for name, value in self.details.items()}
        if self.retry_after_seconds is not None:
            details["retryAfterSeconds"] = self.retry_after_seconds
        return details


INVALID_GENERATION_ID: Final = Problem(
    code="INVALID_GENERATION_ID",
    http_status=400,
    message="The generation's id must be a UUID such as 6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11.",
)
INVALID_IDEMPOTENCY_KEY: Final = Problem(
    code="INVALID_IDEMPOTENCY_KEY",
    http_status=400,
    message=(
        "The Idempotency-Key must be 1 to 255 visible ASCII characters, bare or in double quotes, and must not begin "
        f"with {PLAN_PREFIX}, which marks the attempts of recovery plans."
    ),
)
INVALID_REQUEST: Final = Problem(
    code="INVALID_REQUEST",
    http_status=400,
    message="The request can't be used; details.fields says what of it and why.",
)
BODY_TOO_LARGE: Final = Problem(code="BODY_TOO_LARGE", http_status=413, message="The body is too large.")
UNSUPPORTED_MEDIA_TYPE: Final = Problem(
    code="UNSUPPORTED_MEDIA_TYPE",
    http_status=415,
    message="The body must be JSON: Content-Type: application/json, in UTF-8, without a Content-Encoding.",
)
INTERNAL: Final = Problem(code="INTERNAL", http_status=500, message="Something unexpected went wrong.")

EDGE_PROBLEMS: Final = (
    INVALID_GENERATION_ID,
    INVALID_IDEMPOTENCY_KEY,
    INVALID_REQUEST,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    INTERNAL,
)


def invalid_request(fields: Any) -> Problem:
    """Name the fields that can't be used, each with what is wrong with it, as marshmallow does."""
    return replace(INVALID_REQUEST, details={"fields": fields})


def body_too_large(most: int) -> Problem:
    """Name the limit."""
    return replace(BODY_TOO_LARGE, details={"max_bytes": most})


class Refused(Exception):
    """A request that the HTTP edge refuses by itself."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def problem_of(error: Exception) -> Problem:
    """Return an exception as a problem; one that is not this library's becomes ``INTERNAL``."""
    match error:
        case Refused():
            return error.problem
        case AiRetryError():
            return Problem(
                code=error.code,
                http_status=error.http_status,
                message=str(error),
                retry_after=_wait_of(error),
                details=error.details | ({"generation_id": error.generation_id} if error.generation_id else {}),
            )
    return INTERNAL


def _wait_of(error: AiRetryError) -> timedelta | None:
    """Return the error's wait; for a storage that was not reached, where no wait could be known, a second."""
    if error.retry_after is None and isinstance(error, StorageUnavailable):
        return _SECOND
    return error.retry_after


def reason_of(error: Exception) -> str:
    """Return for the log, in one line, what the client does not get; of a foreign exception only its type and place."""
    match error:
        case GenerationFailed():
            reason = error.failure.reason
        case Unauthenticated() | AuthUnavailable():
            reason = error.reason
        case AiRetryError() | Refused():
            reason = str(error)
        case _:
            return type(error).__qualname__
    return " ".join(reason.split())


def stack_of(error: BaseException) -> str:
    """Format the traceback of an exception and of those behind it, without any of their texts."""
    return "\n".join(
        f"{type(each).__module__}.{type(each).__qualname__}\n" + "".join(traceback.format_tb(each.__traceback__))
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def camel_case(name: str) -> str:
    """Write ``a_name`` as ``aName``."""
    first, *others = name.split("_")
    return first + "".join(each.capitalize() for each in others)


def instant(value: datetime) -> str:
    """Write an instant as ISO 8601 in UTC, with microseconds and a Z (RFC 3339)."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def wire_value(value: Any) -> Any:
    """Make a value JSON: instants as above, durations in seconds, anything else in its own words."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(name): wire_value(each) for name, each in value.items()}
        case list() | tuple():
            return [wire_value(each) for each in value]
        case datetime():
            return instant(value)
        case timedelta():
            return value.total_seconds()
    return str(value)
