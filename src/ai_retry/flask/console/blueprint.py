"""The console as a Flask blueprint: which address shows or does what. Every one of them is guarded."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from flask import Blueprint
from flask.sansio.blueprints import BlueprintSetupState

from ai_retry.client import Client
from ai_retry.domain.errors import NotConfigured
from ai_retry.flask.console import acts, pages, recover
from ai_retry.flask.console.guard import guarded
from ai_retry.flask.console.origin import as_origin
from ai_retry.flask.console.plans import Plans
from ai_retry.flask.console.recoveries import Recoveries
from ai_retry.flask.console.tokens import SHORTEST_KEY, Tokens
from ai_retry.flask.console.visit import Authorize, Console, View
from ai_retry.operate.operator import Operator

_GENERATION: Final = "/generations/<uuid:generation_id>"
_USER: Final = "/users/<uuid:user_id>"
_PLAN: Final = "/recover/<plan_id>"

PAGES: Final[dict[str, tuple[str, View]]] = {
    "now": ("/", pages.now),
    "failures": ("/failures", pages.failures),
    "generation": (_GENERATION, pages.generation),
    "recover": ("/recover", recover.recover),
    "recovery": (_PLAN, recover.recovery),
    "routes": ("/routes", pages.routes),
    "users": ("/users", pages.users),
    "user": (_USER, pages.user),
    "books": ("/books", pages.books),
}
"""What is read, by GET: it changes nothing."""

ACTIONS: Final[dict[str, tuple[str, View]]] = {
    "retry": (f"{_GENERATION}/retry", acts.retry),
    "enqueue": (f"{_GENERATION}/enqueue", acts.enqueue),
    "cancel": (f"{_GENERATION}/cancel", acts.cancel),
    "discard": (f"{_GENERATION}/discard", acts.discard),
    "answer": (f"{_GENERATION}/answer", acts.answer),
    "plan": ("/recover/plan", recover.plan),
    "start": (f"{_PLAN}/start", recover.start),
    "pause": (f"{_PLAN}/pause", recover.pause),
    "go_on": (f"{_PLAN}/go-on", recover.go_on),
    "hold": ("/routes/hold", acts.hold),
    "open": ("/routes/open", acts.open_route),
    "set_quota": (f"{_USER}/quota", acts.set_quota),
    "reset_quota": (f"{_USER}/quota/reset", acts.reset_quota),
}
"""What is done, by POST: each needs a role, a token and, but for a plan and a pause, a reason."""


def create_console(
    client: Client,
    authorize: Authorize,
    *,
    url_prefix: str = "/ai-retry",
    show_answers: bool = False,
    plans: Path | str | None = None,
    key: str | bytes | None = None,
    origins: Collection[str] = (),
    name: str = "ai_retry_console",
) -> Blueprint:
    """Make the console for operators: pages that show what happens, and forms that act.

    Args:
        client: does the work.
        authorize: gets the Flask request of each page and form, and returns who operates, or None: 404, whatever the
            address. What it raises is the host's to answer, such as ``abort(401)``. There is no default.
        url_prefix: where it is mounted; ``app.register_blueprint(console, url_prefix=…)`` says otherwise.
        show_answers: whether an admin may read a paid answer that is kept. Prompts are never shown.
        plans: the directory of the recovery plans; processes of one app share it. None: a private one of this
            machine's user among the temporary files.
        key: signs the forms, 16 bytes at least. None: the app's ``SECRET_KEY``. All processes need the same.
        origins: further addresses of the app, such as ``https://admin.example``, where a proxy does not pass on the
            address that the browser has.
        name: of the blueprint.

    Raises:
        NotConfigured: the key is too short or, when it is registered, there is none; or an origin can't be one.
    """
    console = console_of(client, authorize, show_answers=show_answers, plans=plans, key=key, origins=origins)
    return mounted(console, name=name, url_prefix=url_prefix)


def console_of(
    client: Client,
    authorize: Authorize,
    *,
    show_answers: bool = False,
    plans: Path | str | None = None,
    key: str | bytes | None = None,
    origins: Collection[str] = (),
) -> Console:
    """Put the parts together: see ``create_console``."""
    if key is not None and len(key) < SHORTEST_KEY:
        raise NotConfigured(f"the console's key must have {SHORTEST_KEY} bytes at least")
    client.operate(Operator("console", "viewer"))  # says now what is missing
    return Console(
        client=client,
        authorize=authorize,
        show_answers=show_answers,
        key=key,
        origins=_origins(origins),
        recoveries=Recoveries(client, Plans(Path(plans) if plans is not None else None)),
    )


def _origins(addresses: Collection[str]) -> frozenset[str]:
    if isinstance(addresses, str):
        raise NotConfigured("origins must be a list of addresses, not one string")
    try:
        return frozenset(map(as_origin, addresses))
    except ValueError:
        raise NotConfigured(
            "origins must be addresses as browsers have them, such as https://ops.example.com, without a path"
        ) from None


def mounted(console: Console, *, name: str, url_prefix: str) -> Blueprint:
    """Make the blueprint."""
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)

    def ready(state: BlueprintSetupState) -> None:
        secret = console.key if console.key is not None else state.app.secret_key
        if not secret:
            raise NotConfigured("the console needs a key for its forms: set the app's SECRET_KEY, or pass key=")
        console.recoveries.plans.use_default(Tokens.of([secret], lambda: 0.0).directory_name())

    blueprint.record(ready)
    for method, views, changes in (("GET", PAGES, False), ("POST", ACTIONS, True)):
        for endpoint, (rule, view) in views.items():
            blueprint.add_url_rule(
                rule,
                endpoint,
                guarded(console, view, changes=changes),
                methods=[method],
                strict_slashes=False,
                provide_automatic_options=False,
            )
    return blueprint
