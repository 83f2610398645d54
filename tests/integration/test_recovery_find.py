"""What failed is found newest first, page by page, and shown without a prompt, in a terminal and in a notebook."""

import re
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import matplotlib as mpl
import psycopg
import pytest

from ai_retry.client import Client
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import GenerationNotFound, NotConfigured
from ai_retry.domain.model import Answer, Outcome
from ai_retry.domain.reader import reader_name
from ai_retry.domain.recovery import Decision
from ai_retry.recovery import found as found_module
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.ai import ScriptedAiProvider
from tests.helpers.attempts import add_closed, add_queued, add_running
from tools.outage import failed_generations, recovering_client
from tools.stack import Stack

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
UNUSED = ScriptedAiProvider()

mpl.use("agg")


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """A database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(migrated_database: str) -> Iterator[Client]:
    """A client of that database."""
    with recovering_client(migrated_database, UNUSED) as client:
        yield client


def owner(database: psycopg.Connection, generation_id: UUID) -> UUID:
    """The user of a generation."""
    row = database.execute("select user_id from public.generations where id = %s", [generation_id]).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def ids(found: Any) -> list[UUID]:
    """List what was found."""
    return [each.generation_id for each in found]


def test_newest_first_across_pages(
    database: psycopg.Connection, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages follow each other without a gap and without a repeat, also where many failed in the same instant."""
    monkeypatch.setattr(found_module, "_PAGE", 7)
    older = failed_generations(database, 30)
    failed_generations(database, 40, ago=HOUR, spread=timedelta(0))
    database.execute(
        "update public.generations set created_at = now() - interval '1h' where created_at > now() - interval '2h'"
    )
    rows = database.execute("select id from public.generations order by created_at desc, id desc").fetchall()

    listed = ids(client.find())

    assert listed == [UUID(str(row[0])) for row in rows]
    assert [each for each in listed if each in older] == older[::-1]


def test_filters_choose(database: psycopg.Connection, client: Client) -> None:
    """Each filter chooses by its field, alone and with others; instants, texts and durations are the same."""
    errors = failed_generations(database, 5, ago=5 * HOUR, spread=HOUR)
    timeouts = failed_generations(
        database, 3, ago=2 * HOUR, spread=HOUR, status="timeout", code="AI_TIMEOUT", model="large"
    )
    failed_generations(database, 2, status="success")
    stuck = failed_generations(database, 1, status="processing", ago=9 * HOUR)
    row = database.execute("select user_id from public.generations where id = %s", [errors[2]]).fetchone()
    assert row is not None

    assert ids(client.find()) == [*timeouts[::-1], *errors[::-1]]
    assert ids(client.find(status="timeout")) == timeouts[::-1]
    assert ids(client.find(status={"error", "timeout"}, code=["AI_TIMEOUT", "OTHER"])) == timeouts[::-1]
    assert ids(client.find(model="large")) == timeouts[::-1]
    assert ids(client.find(model="large", code="AI_UNAVAILABLE")) == []
    assert ids(client.find(user_id=row[0])) == [errors[2]]
    assert ids(client.find(since="3h")) == ids(client.find(since=timedelta(hours=3))) == timeouts[::-1]
    instant = datetime.now(UTC) - 3 * HOUR
    assert ids(client.find(since=instant)) == ids(client.find(since=instant.isoformat())) == timeouts[::-1]
    assert ids(client.find(until=instant)) == errors[::-1]
    assert ids(client.find(status="processing")) == stuck


def test_error_without_a_type_is_found_as_shown(database: psycopg.Connection, client: Client) -> None:
    """An app may log errors that have no type: they are shown as UNKNOWN, and found by that code."""
    nameless = failed_generations(database, 1)
    failed_generations(database, 1)
    database.execute("alter table public.generation_error_logs alter error_type drop not null")
    database.execute("update public.generation_error_logs set error_type = null where generation_id = %s", nameless)

    (found,) = client.find(code="UNKNOWN")

    assert (found.generation_id, found.code) == (nameless[0], "UNKNOWN")


def test_later_failures_don_t_slip_in(database: psycopg.Connection, client: Client) -> None:
    """What fails after the search was made is in the next search, however often this one is walked through."""
    before = failed_generations(database, 3)
    found = client.find()
    after = failed_generations(database, 2, ago=timedelta(0), spread=timedelta(0))

    assert ids(found) == ids(found) == before[::-1]
    assert set(ids(client.find())) == {*before, *after}


def test_found_says_what_can_be_done(database: psycopg.Connection, client: Client) -> None:
    """Each says what a retry would be answered, from the same ``admit``; the app's own error is its code."""
    failed_generations(database, 1, ago=3 * HOUR)
    failed_generations(database, 1, ago=2 * HOUR, prompt_data={"messages": []}, code=None)

    missing, good = client.find()

    assert (good.decision, good.reason, good.code, good.attempts) == (Decision.NOW, None, "AI_UNAVAILABLE", 1)
    assert (missing.decision, missing.reason, missing.code) == (Decision.NEVER, "CONTEXT_MISSING", None)


def test_summary_counts(database: psycopg.Connection, client: Client) -> None:
    """A summary counts by code, model, user and decision; a user's quota is enough for so many, as in a plan."""
    failed_generations(database, 7, users=1)
    failed_generations(database, 2, code="AI_TIMEOUT", model="large")

    summary = client.find().summary()

    assert summary.total == 9
    assert summary.by_code == {"AI_UNAVAILABLE": 7, "AI_TIMEOUT": 2}
    assert summary.by_model == {"small": 7, "large": 2}
    assert sorted(summary.by_user.values()) == [1, 1, 7]
    assert summary.by_decision == {Decision.NOW: 7, Decision.LATER: 2, Decision.NEVER: 0}
    assert summary.by_reason[Decision.LATER, "QUOTA_EXHAUSTED"] == 2
    assert len(client.plan(client.find(), everything=True).selected) == 7
    assert "QUOTA_EXHAUSTED" in repr(summary)
    assert "<table>" in summary._repr_html_()


def test_nothing_found_is_no_error(client: Client) -> None:
    """Where nothing failed, everything is empty: table, summary, frame, picture and plan."""
    found = client.find()

    assert list(found) == []
    assert (len(found), bool(found)) == (0, False)
    assert "0 in all" in found._repr_html_()
    assert found.summary().total == 0
    assert "No failed generations" in repr(found.summary())
    assert next(iter(found.to_frame().columns)) == "failed_at"
    assert found.plot().get_title() == "Failed generations"
    assert client.plan(found, everything=True).run(operator="ada").totals["succeeded"] == 0


def test_tables_are_safe(database: psycopg.Connection, client: Client) -> None:
    """What an app or a user wrote is escaped in a notebook and harmless in a terminal; no prompt is shown."""
    failed_generations(database, 1, model="<script>alert(1)</script>\x1b[31m", code="<b>odd</b>")
    found = client.find(since="7d")

    page = found._repr_html_() + found.summary()._repr_html_() + client.plan(found)._repr_html_()
    text = repr(found) + repr(found.summary()) + repr(client.plan(found)) + page

    assert "<script>" not in page
    assert "<b>odd" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in text
    assert "a prompt that" not in text
    assert "own words" not in text


def test_long_table_says_that_there_is_more(database: psycopg.Connection, client: Client) -> None:
    """A table shows the newest twenty and says that there are more."""
    failed_generations(database, 21)

    found = client.find()

    assert found._repr_html_().count("<tr>") == 1 + 20
    assert "the newest 20; there are more" in found._repr_html_()
    assert (len(found), bool(found)) == (21, True)


def test_frame_has_a_row_each(database: psycopg.Connection, client: Client) -> None:
    """``to_frame`` gives a row for each, with instants that pandas understands."""
    failed_generations(database, 5, code="AI_TIMEOUT")

    frame = client.find().to_frame()

    assert len(frame) == 5
    assert str(frame["failed_at"].dtype).startswith("datetime64")
    assert set(frame["code"]) == {"AI_TIMEOUT"}
    assert set(frame["decision"]) == {"now"}


def test_picture_shows_failures_over_time_by_code(database: psycopg.Connection, client: Client) -> None:
    """The picture stacks codes over time, and its bars add up to all that failed."""
    failed_generations(database, 20, spread=HOUR)
    failed_generations(database, 10, spread=HOUR, code="AI_TIMEOUT")

    axes: Any = client.find().plot()

    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["AI_UNAVAILABLE", "AI_TIMEOUT"]
    assert sum(bar.get_height() for bar in axes.patches) == 30


def test_memory_does_not_grow_with_what_is_found(database: psycopg.Connection, client: Client) -> None:
    """Walking through ten times as many takes no more memory than one page does."""
    peaks = []
    for count in (400, 3600):
        failed_generations(database, count, users=50)
        tracemalloc.start()
        assert sum(1 for _ in client.find()) in (400, 4000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < peaks[0] + 1_000_000


def test_found_over_the_data_api(stack: Stack) -> None:
    """Search, plan, attempts and explanation work through the Data API as they do directly."""
    storage = SupabaseStorage(stack.url, stack.secret_key)
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        (generation_id,) = failed_generations(connection, 1)
        row = connection.execute("select user_id from public.generations where id = %s", [generation_id]).fetchone()
    assert row is not None
    ai = ScriptedAiProvider(Answer(output={"title": "x"}))
    with Client(storage=storage, recovery_storage=storage, ai=ai, on_close=storage.close) as client:
        found = client.find(user_id=row[0], since="1d", code="AI_UNAVAILABLE")
        assert ids(found) == [generation_id]
        report = client.plan(found).run(operator="ada")
        assert [line.outcome for line in report.lines] == [Outcome.SUCCEEDED]
        assert client.why(generation_id).code == "ALREADY_SUCCEEDED"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"since": "the other day"}, "since must be how long ago"),
        ({"since": datetime(2026, 1, 1)}, "since must have an offset"),  # noqa: DTZ001
        ({"until": "2026-01-01T00:00"}, "until must have an offset"),
        ({"since": timedelta(0)}, "since must be how long ago"),
        ({"since": "1h", "until": "2h"}, "since must be earlier than until"),
        ({"status": "success"}, "status must be of error, processing, queued, timeout"),
        ({"code": ""}, "code must be a string"),
        ({"model": []}, "model must be a string"),
        ({"user_id": "7"}, "user_id must be a UUID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(client: Client, arguments: dict[str, Any], problem: str) -> None:
    """A wrong argument is a ``ValueError`` that names it and what it may be."""
    with pytest.raises(ValueError, match=problem):
        client.find(**arguments)


def test_client_without_recovery_says_so(stack: Stack) -> None:
    """A client that was given no recovery storage says so, rather than failing somehow."""
    storage = SupabaseStorage(stack.url, stack.secret_key)
    with Client(storage=storage, ai=UNUSED, on_close=storage.close) as client, pytest.raises(NotConfigured):
        client.find()


def test_why_shows_the_decision_and_its_numbers(database: psycopg.Connection, client: Client) -> None:
    """One paragraph: what was decided, by which rule with which numbers, when to come back, and the last real error."""
    good, waiting, exhausted = failed_generations(database, 3)
    for generation_id, numbers in ((waiting, [2]), (exhausted, [2, 3, 4])):
        for number in numbers:
            add_closed(
                database,
                owner(database, generation_id),
                generation_id,
                number=number,
                code="AI_TIMEOUT",
                reason="no complete answer within 15 s",
                next_attempt_at=datetime.now(UTC) + timedelta(minutes=4),
            )

    assert "can be retried now. 1 of 4 attempts counted; outages don't count." in str(client.why(good))
    assert "was AI_UNAVAILABLE (recorded by the app)." in str(client.why(good))
    shown = client.why(waiting)
    assert (shown.decision, shown.code) == (Decision.LATER, "RETRY_TOO_SOON")
    assert re.search(r"Wait (4 min|3 min 5\d s) more after attempt 2, until 20", shown.text)
    assert "Come back" not in shown.text
    assert "was AI_TIMEOUT: no complete answer within 15 s." in shown.text
    assert "can't be retried as things are (RETRY_LIMIT_REACHED)" in str(client.why(exhausted))
    for generation_id in (good, waiting, exhausted):
        assert "own words" not in str(client.why(generation_id))
        assert "a prompt that" not in str(client.why(generation_id))


def test_why_names_what_is_at_fault(database: psycopg.Connection, client: Client) -> None:
    """The constraint that rejected a session is named, and the field of a prompt that can't be used."""
    (rejected,) = failed_generations(database, 1)
    (unusable,) = failed_generations(database, 1, prompt_data={"messages": []})
    add_closed(database, owner(database, rejected), rejected, code="SESSION_REJECTED", cause="title_is_short")

    assert "Its session was rejected by title_is_short." in client.why(rejected).text
    assert "messages" in client.why(unusable).text


@pytest.mark.parametrize(
    ("operator_fault", "cure"),
    [(False, "the same request would fail again"), (True, "an operator has to act first")],
)
def test_why_sends_no_one_back_in_vain(
    database: psycopg.Connection, client: Client, *, operator_fault: bool, cure: str
) -> None:
    """After a failure that time does not cure the paragraph has no time to come back at, and says what is needed."""
    waiting, over = failed_generations(database, 2)
    for generation_id, minutes in ((waiting, 4), (over, -1)):
        add_closed(
            database,
            owner(database, generation_id),
            generation_id,
            code="AI_INCOMPLETE",
            reason="cut off",
            next_attempt_at=datetime.now(UTC) + timedelta(minutes=minutes),
            transient=False,
            operator_fault=operator_fault,
        )

    during, after = client.why(waiting), client.why(over)
    found = {each.generation_id: each for each in client.find()}

    assert "The wait after attempt 2 ends at 20" in during.text
    assert "Come back" not in during.text + after.text
    assert during.text.endswith(f"Waiting does not cure that: {cure}.")
    assert after.text.endswith(f"Waiting does not cure that: {cure}.")
    assert "can be retried now" in after.text
    assert (during.retry_at, found[waiting].retry_at) == (None, None)
    assert (during.decision, found[waiting].decision) == (Decision.LATER, Decision.LATER)


def test_why_names_the_reader_of_a_queued_retry(database: psycopg.Connection, client: Client) -> None:
    """Where this process reads contexts in another way than the app that accepted the retry, it says so."""
    accepted = failed_generations(database, 2)
    for generation_id, reader in zip(accepted, ("shop.prompts:read", reader_name(stored_context)), strict=True):
        add_queued(database, owner(database, generation_id), generation_id, context_reader=reader)

    other, same = (client.why(each).text for each in accepted)

    assert "accepted with the reader shop.prompts:read, and a worker with another one leaves it queued" in other
    assert "ai_retry.domain.context:stored_context is the reader here." in other
    assert "reader" not in same


def test_why_knows_every_rule(database: psycopg.Connection, client: Client) -> None:
    """The numbers are reported: who works on it, what fills the quota, how many tries are used up."""
    running, queued, beside, capped, done, own = failed_generations(database, 6, users=6)
    add_running(database, owner(database, running), running)
    add_queued(database, owner(database, queued), queued, due_at=datetime.now(UTC) + HOUR)
    for _ in range(2):
        add_running(database, owner(database, beside), uuid4())
    for number in range(2, 22):
        add_closed(database, owner(database, capped), capped, number=number, counted=False)
    database.execute("update public.generations set status = 'success' where id = %s", [done])
    database.execute("update public.generations set status = 'processing', updated_at = now() where id = %s", [own])

    assert (
        "The app's own call of it runs, as far as is known: its status is believed for 15 min." in client.why(own).text
    )
    assert "A call of it runs, as far as is known: a lease lasts 35 s at most. Come back at" in client.why(running).text
    waiting = client.why(queued)
    assert "is queued for a retry (RETRY_IN_PROGRESS). Call 2 is accepted, and waits for a worker" in waiting.text
    assert waiting.retry_at is None
    assert "Come back" not in waiting.text
    assert "reader" not in waiting.text
    assert "Its user has 2 retries running, and at most 2 run at once." in client.why(beside).text
    assert "All its attempts are used up, of 20 in 1 d; an operator can allow more." in client.why(capped).text
    assert "has its session; there is nothing to retry" in client.why(done).text
    assert "The session was made by the app's own call." in client.why(done).text
    assert "&lt;" not in client.why(done)._repr_html_()
    assert len(repr(client.why(capped)).splitlines()[0]) <= 100


def test_why_shows_the_quota(database: psycopg.Connection, client: Client) -> None:
    """A used-up quota is shown in units, spent and held, also by a queued retry, with the time when one comes back."""
    (generation_id,) = failed_generations(database, 1)
    database.execute(
        "insert into public.generations (user_id, status) select user_id, 'success' from public.generations,"
        " generate_series(1, 4) where id = %s",
        [generation_id],
    )
    add_queued(database, owner(database, generation_id), uuid4())

    shown = client.why(generation_id)

    assert (
        "no units left in this period: 4 of 5 are spent in the last 1 d, and 1 are held for retries that wait or run."
        in shown.text
    )
    assert shown.retry_at is not None
    assert timedelta(hours=23) < shown.retry_at - datetime.now(UTC) < timedelta(hours=25)


def test_why_of_nothing_is_not_found(client: Client) -> None:
    """An id of no generation is not found; what is no id is a ``ValueError``."""
    with pytest.raises(GenerationNotFound):
        client.why(uuid4())
    with pytest.raises(ValueError, match="generation_id must be a UUID"):
        client.why("7")
