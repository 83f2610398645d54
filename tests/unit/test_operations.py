"""What operators may do and read: by role, with a reason, on record."""

import inspect
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ai_retry.client import Client
from ai_retry.domain.errors import (
    AiRetryError,
    GenerationFailed,
    GenerationNotFound,
    NotConfigured,
    StorageUnavailable,
)
from ai_retry.domain.operation import Order
from ai_retry.operate.acting import Actions
from ai_retry.operate.operations import Operations
from ai_retry.operate.operator import NotAllowed, Operator, Role
from ai_retry.operate.reading import Reads
from ai_retry.testing.ai import ScriptedAiProvider
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.steps import ANSWER, answer_too_late, new_generation

HOUR = timedelta(hours=1)
PROMPT = "Plan an easy run."


class Case:
    """A failed generation, and a client whose operators may act on it."""

    def __init__(self, *script: Any) -> None:
        self.world = MemoryWorld()
        storage = self.world.storage
        self.client = Client(
            storage=storage,
            queue_storage=storage,
            recovery_storage=storage,
            operator_storage=storage,
            ai=ScriptedAiProvider(*script),
            clock=self.world.clock,
            provider="p",
        )
        self.ids = self.user_id, self.generation_id = new_generation(self.world)

    def by(self, role: Role = "admin", name: str = "ada") -> Operations:
        """What an operator of this role may do."""
        return self.client.operate(Operator(name, role))

    @property
    def outcomes(self) -> list[tuple[str, str | None]]:
        """What is on record, the newest first."""
        return [(each.action, each.outcome) for each in self.by().actions()]


OPERATOR: list[Callable[[Case, Operations], object]] = [
    lambda case, can: can.retry(*case.ids, reason="x"),
    lambda case, can: can.enqueue(*case.ids, reason="x"),
    lambda case, can: can.cancel(*case.ids, reason="x"),
    lambda case, can: can.discard_answer(*case.ids, reason="x"),
    lambda _, can: can.hold_route("p/small", seconds=60, reason="x"),
    lambda _, can: can.open_route("p/small", reason="x"),
    lambda case, can: can.run_plan(case.client.plan(case.client.find(since="1h")), reason="x"),
]
ADMIN: list[Callable[[Case, Operations], object]] = [
    lambda case, can: can.set_quota(case.user_id, limit=9, per=HOUR, reason="x"),
    lambda case, can: can.reset_quota(case.user_id, reason="x"),
    lambda case, can: can.kept_answer(*case.ids, reason="x"),
]


class TestRoles:
    """Who may do what."""

    @pytest.mark.parametrize("act", OPERATOR)
    def test_viewer_may_not_act(self, act: Callable[[Case, Operations], object]) -> None:
        """A viewer is refused with the role that is needed; nothing is written, not even a record."""
        case = Case()
        before = repr(case.world.storage.rows)

        with pytest.raises(NotAllowed) as refused:
            act(case, case.by("viewer"))

        assert (refused.value.needed, refused.value.http_status, refused.value.code) == ("operator", 403, "NOT_ALLOWED")
        assert refused.value.details == {"needed_role": "operator", "role": "viewer"}
        assert (case.outcomes, repr(case.world.storage.rows), case.world.storage.routes._rows) == ([], before, {})

    @pytest.mark.parametrize("role", ["viewer", "operator"])
    @pytest.mark.parametrize("act", ADMIN)
    def test_quotas_and_answers_are_an_admins(self, act: Callable[[Case, Operations], object], role: Role) -> None:
        """Who is no admin changes no quota and reads no answer."""
        case = Case()

        with pytest.raises(NotAllowed, match="needs the role admin"):
            act(case, case.by(role))

        assert (case.outcomes, case.world.storage.quotas) == ([], {})

    def test_every_action_asks(self) -> None:
        """No action is missing above, and no read is an action."""
        acting = [name for name, _ in inspect.getmembers(Actions, inspect.isfunction) if not name.startswith("_")]

        assert len(acting) == len(OPERATOR) + len(ADMIN)

    def test_viewer_reads(self) -> None:
        """A viewer may read everything but answers."""
        case = Case()
        can = case.by("viewer")

        assert can.overview().as_of == case.world.clock.now()
        assert [each.generation_id for each in can.failures().rows] == [case.generation_id]
        assert can.timeline(case.generation_id) is not None
        assert can.user(case.user_id).quota.limit == 5
        assert (can.actions(), can.books()) == ([], [])
        with pytest.raises(NotConfigured, match="ai-retry doctor"):
            can.doctor()

    def test_every_read_asks(self) -> None:
        """A role that allows nothing reads nothing: each read asks."""
        case = Case()
        can = case.by("viewer")
        object.__setattr__(can.operator, "role", "viewer")
        asked: list[str] = []

        def check(_self: Operator, needed: str) -> None:
            asked.append(needed)
            raise NotAllowed("viewer", "viewer")

        reads = [name for name, _ in inspect.getmembers(Reads, inspect.isfunction) if not name.startswith("_")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Operator, "check", check)
            for name in reads:
                arguments = (case.generation_id,) if name in ("timeline", "user") else ()
                with pytest.raises(NotAllowed):
                    getattr(can, name)(*arguments)

        assert asked == ["viewer"] * len(reads)

    @pytest.mark.parametrize(("name", "role"), [("", "viewer"), (" ", "admin"), ("a\nb", "admin"), ("ada", "root")])
    def test_operator_has_a_name_and_a_role(self, name: str, role: Any) -> None:
        """A name that can't be recorded, or a role that there is not, makes no operator."""
        with pytest.raises(ValueError, match=r"operator|role"):
            Operator(name, role)

    def test_client_without_records_has_no_operations(self) -> None:
        """Where nothing can be recorded, no operator acts."""
        world = MemoryWorld()
        client = Client(storage=world.storage, ai=ScriptedAiProvider())

        with pytest.raises(NotConfigured, match="operator_storage"):
            client.operate(Operator("ada", "admin"))


class TestRecords:
    """What is on record of what was done."""

    def test_retry_carries_the_operators_name(self) -> None:
        """What an operator retries is on record, and on the attempt."""
        case = Case(an_answer())

        result = case.by().retry(*case.ids, reason=" she asked ", charge=False)

        (action,) = case.by().actions(target=f"generation:{case.generation_id}")
        assert result.attempt == 2
        assert (action.operator, action.role, action.reason, action.user_id) == (
            "ada",
            "admin",
            "she asked",
            case.user_id,
        )
        assert (action.action, action.outcome) == ("retry", "done")
        assert (case.world.attempts(case.generation_id)[0]["operator"], result.quota.captured) == ("ada", 0)

    def test_failure_is_on_record_with_its_code(self) -> None:
        """What is refused, or fails, is on record; the caller gets the error."""
        case = Case(a_failure(), an_answer())

        with pytest.raises(GenerationFailed):
            case.by().retry(*case.ids, reason="x")
        with pytest.raises(GenerationNotFound):
            case.by().retry(case.generation_id, case.user_id, reason="x")

        assert case.outcomes == [("retry", "GENERATION_NOT_FOUND"), ("retry", "AI_UNAVAILABLE")]

    def test_defect_is_on_record(self) -> None:
        """Whatever ends an action is on record as its outcome."""
        case = Case(AssertionError("a defect"), KeyboardInterrupt())
        other = case.world.new_generation(case.user_id)

        with pytest.raises(AssertionError):
            case.by().retry(*case.ids, reason="x")
        with pytest.raises(KeyboardInterrupt):
            case.by().retry(case.user_id, other, reason="x")

        assert case.outcomes == [("retry", "INTERRUPTED"), ("retry", "INTERNAL")]

    def test_nothing_is_done_unrecorded(self) -> None:
        """Where the record can't be written, nothing is done."""
        case = Case(an_answer())

        def refuse(_order: Order, _outcome: str | None) -> None:
            raise StorageUnavailable("down")

        case.world.storage.record = refuse  # type: ignore

        with pytest.raises(StorageUnavailable):
            case.by().retry(*case.ids, reason="x")

        assert case.world.attempts(case.generation_id) == []

    @pytest.mark.parametrize("failure", [StorageUnavailable("down"), NotConfigured("no privilege")])
    def test_lost_outcome_is_no_error(self, failure: AiRetryError, caplog: pytest.LogCaptureFixture) -> None:
        """What was done stays done where its outcome can't be recorded; a line says so, and the record says nothing."""
        case = Case(an_answer())
        record = case.world.storage.record

        def refuse(order: Order, outcome: str | None) -> None:
            if outcome is not None:
                raise failure
            record(order, outcome)

        case.world.storage.record = refuse  # type: ignore

        assert case.by().retry(*case.ids, reason="x").attempt == 2
        assert case.outcomes == [("retry", None)]
        assert "outcome_not_recorded" in caplog.text

    def test_queued_retry_is_cancelled_on_record(self) -> None:
        """Accepting and cancelling are on record; each does what the client does."""
        case = Case()

        accepted = case.by("operator").enqueue(*case.ids, reason="x", waive={"quota"})
        case.by("operator").cancel(*case.ids, reason="y")

        assert accepted.attempt == 2
        assert case.world.attempts(case.generation_id)[0]["outcome"] == "cancelled"
        assert case.outcomes == [("cancel", "done"), ("enqueue", "done")]

    def test_answer_is_dropped_once(self) -> None:
        """A kept answer is dropped; a second time there is nothing to drop, and the record says so."""
        case = Case()
        answer_too_late(case.world, *case.ids)

        dropped = [case.by().discard_answer(*case.ids, reason="x") for _ in range(2)]

        assert dropped == [True, False]
        assert case.outcomes == [("discard_answer", "nothing"), ("discard_answer", "done")]

    def test_kept_answer_is_read(self) -> None:
        """An admin reads the answer as JSON, which is on record; where none is kept there is none."""
        case = Case()
        with pytest.raises(GenerationNotFound):
            case.by().kept_answer(*case.ids, reason="x")
        answer_too_late(case.world, *case.ids)

        assert json.loads(case.by().kept_answer(*case.ids, reason="x")) == ANSWER.output
        assert case.outcomes == [("kept_answer", "done"), ("kept_answer", "nothing")]

    def test_plan_is_run_on_record(self) -> None:
        """A recovery that an operator starts is on record by its plan's id."""
        case = Case(an_answer())
        plan = case.client.plan(case.client.find(since="1h"))

        report = case.by().run_plan(plan, reason="the outage of today", max_workers=1)

        (action,) = case.by().actions(target=f"plan:{plan.id}")
        assert report.totals["succeeded"] == 1
        assert (action.outcome, action.reason) == ("done", "the outage of today")
        assert case.by().timeline(case.generation_id).attempts[0].plan_id == plan.id  # type: ignore[union-attr]

    def test_option_that_can_t_be_used_is_on_record(self) -> None:
        """A plan that can't be run so is refused, which is on record."""
        case = Case()
        plan = case.client.plan(case.client.find(since="1h"))

        with pytest.raises(ValueError, match="max_workers"):
            case.by().run_plan(plan, reason="x", max_workers=0)

        assert case.outcomes == [("run_plan", "INVALID_ARGUMENT")]

    def test_quota_and_routes(self) -> None:
        """Quotas and routes are changed, and changed back."""
        case = Case()
        case.by().set_quota(case.user_id, limit=1, per=HOUR, reason="x")
        own = case.by().user(case.user_id)
        case.by().hold_route("p/small", seconds=60, reason="x")
        held = case.client.status(*case.ids).code

        assert case.by().reset_quota(case.user_id, reason="x")
        assert case.by().open_route("p/small", reason="x")

        assert own.override is not None
        assert (own.override.limit, own.quota.window, held) == (1, HOUR, "ROUTE_UNAVAILABLE")
        assert [each.action for each in own.actions] == ["set_quota"]
        assert (case.by().user(case.user_id).override, case.client.status(*case.ids).can_retry) == (None, True)


class TestArguments:
    """What can't be used is refused before anything is read or recorded."""

    @pytest.mark.parametrize("reason", ["", "  ", "a\nb", "x" * 501, "\x1b[2J", None])
    def test_reason_is_one_line(self, reason: Any) -> None:
        """A reason is there, short and printable."""
        case = Case()

        for act in (case.by().retry, case.by().cancel):
            with pytest.raises(ValueError, match="reason must be"):
                act(*case.ids, reason=reason)

        assert case.outcomes == []

    @pytest.mark.parametrize(
        "act",
        [
            lambda can, ids: can.retry("?", ids[1], reason="x"),
            lambda can, ids: can.retry(ids[0], "?", reason="x"),
            lambda can, ids: can.retry(*ids, reason="x", waive={"everything"}),
            lambda can, _: can.hold_route("p/small", seconds=0, reason="x"),
            lambda can, _: can.hold_route("p/small", seconds=86401, reason="x"),
            lambda can, _: can.hold_route("x" * 256, seconds=60, reason="x"),
            lambda can, _: can.open_route("", reason="x"),
            lambda can, ids: can.set_quota(ids[0], limit=-1, per=HOUR, reason="x"),
            lambda can, ids: can.set_quota(ids[0], limit=10**9, per=HOUR, reason="x"),
            lambda can, ids: can.set_quota(ids[0], limit=1, per=timedelta(0), reason="x"),
            lambda can, ids: can.set_quota(ids[0], limit=1, per=timedelta(days=4000), reason="x"),
            lambda can, _: can.failures(limit=0),
            lambda can, _: can.failures(limit=201),
            lambda can, _: can.failures(code=["X" + str(n) for n in range(21)]),
            lambda can, _: can.failures(model="x" * 256),
            lambda can, _: can.failures(after="?"),
            lambda can, _: can.failures(user_id="?"),
            lambda can, _: can.timeline("?"),
            lambda can, _: can.user("?"),
            lambda can, _: can.actions(limit=0),
            lambda can, _: can.actions(target="x" * 256),
            lambda can, _: can.actions(before=datetime(2026, 1, 1)),  # noqa: DTZ001 (that is what is refused)
        ],
    )
    def test_bounds(self, act: Callable[[Operations, Any], object]) -> None:
        """Ids, words, lengths and numbers have bounds."""
        case = Case()

        with pytest.raises(ValueError, match=r"must|cursor is not"):
            act(case.by(), case.ids)

        assert case.outcomes == []


class TestReads:
    """What is put together of several reads."""

    def test_failures_come_in_pages(self) -> None:
        """Pages follow each other, also where few have the code; only the first one counts."""
        case = Case(*(a_failure() for _ in range(5)))
        for _ in range(4):
            case.world.clock.advance(HOUR)
            other = case.world.new_generation(case.user_id)
            with pytest.raises(GenerationFailed):
                case.client.retry_generation(case.user_id, other)
            case.world.new_generation(case.user_id)

        seen, after, pages = [], None, 0
        while pages == 0 or after is not None:
            page = case.by().failures(code="AI_UNAVAILABLE", limit=1, after=after)
            seen += [each.generation_id for each in page.rows]
            assert (page.count is not None) == (pages == 0)
            after, pages = page.next, pages + 1

        assert len(set(seen)) == len(seen) == 4
        first = case.by().failures(code="AI_UNAVAILABLE", until=case.world.clock.now() - timedelta(minutes=90))
        assert len(first.rows) == 2

    def test_timeline_tells_everything_but_the_prompt(self) -> None:
        """Attempts, calls, waits, operators' actions and what comes next; no prompt and no answer."""
        case = Case(a_failure())
        with pytest.raises(GenerationFailed):
            case.by().retry(*case.ids, reason="she asked")
        case.world.clock.advance(HOUR)
        answer_too_late(case.world, *case.ids)

        timeline = case.by("viewer").timeline(case.generation_id)

        assert timeline is not None
        assert [each.number for each in timeline.attempts] == [2, 3]
        assert [each.what for each in timeline.moments] == [
            *("created", "began", "failed", "action", "began", "abandoned", "kept", "wait"),
        ]
        assert [each.is_expected for each in timeline.moments].count(True) == 1
        assert timeline.answer_kept
        assert timeline.outlook is not None
        assert (timeline.outlook.code, timeline.generation.code) == ("RETRY_TOO_SOON", "LEASE_LOST")
        assert "The last error" in timeline.why.text
        assert (timeline.created_at, timeline.session_id) == (datetime(2026, 1, 1, tzinfo=UTC), None)
        stored = timeline.outlook.snapshot.stored_answer
        assert stored is not None
        assert (timeline.outlook.snapshot.generation.prompt_data, stored.answer.output) == (None, None)
        assert PROMPT not in repr(timeline)
        case.world.advance(HOUR)
        case.by().enqueue(*case.ids, reason="x")
        queued = case.by("viewer").timeline(case.generation_id)
        assert queued is not None
        assert queued.outlook is not None
        assert (queued.outlook.queued is not None, queued.outlook.snapshot.open_token) == (True, None)

    def test_timeline_of_nothing(self) -> None:
        """There is none of a generation that is not there."""
        case = Case()

        assert case.by().timeline(case.user_id) is None

    def test_user_shows_the_newest(self) -> None:
        """A user's newest generations of whatever status, twenty at most."""
        case = Case(an_answer())
        case.client.retry_generation(*case.ids)
        for _ in range(25):
            case.world.clock.advance(HOUR)
            case.world.new_generation(case.user_id)

        state = case.by().user(case.user_id)

        assert len(state.generations) == 20
        assert case.generation_id not in {each.generation_id for each in state.generations}
        assert (state.user_id, state.live, state.queued) == (case.user_id, 0, 0)

    def test_overview_counts_the_spool(self) -> None:
        """Without a spool nothing is said of one."""
        assert Case().by().overview().spool_files is None

    def test_operations_name_their_operator(self) -> None:
        """A log of it names the operator, and nothing else."""
        assert repr(Case().by()) == "Operations(Operator(name='ada', role='admin'))"
