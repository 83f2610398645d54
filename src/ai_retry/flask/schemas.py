"""What goes over HTTP: parameters and answers as marshmallow schemas, in camelCase.

They are the one description of the wire: requests are parsed with them, answers are dumped with them, and the OpenAPI
document is generated from them. No rule and no framework belongs here.
"""

from datetime import timedelta
from typing import Any, Final

from marshmallow import EXCLUDE, Schema, fields, validate

from ai_retry.domain.errors import whole_seconds
from ai_retry.domain.model import Generation, GenerationStatus, Quota, RetryResult, Snapshot
from ai_retry.domain.names import PLAN_PREFIX
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.domain.recovery import UnreadableRow
from ai_retry.flask.wire_fields import CanonicalUuid, IdempotencyKey, Instant
from ai_retry.problems import Problem, camel_case, problem_of

_MILLISECOND: Final = timedelta(milliseconds=1)


class Camel(Schema):
    """Names in camelCase; clients are expected to skip members that they don't know."""

    class Meta:
        """Leave the documented objects open."""

        unknown = EXCLUDE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Name the member on the wire."""
        field_obj.data_key = field_obj.data_key or camel_case(field_name)


def about(text: str, **more: Any) -> dict[str, Any]:
    """Describe a member."""
    return {"description": text, **more}


class GenerationPath(Camel):
    """Path parameters."""

    generation_id = CanonicalUuid(required=True, metadata=about("The generation's UUID, in canonical form."))


class RetryHeaders(Camel):
    """Request headers of a retry."""

    idempotency_key = IdempotencyKey(
        data_key="Idempotency-Key",
        metadata=about(
            "Repeats with a key whose attempt succeeded are answered with its session, as it is now. A key that begins "
            f"with {PLAN_PREFIX} marks the attempts of recovery plans, and is refused.",
            pattern=IdempotencyKey.PATTERN,
        ),
    )
    prefer = fields.String(
        data_key="Prefer", metadata=about("respond-async: accept it now, try it later (RFC 7240, section 4.1).")
    )


class CreateHeaders(RetryHeaders):
    """Request headers of a first call."""

    idempotency_key = IdempotencyKey(
        data_key="Idempotency-Key",
        metadata=about(
            "Makes the generation's id, with the user's: the same body under the same key makes one generation and one "
            f"call, whatever becomes of it. A key that begins with {PLAN_PREFIX} is refused.",
            pattern=IdempotencyKey.PATTERN,
        ),
    )


class GenerationSchema(Camel):
    """A generation."""

    id = fields.UUID(required=True)
    status = fields.String(required=True, validate=validate.OneOf([each.value for each in GenerationStatus]))
    model = fields.String(required=True, allow_none=True)
    duration_ms = fields.Integer(required=True, allow_none=True, metadata=about("Of the AI provider's call."))
    attempt = fields.Integer(required=True, metadata=about("Number of its last attempt; the original call is 1."))
    session_id = fields.String(required=True, allow_none=True)
    created_at = Instant()
    updated_at = Instant(allow_none=True)


class QuotaSchema(Camel):
    """The user's quota."""

    limit = fields.Integer(required=True)
    remaining = fields.Integer(required=True, metadata=about("What a new attempt could still hold."))
    resets_at = Instant(allow_none=True, description="When the next unit comes back.")


class ErrorSchema(Camel):
    """A problem."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    details = fields.Dict(
        keys=fields.String(), required=True, metadata=about("With a wait: retryAfterSeconds, as in Retry-After.")
    )


class QueuedSchema(Camel):
    """An attempt that waits for a worker."""

    accepted_at = Instant(description="When the retry was accepted.")
    next_attempt_at = Instant(description="When the attempt is due; later while its provider is unavailable.")
    expires_at = Instant(description="Until when it is tried.")


class RetryOutlookSchema(Camel):
    """Whether, and when, a retry is possible."""

    possible = fields.Boolean(required=True, metadata=about("Now."))
    possible_at = Instant(
        allow_none=True,
        description="Earliest instant; null: not foreseeable, waiting does not help, or a worker will do it.",
    )
    refusal = fields.Nested(ErrorSchema, required=True, allow_none=True)
    queued = fields.Nested(QueuedSchema, required=True, allow_none=True)


def _session(*, allow_none: bool) -> fields.Field[Any]:
    metadata = about("As the app's database returns it; its members are the app's business.")
    return fields.Dict(keys=fields.String(), required=True, allow_none=allow_none, metadata=metadata)


class RetryData(Camel):
    """A session and its generation."""

    session = _session(allow_none=False)
    generation = fields.Nested(GenerationSchema, required=True)


class QueuedData(RetryData):
    """What was accepted for later; its session is not created yet."""

    session = fields.Dict(required=True, allow_none=True, validate=validate.Equal(None))


class StatusData(RetryData):
    """The same, as far as there is a session, and what a retry would be answered."""

    session = _session(allow_none=True)
    retry = fields.Nested(RetryOutlookSchema, required=True)


class Meta(Camel):
    """About the request."""

    request_id = fields.String(required=True)


class QuotaMeta(Meta):
    """About the request and the user."""

    quota = fields.Nested(QuotaSchema, required=True)


class RetryResponse(Camel):
    """GenerateAiSessionResponse."""

    data = fields.Nested(RetryData, required=True)
    meta = fields.Nested(QuotaMeta, required=True)


class QueuedResponse(Camel):
    """A retry that was accepted for later."""

    data = fields.Nested(QueuedData, required=True)
    meta = fields.Nested(QuotaMeta, required=True)


class StatusResponse(Camel):
    """The state of a generation."""

    data = fields.Nested(StatusData, required=True)
    meta = fields.Nested(QuotaMeta, required=True)


class ErrorResponse(Camel):
    """Why there is no session."""

    error = fields.Nested(ErrorSchema, required=True)
    meta = fields.Nested(Meta, required=True)


class HealthData(Camel):
    """Health."""

    status = fields.String(required=True, validate=validate.Equal("ok"))


class HealthResponse(Camel):
    """The process answers."""

    data = fields.Nested(HealthData, required=True)
    meta = fields.Nested(Meta, required=True)


# Made once: a schema copies all of its fields when it is made, which takes longer than what it is made for.
RETRY_HEADERS: Final = RetryHeaders()
_RETRY_RESPONSE: Final = RetryResponse()
_QUEUED_RESPONSE: Final = QueuedResponse()
_STATUS_RESPONSE: Final = StatusResponse()
_ERROR_RESPONSE: Final = ErrorResponse()
_HEALTH_RESPONSE: Final = HealthResponse()


def retry_response(result: RetryResult, request_id: str) -> dict[str, Any]:
    """Render a retry that has its session."""
    data = {"session": result.session, "generation": _generation(result.generation, result.attempt)}
    return _dump(_RETRY_RESPONSE, data, _quota_meta(request_id, result.quota))


def queued_response(queued: QueuedRetry, request_id: str) -> tuple[dict[str, Any], int]:
    """Render a retry that was accepted for later, and in how many seconds it pays to ask again."""
    data = {"session": None, "generation": _generation(queued.generation, queued.attempt)}
    wait = (queued.next_attempt_at or queued.as_of) - queued.as_of
    return _dump(_QUEUED_RESPONSE, data, _quota_meta(request_id, queued.quota)), whole_seconds(wait)


def status_response(outlook: Outlook, request_id: str) -> dict[str, Any]:
    """Render a generation and its outlook."""
    snapshot = outlook.snapshot
    data = {"session": snapshot.session, "generation": generation_of(snapshot), "retry": outlook_of(outlook)}
    return _dump(_STATUS_RESPONSE, data, _quota_meta(request_id, snapshot.quota))


def error_response(problem: Problem, request_id: str) -> dict[str, Any]:
    """Render a problem."""
    document: dict[str, Any] = _ERROR_RESPONSE.dump({"error": _error(problem), "meta": {"request_id": request_id}})
    return document


def health_response(request_id: str) -> dict[str, Any]:
    """Render that the process answers."""
    return _dump(_HEALTH_RESPONSE, {"status": "ok"}, {"request_id": request_id})


def generation_of(snapshot: Snapshot) -> dict[str, Any]:
    """Give the members of a generation that was read."""
    return _generation(snapshot.generation, snapshot.last_attempt.number if snapshot.last_attempt else 1)


def outlook_of(outlook: Outlook | UnreadableRow) -> dict[str, Any]:
    """Give the members of an outlook."""
    refusal = outlook.refusal
    return {
        "possible": outlook.can_retry,
        "possible_at": outlook.retry_at,
        "refusal": None if refusal is None else _error(problem_of(refusal)),
        "queued": outlook.queued,
    }


def _dump(schema: Schema, data: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = schema.dump({"data": data, "meta": meta})
    return document


def _generation(generation: Generation, attempt: int) -> dict[str, Any]:
    return {
        "id": generation.id,
        "status": generation.status.value,
        "model": generation.model,
        "duration_ms": None if generation.duration is None else round(generation.duration / _MILLISECOND),
        "attempt": attempt,
        "session_id": generation.session_id,
        "created_at": generation.created_at,
        "updated_at": generation.updated_at,
    }


def _quota_meta(request_id: str, quota: Quota) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "quota": {"limit": quota.limit, "remaining": quota.remaining, "resets_at": quota.resets_at},
    }


def _error(problem: Problem) -> dict[str, Any]:
    return {"code": problem.code, "message": problem.message, "details": problem.wire_details}
