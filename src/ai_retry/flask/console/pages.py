"""The pages that are read: now, failures, one generation, routes, users, books. They write nothing."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

from flask import request

from ai_retry.domain.errors import GenerationNotFound, NotConfigured, StorageFailure
from ai_retry.domain.names import as_uuid
from ai_retry.flask.console.asked import query, refresh
from ai_retry.flask.console.rendering import REFRESH_CHOICES
from ai_retry.flask.console.visit import Answer, Moved, Page, Visit
from ai_retry.operate.alarms import alarms
from ai_retry.problems import Problem, Refused
from ai_retry.recovery.when import read_instant

_REFRESH: Final = 10
_PAGE: Final = 50
_ACTIONS: Final = 10
_MOST_CONTRADICTIONS: Final = 200
_FILTERS: Final = ("code", "model", "user", "since", "until")
_SINCE: Final = "24h"
_BOOKS_SINCE: Final = "1h"  # a day of a busy app takes seconds
_LONGEST_BOOKS: Final = timedelta(days=7, minutes=1)
_PATIENCE: Final = 2.0  # seconds
_BUSY: Final = Problem(
    code="BUSY", http_status=HTTPStatus.TOO_MANY_REQUESTS, message="Another page does that just now: wait a moment."
)
_examining, _balancing = threading.Lock(), threading.Lock()


def now(visit: Visit) -> Answer:
    """Show how things are; that the database can't be read is one of the things that may be wrong."""
    often = refresh(_REFRESH, REFRESH_CHOICES)
    try:
        overview = visit.operations.overview()
        actions = visit.operations.actions(limit=_ACTIONS)
    except StorageFailure:
        values: dict[str, Any] = {"overview": None, "alarms": alarms(None), "actions": []}
        return _page("now", "Now", values, status=HTTPStatus.SERVICE_UNAVAILABLE, refresh=often)
    values = {"as_of": overview.as_of, "overview": overview, "alarms": alarms(overview), "actions": actions}
    return _page("now", "Now", values, refresh=often)


def failures(visit: Visit) -> Answer:
    """Show what failed, a page at a time."""
    asked = {name: query(name) for name in _FILTERS}
    asked["since"] = asked["since"] if "since" in request.args else _SINCE
    problem, found = None, None
    try:
        found = visit.operations.failures(
            code=asked["code"] or None,
            model=asked["model"] or None,
            user_id=asked["user"] or None,
            since=asked["since"] or None,
            until=asked["until"] or None,
            after=query("after") or None,
            limit=_PAGE,
        )
    except ValueError as error:
        if type(error) is not ValueError:  # a decoder's: its text may hold anything
            raise
        problem = str(error)
    values = {"asked": asked, "found": found, "problem": problem, "is_first": not query("after")}
    return _page("failures", "Failures", values, status=HTTPStatus.BAD_REQUEST if problem else HTTPStatus.OK)


def generation(visit: Visit, generation_id: UUID) -> Answer:
    """Show all that is known of one generation."""
    timeline = visit.operations.timeline(generation_id)
    if timeline is None:
        raise GenerationNotFound(generation_id)
    return _page("generation", f"Generation {str(generation_id)[:8]}", generation_values(visit, timeline))


def generation_values(visit: Visit, timeline: Any, answer: str | None = None) -> dict[str, Any]:
    """Collect what the page of a generation shows; ``answer``: the paid answer that an admin has asked for."""
    return {"timeline": timeline, "answer": answer, "show_answers": visit.console.show_answers}


def routes(visit: Visit) -> Answer:
    """Show which routes are unavailable or held."""
    overview = visit.operations.overview()
    values = {"as_of": overview.as_of, "overview": overview, "asked": query("route")}
    return _page("routes", "Routes", values, refresh=refresh(0, REFRESH_CHOICES))


def users(visit: Visit) -> Answer:
    """Find a user by id."""
    asked = query("id")
    if not asked:
        return _page("users", "Users", {"asked": "", "problem": None})
    try:
        found = as_uuid(asked, "id")
    except ValueError as error:
        values = {"asked": asked, "problem": str(error)}
        return _page("users", "Users", values, status=HTTPStatus.BAD_REQUEST)
    return Moved(address=visit.url("user", user_id=found))


def user(visit: Visit, user_id: UUID) -> Answer:
    """Show a user's quota and generations."""
    state = visit.operations.user(user_id)
    return _page("user", f"User {str(user_id)[:8]}", {"as_of": state.as_of, "state": state}, active="users")


def books(visit: Visit) -> Answer:
    """Show whether the books balance; examine the set-up where that is asked for."""
    since = query("since") or _BOOKS_SINCE
    problem: str | None = None
    found: Sequence[Mapping[str, Any]] = []
    try:
        now = datetime.now(UTC)
        began = read_instant(since, "since", now)
        if began is not None and now - began > _LONGEST_BOOKS:
            problem = "The console looks back seven days at most; ai-retry books looks at everything."
        else:
            with _alone(_balancing):
                found = visit.operations.books(since=began)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        problem = str(error)
    shown = found[:_MOST_CONTRADICTIONS]
    values = {"since": since, "found": shown, "count": len(found), "problem": problem, **_doctor(visit)}
    return _page("books", "Books and doctor", values, status=HTTPStatus.BAD_REQUEST if problem else HTTPStatus.OK)


def _doctor(visit: Visit) -> dict[str, Any]:
    """Examine the set-up: it asks other servers, and may take seconds."""
    if query("doctor") != "yes":
        return {"diagnosis": None, "doctor_problem": None}
    with _alone(_examining):
        try:
            return {"diagnosis": visit.operations.doctor(), "doctor_problem": None}
        except NotConfigured as error:
            return {"diagnosis": None, "doctor_problem": str(error)}


@contextmanager
def _alone(lock: threading.Lock) -> Iterator[None]:
    """Let one request of this process do what may take seconds; others wait for a moment, and are refused."""
    if not lock.acquire(timeout=_PATIENCE):
        raise Refused(_BUSY)
    try:
        yield
    finally:
        lock.release()


def _page(
    name: str,
    title: str,
    values: dict[str, Any],
    *,
    active: str = "",
    status: int = HTTPStatus.OK,
    refresh: int | None = None,
) -> Page:
    place = active or ("failures" if name == "generation" else name)
    return Page(template=f"{name}.html", title=title, active=place, values=values, status=status, refresh=refresh)
