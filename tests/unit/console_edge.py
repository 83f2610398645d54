"""The console in a host app, over the storage in memory and a scripted provider. No test is here."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from flask import Flask, Request
from werkzeug.test import TestResponse

from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.domain.model import Answer
from ai_retry.flask.console.blueprint import console_of, mounted
from ai_retry.flask.console.tokens import Tokens
from ai_retry.operate.operator import Operator
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import a_generation

PROMPT = "a prompt that no page may show"
ANSWER = Answer(output={"title": "Intervals that no page may show"})
PREFIX = "/ops/ai-retry"
KEY = "a key of this host, for tests"
VIEWER, OPERATOR, ADMIN = Operator("vera", "viewer"), Operator("otto", "operator"), Operator("ada", "admin")
BROWSER = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}
OPERATORS = {each.name: each for each in (VIEWER, OPERATOR, ADMIN)}


def authorize(request: Request) -> Operator | None:
    """Know three operators, by a header."""
    return OPERATORS.get(request.headers.get("X-Operator", ""))


@dataclass
class ConsoleEdge:
    """A host app with the console, and what is behind it."""

    storage: MemoryStorage
    ai: ScriptedAiProvider
    client: Client
    plans: Path
    show_answers: bool = False
    user_id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        """Mount it."""
        self.console = console_of(
            self.client, authorize, plans=self.plans, show_answers=self.show_answers, origins=["https://ops.example"]
        )
        self.app = Flask("host")
        self.app.secret_key = KEY
        self.app.register_blueprint(mounted(self.console, name="ai_retry_console", url_prefix=PREFIX))

    def add_generation(self, **changes: Any) -> UUID:
        """Store a generation of the user that failed an hour ago."""
        columns = {
            "id": uuid4(),
            "user_id": self.user_id,
            "prompt_data": {"messages": [{"role": "user", "content": PROMPT}]},
            "created_at": datetime.now(UTC) - timedelta(hours=1),
        }
        generation = a_generation(**(columns | changes))
        self.storage.app.generations[generation.id] = generation
        return generation.id

    def get(self, path: str, who: Operator | None = OPERATOR, headers: Mapping[str, str] | None = None) -> TestResponse:
        """GET a page, as a browser that follows a link of the console."""
        sent = {**BROWSER, **(headers or {}), **({"X-Operator": who.name} if who else {})}
        sent.pop("Origin")
        return self.app.test_client().get(PREFIX + path, headers=sent)

    def post(
        self,
        path: str,
        form: Mapping[str, Any] | None = None,
        who: Operator | None = OPERATOR,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> TestResponse:
        """POST a form, as a browser does on a page of the console: with its token, and a reason."""
        sent = {**BROWSER, **(headers or {}), **({"X-Operator": who.name} if who else {})}
        filled = {"ai_retry_token": self.token(who) if token is None else token, "reason": "a test", **(form or {})}
        return self.app.test_client().post(PREFIX + path, data=filled, headers={k: v for k, v in sent.items() if v})

    def token(self, who: Operator | None) -> str:
        """Sign a token as the pages of this operator have it."""
        return Tokens.of([KEY], time.time).form(who.name) if who else ""

    def follow(self, response: TestResponse, who: Operator = OPERATOR) -> str:
        """GET the page that an action leads to."""
        assert response.status_code == 303, response.get_data(as_text=True)
        return self.get(response.headers["Location"].removeprefix(PREFIX), who).get_data(as_text=True)


def console_edge(
    plans: Path, *script: AiStep, default: AiStep | None = ANSWER, max_calls: int = 32, **options: Any
) -> ConsoleEdge:
    """Build one whose provider plays a script, then answers."""
    storage, ai = MemoryStorage(SystemClock()), ScriptedAiProvider(*script, default=default)
    client = Client(
        storage=storage,
        queue_storage=storage,
        recovery_storage=storage,
        operator_storage=storage,
        ai=ai,
        provider="provider.example",
        max_calls=max_calls,
    )
    return ConsoleEdge(storage=storage, ai=ai, client=client, plans=plans, **options)


class _Page(HTMLParser):
    """Collects what a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the attributes, and the tag's name."""
        self.found.append({"tag": tag, **{name: value or "" for name, value in attrs}})


def elements(text: str, **wanted: str) -> Iterator[dict[str, str]]:
    """Yield the elements of a page that have these attributes; ``data_x`` is data-x."""
    page = _Page()
    page.feed(text)
    names = {name.replace("_", "-"): value for name, value in wanted.items()}
    yield from (each for each in page.found if all(each.get(name) == value for name, value in names.items()))


def is_there(text: str, testid: str) -> bool:
    """Whether a page has an element with this test id."""
    return any(elements(text, data_testid=testid))
