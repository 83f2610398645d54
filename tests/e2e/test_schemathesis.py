"""Schemathesis plays the OpenAPI document against the app: WSGI in this process, the real stack behind it.

The provider answers every call, so no 5xx has an excuse. The document's objects are closed, so that a member which it
does not name is undocumented.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from ai_retry.bootstrap import connect, verifier
from ai_retry.config import Settings
from ai_retry.flask import create_blueprint
from ai_retry.testing.contract import PROMPT_DATA
from ai_retry.testing.provider import ScriptedServer, chat
from tests.support.stack import SignedInUser, Stack
from tests.unit.http_edge import closed_document

OPERATIONS = ("GET /healthz", "GET /sessions/ai/openapi.json", "GET /sessions/ai/{generationId}", "POST /sessions/ai/{generationId}/retry")
WITH_ID = [each for each in OPERATIONS if "{generationId}" in each]
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance", "response_schema_conformance")
BOUNDED = settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Project:
    """The app in this process, and somebody who is signed in."""

    def __init__(self, app: Flask, user: SignedInUser, other: SignedInUser, database: psycopg.Connection) -> None:
        self.user, self.other, self._database = user, other, database
        self.schema = schemathesis.openapi.from_dict(closed_document(), config=schemathesis.Config())
        self.schema.app = app
        self.statuses: set[int] = set()

    def operation(self, label: str) -> Any:
        """Find an operation."""
        method, path = label.split()
        return self.schema[path][method]

    def add_generation(self, user: SignedInUser, status: str, prompt_data: Any = PROMPT_DATA) -> UUID:
        """Store a generation."""
        generation_id = uuid4()
        self._database.execute(
            "insert into public.generations (id, user_id, status, model, prompt_data)"
            " values (%s, %s, %s, 'small', %s)",
            [generation_id, user.id, status, Jsonb(prompt_data)],
        )
        return generation_id

    def check(self, case: Any, *, token: str | None) -> int:
        """Send a case and let schemathesis judge the answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = case.call(headers=headers)
        case.validate_response(response)
        return int(response.status_code)


@pytest.fixture(scope="module")
def project(stack: Stack) -> Iterator[Project]:
    """Wire the app as ``adapters.flask_app`` does."""
    with ExitStack() as cleanup:
        provider = cleanup.enter_context(ScriptedServer(default=chat({"title": "Easy run"})))
        env = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}
        settings_ = Settings.from_env(env | {"AI_BASE_URL": provider.base_url, "AI_RETRY_MAX_PARALLEL": "8"})
        client = cleanup.enter_context(connect(settings_))
        app = Flask(__name__)
        app.register_blueprint(create_blueprint(client, verifier(settings_).verify))
        users = [stack.sign_up(f"{uuid4()}@example.com", "correct horse battery") for _ in range(2)]
        database = cleanup.enter_context(psycopg.connect(stack.database_url, autocommit=True))
        yield Project(app, users[0], users[1], database)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_generated_requests_answered_as_documented(
    project: Project, label: str, mode: schemathesis.GenerationMode
) -> None:
    """Requests that the document allows, and such that it does not, get documented answers."""

    @BOUNDED
    @given(case=project.operation(label).as_strategy(mode), signed_in=st.booleans())
    def play(case: Any, signed_in: bool) -> None:
        project.statuses.add(project.check(case, token=project.user.access_token if signed_in else None))

    play()
    print(label, mode, project.statuses)
