"""What a retry hands on, and where its rules turn: each test holds one thing that a mutant could move."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import (
    AttemptsExhausted,
    ContextMissing,
    GenerationFailed,
    GenerationNotFound,
    QuotaExhausted,
    RetryInProgress,
    RouteUnavailable,
    SessionRejected,
)
from ai_retry.domain.loop import Step
from ai_retry.domain.model import Context, Failure, Generation, GenerationStatus, Outcome, RetryResult
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy, admit, attempts_left, provider_key
from ai_retry.domain.queue_model import Outage
from ai_retry.domain.retry import retry_generation, retry_status
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from tests.helpers.builders import (
    AS_OF,
    LEASE,
    SECOND,
    a_context,
    a_failure,
    a_generation,
    a_quota,
    a_snapshot,
    an_answer,
    an_attempt,
)
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.scene import Hooked, hooked

ONCE = RetryPolicy(max_attempts=1)
SLOW = RetryPolicy(backoff_base=20 * SECOND)


class Retry:
    """A failed generation in a world whose clock is not at zero."""

    def __init__(self, *script: AiStep) -> None:
        self.world = MemoryWorld(Hooked)
        self.storage = hooked(self.world)
        self.world.advance(100 * SECOND)
        self.ai = ScriptedAiProvider(*script)
        self.user_id = self.world.new_user()
        self.generation_id = self.world.new_generation(self.user_id)

    def __call__(self, **options: Any) -> RetryResult:
        """Run it; waits are the longest possible."""
        arguments: dict[str, Any] = {
            "user_id": self.user_id,
            "generation_id": self.generation_id,
            "storage": self.storage,
            "ai": self.ai,
            "clock": self.world.clock,
            "jitter": lambda: 1.0,
        }
        return retry_generation(**arguments | options)


def another_context(generation: Generation) -> Context:
    """Read the context with another model."""
    return replace(stored_context(generation), model="another")


def no_context(_: Generation) -> Context:
    """Find nothing to ask."""
    raise ContextMissing("it was archived")


class TestHandedOn:
    """What the caller gives reaches the rules, the provider and the storage."""

    def test_retry_obeys_the_callers_policy(self) -> None:
        """A policy with one attempt refuses any retry."""
        with pytest.raises(AttemptsExhausted):
            Retry()(policy=ONCE)

    def test_retry_asks_with_the_callers_context(self) -> None:
        """The app's own seam reads what is asked."""
        retry = Retry(an_answer())

        retry(context_from=another_context)

        assert [call.context.model for call in retry.ai.calls] == ["another"]

    def test_status_obeys_the_callers_policy(self) -> None:
        """The status says what a retry under the same policy would be answered, and what it read."""
        retry = Retry()

        status = retry_status(retry.user_id, retry.generation_id, storage=retry.storage, policy=ONCE)

        assert isinstance(status.refusal, AttemptsExhausted)
        assert status.snapshot.generation.id == retry.generation_id

    def test_status_reads_the_callers_context(self) -> None:
        """The status reads with the same seam as the retry."""
        retry = Retry()

        status = retry_status(retry.user_id, retry.generation_id, storage=retry.storage, context_from=no_context)

        assert isinstance(status.refusal, ContextMissing)

    def test_outage_of_the_callers_route_refuses(self) -> None:
        """Retry and status ask whether the route of this context is available; without routes neither does."""
        retry = Retry(an_answer())
        retry.storage.routes.note_outage("one/small", Outage(wait=9 * SECOND, failures=1), retry.world.clock.now())
        ids, route_of = (retry.user_id, retry.generation_id), "one/{0.model}".format

        with pytest.raises(RouteUnavailable) as caught:
            retry(route_of=route_of)
        refusal = retry_status(*ids, storage=retry.storage, route_of=route_of).refusal

        assert caught.value.retry_after == 9 * SECOND
        assert isinstance(refusal, RouteUnavailable)
        assert retry_status(*ids, storage=retry.storage, route_of="two/{0.model}".format).can_retry
        assert retry_status(*ids, storage=retry.storage).can_retry
        assert retry().attempt == 2

    def test_lease_is_renewed_from_begin_to_end(self) -> None:
        """The caller's renewals hold the generation's attempt, by its token, while it runs, and no longer."""
        log: list[Any] = []

        def fail(_: AiCall) -> Failure:
            log.append("call")
            return a_failure()

        retry = Retry(fail)

        @contextmanager
        def renewing(generation_id: UUID, token: UUID) -> Iterator[None]:
            log.append((generation_id, token))
            try:
                yield
            finally:
                log.append("end")

        with pytest.raises(GenerationFailed):
            retry(renewing=renewing)

        (row,) = retry.world.attempts(retry.generation_id)
        assert log == [(retry.generation_id, row["token"]), "call", "end"]

    def test_refused_retry_renews_nothing(self) -> None:
        """Where nothing was begun there is no lease."""

        def renewing(*_: UUID) -> Any:
            raise AssertionError("nothing runs")

        with pytest.raises(AttemptsExhausted):
            Retry()(policy=ONCE, renewing=renewing)

    def test_caller_watches_each_step(self) -> None:
        """A watch sees every step before and after it is done."""
        seen: list[tuple[str, str]] = []

        class Watching:
            def before(self, step: Step) -> None:
                seen.append(("before", type(step).__name__))

            def after(self, step: Step, result: Any) -> None:
                seen.append((type(result).__name__, type(step).__name__))

        Retry(an_answer())(watches=[Watching()])

        assert seen == [
            *(("before", "Load"), ("Snapshot", "Load")),
            *(("before", "Begin"), ("Reply", "Begin")),
            *(("before", "Call"), ("Answer", "Call")),
            *(("before", "Settle"), ("Reply", "Settle")),
        ]

    def test_jitter_is_random_where_none_is_given(self) -> None:
        """Waits of those that fail together differ."""
        waits = set()
        for _ in range(5):
            with pytest.raises(GenerationFailed) as caught:
                Retry(a_failure())(jitter=None)
            waits.add(caught.value.retry_after)

        assert len(waits) > 1
        assert all(wait is not None and SECOND <= wait <= 2 * SECOND for wait in waits)

    def test_failure_waits_by_the_callers_policy(self) -> None:
        """The wait that is recorded and reported is the policy's."""
        retry = Retry(a_failure())

        with pytest.raises(GenerationFailed) as caught:
            retry(policy=SLOW)

        (row,) = retry.world.attempts(retry.generation_id)
        assert caught.value.retry_after == row["next_attempt_at"] - row["closed_at"] == 20 * SECOND

    def test_failure_ends_by_the_callers_policy(self) -> None:
        """When the policy's attempts are used up there is no wait."""
        with pytest.raises(GenerationFailed) as caught:
            Retry(a_failure())(policy=RetryPolicy(max_attempts=2))

        assert caught.value.retry_after is None

    def test_rejected_session_waits_by_the_callers_policy(self) -> None:
        """A session that was rejected is due again after the policy's backoff, or 15 s (row 2.8)."""
        for policy, wait in ((RetryPolicy(backoff_base=9 * SECOND), 9 * SECOND), (SLOW, 15 * SECOND)):
            retry = Retry(an_answer())
            retry.world.refuse_sessions("title_is_short")

            with pytest.raises(SessionRejected) as caught:
                retry(policy=policy)

            assert caught.value.retry_after == wait

    def test_missing_generation_is_named(self) -> None:
        """The caller learns which id there is nothing for."""
        unknown = uuid4()

        with pytest.raises(GenerationNotFound, match=str(unknown)):
            Retry()(generation_id=unknown)

    def test_replay_gives_the_result_again(self) -> None:
        """A request repeated with its key gets session, generation and quota as they are."""
        retry = Retry(an_answer())
        first = retry(idempotency_key="k")

        again = retry(idempotency_key="k")

        assert again == replace(first, replayed=True, usage=None, generation=again.generation)
        assert (again.generation.id, again.generation.status) == (retry.generation_id, GenerationStatus.SUCCESS)


class TestNames:
    """Names are printable, and 1 to 255 characters long."""

    @pytest.mark.parametrize("name", ["idempotency_key", "operator"])
    @pytest.mark.parametrize("length", [1, 255])
    def test_name_may_be_as_long(self, name: str, length: int) -> None:
        """The shortest and the longest name are taken."""
        assert Retry(an_answer())(**{name: "k" * length}).attempt == 2

    @pytest.mark.parametrize("name", ["idempotency_key", "operator"])
    @pytest.mark.parametrize("text", ["", "k" * 256, "line\n"])
    def test_wrong_name_is_refused(self, name: str, text: str) -> None:
        """A name that is empty, too long or not printable is refused by its argument's name."""
        with pytest.raises(ValueError, match=rf"^{name} must have 1 to 255 printable characters$"):
            Retry()(**{name: text})

    def test_status_says_whose_id_is_wrong(self) -> None:
        """A user's id that is not a UUID is refused as the user's."""
        with pytest.raises(ValueError, match=r"^user_id must be a UUID"):
            retry_status("ada", UUID(int=1), storage=MemoryWorld().storage)


class TestEdges:
    """Where a rule turns from yes to no."""

    def test_policy_takes_ones(self) -> None:
        """One attempt, one at a time, is a policy."""
        policy = RetryPolicy(max_attempts=1, hard_cap=1, max_parallel=1)

        assert (policy.max_attempts, policy.hard_cap, policy.max_parallel) == (1, 1, 1)

    def test_defaults_are_the_documented_ones(self) -> None:
        """The numbers that the documentation names, which no mutant reaches."""
        policy = DEFAULT_POLICY

        assert (policy.max_attempts, policy.hard_cap, policy.max_parallel) == (4, 20, 2)
        assert (policy.backoff_base, policy.backoff_cap) == (2 * SECOND, timedelta(minutes=5))
        assert (policy.deadline, policy.lease, policy.settle_margin) == (15 * SECOND, LEASE, 5 * SECOND)
        assert policy.left_behind == timedelta(minutes=15)
        assert policy.hard_cap_window == policy.max_wait == policy.quota.window == timedelta(hours=24)
        assert (policy.quota.limit, policy.quota.count_own_successes) == (5, True)

    @pytest.mark.parametrize(("recent", "left"), [(1, True), (2, False)])
    def test_hard_cap_leaves_its_last_attempt(self, recent: int, *, left: bool) -> None:
        """With a hard cap of three there is a next attempt after the second one and none after the third."""
        attempts = tuple(an_attempt(number, counted=False) for number in range(2, 2 + recent))
        failure = a_failure(certainly_not_generated=True)

        assert attempts_left(a_snapshot(attempts=attempts), failure, RetryPolicy(hard_cap=3)) is left

    def test_provider_key_ignores_the_order_of_fields(self) -> None:
        """The same question in another order of fields, as jsonb may give it back, is the same question."""
        one = a_context(parameters={"temperature": 0, "seed": 1})
        other = a_context(parameters={"seed": 1, "temperature": 0})

        assert provider_key(a_snapshot(), one) == provider_key(a_snapshot(), other)

    @pytest.mark.parametrize("limit", [0, 5])
    def test_quota_without_reset_says_no_wait(self, limit: int) -> None:
        """There is no wait where no instant is known."""
        with pytest.raises(QuotaExhausted) as caught:
            admit(a_snapshot(quota=a_quota(limit=limit, held=limit)))

        assert caught.value.retry_after is None

    def test_quota_of_nothing_says_no_wait(self) -> None:
        """With a limit of 0 there is no wait, even if something will be out of the window."""
        with pytest.raises(QuotaExhausted) as caught:
            admit(a_snapshot(quota=a_quota(limit=0, captured=1, resets_at=AS_OF + SECOND)))

        assert caught.value.retry_after is None


class TestLeftBehind:
    """A generation that says ``processing`` after an attempt of ours: ours left it, or the app is at it."""

    @pytest.mark.parametrize("touched_before", [timedelta(0), SECOND])
    @pytest.mark.parametrize(
        "columns",
        [
            {"outcome": Outcome.ABANDONED, "lease_expires_at": AS_OF - 20 * SECOND, "closed_at": AS_OF - SECOND},
            {
                "refused_constraint": "title_is_short",
                "lease_expires_at": AS_OF - SECOND,
                "closed_at": AS_OF - 20 * SECOND,
            },
        ],
    )
    def test_status_left_by_us_refuses_nothing(self, columns: dict[str, Any], touched_before: timedelta) -> None:
        """What was last touched at the end of our attempt, or before, was left by us."""
        attempt = an_attempt(**columns)
        ours_until = min(attempt.closed_at or AS_OF, attempt.lease_expires_at or AS_OF)
        generation = a_generation(status=GenerationStatus.PROCESSING, updated_at=ours_until - touched_before)

        assert admit(a_snapshot(generation=generation, attempts=(attempt,))).number == 3

    def test_status_after_our_failure_is_the_apps(self) -> None:
        """Our failure wrote ``error``, so ``processing`` after it is the app's, whatever it says of the time."""
        closed_at = AS_OF - 10 * SECOND
        attempt = an_attempt(closed_at=closed_at, lease_expires_at=AS_OF + SECOND)
        generation = a_generation(status=GenerationStatus.PROCESSING, updated_at=closed_at - SECOND)

        with pytest.raises(RetryInProgress):
            admit(a_snapshot(generation=generation, attempts=(attempt,)))
