"""First calls over HTTP: which bodies become prompts, what is answered, and what a repeat is answered."""

import json
import logging
import re
from io import BytesIO
from itertools import count
from typing import Any, NoReturn
from uuid import UUID

import pytest
from marshmallow import Schema, ValidationError, fields, validate
from werkzeug.test import TestResponse

from ai_retry.client import Client
from ai_retry.domain.errors import ContextMissing, StorageUnavailable
from ai_retry.domain.model import Answer, QuotaRule
from ai_retry.domain.policy import RetryPolicy
from ai_retry.flask import Prompt
from ai_retry.flask.first_calls import MAX_BODY_BYTES
from ai_retry.testing.memory import MemoryStorage
from tests.unit.http_edge import ANSWER, UNAVAILABLE, Edge, edge
from tools.examples import example, execute
from tools.npm import REPOSITORY

SECRET = "a wish that no log may hold"
BODY = {"wish": SECRET, "minutes": 30}
KEY = {"Idempotency-Key": "click-1"}
JSON = "application/json"


class Wish(Schema):
    """What a user may ask for."""

    wish = fields.String(required=True, validate=validate.Length(1, 70_000))
    minutes = fields.Integer(strict=True, load_default=20, validate=validate.Range(5, 90))


def prompt_from(body: dict[str, Any]) -> Any:
    """Ask for it."""
    asked = Wish().load(body)
    return f"Plan {asked['minutes']} minutes: {asked['wish']}"


def creating(*script: Any, **options: Any) -> Edge:
    """Build an edge that makes first calls."""
    return edge(*script, **{"prompt_from": prompt_from, **options})


def error(response: TestResponse) -> Any:
    """What went wrong."""
    assert response.json is not None
    return response.json["error"]


def generation_id(response: TestResponse) -> UUID:
    """Which generation it was."""
    assert response.json is not None
    found = response.json.get("data", {}).get("generation", {}).get("id") or error(response)["details"]["generationId"]
    assert response.headers["Location"] == f"/api/sessions/ai/{found}"
    return UUID(found)


class Unreachable(MemoryStorage):
    """A storage that can't be read."""

    def load(self, *_: Any, **__: Any) -> NoReturn:
        """See the port."""
        raise StorageUnavailable("08006")


class TestAnswers:
    """A first call is answered as a retry is."""

    def test_session_is_created(self) -> None:
        """200, with the session, the generation and where its state can be read."""
        case = creating(ANSWER)

        response = case.create(BODY)

        assert response.status_code == 200
        assert response.json is not None
        data = response.json["data"]
        assert data["session"]["content"] == ANSWER.output
        assert (data["generation"]["status"], data["generation"]["attempt"]) == ("success", 1)
        assert response.json["meta"]["quota"]["remaining"] == 4
        assert "Idempotency-Replayed" not in response.headers
        assert case.status(generation_id(response)).status_code == 200
        (call,) = case.ai.calls
        assert list(call.context.messages) == [{"role": "user", "content": f"Plan 30 minutes: {SECRET}"}]

    def test_failure_names_the_generation(self) -> None:
        """502, with the id and the place of a generation that can be retried."""
        case = creating(UNAVAILABLE, ANSWER)

        response = case.create(BODY)

        assert (response.status_code, error(response)["code"]) == (502, "AI_UNAVAILABLE")
        case.clock.advance(RetryPolicy().backoff_cap)
        retried = case.retry(generation_id(response))
        assert retried.status_code == 200
        assert "Location" not in retried.headers
        assert retried.json is not None
        assert retried.json["data"]["generation"]["attempt"] == 2

    def test_accepted_for_later(self) -> None:
        """202 where it is asked for: nothing is called, and the generation waits."""
        case = creating()

        response = case.create(BODY, {"Prefer": "respond-async"})

        assert response.status_code == 202
        assert response.json is not None
        assert (response.json["data"]["session"], response.json["data"]["generation"]["status"]) == (None, "queued")
        assert response.headers["Preference-Applied"] == "respond-async"
        assert int(response.headers["Retry-After"]) >= 1
        assert case.cancel(generation_id(response)).status_code == 200
        assert case.ai.calls == []

    def test_quota_refuses_as_for_a_retry(self) -> None:
        """429 with what is left; nothing is created, and nothing is called."""
        case = creating(ANSWER, policy=RetryPolicy(quota=QuotaRule(limit=1)))
        case.create(BODY)

        response = case.create(BODY)

        assert (response.status_code, error(response)["code"]) == (429, "QUOTA_EXHAUSTED")
        assert "Location" not in response.headers
        assert "generationId" not in error(response)["details"]
        assert len(case.storage.app.generations) == len(case.ai.calls) == 1

    def test_not_there_unless_asked_for(self) -> None:
        """Without ``prompt_from`` there is no such method, and it is not documented."""
        case = edge()

        response = case.app.test_client().post("/api/sessions/ai", json=BODY, headers=case.authorization)

        assert response.status_code == 405
        for each, documented in ((case, False), (creating(), True)):
            document = each.get("/sessions/ai/openapi.json").json
            assert document is not None
            assert ("post" in document["paths"]["/sessions/ai"]) == documented


class TestKeys:
    """The same key and body make one generation and one call."""

    def test_repeat_is_answered_the_same(self) -> None:
        """The session, again, and that it is one that was made before."""
        case = creating(ANSWER)
        first = case.create(BODY, KEY)

        second = case.create(BODY, KEY)

        assert second.headers["Idempotency-Replayed"] == "true"
        assert generation_id(first) == generation_id(second)
        assert (first.json or {})["data"] == (second.json or {})["data"]
        assert len(case.ai.calls) == 1

    def test_failure_is_answered_again(self) -> None:
        """With the generation's id, and without another call: that is the retry's."""
        case = creating(UNAVAILABLE)
        first = case.create(BODY, KEY)

        second = case.create(BODY, KEY)

        assert (second.status_code, error(second)["code"]) == (502, "AI_UNAVAILABLE")
        assert generation_id(first) == generation_id(second)
        assert len(case.ai.calls) == 1

    def test_another_body_is_a_conflict(self) -> None:
        """422; what was made of the first one stays."""
        case = creating(ANSWER)
        case.create(BODY, KEY)

        response = case.create({"wish": "another"}, KEY)

        assert (response.status_code, error(response)["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert len(case.ai.calls) == 1

    def test_same_body_is_recognised_whatever_the_prompt(self) -> None:
        """The function may add what changes, such as the time, or take the body apart: what counts is what was sent."""
        made = count()

        def dated(body: dict[str, Any]) -> str:
            return f"{next(made)}: {body.pop('wish')}"

        case = creating(ANSWER, prompt_from=dated)
        first = case.create(BODY, KEY)

        second = case.create(BODY, KEY)

        assert (second.status_code, second.headers.get("Idempotency-Replayed")) == (200, "true")
        assert generation_id(first) == generation_id(second)
        assert case.create({"wish": "another"}, KEY).status_code == 422
        assert len(case.ai.calls) == 1

    def test_keys_are_each_users_own(self) -> None:
        """Two users with one key have a generation each."""
        case = creating(default=ANSWER)
        other = Edge(
            client=case.client, clock=case.clock, storage=case.storage, ai=case.ai, prompt_from=case.prompt_from
        )

        one, two = case.create(BODY, KEY), other.create(BODY, KEY)

        assert generation_id(one) != generation_id(two)
        assert len(case.ai.calls) == 2

    def test_it_runs_already(self) -> None:
        """429 with the id, while the first one's call runs."""
        answers: list[TestResponse] = []

        def meanwhile(_: object) -> Answer:
            answers.append(case.create(BODY, KEY))
            return ANSWER

        case: Edge = creating(meanwhile)

        first = case.create(BODY, KEY)

        assert (answers[0].status_code, error(answers[0])["code"]) == (429, "RETRY_IN_PROGRESS")
        assert generation_id(answers[0]) == generation_id(first)

    def test_accepted_one_is_described_again(self) -> None:
        """202 twice, for one generation."""
        case = creating()
        headers = KEY | {"Prefer": "respond-async"}

        first, second = case.create(BODY, headers), case.create(BODY, headers)

        assert (first.status_code, second.status_code) == (202, 202)
        assert generation_id(first) == generation_id(second)

    def test_key_of_a_plan_is_refused(self) -> None:
        """As for a retry."""
        response = creating().create(BODY, {"Idempotency-Key": "plan:x"})

        assert (response.status_code, error(response)["code"]) == (400, "INVALID_IDEMPOTENCY_KEY")


def nested(levels: int) -> bytes:
    """A body with lists so deep within each other."""
    return b'{"wish": ' + b"[" * levels + b"]" * levels + b"}"


def of_length(length: int) -> bytes:
    """A body of so many bytes."""
    body = json.dumps({"wish": ""}).encode()
    return body[:-2] + b"x" * (length - len(body)) + body[-2:]


NO_OBJECT = {"_schema": ["The body must be a JSON object in UTF-8."]}
TOO_DEEP = {"_schema": ["The body must not be nested deeper than 64 levels."]}
NOT_STORABLE = {"_schema": ["The body must not hold NUL, a lone surrogate, or a number that is too large."]}


class TestBodies:
    """What can't be used is refused before anything is read or created, without a word of it."""

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            *(
                (each, NO_OBJECT)
                for each in (b"", b"x", b"{", b"[]", b"null", b"1", b'"x"', b"[" * 60_000, b"\xff\xfe")
            ),
            *((each, NO_OBJECT) for each in (b'{"wish": NaN}', b'{"wish": -Infinity}', b"\xef\xbb\xbf{}", b'{"a":1}x')),
            *((each, NO_OBJECT) for each in (b'{"wish": ' + b"9" * 5000 + b"}", b"{'wish': 1}", nested(30_000))),
            *((nested(each), TOO_DEEP) for each in (65, 100, 900)),
            (b'{"wish": 1e999}', NOT_STORABLE),
            (rb'{"wish": "\ud800"}', NOT_STORABLE),
            (rb'{"wish": "a\u0000"}', NOT_STORABLE),
            (rb'{"wish": "a", "\u0000": 1}', NOT_STORABLE),
            (b"{}", {"wish": ["Missing data for required field."]}),
            (b'{"wish": 5}', {"wish": ["Not a valid string."]}),
            (b'{"wish": ["x"]}', {"wish": ["Not a valid string."]}),
            (b'{"wish": "x", "minutes": "30"}', {"minutes": ["Not a valid integer."]}),
            (b'{"wish": "x", "minutes": 1.5}', {"minutes": ["Not a valid integer."]}),
            (b'{"wish": "x", "else": 1}', {"else": ["Unknown field."]}),
            (nested(50), {"wish": ["Not a valid string."]}),
            (nested(64), {"wish": ["Not a valid string."]}),
        ],
    )
    def test_unusable_body_is_refused(self, data: bytes, problem: Any) -> None:
        """400, with what is wrong with which field."""
        case = creating()

        response = case.create(data=data, content_type=JSON)

        assert (response.status_code, error(response)["code"]) == (400, "INVALID_REQUEST")
        assert error(response)["details"] == {"fields": problem}
        assert case.storage.app.generations == {}

    @pytest.mark.parametrize(("length", "status"), [(MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413), (10**6, 413)])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_body_has_64_kib_at_most(self, length: int, status: int, *, chunked: bool) -> None:
        """With or without a length that is known before; one byte more is refused."""
        case = creating(ANSWER)
        sent: dict[str, Any] = {"data": of_length(length), "content_type": JSON}
        if chunked:
            sent = {
                "input_stream": BytesIO(sent["data"]),
                "content_type": JSON,
                "environ_overrides": {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
            }

        response = case.create(**sent)

        assert response.status_code == status
        if status == 413:
            assert error(response)["code"] == "BODY_TOO_LARGE"
            assert error(response)["details"] == {"maxBytes": MAX_BODY_BYTES}

    def test_body_that_breaks_off_is_refused(self) -> None:
        """Whatever the server raises for it, the client sent it."""

        class Broken(BytesIO):
            def read(self, *_: Any) -> bytes:
                raise ArithmeticError(SECRET)

        response = creating().create(
            input_stream=Broken(), content_type=JSON, environ_overrides={"wsgi.input_terminated": True}
        )

        assert (response.status_code, error(response)["details"]) == (
            400,
            {"fields": {"_schema": ["The body is not complete."]}},
        )

    def test_limit_of_the_host_counts_too(self) -> None:
        """A smaller limit of the whole app is answered in the same way."""
        case = creating()
        case.app.config["MAX_CONTENT_LENGTH"] = 100

        response = case.create(data=of_length(101), content_type=JSON)

        assert (response.status_code, error(response)["details"]) == (413, {"maxBytes": 100})

    @pytest.mark.parametrize(
        ("content_type", "encoding", "status"),
        [
            (JSON, None, 200),
            ("application/json; charset=utf-8", None, 200),
            ('Application/JSON; charset="UTF-8"', "identity", 200),
            ("application/json; charset=latin-1", None, 415),
            (JSON, "gzip", 415),
            ("text/plain", None, 415),
            ("application/x-www-form-urlencoded", None, 415),
            ("multipart/form-data; boundary=x", None, 415),
            ("application/merge-patch+json", None, 415),
            (None, None, 415),
            ("", None, 415),
        ],
    )
    def test_body_is_plain_json(self, content_type: str | None, encoding: str | None, status: int) -> None:
        """Anything else, such as what a form of another site can send, is 415."""
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        sent = {} if content_type is None else {"content_type": content_type}

        response = creating(ANSWER).create(None, headers, data=json.dumps(BODY), **sent)

        assert response.status_code == status
        if status == 415:
            assert error(response)["code"] == "UNSUPPORTED_MEDIA_TYPE"

    def test_caller_is_asked_for_first(self) -> None:
        """An unknown caller does not learn that the body can't be used."""
        response = creating().create(data=b"x" * 10**6, headers={"Authorization": "Bearer no"})

        assert response.status_code == 401


class TestPromptFrom:
    """The host's function says what a body means."""

    @pytest.mark.parametrize(
        ("made", "messages", "model"),
        [
            ("Hello", [{"role": "user", "content": "Hello"}], None),
            ({"messages": [{"role": "user", "content": "Hi"}]}, [{"role": "user", "content": "Hi"}], None),
            (Prompt(prompt="Hello", model="large"), [{"role": "user", "content": "Hello"}], "large"),
            (Prompt(prompt="Hello", columns={"title": "x"}), [{"role": "user", "content": "Hello"}], None),
        ],
    )
    def test_prompt_has_several_forms(self, made: Any, messages: Any, model: str | None) -> None:
        """A string, the app's own JSON, or a ``Prompt`` with a model and columns."""
        case = creating(ANSWER, prompt_from=lambda _: made)

        response = case.create({})

        assert response.status_code == 200
        (call,) = case.ai.calls
        assert list(call.context.messages) == messages
        assert call.context.model == model

    @pytest.mark.parametrize(
        "made",
        [
            *(None, float("nan"), {"messages": {SECRET}}, Prompt(prompt=None), "\ud800", Prompt(prompt="x", model="")),
            Prompt(prompt="x", columns={"model": SECRET}),
        ],
    )
    def test_unusable_prompt_is_the_hosts_fault(self, made: Any, caplog: pytest.LogCaptureFixture) -> None:
        """500, which says what is wrong with it and nothing of it; nothing is created."""
        case = creating(prompt_from=lambda _: made)

        response = case.create({})

        assert (response.status_code, error(response)["code"]) == (500, "NOT_CONFIGURED")
        assert "prompt_from returned what can't be used" in error(response)["message"]
        assert case.storage.app.generations == {}
        assert SECRET not in caplog.text + response.text

    @pytest.mark.parametrize("raised", [KeyError, RuntimeError, AssertionError, RecursionError])
    def test_defect_of_the_host_tells_nothing(self, raised: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
        """500, and the log has the type and the place of the exception, but none of its text."""

        def fail(body: dict[str, Any]) -> Any:
            raise raised(body["wish"])

        with caplog.at_level(logging.DEBUG):
            response = creating(prompt_from=fail).create(BODY)

        assert (response.status_code, error(response)["code"]) == (500, "INTERNAL")
        assert SECRET not in caplog.text + response.text
        assert re.search(rf"{raised.__name__}\n.*test_flask_create\.py", caplog.text, re.DOTALL)

    def test_error_of_ours_stays_what_it_is(self) -> None:
        """The host's function may refuse with one of ours."""

        def refuse(_: dict[str, Any]) -> Any:
            raise ContextMissing("no plan is booked")

        response = creating(prompt_from=refuse).create({})

        assert (response.status_code, error(response)["code"]) == (404, "CONTEXT_MISSING")

    @pytest.mark.parametrize(
        ("messages", "found"),
        [
            ("It is Sunday.", {"_schema": ["It is Sunday."]}),
            (["One.", "Two."], {"_schema": ["One.", "Two."]}),
            ({"days": {1: ["Too many."]}}, {"days": {"1": ["Too many."]}}),
        ],
    )
    def test_refusal_names_fields(self, messages: Any, found: Any) -> None:
        """Whatever form marshmallow's messages have."""

        def refuse(_: dict[str, Any]) -> Any:
            raise ValidationError(messages)

        response = creating(prompt_from=refuse).create({})

        assert (response.status_code, error(response)["details"]) == (400, {"fields": found})


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        ({"text": "An easy run."}, 200, None),
        ({"text": "An easy run.", "minutes": "30"}, 400, {"minutes": ["Not a valid integer."]}),
        ({"text": "x" * 2001}, 400, {"text": ["Length must be between 1 and 2000."]}),
    ],
)
def test_function_of_the_page_turns_bodies_into_prompts(body: Any, status: int, fields: Any) -> None:
    """As it is in the how-to."""
    page = REPOSITORY / "docs" / "how-to" / "first-calls.md"
    made: dict[str, Any] = execute(example(page, "python", "def prompt_from"))
    case = creating(ANSWER, prompt_from=made["prompt_from"])

    response = case.create(body)

    assert response.status_code == status
    if status == 200:
        assert case.ai.calls[0].context.messages[0]["content"] == "30 minutes: An easy run."
    else:
        assert error(response)["details"] == {"fields": fields}


def test_log_names_user_and_generation(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is one line, with whose it was and which generation it left; the body is not in it."""
    case = creating(UNAVAILABLE)

    response = case.create(BODY)

    assert f"user_id={case.user_id}" in caplog.text
    assert f"generation_id={generation_id(response)}" in caplog.text
    assert SECRET not in caplog.text


def test_storage_that_is_unavailable_created_nothing() -> None:
    """500 without an id: the same request may be sent again."""
    case = creating()
    case.client = Client(storage=Unreachable(case.clock), ai=case.ai)
    case.__post_init__()

    response = case.create(BODY)

    assert (response.status_code, error(response)["code"]) == (500, "STORAGE_UNAVAILABLE")
    assert "Location" not in response.headers
