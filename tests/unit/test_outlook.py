"""What a retry would be answered now: the same rules as a retry's, in words that a page can show."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ai_retry import Outlook
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.errors import AiRetryError, GenerationFailed
from ai_retry.domain.model import GenerationStatus, RetryResult, Route
from ai_retry.domain.outlook import outlook
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.queue_model import Outage
from ai_retry.domain.retry import retry_generation, retry_status
from ai_retry.testing.ai import ScriptedAiProvider
from tests.helpers.builders import (
    AS_OF,
    SECOND,
    a_failure,
    a_generation,
    a_quota,
    a_snapshot,
    an_answer,
    an_attempt,
    an_open_attempt,
)
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import accept
from tests.helpers.steps import new_generation

ROUTE = "one/small"
READER = Reader(context_from=stored_context, route_of=lambda context: f"one/{context.model}")
HOUR = timedelta(hours=1)


def seen(policy: RetryPolicy = DEFAULT_POLICY, **columns: Any) -> Outlook:
    """The outlook of a snapshot."""
    return outlook(a_snapshot(**columns), READER, policy)


def test_retry_that_would_begin_is_possible_now() -> None:
    """Nothing refuses it, and the earliest instant is that of the snapshot."""
    possible = seen()

    assert (possible.can_retry, possible.refusal, possible.code, possible.retry_at) == (True, None, None, AS_OF)
    assert (possible.snapshot, possible.queued) == (a_snapshot(), None)


@pytest.mark.parametrize(
    ("columns", "code", "retry_at"),
    [
        ({"generation": a_generation(status=GenerationStatus.SUCCESS)}, "ALREADY_SUCCEEDED", None),
        ({"attempts": (an_open_attempt(),)}, "RETRY_IN_PROGRESS", AS_OF + 5 * SECOND),
        ({"can_create_session": False}, "NOT_CONFIGURED", None),
        ({"generation": a_generation(prompt_data=None)}, "CONTEXT_MISSING", None),
        ({"attempts": tuple(map(an_attempt, (2, 3, 4)))}, "RETRY_LIMIT_REACHED", None),
        ({"attempts": (an_attempt(next_attempt_at=AS_OF + HOUR),)}, "RETRY_TOO_SOON", AS_OF + HOUR),
        ({"attempts": (an_attempt(next_attempt_at=AS_OF + HOUR, transient=False),)}, "RETRY_TOO_SOON", None),
        ({"live": 2, "live_until": AS_OF + SECOND}, "TOO_MANY_PARALLEL_RETRIES", AS_OF + SECOND),
        ({"quota": a_quota(captured=5, resets_at=AS_OF + HOUR)}, "QUOTA_EXHAUSTED", AS_OF + HOUR),
        ({"quota": a_quota(limit=0)}, "QUOTA_EXHAUSTED", None),
        (
            {"routes": (Route(route=ROUTE, not_before=AS_OF + HOUR, failures=1, slots=1),)},
            "ROUTE_UNAVAILABLE",
            AS_OF + HOUR,
        ),
    ],
)
def test_refusal_has_its_code_and_time(columns: dict[str, Any], code: str, retry_at: Any) -> None:
    """What refuses a retry refuses it here; the time is there only where coming back then may help."""
    refused = seen(**columns)

    assert refused.refusal is not None
    assert (refused.can_retry, refused.code, refused.retry_at) == (False, code, retry_at)
    assert refused.refusal.code == code


def test_policy_is_the_callers() -> None:
    """Other numbers, another answer."""
    assert seen(RetryPolicy(max_attempts=1)).code == "RETRY_LIMIT_REACHED"


def test_queued_attempt_is_shown() -> None:
    """What was accepted for later is in progress, and says when it is due."""
    queued = an_open_attempt(
        lease_expires_at=AS_OF,
        started_at=AS_OF,
        accepted_at=AS_OF,
        next_attempt_at=AS_OF + HOUR,
        expires_at=AS_OF + HOUR,
    )
    attempt = replace(queued, lease_expires_at=None)

    shown = seen(generation=a_generation(status=GenerationStatus.QUEUED), attempts=(attempt,))

    assert (shown.queued, shown.code) == (attempt, "RETRY_IN_PROGRESS")


def test_running_attempt_is_not_queued() -> None:
    """It waits for no worker."""
    assert seen(attempts=(an_open_attempt(accepted_at=AS_OF),)).queued is None


@pytest.mark.parametrize("state", ["failed", "too soon", "succeeded", "queued", "outage"])
def test_retry_and_outlook_agree(state: str) -> None:
    """Whatever the state: a retry begins where the outlook says so, and raises what it says elsewhere."""
    world = MemoryWorld()
    ids = user_id, generation_id = new_generation(world)
    how: dict[str, Any] = {"storage": world.storage, "route_of": READER.route_of}

    def retry(*script: Any) -> RetryResult:
        return retry_generation(*ids, ai=ScriptedAiProvider(*script), clock=world.clock, **how)

    if state == "too soon":
        with pytest.raises(GenerationFailed):
            retry(a_failure())
    elif state == "succeeded":
        retry(an_answer())
    elif state == "queued":
        accept(world, user_id, generation_id)
    elif state == "outage":
        world.storage.routes.note_outage(ROUTE, Outage(wait=HOUR, failures=1), world.clock.now())

    said = retry_status(*ids, **how)

    if said.refusal is None:
        assert retry(an_answer()).attempt == 2
    else:
        with pytest.raises(AiRetryError) as caught:
            retry()
        assert (caught.value.code, caught.value.retry_after) == (said.code, said.refusal.retry_after)
    assert said.can_retry is (state == "failed")
