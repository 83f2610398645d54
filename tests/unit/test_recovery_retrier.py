"""One generation of a plan: its retry under the plan's terms, and what its end means for the run."""

from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import pytest

from ai_retry.domain.change import Begin, Reply
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.model import Failure, FailureCode, QuotaRule, Usage, Waiver
from ai_retry.domain.names import PlanKey
from ai_retry.domain.pace import CallEnd
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import Outage
from ai_retry.recovery.line import Task
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan_file import Terms
from ai_retry.recovery.report import Left
from ai_retry.recovery.retrier import Ended, Retrier
from ai_retry.slots import CallSlots
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import SECOND, a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import run, to_accept, try_accept
from tests.helpers.scene import Hooked, hooked, raising
from tests.helpers.steps import answer_too_late, begin, close_over, fail, new_generation, outcomes, succeed

KEY = PlanKey.of("0123")
POLICY = RetryPolicy()
TERMS = Terms(policy=POLICY)
PRICED = an_answer(usage=Usage(total_tokens=46, cost=Decimal("0.02")))


class Case:
    """A failed generation, and a plan that selected it."""

    def __init__(self, *script: AiStep, terms: Terms = TERMS) -> None:
        self.world = MemoryWorld(Hooked)
        self.storage = hooked(self.world)
        self.ai, self.terms = ScriptedAiProvider(*script), terms
        self.ids = self.user_id, self.generation_id = new_generation(self.world)
        self.slots = CallSlots(1)
        self.retrier = self.new_retrier()

    def new_retrier(self) -> Retrier:
        """Another run of the plan."""
        parts = Parts(
            storage=self.storage,
            records=cast("Any", None),
            ai=self.ai,
            clock=self.world.clock,
            policy=POLICY,
            context_from=stored_context,
            route_of=lambda context: f"one/{context.model}",
            renewing=lambda *_: nullcontext(),
            slots=self.slots,
        )
        return Retrier(parts, self.terms, key=KEY, operator="ada")

    def retry(self, *, retrier: Retrier | None = None, **ids: Any) -> Ended:
        """Retry it, as the third round's call."""
        ends: list[Ended] = []
        task = Task(ids.get("user_id", self.user_id), ids.get("generation_id", self.generation_id))
        (retrier or self.retrier).retry(task, 3, ends.append)
        (ended,) = ends
        assert (ended.task, ended.started_in) == (task, 3)
        return ended

    @property
    def attempts(self) -> Any:
        """Rows of its attempts."""
        return self.world.attempts(self.generation_id)


class TestAttempt:
    """What the plan's attempt is recorded with."""

    def test_success_is_the_plans(self) -> None:
        """Key and operator are recorded; what the call cost is reported."""
        case = Case(PRICED)

        ended = case.retry()

        assert (ended.outcome, ended.call_end, ended.cost) == ("succeeded", CallEnd.WELL, Decimal("0.02"))
        (row,) = case.attempts
        assert (row["idempotency_key"], row["operator"], row["charge"]) == (KEY, "ada", True)

    def test_terms_lift_limits(self) -> None:
        """Waivers, no charge and the plan's own numbers hold for its attempts."""
        waive = frozenset(Waiver)
        case = Case(PRICED, terms=Terms(policy=RetryPolicy(quota=QuotaRule(limit=0)), waive=waive, charge=False))
        fail(case.world, begin(case.world, *case.ids), wait=timedelta(hours=1))

        assert case.retry().outcome == "succeeded"
        assert (case.attempts[-1]["waived"], case.attempts[-1]["charge"]) == (waive, False)

    def test_stored_answer_costs_nothing(self) -> None:
        """What it cost was another attempt's."""
        case = Case()
        answer_too_late(case.world, *case.ids, PRICED)
        case.world.advance(POLICY.backoff_cap)

        ended = case.retry()

        assert (ended.outcome, ended.cost) == ("succeeded", Decimal(0))


class TestSettledBefore:
    """A plan makes one settled attempt at each generation, however many runs of it there are."""

    @pytest.mark.parametrize("outcome", ["succeeded", "failed"])
    def test_settled_generation_is_left_alone(self, outcome: str) -> None:
        """Another run of the plan reports how it ended, and calls no provider."""
        case = Case(PRICED if outcome == "succeeded" else a_failure())
        case.retry()
        case.world.advance(POLICY.backoff_cap)

        ended = case.retry(retrier=case.new_retrier())

        assert (ended.outcome, ended.call_end, ended.cost) == (outcome, CallEnd.NOTHING, Decimal(0))
        assert len(case.attempts) == 1

    @pytest.mark.parametrize("outcome", ["succeeded", "failed"])
    def test_run_that_settles_first_is_seen_by_the_begin(self, outcome: str) -> None:
        """A run that reads before, and begins after, another run of the plan has settled makes no second attempt."""
        case = Case()

        def settle_elsewhere(_: Begin) -> None:
            case.storage.hooks = {}
            begun = begin(case.world, *case.ids, idempotency_key=KEY)
            if outcome == "succeeded":
                succeed(case.world, begun)
            else:
                fail(case.world, begun)

        case.storage.hooks = {"begin": settle_elsewhere}

        assert case.retry().outcome == outcome
        assert outcomes(case.world, case.generation_id) == [outcome]
        case.slots.take()

    def test_dead_runs_attempt_is_gone_on_with(self) -> None:
        """What a killed run left is closed, and tried again."""
        case = Case(PRICED)
        begin(case.world, *case.ids, idempotency_key=KEY)
        case.world.advance(timedelta(minutes=10))

        assert case.retry().outcome == "succeeded"
        assert outcomes(case.world, case.generation_id) == ["abandoned", "succeeded"]


class TestEnds:
    """What an end means for the run."""

    @pytest.mark.parametrize(
        ("failure", "call_end"),
        [
            (a_failure(), CallEnd.UNAVAILABLE),
            (a_failure(FailureCode.TIMEOUT), CallEnd.UNAVAILABLE),
            (a_failure(FailureCode.INVALID_OUTPUT), CallEnd.WELL),
            (a_failure(FailureCode.RATE_LIMITED), CallEnd.TOO_FAST),
            (a_failure(FailureCode.REJECTED, transient=False, operator_fault=True), CallEnd.REFUSING),
        ],
    )
    def test_failure_is_the_plans_attempt(self, failure: Failure, call_end: CallEnd) -> None:
        """It failed, and says how the provider is; the provider's wait goes along."""
        ended = Case(failure).retry()

        assert (ended.outcome, ended.call_end, ended.left, ended.again_after) == ("failed", call_end, None, None)

    @pytest.mark.parametrize(
        "failure",
        [
            a_failure(certainly_not_generated=True, wire_requests=0),
            a_failure(overloaded=True),
            a_failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=9 * SECOND),
        ],
        ids=["unreachable", "overloaded", "limited"],
    )
    def test_generation_that_was_turned_away_comes_again(self, failure: Failure) -> None:
        """A provider that takes no requests uses up no attempt of the plan: it is waited for (row 2.9)."""
        case = Case(failure, PRICED)

        ended = case.retry()

        assert (ended.outcome, ended.met_outage, ended.left) == ("left", True, Left(failure.code.value))
        (row,) = case.attempts
        assert ended.again_after == (row["next_attempt_at"] - row["closed_at"]).total_seconds()
        assert ended.retry_after == (failure.retry_after or timedelta(0)).total_seconds()
        case.world.advance(timedelta(minutes=10))
        assert case.retry().outcome == "succeeded"

    def test_known_outage_is_waited_for(self) -> None:
        """A route that workers found closed is asked by no plan; its generation comes again when it opens."""
        case = Case()
        outage = Outage(wait=timedelta(minutes=4), failures=1)
        case.storage.routes.note_outage("one/small", outage, case.world.clock.now())

        ended = case.retry()

        assert (ended.outcome, ended.met_outage, ended.again_after) == ("left", True, 240.0)
        assert case.attempts == []

    def test_held_route_is_looked_at_again(self) -> None:
        """A route that an operator holds may be opened any time: its generation comes again within a minute."""
        case = Case()
        case.storage.routes.hold("one/small", timedelta(hours=4), case.world.clock.now())

        ended = case.retry()

        assert (ended.outcome, ended.met_outage, ended.again_after) == ("left", True, 60.0)
        assert (case.attempts, ended.left and ended.left.retry_at) == ([], case.world.clock.now() + timedelta(hours=4))

    def test_refusal_that_passes_comes_again(self) -> None:
        """In the time that the rule says; the reason has the instant."""
        case = Case()
        fail(case.world, begin(case.world, *case.ids), wait=9 * SECOND)

        ended = case.retry()

        assert (ended.outcome, ended.again_after, ended.met_outage) == ("left", 9.0, False)
        assert ended.left == Left("RETRY_TOO_SOON", case.world.clock.now() + 9 * SECOND)

    def test_refusal_that_does_not_pass_leaves_it(self) -> None:
        """It has its session: there is nothing to wait for."""
        case = Case()
        case.world.set_generation(case.generation_id, status="success")

        ended = case.retry()

        assert (ended.outcome, ended.again_after, ended.left) == ("left", None, Left("ALREADY_SUCCEEDED"))

    def test_accepted_retry_is_left_to_its_worker(self) -> None:
        """What was accepted for later is in progress."""
        case = Case()
        try_accept(case.world, to_accept(case.world, *case.ids))
        run(case.world, *case.ids)

        ended = case.retry()

        assert (ended.outcome, ended.left and ended.left.code) == ("left", "RETRY_IN_PROGRESS")

    def test_full_process_comes_again(self) -> None:
        """The client's other calls have taken all slots; nothing was begun."""
        case = Case()
        case.slots.take()

        ended = case.retry()

        assert (ended.outcome, ended.again_after, case.attempts) == ("left", 1.0, [])

    def test_missing_set_up_is_an_operators(self) -> None:
        """It is left, and the run slows down as for a refusing provider."""
        case = Case()
        case.world.app.can_create_session = False

        ended = case.retry()

        assert (ended.outcome, ended.call_end, ended.again_after) == ("left", CallEnd.REFUSING, None)
        assert ended.left == Left(NotConfigured.code)

    @pytest.mark.parametrize("error", [StorageUnavailable("57P01"), StorageOutcomeUnknown("08006")])
    def test_storage_that_fails_leaves_it(self, error: Exception) -> None:
        """The next run of the plan goes on with it."""
        case = Case(a_failure())
        case.storage.hooks = {"settle": raising(error)}

        ended = case.retry()

        assert (ended.outcome, ended.call_end, ended.again_after) == ("left", CallEnd.UNAVAILABLE, None)
        case.slots.take()

    def test_lost_lease_is_left_for_the_next_run(self) -> None:
        """After a begin it is unknown what became of the attempt: it does not come again in this run."""
        case = Case()

        def slow(change: Begin) -> Reply:
            reply = MemoryStorage.begin(case.storage, change)
            case.world.advance(POLICY.lease)
            close_over(case.world, case.user_id)
            return reply

        case.storage.hooks = {"begin": slow}

        ended = case.retry()

        assert (ended.outcome, ended.again_after, ended.left and ended.left.code) == ("left", None, "LEASE_LOST")

    def test_defect_is_reported_as_such(self) -> None:
        """Whatever is raised, the run gets one end."""
        case = Case(RuntimeError("boom"))

        ended = case.retry()

        assert (ended.outcome, ended.left, str(ended.crash)) == ("left", Left("INTERNAL"), "boom")
        case.slots.take()


def test_three_rejected_users_stop_the_plan() -> None:
    """One cause that rejects the sessions of three users in a row would reject all: the run learns it (row 2.4)."""
    case = Case(*[PRICED] * 3)
    case.world.refuse_sessions("completed_at_is_set")
    seen = []

    for _ in range(3):
        user_id, generation_id = new_generation(case.world)
        assert case.retry(user_id=user_id, generation_id=generation_id).outcome == "failed"
        seen.append(case.retrier.rejected_by)

    assert seen == [None, None, "completed_at_is_set"]
