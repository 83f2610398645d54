"""A host with the console in this process, visited as browsers and attackers do: with their headers, or without."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from flask import Flask, url_for
from flask.testing import FlaskClient
from flask_cors import CORS
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from ai_retry.client import Client
from ai_retry.flask import create_console
from ai_retry.flask.console.tokens import Tokens
from tests.helpers.console_host import COOKIE, signed_in
from tests.helpers.html_pages import HtmlPage

SECRET: Final = "the-host's-key-of-these-tests"
TOKEN: Final = "ai_retry_token"
_HOST_TOKEN: Final = "/token-of-the-host"
FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Host:
    """An app that has the console: what else it has, and how browsers see it."""

    prepare: Callable[[Flask], object] = lambda _: None
    prefix: str = "/ai-retry"
    origin: str = "http://localhost"
    behind: Mapping[str, str] = field(default_factory=dict)
    """What the proxy in front of it adds to each request."""
    mounted: str = ""
    """What that proxy has taken from the address."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Variables of the prefix."""


def _protected(app: Flask) -> object:
    app.add_url_rule(_HOST_TOKEN, view_func=generate_csrf, endpoint="token_of_the_host")
    return CSRFProtect(app)


def _open_to_all(app: Flask) -> object:
    return CORS(app, origins="*", supports_credentials=True, send_wildcard=False)


def _behind_a_proxy(app: Flask) -> None:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]


def _everything(app: Flask) -> None:
    _protected(app)
    _open_to_all(app)
    _behind_a_proxy(app)


_PROXY: Final = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "ops.example",
    "X-Forwarded-Prefix": "/tool",
}
HOSTS: Final[Mapping[str, Host]] = {
    "plain": Host(),
    "Flask-WTF": Host(_protected),
    "Flask-CORS": Host(_open_to_all),
    "ProxyFix": Host(_behind_a_proxy, origin="https://ops.example", behind=_PROXY, mounted="/tool"),
    "a prefix": Host(prefix="/tenants/<tenant>/ops", values={"tenant": "a b"}),
    "all of them": Host(_everything, prefix="/below", origin="https://ops.example", behind=_PROXY, mounted="/tool"),
}


@dataclass(frozen=True)
class Submission:
    """A form as it is about to be sent; attacks change it."""

    path: str
    fields: Mapping[str, Any]
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """Beside a browser's own; None takes one of those out."""
    who: str | None = "ada.operator"
    method: str = "POST"
    content_type: str = FORM
    body: bytes | str | None = None
    """In place of the fields."""

    def but(self, **changes: Any) -> "Submission":
        """Change it."""
        return replace(self, **changes)

    def with_fields(self, **fields: Any) -> "Submission":
        """Change fields; None takes one out."""
        both = {**self.fields, **fields}
        return self.but(fields={name: value for name, value in both.items() if value is not None})

    def with_headers(self, headers: Mapping[str, str | None]) -> "Submission":
        """Change headers; None takes one out."""
        return self.but(headers={**self.headers, **headers})


class Visits:
    """Visits to one app, under one kind of host.

    Attributes:
        app: the app.
        host: what is around the console.
        plans: where its plans are kept.
    """

    def __init__(self, host: Host, client: Client, plans: Path, **options: Any) -> None:
        self.host, self.plans = host, plans
        self.app = Flask(__name__)
        self.app.secret_key = SECRET
        host.prepare(self.app)
        console = create_console(client, signed_in, url_prefix=host.prefix, plans=plans, **options)
        self.endpoints = console.name
        self.app.register_blueprint(console)
        self.root = host.prefix.replace("<tenant>", quote(host.values.get("tenant", "")))
        self._jars: dict[str | None, FlaskClient] = {}

    def rules(self, method: str) -> Mapping[str, str]:
        """The console's own rules for a method: each endpoint's last name, with its path."""
        return {
            rule.endpoint.removeprefix(f"{self.endpoints}."): rule.rule
            for rule in self.app.url_map.iter_rules()
            if rule.endpoint.startswith(f"{self.endpoints}.") and method in (rule.methods or ())
        }

    def plain_pages(self) -> set[str]:
        """Addresses of the pages that are of nothing in particular."""
        return {self.address(endpoint) for endpoint, rule in self.rules("GET").items() if not self._ids(rule)}

    def _ids(self, rule: str) -> set[str]:
        return set(re.findall(r"(\w+)>", rule)) - self.host.values.keys()

    def address(self, endpoint: str, **values: Any) -> str:
        """Where a page or action is, as this app sees it."""
        with self.app.test_request_context():
            return url_for(f"{self.endpoints}.{endpoint}", **{**self.host.values, **values})

    def get(
        self, path: str, who: str | None = "ada.operator", headers: Mapping[str, str] | None = None
    ) -> TestResponse:
        """Look at a page, by its address in this app, as a person who follows a link."""
        browser = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
        path = path.removeprefix(self.host.origin).removeprefix(self.host.mounted)
        return self._jar(who).get(path, headers={**browser, **self.host.behind, **(headers or {})})

    def page(self, path: str, who: str | None = "ada.operator") -> HtmlPage:
        """Look at a page that is there."""
        response = self.get(path, who)
        assert response.status_code == 200, (path, response.status_code, response.text[:500])
        return HtmlPage(response.text)

    def tokens(self, page: str, who: str) -> dict[str, str]:
        """What a form of a page carries, unseen, for this person: our token, and the host's."""
        forms = [form for form in self.page(page, who).forms if form.method == "post" and TOKEN in form.fields]
        assert forms, f"no form for {who} at {page}"
        return {name: value for name, value in forms[0].fields.items() if name in (TOKEN, "csrf_token")}

    def tokens_of(self, who: str) -> dict[str, str]:
        """Make what a form of this person would carry, where a page shows them none."""
        tokens = {TOKEN: Tokens.of([SECRET], time.time).form(who.partition(".")[0])}
        if "csrf" in self.app.extensions:
            tokens["csrf_token"] = self._jar(who).get(_HOST_TOKEN, headers=self.host.behind).text
        return tokens

    def send(self, submission: Submission) -> TestResponse:
        """Send it, with the headers that a browser adds to a form of the console's own page."""
        headers: dict[str, str | None] = {
            "Origin": self.host.origin,
            "Referer": f"{self.host.origin}{self.host.mounted}/",
            "Sec-Fetch-Site": "same-origin",
            "Sec-Fetch-Mode": "navigate",
            **self.host.behind,
            **submission.headers,
        }
        return self._jar(submission.who).open(
            submission.path,
            method=submission.method,
            headers={name: value for name, value in headers.items() if value is not None},
            data=submission.fields if submission.body is None else submission.body,
            content_type=submission.content_type,
        )

    def crawl(self, who: str, *starts: str, most: int = 400) -> Iterator[tuple[str, str, TestResponse]]:
        """Follow every link within the console, each once: give endpoint, address and answer."""
        waiting, seen = list(starts), set[str]()
        adapter = self.app.url_map.bind(urlsplit(self.host.origin).netloc, url_scheme="https")
        while waiting and len(seen) < most:
            path = waiting.pop(0)
            if path in seen:
                continue
            seen.add(path)
            response = self.get(path, who)
            if response.status_code in (302, 303):
                waiting.append(response.location)
                continue
            plain = path.removeprefix(self.host.origin).removeprefix(self.host.mounted)
            endpoint, _ = adapter.match(urlsplit(plain).path or "/", "GET")
            yield endpoint.removeprefix(f"{self.endpoints}."), path, response
            waiting += self._links(path, response)

    def _links(self, path: str, response: TestResponse) -> Iterator[str]:
        for link in HtmlPage(response.text).links:
            if link.startswith("?"):
                yield path.partition("?")[0] + link
            elif link.startswith(self.host.mounted + self.root):
                yield link

    def _jar(self, who: str | None) -> FlaskClient:
        if who not in self._jars:
            client = self._jars[who] = self.app.test_client()
            if who is not None:
                client.set_cookie(COOKIE, who)
        return self._jars[who]
