"""The client's methods are the domain's, with everything given; and how many calls run at once in its process."""

import threading
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.client import Client
from ai_retry.domain.change import Renew, Reply
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    BackoffNotElapsed,
    GenerationFailed,
    NotConfigured,
    RouteUnavailable,
    SessionRejected,
    StorageUnavailable,
    TooManyParallel,
)
from ai_retry.domain.model import Answer, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import Outage, QueuedRetry
from ai_retry.slots import CallSlots
from ai_retry.storage.spool import SpoolReport
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from tests.helpers.builders import a_context, a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.scene import Hooked, hooked, raising
from tests.helpers.steps import new_generation, status_of

PATIENCE = 10.0  # seconds; more than any of these waits takes


class Case:
    """A failed generation, and a client that may retry it."""

    def __init__(self, *script: AiStep, **parts: Any) -> None:
        self.world = MemoryWorld(Hooked)
        self.storage = hooked(self.world)
        self.client = Client(storage=self.storage, ai=ScriptedAiProvider(*script), clock=self.world.clock, **parts)
        self.ids = self.user_id, self.generation_id = new_generation(self.world)

    @property
    def attempts(self) -> Any:
        """Rows of its attempts."""
        return self.world.attempts(self.generation_id)

    def reject(self) -> None:
        """Let the app reject the session of a retry."""
        self.world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            self.client.retry_generation(*self.ids)
        self.world.refuse_sessions(None)
        self.world.advance(timedelta(minutes=10))


def queue_case(*script: AiStep) -> Case:
    """One whose client has a queue."""
    case = Case()
    case.client = Client(
        storage=case.storage,
        queue_storage=case.storage,
        ai=ScriptedAiProvider(*script),
        clock=case.world.clock,
        provider="provider.example",
    )
    return case


class TestClient:
    """What it is given, and what it passes on."""

    def test_retry_returns_the_session(self) -> None:
        """Ids are enough; UUIDs may come as strings."""
        case = Case(an_answer())

        result = case.client.retry_generation(*map(str, case.ids))

        assert result.session == case.world.app.sessions[result.session_id]
        assert result.attempt == 2

    def test_operator_lifts_limits(self) -> None:
        """What an operator waives, and who it was, reaches the attempt."""
        case = Case(a_failure(), an_answer())
        with pytest.raises(GenerationFailed):
            case.client.retry_generation(*case.ids)
        with pytest.raises(BackoffNotElapsed):
            case.client.retry_generation(*case.ids)

        case.client.retry_generation(
            *case.ids, waive=frozenset({Waiver.BACKOFF}), charge=False, operator="ada", idempotency_key="k"
        )

        last = case.attempts[-1]
        assert last["waived"] == frozenset({Waiver.BACKOFF})
        assert (last["charge"], last["operator"], last["idempotency_key"]) == (False, "ada", "k")

    def test_status_says_what_a_retry_would_get(self) -> None:
        """The status asks the same rules."""
        case = Case(an_answer())

        before = case.client.status(*case.ids)
        case.client.retry_generation(*case.ids)
        after = case.client.status(*case.ids)

        assert before.can_retry
        assert isinstance(after.refusal, AlreadySucceeded)

    def test_known_outage_refuses_retry_and_status(self) -> None:
        """A click asks whether its provider and model are available, by the name that workers note."""
        case = queue_case()
        outage = Outage(wait=timedelta(minutes=4), failures=1)
        case.storage.routes.note_outage("provider.example/small", outage, case.world.clock.now())

        with pytest.raises(RouteUnavailable) as refused:
            case.client.retry_generation(*case.ids)

        assert refused.value.retry_after == timedelta(minutes=4)
        assert case.client.status(*case.ids).code == "ROUTE_UNAVAILABLE"
        assert case.storage.calls == ["load", "load"]

    def test_call_is_noted_by_provider_and_model(self) -> None:
        """Attempts name the route that they ask; without a model in the context it is the provider's default."""
        case = queue_case(an_answer(), an_answer())
        case.client.retry_generation(*case.ids)
        case.world.set_generation(other := case.world.new_generation(case.user_id), model=None)
        case.client.retry_generation(case.user_id, other)

        routes = [row.route for row in case.storage.rows.values()]
        assert routes == ["provider.example/small", "provider.example/default"]

    def test_lease_is_renewed_while_the_call_lasts(self) -> None:
        """A call that is longer than a lease goes on under a renewed one."""
        renewed = threading.Event()

        def answer_late(_: AiCall) -> Answer:
            assert renewed.wait(PATIENCE)
            return an_answer()

        short = timedelta(milliseconds=30)
        policy = RetryPolicy(deadline=short, settle_margin=timedelta(0), lease=short)
        case = Case(answer_late, policy=policy)

        def renew(change: Renew) -> None:
            assert change.token == case.storage.begins[0].token
            renewed.set()

        case.storage.hooks = {"amend": renew}

        assert case.client.retry_generation(*case.ids).attempt == 2

    def test_stored_answer_is_discarded_by_name(self) -> None:
        """An operator drops an answer that can never become a session; a repeat finds none."""
        case = Case(an_answer(), an_answer(output="another"))
        case.reject()

        assert case.client.discard_answer(*map(str, case.ids), operator="ada")
        assert not case.client.discard_answer(*case.ids, operator="ada")

        assert case.attempts[0]["discarded_by"] == "ada"
        assert case.client.retry_generation(*case.ids).session["content"] == "another"

    def test_client_without_a_spool_settles_nothing(self) -> None:
        """There is nothing that waits."""
        assert Case().client.settle() == SpoolReport()

    def test_malformed_id_is_a_value_error(self) -> None:
        """Anything but a UUID is refused before anything is read."""
        case = Case()

        with pytest.raises(ValueError, match="generation_id must be a UUID"):
            case.client.retry_generation(case.user_id, "1")
        with pytest.raises(ValueError, match="user_id must be a UUID"):
            case.client.status("1", case.generation_id)
        with pytest.raises(ValueError, match="generation_id must be a UUID"):
            case.client.discard_answer(case.user_id, "1", operator="ada")
        assert case.storage.calls == []

    def test_close_frees_once_what_it_was_given(self) -> None:
        """The end of the block closes."""
        closed: list[str] = []
        storage, ai = MemoryWorld().storage, ScriptedAiProvider()

        with Client(storage=storage, ai=ai, on_close=lambda: closed.append("closed")):
            assert closed == []

        assert closed == ["closed"]


class TestQueue:
    """Retries that are accepted for later."""

    def test_retry_is_accepted_taken_back_and_counted(self) -> None:
        """All of it by the client's methods; ids may come as strings."""
        case = queue_case()

        accepted = case.client.enqueue(*map(str, case.ids), idempotency_key="k", charge=False, operator="ada")
        waiting = case.client.queue_state().queued
        case.client.cancel(*map(str, case.ids))

        assert isinstance(accepted, QueuedRetry)
        assert (waiting, case.client.queue_state().queued) == (1, 0)
        (row,) = case.attempts
        assert (row["idempotency_key"], row["charge"], row["operator"]) == ("k", False, "ada")
        assert row["outcome"] == "cancelled"

    def test_worker_has_the_clients_parts(self) -> None:
        """It runs what the client accepts, under the same rules, and names routes alike."""
        case = queue_case()

        worker = case.client.worker(concurrency=3)

        assert (worker.storage, worker.concurrency, worker.policy) == (case.storage, 3, RetryPolicy())
        assert worker.route_of(a_context()) == "provider.example/small"
        assert worker.renewing is not None

    @pytest.mark.parametrize("method", ["enqueue", "cancel", "queue_state", "worker"])
    def test_client_without_a_queue_says_so(self, method: str) -> None:
        """Nothing is read where no retry can be accepted."""
        case = Case()
        ids = case.ids if method in ("enqueue", "cancel") else ()

        with pytest.raises(NotConfigured, match="no queue_storage"):
            getattr(case.client, method)(*ids)
        assert case.storage.calls == []


class TestSlots:
    """``max_calls``, one retry after the other; ``test_flask`` has them side by side."""

    def test_slot_is_taken_before_the_begin(self) -> None:
        """When it is refused nothing was written, and the very next retry may take the slot that came free."""
        case = Case(an_answer(), max_calls=1)
        case.client._slots.take()

        with pytest.raises(TooManyParallel) as refused:
            case.client.retry_generation(*case.ids)
        untouched = case.storage.calls == ["load"]
        case.client._slots.give_back()
        case.client.retry_generation(*case.ids)

        assert untouched
        assert refused.value.retry_after == timedelta(seconds=1)
        assert refused.value.details == {"max_parallel": 1}

    @pytest.mark.parametrize("transient", [True, False])
    def test_full_process_sends_no_client_back_in_vain(self, *, transient: bool) -> None:
        """A client that would fail again with the identical request is not asked to come back for a slot."""
        case = Case(a_failure(transient=transient), max_calls=1)
        with pytest.raises(GenerationFailed):
            case.client.retry_generation(*case.ids)
        case.world.advance(timedelta(minutes=10))
        case.client._slots.take()

        with pytest.raises(TooManyParallel) as refused:
            case.client.retry_generation(*case.ids)

        assert (refused.value.retry_after is not None) is transient
        assert refused.value.wait == timedelta(seconds=1)

    def test_stored_answer_needs_no_slot(self) -> None:
        """What makes no call waits for no other call."""
        case = Case(an_answer(), max_calls=1)
        case.reject()
        case.client._slots.take()

        assert case.client.retry_generation(*case.ids).attempt == 3

    def test_replayed_result_needs_no_slot(self) -> None:
        """Neither does what has succeeded already."""
        case = Case(an_answer(), max_calls=1)
        case.client.retry_generation(*case.ids, idempotency_key="k")
        case.client._slots.take()

        assert case.client.retry_generation(*case.ids, idempotency_key="k").replayed

    @pytest.mark.parametrize("begun", ["stale", "failed", "settled not"])
    def test_slot_is_given_back_however_it_ends(self, begun: str) -> None:
        """Neither a stale snapshot nor a storage that fails keeps a slot."""
        case = Case(a_failure(), max_calls=1)

        def stale(_: object) -> Reply:
            snapshot = case.storage.load(*case.ids, RetryPolicy().quota, None)
            return Reply(applied=False, snapshot=snapshot)

        failing = raising(StorageUnavailable("40P01"))
        case.storage.hooks = (
            {"settle": failing} if begun == "settled not" else {"begin": stale if begun == "stale" else failing}
        )

        with pytest.raises(AiRetryError, match=r"storage failed|being worked on"):
            case.client.retry_generation(*case.ids)

        case.client._slots.take()

    def test_one_retry_takes_one_slot(self) -> None:
        """A begin that is decided again is still the same call."""
        case = Case(an_answer(), max_calls=1)
        left = iter([True, True, False])

        def interfere(_: object) -> None:
            if next(left):
                status = "timeout" if status_of(case.world, case.generation_id) == "error" else "error"
                case.world.set_generation(case.generation_id, status=status)

        case.storage.hooks = {"begin": interfere}

        assert case.client.retry_generation(*case.ids).attempt == 2
        case.client._slots.take()

    def test_no_more_slots_are_given_back_than_taken(self) -> None:
        """A slip in counting is an error, not a limit that grows."""
        with pytest.raises(ValueError, match="released too many times"):
            CallSlots(1).give_back()
