"""Messages for the webhook on the real stack: with what they commit, who delivers them, what a kill loses."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.domain.change import Found, Settle
from ai_retry.domain.outbox import Delivery, MessageType
from ai_retry.storage.documents import document
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import Reply, ScriptedServer, reply
from ai_retry.webhooks.deliveries import LEASE
from tests.helpers.builders import an_answer
from tests.helpers.queue_steps import accept, new_running, run
from tests.helpers.steps import fail, succeed
from tests.helpers.webhook import SECRET, Inbox, settings_of
from tests.integration.test_worker import SECRET_ANSWER, Site, site_of
from tools.app_server import clean
from tools.stack import Stack
from tools.waiting import eventually
from tools.worker_process import COMMAND, Provider, running_worker

OUTBOX = "select type, generation_id from public.ai_retry_outbox order by happened_at"


@pytest.fixture
def site(stack: Stack, migrated_database: str, tmp_path: Path) -> Iterator[Site]:
    """A database of one's own, to which workers go straight."""
    with site_of(stack, migrated_database, tmp_path / "worker.log", direct=True) as site:
        yield site


@pytest.fixture(params=["postgres", "data_api"])
def any_site(request: pytest.FixtureRequest, stack: Stack, tmp_path: Path) -> Iterator[Site]:
    """The stack's database, on both ways to it."""
    direct = request.param == "postgres"
    with site_of(stack, stack.database_url, tmp_path / "worker.log", direct=direct) as site:
        yield site


def storage_of(site: Site) -> PostgresStorage:
    """Give the storage with all of its methods."""
    storage = site.world.storage
    assert isinstance(storage, PostgresStorage)
    return storage


def webhooks(site: Site, env: Mapping[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    settings = clean(os.environ) | dict(site.env) | dict(env)
    return subprocess.run([COMMAND, "webhooks", *options], env=settings, capture_output=True, text=True, check=False)


# Writing


def test_message_commits_with_the_end_that_it_reports(site: Site) -> None:
    """A settle that is undone leaves no message; one that commits leaves one."""
    storage_of(site).drain(0, LEASE, [])
    begun = new_running(site.world)
    change = begun.ending.answered(Found.READY, an_answer(), None, timedelta(seconds=1))
    assert isinstance(change, Settle)
    other = psycopg.connect(site.env["DATABASE_URL"])
    with other:
        other.execute("select public.ai_retry_settle(%s)", [document(change)])
        assert other.execute(OUTBOX).fetchall() == [(MessageType.SUCCEEDED, begun.generation_id)]
        assert site.connection.execute(OUTBOX).fetchall() == []
        other.rollback()
    assert site.connection.execute(OUTBOX).fetchall() == []

    succeed(site.world, begun)

    assert site.connection.execute(OUTBOX).fetchall() == [(MessageType.SUCCEEDED, begun.generation_id)]


def test_messages_go_with_their_user(site: Site) -> None:
    """A message holds ids of a user; it is deleted with the user, delivered or not."""
    storage_of(site).drain(0, LEASE, [])
    begun = new_running(site.world)
    succeed(site.world, begun)
    assert len(site.connection.execute(OUTBOX).fetchall()) == 1

    site.connection.execute("delete from auth.users where id = %s", [begun.user_id])

    assert site.connection.execute(OUTBOX).fetchall() == []


def test_deletion_of_a_user_that_takes_long_holds_up_no_other_message(site: Site) -> None:
    """What became of the others is recorded; the message whose row is locked is left alone, and goes with its user."""
    storage = storage_of(site)
    storage.drain(0, LEASE, [])
    ended = [new_running(site.world) for _ in range(4)]
    for begun in ended:
        succeed(site.world, begun)
    taken = storage.drain(9, LEASE, [])
    waits = (None, None, timedelta(0), timedelta(0))
    results = [Delivery(id=each.id, tries=1, wait=wait) for each, wait in zip(taken, waits, strict=True)]
    with psycopg.connect(site.env["DATABASE_URL"]) as other:
        for each in taken[::2]:
            other.execute("delete from auth.users where id = %s", [each.data["user_id"]])

        again = storage.drain(9, LEASE, results)

    assert [each.id for each in again] == [taken[3].id]
    assert site.connection.execute(OUTBOX).fetchall() == [(again[0].type, UUID(again[0].data["generation_id"]))]


def test_clock_that_is_set_back_changes_no_order(site: Site) -> None:
    """Messages about one generation come in the order of what they report, whatever the server's clock said."""
    storage, world = storage_of(site), site.world
    storage.drain(0, LEASE, [])
    begun = new_running(world)
    fail(world, begun)
    site.connection.execute("update public.ai_retry_outbox set happened_at = happened_at + interval '1 hour'")
    accept(world, begun.user_id, begun.generation_id)
    succeed(world, run(world, begun.user_id, begun.generation_id))

    (first,) = storage.drain(9, LEASE, [])
    (second,) = storage.drain(9, LEASE, [Delivery(id=first.id, tries=1, wait=None)])

    assert (first.type, second.type) == (MessageType.FAILED, MessageType.SUCCEEDED)
    assert first.happened_at < second.happened_at


def test_end_of_a_recovery_is_announced_once(site: Site) -> None:
    """A run of a plan that has ended says its counts; a repeat of the record says nothing new."""
    storage, run_id = storage_of(site), uuid4()
    storage.drain(0, LEASE, [])
    record: dict[str, Any] = {"plan_id": "a-plan", "operator": "ada", "plan": {}}
    for counts in (None, {"succeeded": 2}, {"succeeded": 2}):
        storage.record_recovery(run_id, **record, counts=counts)

    (message,) = storage.drain(9, LEASE, [])
    assert message.type == MessageType.RECOVERY_ENDED
    assert message.data == {"run_id": str(run_id), "plan_id": "a-plan", "counts": {"succeeded": 2}}


def test_processes_that_look_at_once_share_the_messages(site: Site) -> None:
    """No message is taken by two of them."""
    storage = storage_of(site)
    storage.drain(0, LEASE, [])
    ended = set()
    for _ in range(24):
        begun = new_running(site.world)
        succeed(site.world, begun)
        ended.add(str(begun.generation_id))

    with ThreadPoolExecutor(8) as threads:
        taken = [each for some in threads.map(lambda _: storage.drain(2, LEASE, []), range(40)) for each in some]

    assert len(taken) == len({each.id for each in taken}) == 24
    assert {each.data["generation_id"] for each in taken} == ended


# Delivering


def test_worker_delivers_every_end(any_site: Site) -> None:
    """Each accepted retry's end arrives, signed, over either way to the database."""
    site, inbox = any_site, Inbox()
    with (
        ScriptedServer(default=Provider({"title": SECRET_ANSWER})) as provider,
        ScriptedServer(default=inbox) as receiver,
        running_worker(site.ask(provider, **settings_of(receiver)), site.log) as worker,
    ):
        eventually(lambda: _is_written(site), within=60.0)
        ids = [site.queued()[1] for _ in range(6)]
        eventually(lambda: len(inbox.messages) == 6, within=60.0)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0

    assert sorted(inbox.ends()) == sorted((each, "succeeded") for each in ids)
    assert site.connection.execute(OUTBOX).fetchall() == []
    log = site.log.read_text()
    assert log.count("event=webhook_delivered") == 6
    assert SECRET.removeprefix("whsec_") not in log


def test_worker_that_is_killed_amid_a_delivery_loses_nothing(site: Site) -> None:
    """The receiver had the message, and nothing recorded it: it comes again, with the same id."""
    with ScriptedServer(default=Provider({"title": SECRET_ANSWER})) as provider:
        kills: list[Any] = []

        def answer(_: dict[str, Any]) -> Reply:
            if kills:
                kills.pop().signal(signal.SIGKILL)
            return reply(204)

        inbox = Inbox(answer)
        with ScriptedServer(default=inbox) as receiver:
            env = site.ask(provider, **settings_of(receiver))
            with running_worker(env, site.log) as worker:
                eventually(lambda: _is_written(site))
                kills.append(worker)
                generation_id = site.queued()[1]
                assert worker.exit_code() == -signal.SIGKILL
            assert site.connection.execute(OUTBOX).fetchall() == [(MessageType.SUCCEEDED, generation_id)]
            site.outlive()
            with running_worker(env, site.log):
                eventually(lambda: site.connection.execute(OUTBOX).fetchall() == [])

    assert len(inbox.deliveries) == 2
    assert len(set(inbox.deliveries)) == 1
    assert inbox.ends() == [(generation_id, "succeeded")]


def test_receiver_that_hangs_holds_up_no_retry(site: Site) -> None:
    """Retries are settled meanwhile, and messages of others are delivered."""
    unlucky: list[str] = []

    def answer(message: dict[str, Any]) -> Reply:
        found = message["data"].get("generation_id")
        if not unlucky:
            unlucky.append(found)
        return reply(503) if found in unlucky else reply(204)

    inbox = Inbox(answer)
    with (
        ScriptedServer(default=Provider({"title": SECRET_ANSWER})) as provider,
        ScriptedServer(default=inbox) as receiver,
        running_worker(site.ask(provider, **settings_of(receiver)), site.log),
    ):
        eventually(lambda: _is_written(site))
        ids = [site.queued()[1] for _ in range(5)]
        eventually(lambda: site.statuses(*ids) == {"success"})
        eventually(lambda: len(inbox.messages) == 4)

    assert {each for each, _ in inbox.ends()} == set(ids) - {UUID(unlucky[0])}


def test_command_delivers_what_waits(site: Site) -> None:
    """Without workers: one run switches messages on, the next deliver; exit code 1 while the receiver fails."""
    answers = iter([reply(500), reply(204)])
    inbox = Inbox(lambda _: next(answers))
    with ScriptedServer(default=inbox) as receiver:
        env = settings_of(receiver)
        first = webhooks(site, env, "--once")
        begun = new_running(site.world)
        succeed(site.world, begun)
        failed = webhooks(site, env, "--once")
        site.world.advance(timedelta(seconds=10))
        again = webhooks(site, env, "--once")

    assert (first.returncode, first.stdout.split()) == (0, ["delivered", "0", "failed", "0", "given", "up", "0"])
    assert (failed.returncode, failed.stdout.split()[:4]) == (1, ["delivered", "0", "failed", "1"])
    assert (again.returncode, again.stdout.split()[:4]) == (0, ["delivered", "1", "failed", "0"])
    assert inbox.ends() == [(begun.generation_id, "succeeded")]
    assert "HTTP_500" in failed.stderr


def test_command_names_what_is_missing(site: Site) -> None:
    """Without an address there is nothing to do."""
    done = webhooks(site, {}, "--once")

    assert done.returncode == 3
    assert "AI_RETRY_WEBHOOK_URL" in done.stderr


def _is_written(site: Site) -> bool:
    """Whether messages are written by now."""
    found = site.connection.execute("select webhook_until > now() from public.ai_retry_installation").fetchone()
    return found == (True,)
