"""Schemathesis plays the OpenAPI document against the app: WSGI in this process, the real stack behind it.

The provider answers every call, so no 5xx has an excuse. The document's objects are closed, so that a member which it
does not name is undocumented.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from functools import reduce
from operator import getitem
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from schemathesis.core.failures import FailureGroup
from schemathesis.openapi.checks import JsonSchemaError, UndefinedStatusCode

from ai_retry.bootstrap import connect, verifier
from ai_retry.config import Settings
from ai_retry.domain.policy import storable
from ai_retry.flask import create_blueprint
from ai_retry.testing.provider import ScriptedServer, chat
from tests.helpers.worlds import PROMPT_DATA
from tests.unit.http_edge import closed_document
from tools.stack import SignedInUser, Stack

pytestmark = pytest.mark.no_cover  # it makes random tests three times as long

RETRY = "/sessions/ai/{generationId}/retry"
WITH_ID = ("GET /sessions/ai/{generationId}", f"POST {RETRY}", f"DELETE {RETRY}")
LIST, CREATE = "GET /sessions/ai", "POST /sessions/ai"
WITHOUT = ("GET /healthz", "GET /sessions/ai/openapi.json")  # there is no wrong way to ask for these
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
STATUSES = ("error", "timeout", "success", "queued", "processing")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("role", "content", "type")), inner),
    max_leaves=5,
)
BOUNDED = settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Project:
    """The app in this process, and a user who is signed in."""

    def __init__(self, app: Flask, user: SignedInUser, other: SignedInUser, database: psycopg.Connection) -> None:
        self.user, self.other, self._database = user, other, database
        self._app = app
        self.schema = self.load(closed_document())

    def load(self, document: dict[str, Any]) -> Any:
        """Let schemathesis read a document of this app, and no configuration from files."""
        schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config())
        schema.app = self._app
        return schema

    def operation(self, label: str) -> Any:
        """Find an operation."""
        method, path = label.split()
        return self.schema[path][method]

    def add_generation(self, user: SignedInUser, status: str, prompt_data: Any = PROMPT_DATA) -> UUID:
        """Store a generation."""
        generation_id = uuid4()
        self._database.execute(
            "insert into public.generations (id, user_id, status, model, prompt_data) values (%s, %s, %s, 'small', %s)",
            [generation_id, user.id, status, Jsonb(prompt_data)],
        )
        return generation_id

    def check(self, case: Any, *, token: str | None) -> int:
        """Send a case and let schemathesis judge the answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return int(case.call_and_validate(headers=headers).status_code)


@pytest.fixture(scope="module")
def project(stack: Stack) -> Iterator[Project]:
    """Wire the app as ``adapters.flask_app`` does."""
    with ExitStack() as cleanup:
        provider = cleanup.enter_context(ScriptedServer(default=chat({"title": "Easy run"})))
        env = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}
        settings_ = Settings.from_env(
            env | {"AI_BASE_URL": provider.base_url, "AI_MODEL": "small", "AI_RETRY_MAX_PARALLEL": "8"}
        )
        client = cleanup.enter_context(connect(settings_))
        app = Flask(__name__)
        app.register_blueprint(create_blueprint(client, verifier(settings_).verify, prompt_from=json.dumps))
        users = [stack.sign_up(f"{uuid4()}@example.com", "correct horse battery") for _ in range(2)]
        database = cleanup.enter_context(psycopg.connect(stack.database_url, autocommit=True))
        database.execute("insert into public.ai_retry_quotas values (%s, 1000)", [users[0].id])
        yield Project(app, users[0], users[1], database)


@pytest.mark.parametrize(
    ("label", "mode"),
    [*((label, POSITIVE) for label in (*WITH_ID, *WITHOUT)), *((label, NEGATIVE) for label in WITH_ID)],
    ids=lambda value: getattr(value, "value", value),
)
def test_generated_requests_answered_as_documented(
    project: Project, label: str, mode: schemathesis.GenerationMode
) -> None:
    """Requests that the document allows, and such that it does not, get documented answers and no 5xx."""
    seen: set[int] = set()

    @BOUNDED
    @given(case=project.operation(label).as_strategy(mode), signed_in=st.booleans())
    def play(case: Any, signed_in: bool) -> None:
        seen.add(project.check(case, token=project.user.access_token if signed_in else None))

    play()
    assert seen <= ({200, 202, 400, 401, 404} if label in WITH_ID else {200})


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE], ids=lambda value: value.value)
def test_lists_are_answered_as_documented(project: Project, mode: schemathesis.GenerationMode) -> None:
    """Lists of whatever is stored, asked for in whatever way, get documented answers and no 5xx."""
    for status in STATUSES:
        project.add_generation(project.user, status)
    others = str(project.add_generation(project.other, "error"))
    seen: set[int] = set()

    @BOUNDED
    @given(case=project.operation(LIST).as_strategy(mode), signed_in=st.sampled_from((True, True, False)))
    def play(case: Any, signed_in: bool) -> None:
        if mode is POSITIVE:
            case.query.pop("cursor", None)  # what a page gave, and not any string
        response = case.call_and_validate(
            headers={"Authorization": f"Bearer {project.user.access_token}"} if signed_in else {}
        )
        seen.add(int(response.status_code))
        if response.status_code == 200:
            assert others not in response.text

    play()
    assert seen >= ({200, 401} if mode is POSITIVE else {400, 401})
    assert mode is NEGATIVE or 400 not in seen


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE], ids=lambda value: value.value)
def test_first_calls_are_answered_as_documented(project: Project, mode: schemathesis.GenerationMode) -> None:
    """Objects of any kind, under any headers, and bodies that are none, get documented answers and no 5xx."""
    seen: set[int] = set()
    keys: set[str | None] = set()

    @BOUNDED
    @given(case=project.operation(CREATE).as_strategy(mode), signed_in=st.sampled_from((True, True, False)))
    def play(case: Any, signed_in: bool) -> None:
        assume(mode is NEGATIVE or storable(case.body))  # no schema can say that a string holds no NUL
        key = case.headers.get("Idempotency-Key")
        assume(key is None or key not in keys)  # nor that another body has the key
        keys.add(key)
        seen.add(project.check(case, token=project.user.access_token if signed_in else None))

    play()
    assert seen >= ({200, 401} if mode is POSITIVE else {400, 401})


@pytest.mark.parametrize("label", WITH_ID)
def test_stored_generations_answered_as_documented(project: Project, label: str) -> None:
    """Generations in every status, own and foreign, with contexts of any kind, get documented answers and no 5xx."""
    seen: set[int] = set()
    contexts = st.one_of(st.just(PROMPT_DATA), st.none(), JSON, st.fixed_dictionaries({"messages": JSON}))

    @BOUNDED
    @given(
        case=project.operation(label).as_strategy(POSITIVE),
        own=st.sampled_from((True, True, True, False)),
        status=st.sampled_from(STATUSES),
        prompt_data=contexts,
    )
    def play(case: Any, own: bool, status: str, prompt_data: Any) -> None:
        owner = project.user if own else project.other
        case.path_parameters["generationId"] = str(project.add_generation(owner, status, prompt_data))
        seen.add(project.check(case, token=project.user.access_token))

    play()
    assert seen >= ({200, 404, 409, 429} if label.startswith("POST") else {200, 404})


def test_accepted_retries_answered_as_documented(project: Project) -> None:
    """Whatever order generations are accepted for later, asked about, waited for and taken back in: documented."""
    seen: set[tuple[str, int]] = set()
    steps = st.lists(st.sampled_from(("later", "now", "GET", "DELETE")), min_size=2, max_size=6)

    @BOUNDED
    @given(steps=steps, status=st.sampled_from(STATUSES), data=st.data())
    def play(steps: list[str], status: str, data: st.DataObject) -> None:
        generation_id = str(project.add_generation(project.user, status))
        for step in steps:
            label = WITH_ID[0] if step == "GET" else f"{'DELETE' if step == 'DELETE' else 'POST'} {RETRY}"
            case = data.draw(project.operation(label).as_strategy(POSITIVE))
            case.path_parameters["generationId"] = generation_id
            if label.startswith("POST"):
                case.headers["Prefer"] = "respond-async" if step == "later" else "wait=1"
            seen.add((step, project.check(case, token=project.user.access_token)))

    play()
    assert seen >= {("later", 202), ("later", 409), ("now", 200), ("now", 429), ("GET", 200), ("DELETE", 200)}


@pytest.mark.parametrize(
    ("label", "taken_out", "found"),
    [
        (
            "GET /sessions/ai/{generationId}",
            ("paths", "/sessions/ai/{generationId}", "get", "responses", "404"),
            UndefinedStatusCode,
        ),
        ("GET /healthz", ("components", "schemas", "HealthData", "properties", "status"), JsonSchemaError),
    ],
    ids=["status", "member"],
)
def test_undocumented_answer_is_found(
    project: Project, label: str, taken_out: tuple[str, ...], found: type[Exception]
) -> None:
    """What is taken out of the document is reported: the checks above can fail."""
    method, path = label.split()
    document = deepcopy(closed_document())
    reduce(getitem, taken_out[:-1], document).pop(taken_out[-1])
    case = project.load(document)[path][method].Case(path_parameters={"generationId": str(uuid4())})

    with pytest.raises(FailureGroup) as caught:
        project.check(case, token=project.user.access_token)

    assert [type(each) for each in caught.value.exceptions] == [found]
