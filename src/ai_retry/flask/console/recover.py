"""The pages of a recovery: make a plan, look at what it would do, start it, pause it, go on, read the report."""

from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any, Final

from ai_retry.flask.console.asked import field, lifted, query, reason, refresh, unusable, usable, whole
from ai_retry.flask.console.plans import Kept
from ai_retry.flask.console.rendering import REFRESH_CHOICES
from ai_retry.flask.console.tokens import Note
from ai_retry.flask.console.visit import Answer, Moved, Page, Visit
from ai_retry.problems import Problem, Refused
from ai_retry.recovery.report import Report, in_words
from ai_retry.recovery.run_options import interval_of

_FILTERS: Final = ("code", "model", "user", "since", "until")
_SHOWN: Final = 100  # lines of a report
_LIVE: Final = 3  # seconds
_MOST_WORKERS: Final = 32
_WORST_FIRST: Final = {"failed": 0, "left": 1, "succeeded": 2}
_WORDS: Final = {
    "planned": "This plan has not run yet.",
    "running": "It runs.",
    "paused": "It is paused.",
    "stopped": "It has stopped.",
    "done": "It is done.",
}
_UNKNOWN: Final = Problem(code="PLAN_NOT_FOUND", http_status=HTTPStatus.NOT_FOUND, message="There is no such plan.")


def recover(visit: Visit) -> Answer:
    """Show the form of a new plan, and the plans that were made."""
    asked = {name: query(name) for name in _FILTERS}
    asked["since"] = asked["since"] or "24h"
    values = {"asked": asked, "plans": visit.console.recoveries.plans.all()}
    return Page(template="recover.html", title="Recover", active="recover", values=values)


def plan(visit: Visit) -> Answer:
    """Make a plan."""
    visit.operator.check("operator")
    with usable():
        client = visit.console.client
        since = field("since")
        if not since:
            raise unusable("since must be given.")
        found = client.find(
            since=since,
            until=field("until") or None,
            code=_several("code"),
            model=_several("model"),
            user_id=field("user") or None,
        )
        terms = {**lifted(), "per_user": whole("per_user", 1, 10_000, 0) or None, "max_cost": _cost()}
        plan_id = visit.console.recoveries.plan(found, made_by=visit.operator.name, **terms)
    return Moved(address=visit.url("recovery", plan_id=plan_id))


def recovery(visit: Visit, plan_id: str) -> Answer:
    """Show a plan: what it would do, how far its run is, and its report."""
    kept = _kept(visit, plan_id)
    values: dict[str, Any] = {
        "kept": kept,
        "words": _WORDS,
        "actions": visit.operations.actions(target=f"plan:{plan_id}", limit=20),
        **_read(visit, kept),
    }
    often = refresh(_LIVE if kept.state == "running" else 0, REFRESH_CHOICES)
    title = f"Plan {plan_id[:8]}"
    return Page(template="recovery.html", title=title, active="recover", values=values, refresh=often)


def start(visit: Visit, plan_id: str) -> Answer:
    """Start a plan, once its number of generations was typed."""
    visit.operator.check("operator")
    kept = _kept(visit, plan_id)
    if field("confirm") != str(kept.selected):
        raise unusable(f"Type the number of generations, {kept.selected}. Nothing was started.")
    return _run(visit, kept, "It has started.")


def go_on(visit: Visit, plan_id: str) -> Answer:
    """Go on with a plan that was paused, or that stopped."""
    visit.operator.check("operator")
    kept = _kept(visit, plan_id)
    if kept.run is None:
        raise unusable("It has not been started. Nothing was changed.")
    return _run(visit, kept, "It goes on.")


def pause(visit: Visit, plan_id: str) -> Answer:
    """Pause a plan that runs."""
    visit.operator.check("operator")
    kept = _kept(visit, plan_id)
    if kept.state == "running":
        visit.console.recoveries.plans.pause(plan_id, wanted=True)
    text = "It pauses once the running calls have ended." if kept.state == "running" else "It does not run."
    return Moved(address=visit.url("recovery", plan_id=plan_id), note=Note(text, is_good=True))


def _run(visit: Visit, kept: Kept, text: str) -> Answer:
    options: dict[str, Any] = {"max_workers": whole("max_workers", 1, _MOST_WORKERS, 4), "rate": field("rate") or None}
    with usable():
        interval_of(options["rate"])
    options["reason"] = reason()
    visit.console.recoveries.start(kept, visit.operations, operator=visit.operator.name, **options)
    return Moved(address=visit.url("recovery", plan_id=kept.id), note=Note(text, is_good=True))


def _kept(visit: Visit, plan_id: str) -> Kept:
    kept = visit.console.recoveries.plans.get(plan_id)
    if kept is None:
        raise Refused(_UNKNOWN)
    return kept


def _read(visit: Visit, kept: Kept) -> dict[str, Any]:
    """Read the plan and, unless it runs, its report: while it runs, only its progress is read, often."""
    if kept.state == "running":
        return {"plan": None, "report": None, "totals": None, "lines_shown": [], "to_do": 0, "stopped": None}
    found = visit.console.recoveries.plans.load(kept.id, visit.console.client)
    report: Report | None = found.report() if kept.run is not None else None
    lines = sorted(report.lines, key=lambda line: _WORST_FIRST[line.outcome])[:_SHOWN] if report else []
    return {
        "plan": found,
        "report": report,
        "totals": report.totals if report else None,
        "lines_shown": lines,
        "to_do": found.to_do,
        "stopped": in_words(kept.run.ended) if kept.run else None,
    }


def _several(name: str) -> list[str] | None:
    return [each.strip() for each in field(name).split(",") if each.strip()] or None


def _cost() -> Decimal | None:
    text = field("max_cost")
    try:
        return Decimal(text) if text else None
    except InvalidOperation:
        raise unusable("max_cost must be a number.") from None
