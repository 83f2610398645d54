"""What every request passes before anything is read, and what every answer carries.

In this order: the host says who asks; the headers of browsers agree that the request comes from the console's own
pages; it is small enough; a form carries our token. Roles are asked where something is done, in ``ai_retry.operate``.
"""

import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final
from uuid import uuid4

from flask import Response, current_app, request
from werkzeug.exceptions import HTTPException

from ai_retry import events, hooks
from ai_retry.domain.errors import NotConfigured
from ai_retry.flask.console.origin import refused_by
from ai_retry.flask.console.rendering import rendered
from ai_retry.flask.console.tokens import Tokens
from ai_retry.flask.console.visit import Answer, Console, Moved, Page, View, Visit
from ai_retry.operate.operator import Operator
from ai_retry.problems import INTERNAL, Problem, Refused, problem_of, reason_of, stack_of

MAX_BODY_BYTES: Final = 64 * 1024
MAX_QUERY_BYTES: Final = 2048
TOKEN_FIELD: Final = "ai_retry_token"  # noqa: S105 (its name, not its value)

_FORM: Final = "application/x-www-form-urlencoded"
_SERVER_ERROR: Final = HTTPStatus.INTERNAL_SERVER_ERROR
_NOTHING_CHANGED: Final = "Nothing was changed."


def guarded(console: Console, view: View, *, changes: bool) -> Callable[..., Response]:
    """Wrap a view; there is no other way to an address of the console."""

    def answer(**path: Any) -> Response:
        operator = console.authorize(request)
        if operator is None:
            return _secured(Response("Not found.\n", HTTPStatus.NOT_FOUND, mimetype="text/plain"), nonce="")
        if not isinstance(operator, Operator):
            raise TypeError("authorize must return an ai_retry.Operator, or None")
        visit, request_id = _visit(console, operator, path), _request_id()
        with hooks.request(request_id=request_id, traceparent=request.headers.get("traceparent")) as asked:
            try:
                _check(visit, changes=changes)
                response = _response(visit, view(visit, **_own(path)))
            except Exception as error:  # noqa: BLE001 - the outermost entry point: the host must not see our errors
                problem = _problem(error)
                if problem is INTERNAL or (problem.http_status >= _SERVER_ERROR and not asked.is_reported):
                    console.client.events(_reported(problem, error, request_id))
                response = _response(visit, _refusal(problem))
        response.headers["X-Request-Id"] = request_id
        return _secured(response, nonce=visit.nonce)

    return answer


def keys_of(console: Console) -> list[str | bytes]:
    """Return the keys of the console's tokens, the current one first.

    Raises:
        NotConfigured: there is none.
    """
    if console.key is not None:
        return [console.key]
    if not current_app.secret_key:
        raise NotConfigured("the console needs a key for its forms: set the app's SECRET_KEY, or pass key=")
    older = current_app.config.get("SECRET_KEY_FALLBACKS") or []
    return [current_app.secret_key, *(each for each in older if each)]


def _visit(console: Console, operator: Operator, path: dict[str, Any]) -> Visit:
    own = _own(path)
    return Visit(
        console=console,
        operator=operator,
        operations=console.client.operate(operator),
        tokens=Tokens.of(keys_of(console), time.time),
        nonce=secrets.token_urlsafe(16),
        prefix={name: value for name, value in path.items() if name not in own},
    )


def _own(path: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of an address that are ours; those of the host's prefix are not."""
    return {name: value for name, value in path.items() if name in ("generation_id", "user_id", "plan_id")}


def _check(visit: Visit, *, changes: bool) -> None:
    """Refuse what does not come from the console's own pages, or is too large.

    Raises:
        Refused: says which.
        HTTPException: the body is too large.
    """
    own = {
        f"{request.scheme}://{request.host.lower()}",
        *visit.console.origins,
    }  # host_url has other letters than a browser
    header = refused_by(request.headers, own=own, changes=changes)
    if header is not None:
        raise Refused(_forbidden("OTHER_ORIGIN", f"The request comes from another site, by its header {header}."))
    if len(request.query_string) > MAX_QUERY_BYTES:
        raise Refused(Problem(code="TOO_LONG", http_status=414, message="The address is too long."))
    if not changes:
        return
    request.max_content_length = MAX_BODY_BYTES
    if (request.content_length or 0) > MAX_BODY_BYTES:  # also where the host has read it before
        raise Refused(Problem(code="BODY_TOO_LARGE", http_status=413, message="The form is too large."))
    if request.mimetype != _FORM:
        raise Refused(Problem(code="UNSUPPORTED_MEDIA_TYPE", http_status=415, message="This takes a form only."))
    if not visit.tokens.is_form(request.form.get(TOKEN_FIELD, ""), visit.operator.name):
        raise Refused(_forbidden("FORM_EXPIRED", "This form is too old, or is not yours. Load the page again."))


def _forbidden(code: str, message: str) -> Problem:
    return Problem(code=code, http_status=HTTPStatus.FORBIDDEN, message=f"{message} {_NOTHING_CHANGED}")


def _request_id() -> str:
    """Take over a sane id, so that one request has one name in all logs; otherwise make one."""
    asked = request.headers.get("X-Request-Id", "")
    return asked if hooks.REQUEST_ID.fullmatch(asked) else str(uuid4())


def _problem(error: Exception) -> Problem:
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.code or HTTPStatus.BAD_REQUEST)
        return Problem(code=status.name, http_status=status, message=f"{status.phrase}. {_NOTHING_CHANGED}")
    return problem_of(error)


def _refusal(problem: Problem) -> Page:
    values = {"problem": problem}
    return Page(
        template="problem.html", title="That did not work", active="", values=values, status=problem.http_status
    )


def _reported(problem: Problem, error: Exception, request_id: str) -> events.Event:
    """Make the event of an error that nothing below has reported."""
    return events.RequestFailed(
        action=f"console {request.endpoint}",
        code=problem.code,
        reason=reason_of(error),
        request_id=request_id,
        retry_after_seconds=problem.retry_after_seconds,
        stack=stack_of(error) if problem is INTERNAL else None,
    )


def _response(visit: Visit, answered: Answer) -> Response:
    if isinstance(answered, Moved):
        address = answered.address
        if answered.note is not None:
            address += f"?said={visit.tokens.note(visit.operator.name, answered.note)}"
        return Response(status=HTTPStatus.SEE_OTHER, headers={"Location": address})
    return Response(rendered(visit, answered), answered.status, mimetype="text/html")


def _secured(response: Response, *, nonce: str) -> Response:
    """Add what binds browsers: no script but ours, no frame, no cache, no address to other sites."""
    by_nonce = f"'nonce-{nonce}'" if nonce else "'none'"
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src {by_nonce}; script-src {by_nonce}; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "same-origin"  # of a form's Origin, too: with no-referrer it is null
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Robots-Tag"] = "noindex"
    return response
