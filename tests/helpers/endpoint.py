"""The endpoint as a user's browser sees it: real HTTP to a real server, with a planned AI provider behind it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import requests
from psycopg.types.json import Jsonb

from ai_retry.testing.provider import Request, Script, ScriptedServer
from tests.helpers.attempts import ATTEMPTS
from tools.app_server import running_app
from tools.stack import SignedInUser, Stack

PASSWORD = "correct horse battery staple"
AI_KEY = "sk-test-3f1d8c5e7a9b2046"
SECRET_PROMPT = "prompt-that-no-log-may-hold"
SECRET_ANSWER = "answer-that-no-log-may-hold"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "minutes": {"type": "integer"}},
    "required": ["title", "minutes"],
    "additionalProperties": False,
}
SESSION = {"title": SECRET_ANSWER, "minutes": 30}


class PlannedAnswers:
    """What the provider answers: each generation has a prompt, and so a script, of its own."""

    def __init__(self) -> None:
        self._plans: dict[str, list[Script | Callable[[], Script]]] = {}
        self._asked: list[str] = []
        self._lock = threading.Lock()

    def plan(self, *answers: Script | Callable[[], Script]) -> str:
        """Make up a prompt to which these are the answers, in this order; a function may wait before it gives one."""
        prompt = f"{SECRET_PROMPT} {uuid4()}"
        self._plans[prompt] = list(answers)
        return prompt

    def calls(self, prompt: str) -> int:
        """Return how often a prompt arrived."""
        return self._asked.count(prompt)

    def __call__(self, request: Request) -> Script:
        """Answer one request; one too many is a fault of the test, which fails at its end."""
        said = [message["content"] for message in request.json()["messages"]]
        prompt = next((each for each in said if each in self._plans), said[-1])  # a re-ask adds messages
        with self._lock:
            self._asked.append(prompt)
            answer = self._plans[prompt].pop(0)
        return answer() if callable(answer) else answer


@dataclass(frozen=True)
class Endpoint:
    """A running app, and what is before and behind it."""

    url: str
    log: Path
    stack: Stack
    answers: PlannedAnswers
    database: psycopg.Connection
    env: Mapping[str, str] = field(repr=False)
    """The app's settings."""
    tokens: list[str] = field(default_factory=list, repr=False)
    prompts: dict[UUID, str] = field(default_factory=dict, repr=False)

    def sign_up(self) -> SignedInUser:
        """Make a user."""
        user = self.stack.sign_up(f"{uuid4()}@example.com", PASSWORD)
        self.tokens.append(user.access_token)
        return user

    def failed_generation(self, user: SignedInUser, *answers: Script | Callable[[], Script], **columns: Any) -> UUID:
        """Store a generation as the app does after its own call failed; the provider's next answers to it are given.

        It asks a model of its own, so that what one test's provider does closes no other test's route.
        """
        generation_id = uuid4()
        self.prompts[generation_id] = self.answers.plan(*answers)
        messages = [{"role": "user", "content": self.prompts[generation_id]}]
        prompt_data = {"messages": messages, "response_schema": SCHEMA}
        row = {"status": "error", "model": f"small-{generation_id}", "prompt_data": prompt_data, **columns}
        self.database.execute(
            "insert into public.generations (id, user_id, status, model, prompt_data) values (%s, %s, %s, %s, %s)",
            [generation_id, user.id, row["status"], row["model"], Jsonb(row["prompt_data"])],
        )
        return generation_id

    def calls(self, generation_id: UUID) -> int:
        """Return how often the provider was called for a generation."""
        return self.answers.calls(self.prompts[generation_id])

    def miscounted(self) -> dict[UUID, tuple[int, int]]:
        """Generations whose attempts say other than the provider saw: requests on the wire, requests in the rows."""
        rows = self.rows(f"select a.generation_id, sum(a.wire_requests) from {ATTEMPTS} a group by a.generation_id")
        written = dict(rows)
        counts = {one: (self.calls(one), int(written.get(one, 0))) for one in self.prompts}
        return {one: (seen, noted) for one, (seen, noted) in counts.items() if seen != noted}

    def retry(
        self, generation_id: UUID | str, user: SignedInUser | None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """POST the retry, as a user or without a token."""
        path = f"/sessions/ai/{generation_id}/retry"
        return requests.post(self.url + path, headers={**bearer(user), **(headers or {})}, timeout=30)

    def status(self, generation_id: UUID | str, user: SignedInUser | None) -> requests.Response:
        """GET a generation's state."""
        return requests.get(f"{self.url}/sessions/ai/{generation_id}", headers=bearer(user), timeout=30)

    def may_retry(self, generation_id: UUID, user: SignedInUser) -> bool:
        """Ask whether a retry is possible now."""
        possible: bool = self.status(generation_id, user).json()["data"]["retry"]["possible"]
        return possible

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask the database, as its owner."""
        return self.database.execute(query.encode(), arguments).fetchall()


def bearer(user: SignedInUser | None) -> dict[str, str]:
    """Give the header of a user who is signed in."""
    return {"Authorization": f"Bearer {user.access_token}"} if user else {}


@contextmanager
def running_endpoint(stack: Stack, settings: Mapping[str, str], log: Path, *, direct: bool) -> Iterator[Endpoint]:
    """Run the app and a provider for it.

    Args:
        stack: Auth and database.
        settings: of the app, beside the stack's and the provider's.
        log: where the server's output goes.
        direct: the app goes straight to PostgreSQL instead of the Data API.
    """
    env = {name: value for name, value in stack.env().items() if direct or name != "DATABASE_URL"}
    answers = PlannedAnswers()
    with ScriptedServer(default=answers) as provider:
        env |= {"AI_BASE_URL": provider.base_url, "AI_API_KEY": AI_KEY, "AI_MODEL": "small", **settings}
        with (
            running_app(env, log=log) as url,
            psycopg.connect(stack.database_url, autocommit=True) as database,
        ):
            yield Endpoint(url, log, stack, answers, database, env)
