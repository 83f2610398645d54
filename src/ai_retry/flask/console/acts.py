"""What operators do by a form: each has a reason, does one thing by ``ai_retry.operate``, and says how it ended."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from uuid import UUID

from ai_retry.domain.errors import AiRetryError, GenerationNotFound, NotConfigured, StorageFailure, whole_seconds
from ai_retry.flask.console.asked import duration, field, lifted, reason, unusable, usable, whole
from ai_retry.flask.console.pages import generation_values
from ai_retry.flask.console.tokens import Note
from ai_retry.flask.console.visit import Answer, Moved, Page, Visit
from ai_retry.operate.acting import LARGEST_LIMIT, LONGEST_HOLD
from ai_retry.operate.operator import NotAllowed
from ai_retry.operate.views import Timeline
from ai_retry.problems import Problem, Refused, problem_of

_NO_ANSWERS: Final = Problem(
    code="ANSWERS_NOT_SHOWN",
    http_status=HTTPStatus.FORBIDDEN,
    message="This console shows no answers: the app would have to pass show_answers=True.",
)
_PASSED_ON: Final = (NotAllowed, NotConfigured, StorageFailure)  # pages of their own


def retry(visit: Visit, generation_id: UUID) -> Answer:
    """Retry a generation now."""

    def act(owner: UUID) -> str:
        result = visit.operations.retry(owner, generation_id, reason=reason(), **lifted())
        return f"It has its session now: {result.session_id}."

    return _on_generation(visit, generation_id, act)


def enqueue(visit: Visit, generation_id: UUID) -> Answer:
    """Accept a retry for later."""

    def act(owner: UUID) -> str:
        queued = visit.operations.enqueue(owner, generation_id, reason=reason(), **lifted())
        return "It has its session already." if queued.is_done else f"Attempt {queued.attempt} waits for a worker."

    return _on_generation(visit, generation_id, act)


def cancel(visit: Visit, generation_id: UUID) -> Answer:
    """Take a queued retry back."""

    def act(owner: UUID) -> str:
        visit.operations.cancel(owner, generation_id, reason=reason())
        return "Nothing of it is queued any more."

    return _on_generation(visit, generation_id, act)


def discard(visit: Visit, generation_id: UUID) -> Answer:
    """Drop a paid answer."""

    def act(owner: UUID) -> str:
        dropped = visit.operations.discard_answer(owner, generation_id, reason=reason())
        return "The answer is dropped; the next retry calls the provider." if dropped else "No answer of it is kept."

    return _on_generation(visit, generation_id, act)


def answer(visit: Visit, generation_id: UUID) -> Answer:
    """Show a paid answer that is kept, to an admin, where the host allows it; that it was read is recorded."""
    visit.operator.check("admin")
    if not visit.console.show_answers:
        raise Refused(_NO_ANSWERS)
    timeline = _timeline(visit, generation_id)
    kept = visit.operations.kept_answer(_owner(timeline), generation_id, reason=reason())
    title = f"Generation {str(generation_id)[:8]}"
    return Page(
        template="generation.html", title=title, active="failures", values=generation_values(visit, timeline, kept)
    )


def hold(visit: Visit) -> Answer:
    """Hold a route closed."""
    with usable():
        route, held = _route(), duration("for")
        if held > LONGEST_HOLD:
            raise unusable("for must be at most 24h.")
        visit.operations.hold_route(route, seconds=held.total_seconds(), reason=reason())
    return Moved(address=visit.url("routes"), note=Note(f"{route} is held: no attempt calls it.", is_good=True))


def open_route(visit: Visit) -> Answer:
    """Open a route."""
    with usable():
        route = _route()
        known = visit.operations.open_route(route, reason=reason())
    text = f"{route} is open: calls may start." if known else f"{route} was open."
    return Moved(address=visit.url("routes"), note=Note(text, is_good=True))


def set_quota(visit: Visit, user_id: UUID) -> Answer:
    """Give a user a quota of their own."""
    with usable():
        limit, per = whole("limit", 0, LARGEST_LIMIT), duration("per")
        visit.operations.set_quota(user_id, limit=limit, per=per, reason=reason())
    return Moved(
        address=visit.url("user", user_id=user_id), note=Note("The user has a quota of their own.", is_good=True)
    )


def reset_quota(visit: Visit, user_id: UUID) -> Answer:
    """Give a user the usual quota again."""
    with usable():
        changed = visit.operations.reset_quota(user_id, reason=reason())
    text = "The user has the usual quota again." if changed else "The user had the usual quota."
    return Moved(address=visit.url("user", user_id=user_id), note=Note(text, is_good=True))


def _on_generation(visit: Visit, generation_id: UUID, act: Callable[[UUID], str]) -> Answer:
    """Do it for the generation's user; a refusal is shown on the generation's page, with its code and wait."""
    visit.operator.check("operator")
    owner = _owner(_timeline(visit, generation_id))
    try:
        note = Note(act(owner), is_good=True)
    except _PASSED_ON:
        raise
    except AiRetryError as error:
        wait = "" if error.retry_after is None else f" Again in {whole_seconds(error.retry_after)} s."
        note = Note(f"{error.code}: {problem_of(error).message}{wait}", is_good=False)
    return Moved(address=visit.url("generation", generation_id=generation_id), note=note)


def _timeline(visit: Visit, generation_id: UUID) -> Timeline:
    timeline = visit.operations.timeline(generation_id)
    if timeline is None:
        raise GenerationNotFound(generation_id)
    return timeline


def _owner(timeline: Timeline) -> UUID:
    if timeline.generation.user_id is None:
        raise unusable("Its user can't be read.")
    return timeline.generation.user_id


def _route() -> str:
    route = field("route")
    if not route:
        raise unusable("route must be a provider and a model.")
    return route
