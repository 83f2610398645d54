"""Deliveries to the webhook: what is sent, how it is signed, and what becomes of it whatever the receiver does."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from ai_retry.clock import SystemClock
from ai_retry.config import Settings
from ai_retry.domain.errors import NotConfigured, StorageUnavailable
from ai_retry.domain.outbox import Announcement, MessageType
from ai_retry.events import Event, WebhookDelivered, WebhookFailed, WebhookGivenUp, WebhookStopped
from ai_retry.testing.provider import Reply, Script, ScriptedServer, pause, raw, reply, reset, stall
from ai_retry.webhooks import deliveries as module
from ai_retry.webhooks.deliveries import LEASE, MOST_TRIES, Deliveries, wait_after
from ai_retry.webhooks.receiver import DEADLINE, Receiver, body_of
from ai_retry.webhooks.signature import signed
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import new_accepted, run
from tests.helpers.steps import succeed
from tests.helpers.webhook import SECRET, Inbox, hook_of
from tools.examples import example
from tools.npm import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "webhooks.md"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
MESSAGE = Announcement(
    id=UUID("7d0f7c6e-5d5b-4f0b-9c57-2f6a1f6f2a10"),
    type=MessageType.SUCCEEDED.value,
    happened_at=datetime(2026, 11, 28, 12, 0, 0, 5000, tzinfo=UTC),
    data={"generation_id": "0b54ad2c-73b0-4a52-8d6c-0f6f0a1d3c11", "code": None},
    tries=1,
)


@dataclass
class Case:
    """An outbox in memory with retries that have ended, and whoever delivers its messages."""

    world: MemoryWorld
    deliveries: Deliveries
    seen: list[Event] = field(default_factory=list)

    def ended(self) -> UUID:
        """Let an accepted retry succeed."""
        user_id, generation_id = new_accepted(self.world)
        succeed(self.world, run(self.world, user_id, generation_id))
        return generation_id

    def kinds(self) -> list[type[Event]]:
        """Name what was seen."""
        return [type(each) for each in self.seen]


@contextmanager
def case_of(
    server: ScriptedServer, *, deadline: float = DEADLINE, secrets: tuple[str, ...] = (SECRET,)
) -> Iterator[Case]:
    """Deliver to a server; messages are written from now on."""
    world, seen = MemoryWorld(), list[Event]()
    with closing(Receiver(hook_of(server), secrets, clock=SystemClock(), deadline=deadline)) as receiver:
        deliveries = Deliveries(world.storage, receiver, seen.append)
        deliveries.once()
        yield Case(world, deliveries, seen)


# What is sent


def test_message_has_type_time_and_data() -> None:
    """The body is the form of Standard Webhooks, the same to the byte at each delivery."""
    assert body_of(MESSAGE) == (
        b'{"type":"ai_retry.generation.succeeded","timestamp":"2026-11-28T12:00:00.005000Z","data":'
        b'{"generation_id":"0b54ad2c-73b0-4a52-8d6c-0f6f0a1d3c11","code":null}}'
    )


@pytest.mark.parametrize("known", [SECRET, OTHER_SECRET])
def test_receiver_may_know_either_secret(known: str) -> None:
    """While a secret is rotated, each of two verifies; the library of Standard Webhooks judges."""
    inbox = Inbox(secret=known)
    with ScriptedServer(inbox) as server, case_of(server, secrets=(OTHER_SECRET, SECRET)) as case:
        generation_id = case.ended()
        tally = case.deliveries.once()

    assert (tally.delivered, tally.failed) == (1, 0)
    assert inbox.ends() == [(generation_id, "succeeded")]
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers


def test_altered_body_is_refused() -> None:
    """The signature is of the body: whoever changes it is found out."""
    with ScriptedServer(reply(204)) as server, case_of(server) as case:
        case.ended()
        case.deliveries.once()
    (request,) = server.requests

    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(request.body.replace(b"succeeded", b"cancelled"), dict(request.headers))


def test_events_name_the_message_and_whom_it_is_about() -> None:
    """A delivery that failed and its repeat carry the same id."""
    with ScriptedServer(reply(500), reply(200)) as server, case_of(server) as case:
        generation_id = case.ended()
        case.deliveries.once()
        case.world.advance(timedelta(seconds=6))
        case.deliveries.once()

    failed, delivered = case.seen
    assert isinstance(failed, WebhookFailed)
    assert isinstance(delivered, WebhookDelivered)
    assert (failed.code, failed.tries, delivered.tries) == ("HTTP_500", 1, 2)
    assert failed.message_id == delivered.message_id
    assert failed.generation_id == delivered.generation_id == generation_id
    assert failed.wait_seconds is not None
    assert 4 <= failed.wait_seconds <= 5
    ids = {each.headers["webhook-id"] for each in server.requests}
    assert ids == {f"msg_{failed.message_id.hex if failed.message_id else ''}"}


def test_page_s_receiver_verifies_and_drops_duplicates(capsys: pytest.CaptureFixture[str]) -> None:
    """The how-to's example takes a message once, and refuses one that is signed with another secret."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(example(PAGE, "python", "standardwebhooks"), names)
    http = names["app"].test_client()

    def post(secret: str) -> int:
        body, now = body_of(MESSAGE), int(time.time())
        headers = {**signed(MESSAGE.id, now, body, [secret]), "Content-Type": "application/json"}
        answered: int = http.post("/hooks/ai-retry", data=body, headers=headers).status_code
        return answered

    assert [post(SECRET), post(SECRET), post(OTHER_SECRET)] == [204, 204, 401]
    assert capsys.readouterr().out.count(MESSAGE.type) == 1


# Whatever the receiver does


def redirected() -> Script:
    """Send the caller elsewhere."""
    return reply(307, headers={"Location": "http://127.0.0.1:9/elsewhere"})


BAD = {
    "HTTP_500": reply(500),
    "HTTP_404": reply(404),
    "HTTP_307": redirected(),
    "TIMEOUT": stall(),
    "BROKEN_OFF": reset(),
}


@pytest.mark.parametrize("code", BAD)
def test_bad_answer_stops_no_other_message(code: str) -> None:
    """A receiver that fails, hangs, redirects or breaks off for one message takes the others, and that one later."""
    unlucky: list[str] = []

    def answer(message: dict[str, Any]) -> Reply:
        if not unlucky:
            unlucky.append(message["data"]["generation_id"])
            return BAD[code]
        return reply(204)

    inbox = Inbox(answer)
    with ScriptedServer(default=inbox) as server, case_of(server, deadline=0.5) as case:
        ended = {case.ended() for _ in range(5)}
        case.deliveries.once()
        taken = len(inbox.messages)
        case.world.advance(timedelta(seconds=6))
        case.deliveries.once()

    assert (taken, len(inbox.messages)) == (4, 5)
    assert {generation_id for generation_id, _ in inbox.ends()} == ended
    assert [each.code for each in case.seen if isinstance(each, WebhookFailed)] == [code]
    assert len(inbox.deliveries) == 6


def test_answer_that_never_ends_counts_as_taken() -> None:
    """The status decides; a body that drips holds a delivery up to its deadline, and no longer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    with ScriptedServer(raw(head, pause(0.1), b"x", stall())) as server, case_of(server, deadline=0.5) as case:
        case.ended()
        tally = case.deliveries.once()

    assert tally.delivered == 1


def test_nothing_listens() -> None:
    """A receiver that is down is tried again."""
    with ScriptedServer() as server:
        pass
    with case_of(server, deadline=2.0) as case:
        case.ended()
        tally = case.deliveries.once()

    assert (tally.delivered, tally.failed) == (0, 1)
    (failed,) = case.seen
    assert isinstance(failed, WebhookFailed)
    assert failed.code == "UNREACHABLE"


def test_receiver_on_this_machine_is_sent_nothing_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not encrypted leaves the machine by no proxy, whatever the environment names for other addresses."""
    with ScriptedServer(default=reply(503)) as proxy, ScriptedServer(default=Inbox()) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with case_of(server) as case:
            case.ended()
            tally = case.deliveries.once()

    assert (tally.delivered, proxy.connections) == (1, 0)


def test_wait_that_the_receiver_asks_for_is_kept() -> None:
    """``Retry-After`` prolongs a wait, and never shortens it."""
    with ScriptedServer(reply(429, headers={"Retry-After": "120"})) as server, case_of(server) as case:
        case.ended()
        case.deliveries.once()

    (failed,) = case.seen
    assert isinstance(failed, WebhookFailed)
    assert failed.wait_seconds == 120


def test_receiver_that_is_gone_is_left_alone() -> None:
    """After 410 this process sends nothing more, keeps what waits, and says so once."""
    with ScriptedServer(default=reply(410)) as server, case_of(server) as case:
        for _ in range(20):
            case.ended()
        case.deliveries.once()
        case.deliveries.run(threading.Event())  # ends by itself
        sent = len(server.requests)

    assert 1 <= sent <= 4  # that ran at once
    assert case.kinds().count(WebhookStopped) == 1
    case.world.advance(LEASE + timedelta(hours=1))
    assert len(case.world.storage.drain(100, LEASE, [])) == 20


def test_message_is_given_up_in_the_end() -> None:
    """After about three days a message is deleted, and an event says so."""
    with ScriptedServer(default=reply(500)) as server, case_of(server) as case:
        case.ended()
        for _ in range(MOST_TRIES):
            tally = case.deliveries.once()
            case.world.advance(timedelta(hours=1))

        assert (tally.failed, tally.given_up) == (MOST_TRIES - 1, 1)
        assert case.kinds().count(WebhookGivenUp) == 1
        assert case.world.storage.drain(10, LEASE, []) == []


def test_waits_grow_up_to_an_hour() -> None:
    """The first repeats come soon, later ones hourly, and all together take about three days."""
    longest = [wait_after(tries).total_seconds() for tries in range(1, MOST_TRIES)]

    assert 4 <= longest[0] <= 5
    assert all(2880 <= each <= 3600 for each in longest[6:])
    assert 2.5 < sum(longest) / 86400 < 4
    assert wait_after(1, asked=timedelta(days=9)) == timedelta(hours=1)


# A process that delivers


def test_process_goes_on_when_the_outbox_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is away, or a defect, ends no thread: it says so, waits, and looks again."""
    monkeypatch.setattr(module, "_STORAGE_WAITS", (0.0,))
    inbox = Inbox()
    with ScriptedServer(default=inbox) as server, case_of(server) as case:
        case.ended()
        drain, failures = case.world.storage.drain, [StorageUnavailable("57P01"), ValueError("secret")]

        def failing(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return drain(*arguments)

        monkeypatch.setattr(case.world.storage, "drain", failing)
        stop = threading.Event()
        monkeypatch.setattr(module, "_IDLE", 0.01)
        thread = threading.Thread(target=case.deliveries.run, args=[stop])
        thread.start()
        while not inbox.messages:
            stop.wait(0.01)
        stop.set()
        thread.join()

    codes = [each.code for each in case.seen if isinstance(each, WebhookFailed)]
    assert codes == ["INTERNAL", "STORAGE_UNAVAILABLE"]
    assert case.world.storage.drain(10, LEASE, []) == []


def test_process_that_is_stopped_gives_back_what_it_has_not_sent() -> None:
    """Another process takes it at once; what was being sent is recorded."""
    stop = threading.Event()

    def answer(_: dict[str, Any]) -> Reply:
        stop.set()
        return reply(204)

    inbox = Inbox(answer)
    with ScriptedServer(default=inbox) as server, case_of(server) as case:
        for _ in range(8):
            case.ended()
        case.deliveries.run(stop)
        left = case.world.storage.drain(10, LEASE, [])

    assert len(inbox.messages) + len(left) == 8
    assert left
    assert {each.tries for each in left} == {2}


# Settings

URL, HOOK = "AI_RETRY_WEBHOOK_URL", "https://example.com/hook?token=secret"


def settings(**variables: str) -> Settings:
    """Read settings that name a database and these variables."""
    return Settings.from_env({"DATABASE_URL": "postgresql://localhost/app", **variables}, asks_provider=False)


def test_settings_name_a_receiver() -> None:
    """Address and secrets are read, and shown nowhere."""
    read = settings(AI_RETRY_WEBHOOK_URL=HOOK, AI_RETRY_WEBHOOK_SECRET=f"{SECRET}  {OTHER_SECRET}")

    assert read.webhook_url == HOOK
    assert read.webhook_secret == (SECRET, OTHER_SECRET)
    assert "hook" not in repr(read).replace("webhook", "")
    assert SECRET not in repr(read)


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({URL: HOOK}, "AI_RETRY_WEBHOOK_SECRET is missing"),
        ({"AI_RETRY_WEBHOOK_SECRET": SECRET}, "AI_RETRY_WEBHOOK_URL is missing"),
        ({URL: "http://example.com/hook", "AI_RETRY_WEBHOOK_SECRET": SECRET}, "must begin with https://"),
        ({URL: "https://ann:secret@example.com", "AI_RETRY_WEBHOOK_SECRET": SECRET}, "without credentials"),
        ({URL: "https://example.com/#secret", "AI_RETRY_WEBHOOK_SECRET": SECRET}, "without credentials or fragment"),
        ({URL: "https://[::1", "AI_RETRY_WEBHOOK_SECRET": SECRET}, "must be an address"),
        ({URL: "ftp://example.com", "AI_RETRY_WEBHOOK_SECRET": SECRET}, "must be an address"),
        ({URL: HOOK, "AI_RETRY_WEBHOOK_SECRET": "secret"}, "must hold secrets such as whsec_"),
        ({URL: HOOK, "AI_RETRY_WEBHOOK_SECRET": "whsec_c2VjcmV0"}, "must hold secrets such as whsec_"),
        ({URL: HOOK, "AI_RETRY_WEBHOOK_SECRET": f"{SECRET} whsec_%%%"}, "must hold secrets such as whsec_"),
    ],
)
def test_settings_that_can_t_be_used_are_refused(variables: dict[str, str], problem: str) -> None:
    """Each fault is named, and no value is in the message."""
    with pytest.raises(NotConfigured) as refused:
        settings(**variables)

    assert problem in str(refused.value)
    for secret in ("secret@", "#secret", "token=secret", "c2VjcmV0", SECRET):
        assert secret not in str(refused.value)


@pytest.mark.parametrize("url", ["http://localhost:8000/hook", "http://127.0.0.1/hook", "http://[::1]:9/hook"])
def test_receiver_on_this_machine_needs_no_encryption(url: str) -> None:
    """It is for trying things out."""
    assert settings(AI_RETRY_WEBHOOK_URL=url, AI_RETRY_WEBHOOK_SECRET=SECRET).webhook_url == url
