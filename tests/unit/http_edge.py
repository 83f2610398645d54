"""The blueprint in a host app, on the in-memory storage and a scripted provider.

Every answer that passes through ``Edge`` is checked: against the OpenAPI document, with its objects closed, and for
what all answers have in common. No test is here.
"""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

from flask import Flask
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from werkzeug.test import TestResponse

from ai_retry.auth import AuthUnavailable, Unauthenticated
from ai_retry.client import Client
from ai_retry.domain.model import Answer
from ai_retry.domain.policy import RetryPolicy
from ai_retry.flask import create_blueprint
from ai_retry.flask.blueprint import Verify
from ai_retry.flask.first_calls import PromptFrom
from ai_retry.flask.openapi import LIST_PATH, OPENAPI_PATH, RETRY_PATH, STATUS_PATH, openapi_document
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import a_failure, a_generation

PROMPT = "a prompt that no log may hold"
PROMPT_DATA = {"messages": [{"role": "user", "content": PROMPT}]}
PROVIDER = "provider.example"
ROUTE = f"{PROVIDER}/small"
ANSWER = Answer(output={"title": "Intervals"})
UNAVAILABLE = a_failure()


def verify(token: str) -> UUID:
    """Read a user's id out of a token such as ``user.6f1c…``; ``auth-is-down`` can't be verified."""
    if token == "auth-is-down":
        raise AuthUnavailable("HTTP 503")
    try:
        return UUID(token.removeprefix("user."))
    except ValueError:
        raise Unauthenticated("malformed") from None


@dataclass
class Edge:
    """A user, a host app with the blueprint under ``prefix``, and what is behind it."""

    client: Client
    clock: ManualClock
    storage: MemoryStorage
    ai: ScriptedAiProvider
    prefix: str = "/api"
    prompt_from: PromptFrom | None = None
    user_id: UUID = field(default_factory=uuid4)
    verify: Verify = verify

    def __post_init__(self) -> None:
        """Mount the blueprint."""
        self.app = Flask("host")
        self.app.register_blueprint(
            create_blueprint(self.client, self.verify, prompt_from=self.prompt_from), url_prefix=self.prefix
        )

    @property
    def authorization(self) -> dict[str, str]:
        """The headers of a user who is signed in."""
        return {"Authorization": f"Bearer user.{self.user_id}"}

    def add_generation(self, **changes: Any) -> UUID:
        """Store a generation of the user that failed an hour ago."""
        columns = {
            "id": uuid4(),
            "user_id": self.user_id,
            "prompt_data": PROMPT_DATA,
            "created_at": self.clock.now() - timedelta(hours=1),
        }
        generation = a_generation(**(columns | changes))
        self.storage.app.generations[generation.id] = generation
        return generation.id

    def retry(self, generation_id: UUID | str, headers: dict[str, str] | None = None, **sent: Any) -> TestResponse:
        """POST …/retry as the user, unless other headers say otherwise."""
        path = RETRY_PATH.replace("{generationId}", str(generation_id))
        return self._send("POST", path, RETRY_PATH, headers, sent)

    def cancel(self, generation_id: UUID | str) -> TestResponse:
        """DELETE …/retry as the user."""
        path = RETRY_PATH.replace("{generationId}", str(generation_id))
        return self._send("DELETE", path, RETRY_PATH, None, {})

    def status(self, generation_id: UUID | str, headers: dict[str, str] | None = None) -> TestResponse:
        """GET the generation as the user, unless other headers say otherwise."""
        path = STATUS_PATH.replace("{generationId}", str(generation_id))
        return self._send("GET", path, STATUS_PATH, headers, {})

    def list(self, query: str = "", headers: dict[str, str] | None = None) -> TestResponse:
        """GET the user's own generations, unless other headers say otherwise."""
        return self._send("GET", LIST_PATH + query, LIST_PATH, headers, {})

    def create(self, body: Any = None, headers: dict[str, str] | None = None, **sent: Any) -> TestResponse:
        """POST a first call as the user, with further headers; ``data`` is sent as it is."""
        sent = sent or {"json": body}
        return self._send("POST", LIST_PATH, LIST_PATH, self.authorization | (headers or {}), sent)

    def get(self, path: str) -> TestResponse:
        """GET one of the routes that ask for no token."""
        return self._send("GET", path, path, {}, {})

    def _send(
        self, method: str, path: str, route: str, headers: dict[str, str] | None, sent: dict[str, Any]
    ) -> TestResponse:
        headers = self.authorization if headers is None else headers
        response = self.app.test_client().open(self.prefix + path, method=method, headers=headers, **sent)
        check_answer(response, method, route)
        return response


def edge(
    *script: AiStep,
    default: AiStep | None = None,
    max_calls: int = 32,
    policy: RetryPolicy | None = None,
    prefix: str = "/api",
    prompt_from: PromptFrom | None = None,
) -> Edge:
    """Build an edge whose provider plays a script."""
    clock = ManualClock()
    storage, ai = MemoryStorage(clock), ScriptedAiProvider(*script, default=default)
    client = Client(
        storage=storage,
        queue_storage=storage,
        ai=ai,
        clock=clock,
        policy=policy or RetryPolicy(),
        max_calls=max_calls,
        provider=PROVIDER,
    )
    return Edge(client=client, clock=clock, storage=storage, ai=ai, prefix=prefix, prompt_from=prompt_from)


def check_answer(response: TestResponse, method: str, route: str) -> None:
    """Check an answer against the document, and what every answer of ours has."""
    document = closed_document()
    operation = document["paths"][route][method.lower()]
    documented = operation["responses"][str(response.status_code)]
    assert response.mimetype == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    schema = documented["content"]["application/json"]["schema"]
    validator = Draft202012Validator(
        {**schema, "components": document["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(response.json)
    for name in ("Retry-After", "WWW-Authenticate", "Idempotency-Replayed", "X-Request-Id", "Location"):
        assert name not in response.headers or name in documented["headers"], f"{name} is not documented"
    if route != OPENAPI_PATH:
        assert response.json is not None
        assert response.json["meta"]["requestId"] == response.headers["X-Request-Id"]


@cache
def closed_document() -> dict[str, Any]:
    """Build the document with its objects closed, so that an answer can't hold what is not documented."""
    document: dict[str, Any] = json.loads(json.dumps(openapi_document(first_calls=True)))
    for schema in document["components"]["schemas"].values():
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
        schema["unevaluatedProperties"] = False
    return document
