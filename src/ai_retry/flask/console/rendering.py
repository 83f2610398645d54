"""How a page becomes HTML: in an environment of our own, which no setting of the host reaches; all is escaped."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from flask import current_app, request
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ai_retry.flask.console import words
from ai_retry.flask.console.tokens import Note
from ai_retry.flask.console.visit import Page, Visit
from ai_retry.flask.console.words import within

PLACES: Final = (
    ("now", "Now"),
    ("failures", "Failures"),
    ("recover", "Recover"),
    ("routes", "Routes"),
    ("users", "Users"),
    ("books", "Books"),
)
REFRESH_CHOICES: Final = (0, 3, 10, 60)

_FILTERS: Final = ("ago", "cost", "iso", "lines", "number", "short", "span", "utc")


def rendered(visit: Visit, page: Page) -> str:
    """Write a page as HTML."""
    template = _environment().get_template(page.template)
    shown = {
        "page": page.template.removesuffix(".html"),
        "title": page.title,
        "active": page.active,
        "as_of": datetime.now(UTC),
        "refresh": page.refresh,
        "refresh_choices": REFRESH_CHOICES,
        "places": PLACES,
        "nonce": visit.nonce,
        "operator": visit.operator,
        "url": visit.url,
        "here": _here,
        "note": _note(visit),
        "may": visit.operator.may,
        "token": visit.tokens.form(visit.operator.name),
        "host_token": _host_token,
    }
    return template.render({**shown, **page.values})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=words.bounded,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(words, name) for name in _FILTERS}
    environment.globals["share"] = words.share
    return environment


def _here(**changes: Any) -> str:
    """Return this page with another query."""
    query = {**request.args.to_dict(), **changes}
    return within("?" + urlencode({name: value for name, value in query.items() if name != "said"}))


def _note(visit: Visit) -> Note | None:
    return visit.tokens.noted(request.args.get("said", ""), visit.operator.name)


def _host_token() -> tuple[str, str] | None:
    """Return field and value of the host's own token, where Flask-WTF guards every form of the app."""
    make = current_app.jinja_env.globals.get("csrf_token")
    if "csrf" not in current_app.extensions or not callable(make):
        return None
    return str(current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")), str(make())
