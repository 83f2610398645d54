"""What a gateway in front of the Data API says is never taken for the database's word."""

from uuid import uuid4

import pytest

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Answer, Claim
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.provider import Script, ScriptedServer, close, reply, stall


def settle(storage: SupabaseStorage) -> None:
    """Settle something that was paid for."""
    clock = ManualClock()
    claim = Claim(user_id=uuid4(), generation_id=uuid4(), number=2, token=uuid4(), lease_expires_at=clock.now())
    storage.succeed(
        claim,
        Answer(output={}),
        answer_from=None,
        duration=None,
        quota_rule=DEFAULT_POLICY.quota,
        rejected_wait=DEFAULT_POLICY.backoff_base,
        rejected_again_wait=DEFAULT_POLICY.backoff_cap,
    )


ERROR = {"code": "?", "message": "it failed", "details": None, "hint": None}  # an error of the API has these four


@pytest.mark.parametrize(
    ("answer", "code", "repeatable"),
    [
        (reply(502, json={"message": "name resolution failed"}), "STORAGE_OUTCOME_UNKNOWN", True),
        (reply(503, body="<html>busy</html>"), "STORAGE_OUTCOME_UNKNOWN", True),
        (reply(504, json={"code": "PGRST003", "message": "timed out"}), "STORAGE_OUTCOME_UNKNOWN", True),
        (reply(500, body="oops"), "STORAGE_OUTCOME_UNKNOWN", True),
        (reply(500, json={"code": "SUP", "message": "tuple concurrently updated"}), "STORAGE_OUTCOME_UNKNOWN", True),
        (close(), "STORAGE_OUTCOME_UNKNOWN", True),
        (stall(), "STORAGE_OUTCOME_UNKNOWN", True),
        (reply(429, body="slow down"), "STORAGE_UNAVAILABLE", True),
        (reply(500, json=ERROR | {"code": "55P03"}), "STORAGE_UNAVAILABLE", True),
        (reply(401, json={"message": "Invalid API key", "hint": "x"}), "NOT_CONFIGURED", False),
        (reply(404, json=ERROR | {"code": "PGRST202"}), "NOT_CONFIGURED", False),
        (reply(403, json=ERROR | {"code": "42501"}), "NOT_CONFIGURED", False),
    ],
    ids=["502", "503", "504", "500", "own-code", "closed", "stalled", "429", "55P03", "401", "404", "403"],
)
def test_answer_of_api_is_read_safely(answer: Script, code: str, *, repeatable: bool) -> None:
    """Only what the database says itself is certain; everything else may be repeated, with the outcome unknown."""
    with ScriptedServer(answer) as api:
        storage = SupabaseStorage(f"http://127.0.0.1:{api.port}", "sb_secret_canary", timeout=0.5)

        with pytest.raises(AiRetryError) as caught:
            settle(storage)
        storage.close()

    assert caught.value.code == code
    assert (caught.value.retry_after is not None) == repeatable
    assert "canary" not in repr(caught.value) + repr(storage)
    assert caught.value.__context__ is None
