"""What something in front of the Data API says is never taken for the database's word."""

from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import QuotaRule
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.provider import Script, ScriptedServer, close, reply, stall
from tests.helpers.builders import a_settle

SHORT = timedelta(milliseconds=1)  # two tries
RULE = QuotaRule()
ERROR = {"code": "?", "message": "it failed", "details": None, "hint": None}  # an error of the API has these four
PAGE = "<html>one moment</html>"
UNAVAILABLE, UNKNOWN, FAULT = "STORAGE_UNAVAILABLE", "STORAGE_OUTCOME_UNKNOWN", "NOT_CONFIGURED"


def settle(storage: SupabaseStorage) -> None:
    """Settle it."""
    storage.settle(a_settle())


def load(storage: SupabaseStorage) -> None:
    """Read, before anything is paid for."""
    storage.load(uuid4(), uuid4(), RULE, None)


def failure(storage: SupabaseStorage, ask: Any) -> AiRetryError:
    """What a call raises."""
    with pytest.raises(AiRetryError) as caught:
        ask(storage)
    assert caught.value.__context__ is None
    assert "canary" not in repr(caught.value) + repr(storage)
    return caught.value


def test_closed_storage_says_so() -> None:
    """After its close a call fails as unavailable, and is not sent: an app that stops meanwhile sees no other error."""
    with closing(SupabaseStorage("http://127.0.0.1:9", "sb_secret_x")) as storage:
        pass

    for ask in (settle, load):
        assert (failure(storage, ask).code, str(failure(storage, ask))) == (UNAVAILABLE, "The storage failed (closed).")


def test_call_that_meets_the_close_says_so() -> None:
    """The same holds for a call that has begun when another thread closes."""
    with closing(SupabaseStorage("http://127.0.0.1:9", "sb_secret_x")) as storage:
        storage.prepare()
        for api in storage._apis.values():
            api.close()

        assert str(failure(storage, load)) == "The storage failed (closed)."


@pytest.mark.parametrize(
    ("answer", "when_settled", "when_read"),
    [
        (reply(502, json={"message": "name resolution failed"}), UNKNOWN, UNAVAILABLE),
        (reply(503, body=PAGE), UNKNOWN, UNAVAILABLE),
        (reply(504, json=ERROR | {"code": "PGRST003"}), UNKNOWN, UNAVAILABLE),
        (reply(500, body="oops"), UNKNOWN, UNAVAILABLE),
        (reply(500, json=ERROR | {"code": "SUP"}), UNKNOWN, UNAVAILABLE),
        (reply(500, json=["not", "an", "object"]), UNKNOWN, UNAVAILABLE),
        (reply(500, json=ERROR | {"code": 42501}), UNKNOWN, UNAVAILABLE),
        (reply(500, json=ERROR | {"code": "canary of a secret"}), UNKNOWN, UNAVAILABLE),
        (reply(500, body="[" * 100_000), UNKNOWN, UNAVAILABLE),
        (close(), UNKNOWN, UNAVAILABLE),
        (stall(), UNKNOWN, UNAVAILABLE),
        (reply(429, body="slow down"), UNKNOWN, UNAVAILABLE),
        (reply(301, headers={"Location": "/"}), UNKNOWN, UNAVAILABLE),
        (reply(200, body=PAGE), UNKNOWN, UNAVAILABLE),
        (reply(200, body=""), UNKNOWN, UNAVAILABLE),
        (reply(200, body=b"<p>d\xe9sol\xe9</p>"), UNKNOWN, UNAVAILABLE),
        (reply(200, body=b'"cut off \xc3'), UNKNOWN, UNAVAILABLE),
        (reply(204), UNKNOWN, UNAVAILABLE),
        (reply(200, json={"status": "ok"}), UNKNOWN, UNAVAILABLE),
        (reply(200, json={"applied": "yes"}), UNKNOWN, UNAVAILABLE),
        (reply(200, json=[1]), UNKNOWN, UNAVAILABLE),
        (reply(200, json=7), UNKNOWN, UNAVAILABLE),
        (reply(401, json={"message": "Invalid API key", "hint": "canary"}), UNKNOWN, FAULT),
        (reply(403, body=PAGE), UNKNOWN, FAULT),
        (reply(404, body=PAGE), UNKNOWN, FAULT),
        (reply(404, json=ERROR | {"code": "PGRST202"}), UNKNOWN, FAULT),
        (reply(401, json=ERROR | {"code": "PGRST301"}), UNKNOWN, FAULT),
        (reply(401, json=ERROR | {"code": "PGRST302"}), UNKNOWN, FAULT),
        (reply(500, json=ERROR | {"code": "PGRST001"}), UNAVAILABLE, UNAVAILABLE),
        (reply(500, json=ERROR | {"code": "55P03"}), UNAVAILABLE, UNAVAILABLE),
        (reply(500, json=ERROR | {"code": "XX000"}), UNKNOWN, UNAVAILABLE),
    ],
)
def test_failure_that_may_pass_is_read_safely(answer: Script, when_settled: str, when_read: str) -> None:
    """A settle's reply is lost at worst, and repeated; before a call, a fault of the configuration is named."""
    with ScriptedServer(default=answer) as api:
        storage = SupabaseStorage(
            f"http://127.0.0.1:{api.port}", "sb_secret_canary", timeout=0.5, read_for=SHORT, settle_for=SHORT
        )
        with closing(storage):
            failures = [failure(storage, load), failure(storage, settle)]

        assert len(api.requests) >= 4
    assert [each.code for each in failures] == [when_read, when_settled]
    assert [each.retry_after is not None for each in failures] == [when_read != FAULT, True]


@pytest.mark.parametrize("code", ["42501", "42883", "23514", "28000"])
def test_refusal_of_the_database_is_its_word(code: str) -> None:
    """What the database itself says an operator has to do is reported at once."""
    with ScriptedServer(default=reply(403, json=ERROR | {"code": code})) as api:
        storage = SupabaseStorage(f"http://127.0.0.1:{api.port}", "sb_secret_canary")
        with closing(storage):
            assert failure(storage, settle).code == FAULT

        assert len(api.requests) == 1


def test_internal_error_a_third_time_ends_a_settle() -> None:
    """Any function of the app's may raise XX000 whenever it is called: the last resort comes next, and soon."""
    with ScriptedServer(default=reply(500, json=ERROR | {"code": "XX000"})) as api:
        storage = SupabaseStorage(f"http://127.0.0.1:{api.port}", "sb_secret_canary")
        with closing(storage):
            assert failure(storage, settle).code == UNKNOWN

        assert len(api.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusal_of_a_gateway_is_no_wrong_key_later(status: int) -> None:
    """Where this key was answered before, a gateway's refusal without a code is a failure that passes."""
    with ScriptedServer(reply(200, body="null"), default=reply(status, body=PAGE)) as api:
        storage = SupabaseStorage(f"http://127.0.0.1:{api.port}", "sb_secret_canary", read_for=SHORT)
        with closing(storage):
            load(storage)

            assert failure(storage, load).code == UNAVAILABLE


def test_absent_generation_is_null_and_nothing_else() -> None:
    """Only the API's ``null`` says that there is no such generation; an empty page does not."""
    with ScriptedServer(reply(200, body="null"), default=reply(200, body="")) as api:
        storage = SupabaseStorage(f"http://127.0.0.1:{api.port}", "sb_secret_canary", read_for=SHORT)
        with closing(storage):
            assert storage.load(uuid4(), uuid4(), RULE, None) is None
            assert failure(storage, load).code == UNAVAILABLE


def test_unreachable_api_wrote_nothing() -> None:
    """Where no connection was opened, nothing was written."""
    storage = SupabaseStorage("http://127.0.0.1:9", "sb_secret_canary", read_for=SHORT, settle_for=SHORT)

    with closing(storage):
        assert [failure(storage, ask).code for ask in (load, settle)] == [UNAVAILABLE, UNAVAILABLE]
