"""A begin may create its generation: with attempt number 1, all of it or nothing."""

from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import Begin, Reply
from ai_retry.domain.decide import queue
from ai_retry.domain.decide.begin import Asked, accept, visible
from ai_retry.domain.decide.first import proposed
from ai_retry.domain.errors import AiRetryError, NotConfigured, QuotaExhausted, SessionConflict, TooManyParallel
from ai_retry.domain.loop import has_begun
from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.policy import counted_attempts
from ai_retry.domain.queue_model import QueuedRetry
from tests.helpers.builders import SECOND
from tests.helpers.queue_steps import cancel, run, waiting
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    NEW,
    POLICY,
    Decided,
    abandon,
    begin,
    close_over,
    create,
    fail,
    load,
    outcomes,
    quota_of,
    reader_to,
    status_of,
    succeed,
    to_create,
    try_begin,
)
from tests.helpers.worlds import PROMPT_DATA, World


def exists(world: World, change: Begin) -> bool:
    """Whether the generation is there, or any attempt at it."""
    snapshot = world.storage.load(change.user_id, change.generation_id, POLICY.quota, None)
    return snapshot is not None or bool(world.attempts(change.generation_id))


@pytest.mark.rule("creation")
def test_begin_creates_the_generation_with_its_first_attempt(world: World) -> None:
    """The generation is the user's, as asked and processing; attempt 1 runs, and its unit is held."""
    decided = to_create(world, world.new_user(), idempotency_key="key-1")
    change = decided.change

    reply = world.storage.begin(change)

    assert reply.applied
    assert reply.snapshot is not None
    assert (reply.snapshot.exists, reply.snapshot.mine) == (True, 1)
    created = reply.snapshot.generation
    assert (created.id, created.user_id, created.model) == (change.generation_id, change.user_id, "small")
    assert (created.prompt_data, created.status) == (PROMPT_DATA, GenerationStatus.PROCESSING)
    assert reply.snapshot.quota.held == 1
    (row,) = world.attempts(change.generation_id)
    assert (row["number"], row["request_digest"], row["idempotency_key"]) == (1, NEW.digest, "key-1")


def test_nothing_is_read_as_it_would_be_created(world: World) -> None:
    """An absent generation is read for the user who asks, with their quota; nothing is written."""
    user_id = world.new_user()
    create(world, user_id)
    generation_id = uuid4()

    snapshot = world.storage.load(user_id, generation_id, POLICY.quota, None, creating=True)

    assert snapshot is not None
    assert (snapshot.exists, snapshot.generation.id, snapshot.generation.user_id) == (False, generation_id, user_id)
    assert (snapshot.live, snapshot.quota.held, snapshot.attempts) == (1, 1, ())
    assert world.storage.load(user_id, generation_id, POLICY.quota, None) is None


def test_repeat_finds_its_first_attempt(world: World) -> None:
    """A begin whose reply was lost is recognised by its token, and creates nothing again."""
    decided = to_create(world, world.new_user())
    assert try_begin(world, decided) is not None

    reply = world.storage.begin(decided.change)

    assert not reply.applied
    assert has_begun(reply)
    assert len(world.attempts(decided.change.generation_id)) == 1


def test_one_of_many_begins_creates(world: World) -> None:
    """Of begins at once for one id exactly one creates; the others find what it created."""
    user_id, generation_id = world.new_user(), uuid4()
    changes = [to_create(world, user_id, generation_id).change for _ in range(8)]

    replies = at_once([partial(world.storage.begin, change) for change in changes])

    begun = [reply for reply in replies if isinstance(reply, Reply)]
    assert (len(begun), sum(reply.applied for reply in begun)) == (8, 1)
    assert all(reply.snapshot is not None and reply.snapshot.exists for reply in begun)
    assert len(world.attempts(generation_id)) == 1


def test_id_that_is_there_already_is_stale(world: World) -> None:
    """The app's own generation of that id is left alone, whoever owns it."""
    decided = to_create(world, world.new_user())
    other_id = world.new_generation(world.new_user())
    change = replace(decided.change, generation_id=other_id)

    reply = world.storage.begin(change)

    assert (reply.applied, status_of(world, other_id), world.attempts(other_id)) == (False, "error", [])
    assert reply.snapshot is not None
    assert reply.snapshot.exists
    assert visible(reply.snapshot, change.user_id) is None


@pytest.mark.rule("creation")
@pytest.mark.parametrize(
    ("sqlstate", "constraint", "error", "words"),
    [
        ("23505", "one_at_a_time", TooManyParallel, "At most 1"),
        ("23P01", "one_at_a_time", TooManyParallel, "At most 1"),
        ("23514", "title_is_long", NotConfigured, "app_create_generation can't insert .*23514, title_is_long"),
        ("P0001", "", NotConfigured, "app_create_generation can't insert .*P0001"),
        ("42501", "", NotConfigured, "app_create_generation may not insert .*42501"),
        ("PT409", "", SessionConflict, "accepts no further generation"),
    ],
)
def test_refused_creation_leaves_nothing(
    world: World, sqlstate: str, constraint: str, error: type[AiRetryError], words: str
) -> None:
    """What the app's tables refuse is reported by its code and its constraint, never by its row; nothing remains."""
    decided = to_create(world, world.new_user())
    world.refuse_generations(sqlstate, constraint)

    with pytest.raises(error, match=words) as caught:
        world.storage.begin(decided.change)

    world.refuse_generations(None)
    assert "secret" not in str(caught.value)
    assert not exists(world, decided.change)
    assert quota_of(world, decided.change.user_id).held == 0


def test_refusal_hides_no_attempt_that_was_closed(world: World) -> None:
    """A begin that has closed a dead attempt reports that, stale; the app's refusal comes with the next one."""
    begun = create(world, world.new_user())
    world.advance(POLICY.longest + SECOND)
    world.refuse_generations("23514", "title_is_long")

    reply = world.storage.begin(to_create(world, begun.user_id).change)

    assert not reply.applied
    assert [each.generation_id for each in reply.closed] == [begun.generation_id]
    assert reply.snapshot is not None
    assert not reply.snapshot.exists
    with pytest.raises(NotConfigured, match="title_is_long"):
        world.storage.begin(to_create(world, begun.user_id).change)


@pytest.mark.rule("creation")
def test_reached_ceiling_leaves_nothing(world: World) -> None:
    """A begin that finds the quota used up creates nothing, and its snapshot says why."""
    user_id = world.new_user()
    late = to_create(world, user_id)
    for _ in range(POLICY.quota.limit):
        create(world, user_id)

    reply = world.storage.begin(late.change)

    assert not reply.applied
    assert reply.snapshot is not None
    assert (reply.snapshot.exists, reply.snapshot.quota.remaining) == (False, 0)
    assert not exists(world, late.change)
    with pytest.raises(QuotaExhausted):
        to_create(world, user_id)


def test_begin_of_an_old_snapshot_creates_nothing(world: World) -> None:
    """A snapshot that is too old is decided again before anything is created."""
    decided = to_create(world, world.new_user()).aged(POLICY.lease)

    assert not world.storage.begin(decided.change).applied
    assert not exists(world, decided.change)


def test_success_of_a_first_call_is_charged_once(world: World) -> None:
    """Its session belongs to the generation, its unit is captured, and the app's own success is not counted beside."""
    begun = create(world, world.new_user())

    result = succeed(world, begun)

    assert (result.attempt, result.generation.id) == (1, begun.generation_id)
    assert (status_of(world, begun.generation_id), outcomes(world, begun.generation_id)) == ("success", ["succeeded"])
    quota = quota_of(world, begun.user_id)
    assert (quota.captured, quota.held) == (1, 0)


def test_failed_first_call_can_be_retried(world: World) -> None:
    """It uses up one attempt like the app's own, charges nothing, and the next one is number 2."""
    begun = create(world, world.new_user())

    fail(world, begun)

    assert status_of(world, begun.generation_id) == "error"
    snapshot = load(world, begun.user_id, begun.generation_id)
    assert (counted_attempts(snapshot), snapshot.quota.held, snapshot.quota.captured) == (1, 0, 0)
    assert begin(world, begun.user_id, begun.generation_id).number == 2


def test_abandoned_first_call_can_be_retried(world: World) -> None:
    """A process that died leaves a generation that says timeout once it is closed, and whose retry is number 2."""
    begun = create(world, world.new_user())

    abandon(world, begun)

    assert (status_of(world, begun.generation_id), outcomes(world, begun.generation_id)) == ("timeout", ["abandoned"])
    assert begin(world, begun.user_id, begun.generation_id).number == 2


def test_deleted_generation_is_not_created_again(world: World) -> None:
    """As long as attempts of its id are there, who asks for it sees nothing, and a begin is stale."""
    user_id, generation_id = world.new_user(), uuid4()
    late: Decided = to_create(world, user_id, generation_id)
    fail(world, create(world, user_id, generation_id))
    world.delete_generation(generation_id)

    snapshot = world.storage.load(user_id, generation_id, POLICY.quota, None, creating=True)
    reply = world.storage.begin(late.change)

    assert snapshot is not None
    assert (snapshot.exists, len(snapshot.attempts), visible(snapshot, user_id)) == (False, 1, None)
    assert (reply.applied, visible(reply.snapshot, user_id)) == (False, None)
    assert world.storage.load(user_id, generation_id, POLICY.quota, None) is None


def accepted(world: World, user_id: UUID) -> QueuedRetry:
    """Create a generation, and accept its first call for later."""
    token, generation_id = uuid4(), uuid4()
    found = world.storage.load(user_id, generation_id, POLICY.quota, token, creating=True)
    assert found is not None
    asked = Asked(user_id=user_id, generation_id=generation_id, token=token, create=NEW)
    reply = world.storage.begin(accept(proposed(found, NEW), asked, reader_to(None), POLICY))
    assert reply.applied
    assert reply.snapshot is not None
    queued = queue.accepted(reply.snapshot)
    assert queued is not None
    return queued


def test_accepted_first_call_waits_as_number_one(world: World) -> None:
    """The generation is there and queued, its unit held, and its message sent; a worker runs attempt 1."""
    user_id = world.new_user()

    queued = accepted(world, user_id)

    generation_id = queued.generation.id
    assert (queued.attempt, queued.quota.held, status_of(world, generation_id)) == (1, 1, "queued")
    assert waiting(world) == [generation_id]
    begun = run(world, user_id, generation_id)
    assert (begun.number, status_of(world, generation_id)) == (1, "processing")
    assert succeed(world, begun).attempt == 1
    assert [row["request_digest"] for row in world.attempts(generation_id)] == [NEW.digest]


def test_accepted_first_call_goes_on_with_number_two(world: World) -> None:
    """What follows it is a retry, without the digest of the request."""
    user_id = world.new_user()
    generation_id = accepted(world, user_id).generation.id

    fail(world, run(world, user_id, generation_id), goes_on=True)

    assert [(row["number"], row["request_digest"]) for row in world.attempts(generation_id)] == [
        (1, NEW.digest),
        (2, None),
    ]


def test_cancelled_first_call_leaves_a_failure(world: World) -> None:
    """The generation says error, as one that never succeeded; nothing is used up, and it can be retried."""
    user_id = world.new_user()
    generation_id = accepted(world, user_id).generation.id

    cancel(world, user_id, generation_id)

    snapshot = load(world, user_id, generation_id)
    assert (status_of(world, generation_id), outcomes(world, generation_id)) == ("error", ["cancelled"])
    assert (counted_attempts(snapshot), snapshot.quota.held) == (0, 0)
    assert begin(world, user_id, generation_id).number == 2


def test_expired_first_call_leaves_a_failure(world: World) -> None:
    """Its time is up before any worker came."""
    user_id = world.new_user()
    generation_id = accepted(world, user_id).generation.id
    world.advance(POLICY.max_queued)

    close_over(world, user_id)

    assert (status_of(world, generation_id), outcomes(world, generation_id)) == ("error", ["failed"])
    assert [log["error_type"] for log in world.error_logs(generation_id)] == ["RETRY_EXPIRED"]
