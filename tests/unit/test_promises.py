"""What broke in the world, once more, over the storage of changes: one test for each input of its kind."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import Begin, CloseOver, Discard, Keep, Renew, Reply
from ai_retry.domain.errors import (
    AlreadySucceeded,
    BackoffNotElapsed,
    GenerationNotFound,
    LeaseLost,
    NotConfigured,
    QuotaExhausted,
    SessionRejected,
    StorageFailure,
    StorageUnavailable,
)
from ai_retry.domain.loop import Call, Loop, retrying
from ai_retry.domain.model import FailureCode, GenerationStatus, Outcome, QuotaRule
from ai_retry.domain.queue_loop import accepting, cancelling, working
from ai_retry.domain.queue_model import Outage, QueueOutcome
from ai_retry.testing.memory import MemoryStorage
from ai_retry.testing.memory.line import Routes
from tests.helpers.builders import AS_OF, a_failure, an_answer
from tests.helpers.scene import POLICY, Provider, Scene, hook, raising

HOUR = timedelta(hours=1)
SESSION_WAIT = timedelta(seconds=15)  # that the user is asked for after a rejected session


@pytest.fixture
def scene() -> Scene:
    """A new one for every test."""
    return Scene()


def load(scene: Scene, generation_id: UUID | None = None) -> Any:
    """The snapshot as it is now."""
    return scene.storage.load(scene.user_id, generation_id or scene.generation_id, POLICY.quota, None)


def running(scene: Scene, **columns: Any) -> Loop[Any]:
    """A click that waits for its provider."""
    loop = retrying(scene.asked(**columns), scene.setting)
    next(loop)
    begin = loop.send(load(scene, columns.get("generation_id")))
    assert isinstance(loop.send(scene.storage.begin(begin)), Call)  # type: ignore[arg-type]
    return loop


def reject(scene: Scene, constraint: str = "km_is_positive") -> SessionRejected:
    """Let the app refuse the session of a retry."""
    scene.world.refuse_sessions(constraint)
    with pytest.raises(SessionRejected) as caught:
        scene.retry()
    return caught.value


class TestUnits:
    """Nothing is spent twice."""

    def test_late_answer_costs_no_second_unit(self, scene: Scene) -> None:
        """An acceptance closes the click that outlived its lease: its late answer is stored, and charges nothing."""
        scene.world.set_quota(scene.user_id, 1, HOUR)
        other = scene.world.new_generation(scene.user_id)
        late = running(scene)
        settle = late.send(an_answer())
        scene.world.advance(POLICY.lease)
        scene.drive(accepting(scene.asked(generation_id=other), scene.setting.reader, scene.setting.policy))

        reply = scene.storage.settle(settle)  # type: ignore[arg-type]
        (taken,) = scene.storage.take(1, HOUR, POLICY.quota)
        scene.drive(working(taken, uuid4(), scene.setting))

        assert not reply.applied
        assert load(scene).quota.captured == 1
        assert load(scene).stored_answer.answer == an_answer()

    def test_removed_override_holds_no_longer(self, scene: Scene) -> None:
        """A begin that was decided under an override is decided again under the policy's own limit, not under it."""
        scene.world.set_quota(scene.user_id, 9, HOUR)
        for _ in range(POLICY.quota.limit):
            scene.retry(generation_id=scene.world.new_generation(scene.user_id))

        def removed(_: Begin) -> None:
            scene.storage.quotas.clear()

        hook(scene, begin=removed)

        with pytest.raises(QuotaExhausted):
            scene.retry()

    @pytest.mark.parametrize("rule", [QuotaRule(limit=1, window=HOUR), QuotaRule(limit=5, window=2 * HOUR)])
    def test_changed_override_makes_a_begin_stale(self, scene: Scene, rule: QuotaRule) -> None:
        """The version of a snapshot holds the user's override: its limit and its window."""
        scene.world.set_quota(scene.user_id, 5, HOUR)
        before = load(scene).version

        scene.storage.quotas[scene.user_id] = rule

        assert load(scene).version != before

    def test_session_of_another_generation_is_rejected(self, scene: Scene) -> None:
        """A session function that updates an old session, for another generation, is no success, and costs nothing."""
        session_id = str(uuid4())
        scene.world.app.create_session = lambda *_: {"id": session_id, "user_id": str(scene.user_id), "content": {}}
        scene.retry(generation_id=scene.world.new_generation(scene.user_id))

        with pytest.raises(SessionRejected) as caught:
            scene.retry()

        assert caught.value.details["constraint"] == "session_reused"
        assert (load(scene).quota.captured, len(scene.world.app.sessions)) == (1, 1)
        assert load(scene).stored_answer is not None

    def test_unit_is_held_until_attempt_is_closed(self, scene: Scene) -> None:
        """An accepted attempt that is over still holds its unit; a click's is shown as free, as a begin finds it."""
        scene.accept()
        (taken,) = scene.storage.take(1, HOUR, POLICY.quota)
        loop = working(taken, uuid4(), scene.setting)
        loop.send(scene.storage.begin(next(loop)))  # type: ignore[arg-type]
        other = scene.world.new_generation(scene.user_id)
        running(scene, generation_id=other)
        assert load(scene).quota.held == 2

        scene.world.advance(POLICY.lease)

        assert load(scene).quota.held == 1


class TestAnswers:
    """What was paid for has a place, and is used."""

    def test_answer_is_kept_when_row_is_locked(self, scene: Scene) -> None:
        """A settle that the app keeps out for as long as it is repeated loses nothing; the next retry makes no call."""
        hold = lambda: scene.world.app.locked.add(scene.generation_id)  # noqa: E731
        with pytest.raises(SessionRejected):
            scene.retry(Provider(an_answer(), hold))
        scene.world.app.locked.clear()
        provider = Provider(an_answer(output="another"))

        result = scene.retry(provider)

        assert (result.session["content"], provider.calls) == (an_answer().output, 0)

    def test_answer_is_kept_when_settling_is_misconfigured(self, scene: Scene) -> None:
        """A missing privilege, or whatever else the storage raises at a settle, loses no answer."""
        hook(scene, settle=raising(NotConfigured("a grant is missing")))

        with pytest.raises(SessionRejected) as caught:
            scene.retry()

        assert caught.value.details["constraint"] == "NOT_CONFIGURED"
        assert load(scene).stored_answer.answer == an_answer()

    def test_answer_of_a_forgotten_begin_is_filed(self, scene: Scene) -> None:
        """A fail-over lost the begin: the answer becomes a late one of a new, uncharged attempt, and is used."""
        loop = running(scene)
        scene.storage.rows.clear()

        with pytest.raises(LeaseLost) as caught:
            loop.send(scene.storage.settle(loop.send(an_answer())))  # type: ignore[arg-type]

        assert caught.value.details["answer_kept"]
        assert [(row.number, row.charge, row.counted) for row in scene.rows] == [(2, False, False)]
        assert scene.retry(Provider(a_failure())).attempt == 3

    def test_forgotten_answer_joins_the_open_attempt(self, scene: Scene) -> None:
        """Where another attempt is open by then, the late answer is stored with it."""
        loop = running(scene)
        settle = loop.send(an_answer(output="late"))
        scene.storage.rows.clear()
        scene.world.set_generation(scene.generation_id, status="error")
        running(scene)

        scene.storage.settle(settle)  # type: ignore[arg-type]

        assert load(scene).stored_answer.answer.output == "late"
        assert [row.number for row in scene.rows] == [2]

    @pytest.mark.parametrize("change", ["moved", "hidden"])
    def test_answer_of_a_lost_generation_is_stored(self, scene: Scene, change: str) -> None:
        """A generation that is hidden, or another user's, by the time of the answer keeps it for its payer."""
        app = scene.world.app

        def lose() -> None:
            if change == "hidden":
                app.hidden.add(scene.generation_id)
            else:
                app.generations[scene.generation_id] = replace(app.generations[scene.generation_id], user_id=uuid4())

        with pytest.raises(GenerationNotFound):
            scene.retry(Provider(an_answer(), lose))

        assert scene.status is GenerationStatus.ERROR, "no attempt works on it any more"
        assert (load(scene).stored_answer is None) == (change == "moved")
        scene.world.set_generation(scene.generation_id, user_id=scene.user_id)
        assert load(scene).stored_answer.answer == an_answer()
        assert scene.world.app.error_logs == []

    def test_answer_in_use_is_not_discarded(self, scene: Scene) -> None:
        """An operator can't discard what an attempt is about to make a session of."""
        reject(scene)
        scene.world.refuse_sessions(None)
        loop = retrying(scene.asked(), scene.setting)
        next(loop)
        settle = loop.send(scene.storage.begin(loop.send(load(scene))))  # type: ignore[arg-type]
        discard = Discard(user_id=scene.user_id, generation_id=scene.generation_id, operator="ann")

        assert not scene.storage.amend(discard).applied
        assert scene.storage.settle(settle).applied  # type: ignore[arg-type]
        assert load(scene).quota.captured == 1

    def test_answer_in_use_of_a_moved_generation_is_not_discarded(self, scene: Scene) -> None:
        """The same where the app moves the generation while the attempt uses the answer."""
        reject(scene)
        scene.world.refuse_sessions(None)
        owner = scene.world.new_user()
        loop = retrying(scene.asked(), scene.setting)
        next(loop)
        loop.send(scene.storage.begin(loop.send(load(scene))))  # type: ignore[arg-type]
        scene.world.set_generation(scene.generation_id, user_id=owner)

        for user_id in (scene.user_id, owner):
            discard = Discard(user_id=user_id, generation_id=scene.generation_id, operator="ann")
            assert not scene.storage.amend(discard).applied

    def test_answer_of_a_moved_generation_can_be_discarded(self, scene: Scene) -> None:
        """An operator names the generation's user, whoever paid for the answer."""
        reject(scene)
        owner = scene.world.new_user()
        scene.world.set_generation(scene.generation_id, user_id=owner)
        discard = Discard(user_id=owner, generation_id=scene.generation_id, operator="ann")

        assert scene.storage.amend(discard).applied
        assert not scene.storage.amend(discard).applied
        assert (load(scene).stored_answer, scene.rows[0].discarded_by) == (None, "ann")


class TestKeep:
    """The last resort."""

    def kept(self, scene: Scene) -> Keep:
        """Keep an answer; return the change."""
        loop = running(scene)
        loop.send(an_answer(wire_requests=2))
        keep = loop.throw(StorageUnavailable("55P03"))
        assert isinstance(keep, Keep)
        scene.storage.keep(keep)
        return keep

    def test_repeated_keep_changes_nothing(self, scene: Scene) -> None:
        """Its requests are recorded once, and the wait goes on from the first one."""
        keep = self.kept(scene)
        before = scene.rows
        scene.world.advance(timedelta(seconds=3))

        scene.storage.keep(keep)

        assert (scene.rows, scene.rows[0].call.wire_requests) == (before, 2)

    def test_wait_after_keep_begins_with_it(self, scene: Scene) -> None:
        """Whoever obeys its Retry-After is admitted, however late the attempt was closed."""
        self.kept(scene)
        scene.world.advance(SESSION_WAIT - timedelta(seconds=1))
        scene.storage.begin(CloseOver(user_id=scene.user_id))
        with pytest.raises(BackoffNotElapsed):
            scene.retry(waive=frozenset())
        scene.world.advance(timedelta(seconds=1))

        assert scene.retry(waive=frozenset()).attempt == 3

    def test_kept_attempt_is_not_counted(self, scene: Scene) -> None:
        """A rejected session uses up no attempt, before it is closed and after that."""
        self.kept(scene)

        assert [row.counted for row in scene.rows] == [False]
        scene.storage.begin(CloseOver(user_id=scene.user_id))
        (row,) = scene.rows
        assert (row.code, row.counted, row.refused_constraint) == ("SESSION_REJECTED", False, "55P03")
        assert scene.status is GenerationStatus.ERROR

    def test_settle_after_keep_still_succeeds(self, scene: Scene) -> None:
        """A settle that was on its way makes the session; its requests are recorded once."""
        loop = running(scene)
        settle = loop.send(an_answer(wire_requests=2))
        keep = loop.throw(StorageUnavailable("55P03"))
        scene.storage.keep(keep)  # type: ignore[arg-type]

        assert scene.storage.settle(settle).applied  # type: ignore[arg-type]
        assert [(row.outcome, row.call.wire_requests) for row in scene.rows] == [(Outcome.SUCCEEDED, 2)]
        assert scene.storage.answers == {}

    def test_keep_after_the_settle_changes_nothing(self, scene: Scene) -> None:
        """A last resort that arrives after all stores no answer beside its session."""
        loop = running(scene)
        settle = loop.send(an_answer())
        keep = loop.throw(StorageUnavailable("55P03"))
        scene.storage.settle(settle)  # type: ignore[arg-type]
        before = scene.rows

        scene.storage.keep(keep)  # type: ignore[arg-type]

        assert (scene.storage.answers, scene.rows) == ({}, before)

    def test_renewal_after_keep_is_refused(self, scene: Scene) -> None:
        """A renewer that comes late does not bring the lease back."""
        keep = self.kept(scene)
        renew = Renew(generation_id=scene.generation_id, token=keep.token, lease=POLICY.lease)

        assert not scene.storage.amend(renew).applied

    def test_failed_keep_is_reported(self, scene: Scene) -> None:
        """Where not even the last resort is possible, the storage's failure says so."""
        loop = running(scene)
        loop.send(an_answer())
        loop.throw(StorageUnavailable("55P03"))

        with pytest.raises(StorageUnavailable, match="08006"):
            loop.throw(StorageUnavailable("08006"))


class TestStatus:
    """No generation says for ever that it is worked on."""

    def test_app_is_informed_later_when_row_is_locked(self, scene: Scene) -> None:
        """A begin closes a dead attempt whose row the app holds; the next tidy informs the app."""
        running(scene)
        scene.world.advance(POLICY.lease)
        scene.world.app.locked.add(scene.generation_id)
        scene.retry(generation_id=scene.world.new_generation(scene.user_id))
        assert (scene.status, scene.storage.overdue(9)) == (GenerationStatus.PROCESSING, [])
        scene.world.app.locked.clear()

        assert scene.storage.overdue(9) == [scene.user_id]
        scene.storage.begin(CloseOver(user_id=scene.user_id))

        assert (scene.status, scene.storage.overdue(9)) == (GenerationStatus.TIMEOUT, [])
        assert [log["error_type"] for log in scene.world.app.error_logs] == ["LEASE_LOST"]

    def test_moved_generations_dead_attempt_ends_its_status(self, scene: Scene) -> None:
        """The new owner's row does not say for ever that it is worked on, and the owner's log stays empty."""
        running(scene)
        scene.world.advance(POLICY.lease)
        app = scene.world.app
        app.generations[scene.generation_id] = replace(app.generations[scene.generation_id], user_id=uuid4())

        scene.storage.begin(CloseOver(user_id=scene.user_id))

        assert (scene.status, app.error_logs) == (GenerationStatus.TIMEOUT, [])

    @pytest.mark.parametrize("by", ["worker", "tidy"])
    def test_moved_generations_acceptance_ends_its_status(self, scene: Scene, by: str) -> None:
        """What was accepted for the old user is cancelled, and the row says again what it said."""
        scene.accept()
        app = scene.world.app
        app.generations[scene.generation_id] = replace(app.generations[scene.generation_id], user_id=uuid4())

        if by == "worker":
            scene.work()
        else:
            scene.storage.begin(CloseOver(user_id=scene.user_id))

        assert (scene.status, scene.rows[0].outcome) == (GenerationStatus.ERROR, Outcome.CANCELLED)
        assert (app.error_logs, scene.storage.line.messages) == ([], {})


class TestRejectedSessions:
    """The user can cure the cause."""

    def test_user_who_obeys_is_not_locked_out(self, scene: Scene) -> None:
        """After each rejected session 15 s are enough, as often as it happens; then the cured cause is a session."""
        for _ in range(3):
            error = reject(scene)
            assert error.retry_after is not None
            assert error.retry_after <= SESSION_WAIT
            scene.world.advance(error.retry_after)
        scene.world.refuse_sessions(None)

        assert scene.retry(waive=frozenset()).attempt == 5

    def test_same_rejection_of_an_answer_is_logged_once(self, scene: Scene) -> None:
        """One error and one event, until another cause rejects it."""
        for _ in range(3):
            reject(scene)
        assert (len(scene.world.app.error_logs), len(scene.world.app.events)) == (1, 1)

        reject(scene, "title_is_short")

        assert (len(scene.world.app.error_logs), len(scene.world.app.events)) == (2, 2)

    def test_stored_answer_is_used_beyond_the_hard_cap(self, scene: Scene) -> None:
        """Attempts from a stored answer make no call, so they never add up to a lock of a day."""
        for _ in range(POLICY.hard_cap + 1):
            reject(scene)
        scene.world.refuse_sessions(None)

        assert scene.retry().attempt == POLICY.hard_cap + 3

    def test_repeated_settle_reports_the_same_wait(self, scene: Scene) -> None:
        """Whoever sends a rejected settle again is answered as the first time."""
        scene.world.refuse_sessions("km_is_positive")
        loop = running(scene)
        settle = loop.send(an_answer())
        scene.storage.settle(settle)  # type: ignore[arg-type]
        scene.world.advance(timedelta(seconds=7))

        with pytest.raises(SessionRejected) as caught:
            loop.send(scene.storage.settle(settle))  # type: ignore[arg-type]

        assert caught.value.retry_after == timedelta(seconds=1)
        assert caught.value.details["constraint"] == "km_is_positive"

    def test_repeated_settle_after_another_success_is_already_succeeded(self, scene: Scene) -> None:
        """What counts then is that the generation has its session."""
        scene.world.refuse_sessions("km_is_positive")
        loop = running(scene)
        settle = loop.send(an_answer())
        scene.storage.settle(settle)  # type: ignore[arg-type]
        scene.world.refuse_sessions(None)
        scene.retry()

        with pytest.raises(AlreadySucceeded):
            loop.send(scene.storage.settle(settle))  # type: ignore[arg-type]


class TestRepeats:
    """A request that is sent again does nothing twice."""

    def test_begin_is_not_repeated_under_a_closed_token(self, scene: Scene) -> None:
        """A begin whose reply was lost, and whose attempt was closed meanwhile, opens no second attempt."""
        replies: list[Reply] = []

        def lost(change: Begin | CloseOver) -> Reply | None:
            if isinstance(change, CloseOver) or replies:
                return None
            replies.append(MemoryStorage.begin(scene.storage, change))
            scene.world.advance(POLICY.lease)
            MemoryStorage.begin(scene.storage, CloseOver(user_id=scene.user_id))
            return MemoryStorage.begin(scene.storage, change)

        hook(scene, begin=lost)
        provider = Provider(an_answer())

        with pytest.raises(LeaseLost):
            scene.retry(provider)

        assert (provider.calls, len(scene.rows)) == (0, 1)

    def test_acceptance_is_not_repeated_after_its_cancellation(self, scene: Scene) -> None:
        """An acceptance whose reply was lost, and that its user took back meanwhile, is not accepted again."""
        seen: list[Begin] = []

        def lost(change: Begin) -> Reply | None:
            if seen:
                return None
            seen.append(change)
            MemoryStorage.begin(scene.storage, change)
            scene.drive(cancelling(scene.user_id, scene.generation_id, scene.setting.policy))
            return MemoryStorage.begin(scene.storage, change)

        hook(scene, begin=lost)

        with pytest.raises(LeaseLost):
            scene.accept()

        assert [row.outcome for row in scene.rows] == [Outcome.CANCELLED]


class TestRenewals:
    """A lease lasts while its call does."""

    @pytest.fixture
    def renewed(self, scene: Scene) -> Callable[[timedelta], datetime]:
        """Begin an attempt with a lease of a minute, at most two hours; then renew it by so much."""
        loop: Any = retrying(scene.asked(), scene.setting)
        next(loop)
        change = loop.send(load(scene))
        start = replace(change.attempt.start, lease=timedelta(minutes=1), longest=2 * HOUR)
        scene.storage.begin(replace(change, attempt=replace(change.attempt, start=start)))

        def renew(lease: timedelta) -> datetime:
            amended = scene.storage.amend(Renew(generation_id=scene.generation_id, token=change.token, lease=lease))
            assert amended.applied
            expires = scene.rows[0].lease_expires_at
            assert expires is not None
            return expires

        return renew

    def test_renewal_counts_from_its_arrival(self, scene: Scene, renewed: Callable[[timedelta], datetime]) -> None:
        """It prolongs the lease by so much from now, and never shortens it."""
        began = scene.world.clock.now()
        scene.world.advance(timedelta(seconds=20))

        assert renewed(timedelta(seconds=35)) == began + timedelta(minutes=1)
        assert renewed(timedelta(seconds=50)) == scene.world.clock.now() + timedelta(seconds=50)
        assert renewed(3 * HOUR) == began + 2 * HOUR

    def test_late_renewal_counts(self, scene: Scene, renewed: Callable[[timedelta], datetime]) -> None:
        """It brings a lease back that is over, while the attempt is not closed: its call still runs."""
        scene.world.advance(HOUR)

        assert renewed(timedelta(seconds=35)) == scene.world.clock.now() + timedelta(seconds=35)
        assert load(scene).live == 1


def test_rejected_session_shows_that_the_route_answers(scene: Scene) -> None:
    """What the app refuses was answered by the provider: its route opens further."""
    other = scene.world.new_generation(scene.user_id)
    scene.drive(accepting(scene.asked(generation_id=other), scene.setting.reader, scene.setting.policy))
    scene.work(a_failure(certainly_not_generated=True, wire_requests=0))
    scene.world.advance(HOUR)

    reject(scene)

    assert [(each.slots, each.failures) for each in load(scene).routes] == [(2, 0)]


class TestRoutesAgree:
    """Memory and SQL agree on outages."""

    def test_outage_ends_with_the_longer_wait(self) -> None:
        """Of two failures of calls that ran side by side the later end holds."""
        routes = Routes()
        routes.note_outage("one/small", Outage(wait=timedelta(minutes=4), failures=1), AS_OF)
        routes.note_outage("one/small", Outage(wait=timedelta(seconds=2), failures=1), AS_OF)

        (state,) = routes.states(lambda _: 0, lambda _: 0, AS_OF)

        assert (state.not_before, state.failures) == (AS_OF + timedelta(minutes=4), 1)

    def test_full_route_is_refused_by_storage_and_decision(self) -> None:
        """However many calls may probe a route, one more is one too many; a doubt closes nothing."""
        routes = Routes()
        routes.note_outage("one/small", Outage(wait=timedelta(0), failures=1), AS_OF)
        for _ in range(6):
            routes.note_answer("one/small", AS_OF, AS_OF)
        routes.note_outage("one/large", Outage(wait=HOUR, failures=1, doubts=3), AS_OF)

        (state,) = routes.states(lambda _: 64, lambda _: 0, AS_OF)

        assert (state.slots, routes.is_open("one/small", 64, AS_OF), routes.is_open("one/small", 63, AS_OF)) == (
            64,
            False,
            True,
        )
        assert routes.is_open("one/large", 1_000, AS_OF)


def test_abandoned_worker_of_a_broken_storage_is_closed(scene: Scene) -> None:
    """A stored answer that can't be settled stays stored, and the accepted retry goes on with it."""
    scene.accept()
    scene.world.refuse_sessions("km_is_positive")
    assert scene.work() is QueueOutcome.GOES_ON
    scene.world.refuse_sessions(None)
    scene.world.advance(HOUR)
    hook(scene, settle=raising(StorageUnavailable("08006")))
    with pytest.raises(StorageFailure):
        scene.work()
    hook(scene)
    scene.world.advance(HOUR)
    scene.storage.begin(CloseOver(user_id=scene.user_id))
    scene.world.advance(HOUR)

    assert scene.work(Provider(a_failure())) is QueueOutcome.SUCCEEDED
    assert [row.counted for row in scene.rows] == [False, False, False]


def test_failure_beside_a_deletion_stays_not_found(scene: Scene) -> None:
    """What the provider said does not matter any more."""
    delete = lambda: scene.world.delete_generation(scene.generation_id)  # noqa: E731
    with pytest.raises(GenerationNotFound):
        scene.retry(Provider(a_failure(FailureCode.TIMEOUT), delete))
