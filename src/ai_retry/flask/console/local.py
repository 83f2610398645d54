"""The console on one's own machine: one process, one person, one address that works once.

It listens on the loopback interface only. Whoever opens the address gets a cookie, and the address is used up; a page
elsewhere that makes a browser ask this port is refused by its ``Host``, and has no cookie.
"""

import hmac
import secrets
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Request, Response, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ai_retry.client import Client
from ai_retry.domain.errors import NotConfigured
from ai_retry.flask.console.blueprint import console_of, mounted
from ai_retry.operate.operator import Operator

ADDRESS: Final = "127.0.0.1"
_NAMES: Final = (ADDRESS, "localhost")
_USUAL_PORT: Final = 80  # browsers leave it out
_OPENED: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>ai-retry</title><meta http-equiv="refresh" content="0; url=/"></head>
<body><main><h1>ai-retry</h1><p><a href="/">Open the console</a></p></main></body>
</html>
"""  # no redirect: after a link on another site, a browser would send the cookie to this page's links only
_Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class LocalConsole:
    """A server for the console of one operator.

    Args:
        client: does the work.
        operator: who operates; the name is recorded.
        port: to listen at; 0: any that is free.
        place: names the directory of the plans where ``plans`` is None, so that the next console finds them.
        options: of ``create_console``: ``show_answers`` and ``plans``.

    Attributes:
        address: what the operator opens; it works once.

    Raises:
        NotConfigured: the port can't be listened at.
    """

    def __init__(
        self, client: Client, operator: Operator, *, port: int = 0, place: str = "own", **options: Any
    ) -> None:
        self._operator = operator
        self._once, self._cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._used, self._serves = threading.Lock(), False
        self._ended, self._under_way = threading.Condition(), 0  # requests; their threads end with the process
        app = Flask("ai_retry_console", static_folder=None)
        app.add_url_rule("/open/<token>", "open", self._open, methods=["GET"], provide_automatic_options=False)
        key = secrets.token_bytes(32)
        console = console_of(client, self._authorize, key=key, **options)
        self._recoveries = console.recoveries
        app.register_blueprint(mounted(console, name="ai_retry_console", url_prefix="/"))
        console.recoveries.plans.use_default(place)  # the key ends with this process, plans do not
        self._server = _listening(self._guarded(app.wsgi_app), port)
        self.port = self._server.port
        self._cookie_name = f"ai_retry_console_{self.port}"  # cookies of one host have no port
        self.address = f"http://{ADDRESS}:{self.port}/open/{self._once}"

    def serve(self) -> None:
        """Answer until ``close``, or until Ctrl-C."""
        self._serves = True
        self._server.serve_forever()

    def close(self) -> None:
        """Stop, give the port back, and pause a recovery that runs: calls under way, also of a click, are finished."""
        self._recoveries.stopping.set()
        if self._serves:
            self._server.shutdown()
        self._server.server_close()
        with self._ended:
            self._ended.wait_for(lambda: self._under_way == 0)
        self._recoveries.stop()

    def _authorize(self, asked: Request) -> Operator | None:
        shown = asked.cookies.get(self._cookie_name, "")
        return self._operator if hmac.compare_digest(shown.encode(), self._cookie.encode()) else None

    def _open(self, token: str) -> Response:
        """Exchange the address for a cookie, once; what only looks ahead does not use it up."""
        known = hmac.compare_digest(token.encode(), self._once.encode())
        if known and self._authorize(request) is not None:  # the same browser again
            return _answer(_OPENED, mimetype="text/html")
        if not known or _looks_ahead(request) or not self._used.acquire(blocking=False):
            return _answer(
                "This address is not known, or was used. Start ai-retry console again.\n", HTTPStatus.NOT_FOUND
            )
        response = _answer(_OPENED, mimetype="text/html")
        response.set_cookie(self._cookie_name, self._cookie, httponly=True, samesite="Strict", path="/")
        return response

    def _guarded(self, app: _Wsgi) -> _Wsgi:
        """Refuse what names another host: a name that someone has pointed at this machine."""

        def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            own = {f"{name}:{self.port}" for name in _NAMES} | (set(_NAMES) if self.port == _USUAL_PORT else set())
            if environ.get("HTTP_HOST", "").lower() not in own:
                return _answer("This is another host.\n", HTTPStatus.MISDIRECTED_REQUEST)(environ, start_response)
            with self._ended:
                self._under_way += 1
            try:
                return app(environ, start_response)
            finally:
                with self._ended:
                    self._under_way -= 1
                    self._ended.notify_all()

        return guarded


class _Quiet(WSGIRequestHandler):
    """Logs no request: the address that works once is a secret."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (its name in the base class)
        """Write nothing."""


def _looks_ahead(asked: Request) -> bool:
    """Whether no person has opened this yet: a HEAD, or a browser that loads what may be opened next."""
    purpose = asked.headers.get("Sec-Purpose", asked.headers.get("Purpose", ""))
    return asked.method != "GET" or "prefetch" in purpose.lower()


def _listening(app: _Wsgi, port: int) -> BaseWSGIServer:
    try:
        return make_server(ADDRESS, port, app, threaded=True, request_handler=_Quiet)
    except (OSError, SystemExit):  # Werkzeug explains a port that is taken, and exits
        raise NotConfigured(f"port {port} of {ADDRESS} can't be listened at") from None


def _answer(text: str, status: int = HTTPStatus.OK, *, mimetype: str = "text/plain") -> Response:
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(text, status, headers=headers, mimetype=mimetype)
