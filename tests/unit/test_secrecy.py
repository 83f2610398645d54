"""No driver's log holds a password, a key or an address's query, whatever goes wrong on a real connection."""

import logging
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_retry import secrecy
from ai_retry.cli.doctor import examine
from ai_retry.clock import SystemClock
from ai_retry.config import Settings
from ai_retry.deadline import DeadlineAdapter
from ai_retry.domain.errors import GenerationFailed, NotConfigured, StorageUnavailable
from ai_retry.providers.http import HttpAiProvider
from ai_retry.secrecy import DROPPED, PART, guard_logs, runs
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.provider import ScriptedServer, reply
from tests.helpers.builders import a_context
from tools.log_scan import text_of

HEAD, TAIL = "xqz81vkw", "jmf37tbd"  # on both sides of the character in question; words that occur nowhere else
KEY = "sk-test-0123456789abcdef"
SPECIAL = "@/#?:%"
MISREAD = "@/%"  # read otherwise than meant where they are not percent-encoded
DRIVERS = ("psycopg", "psycopg.pool", "httpx", "httpcore.connection", "httpcore.http11", "urllib3.connectionpool")


@pytest.fixture(autouse=True)
def of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the guard know no secrets of other tests, and forget ours."""
    monkeypatch.setattr(secrecy._guard, "_secrets", secrecy._Secrets())


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect all that drivers log, at all levels, with all that a record carries."""
    for name in DRIVERS:
        caplog.set_level(logging.DEBUG, logger=name)
    texts: list[str] = []
    yield texts
    texts += [text_of(record) for record in caplog.get_records("call")]
    assert texts, "no driver has logged anything: the test proves nothing"
    held = [text for text in texts if any(secret in text for secret in (HEAD, TAIL, KEY, KEY[3:12]))]
    assert held == []


@pytest.fixture
def closed_port() -> int:
    """Give a port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def telling_server() -> Iterator[int]:
    """Run a database server that quotes the password which it was sent, as a proxy in front of one might."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    with connection:
                        _refuse(connection)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)


def _refuse(connection: socket.socket) -> None:
    """Ask for the password, and refuse it (PostgreSQL documentation, Frontend/Backend Protocol)."""
    connection.settimeout(5)
    if connection.recv(8)[4:8] == b"\x04\xd2\x16\x2f":  # asks for TLS
        connection.sendall(b"N")
        connection.recv(8)
    connection.recv(4096)  # the rest of the startup message
    connection.sendall(b"R" + (8).to_bytes(4) + (3).to_bytes(4))
    password = connection.recv(4096)[5:].rstrip(b"\0")
    fields = b"SFATAL\0VFATAL\0C28P01\0Mno user has the password '" + password + b"'\0\0"
    connection.sendall(b"E" + (len(fields) + 4).to_bytes(4) + fields)


def try_to_connect(url: str) -> None:
    """Use a database that can't be reached."""
    with closing(PostgresStorage(url, pool_timeout=0.3)) as storage, pytest.raises(StorageUnavailable):
        storage.books()


@pytest.mark.parametrize("character", [*SPECIAL, SPECIAL])
def test_encoded_password_never_logged(logged: list[str], closed_port: int, character: str) -> None:
    """A password that is percent-encoded, whatever is in it, is in no line of a failing connection."""
    password = quote(f"{HEAD}{character}{TAIL}", safe="")
    url = f"postgresql://me:{password}@127.0.0.1:{closed_port}/db"

    assert Settings.from_env({"DATABASE_URL": url, "AI_BASE_URL": "http://127.0.0.1:9"}).database_url == url
    try_to_connect(url)


@pytest.mark.parametrize("character", [*(each for each in SPECIAL if each not in MISREAD)])
def test_password_read_as_meant_never_logged(logged: list[str], closed_port: int, character: str) -> None:
    """Characters that end neither password nor host may be as they are."""
    url = f"postgresql://me:{HEAD}{character}{TAIL}@127.0.0.1:{closed_port}/db"

    assert Settings.from_env({"DATABASE_URL": url, "AI_BASE_URL": "http://127.0.0.1:9"}).database_url == url
    try_to_connect(url)


@pytest.mark.parametrize("character", [*SPECIAL, SPECIAL])
def test_password_in_the_server_s_words_never_logged(logged: list[str], telling_server: int, character: str) -> None:
    """A server that quotes the password is logged by the pool, and the rest of its words still helps."""
    password = quote(f"{HEAD}{character}{TAIL}", safe="")

    try_to_connect(f"postgresql://me:{password}@127.0.0.1:{telling_server}/db")


def test_reason_of_a_refused_connection_still_logged(telling_server: int, caplog: pytest.LogCaptureFixture) -> None:
    """The pool's warning says what the server said, but for the secret."""
    try_to_connect(f"postgresql://me:{HEAD}@127.0.0.1:{telling_server}/db")

    assert any("no user has the" in each and DROPPED in each for each in caplog.messages)


@pytest.mark.parametrize("character", MISREAD)
@pytest.mark.parametrize("form", ["me:{password}@127.0.0.1:1/db", "me:{password}@127.0.0.1/db?sslmode=disable"])
def test_ambiguous_address_refused_at_start(
    character: str, form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings, storage and doctor name the variable and the remedy, quote no part, and nothing is connected."""
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://{form.format(password=HEAD + character + TAIL)}"

    with pytest.raises(NotConfigured, match=r"DATABASE_URL .*percent-encode") as by_settings:
        Settings.from_env({"DATABASE_URL": url, "AI_BASE_URL": "http://127.0.0.1:9"})
    with pytest.raises(
        NotConfigured, match=r"DATABASE_URL (is ambiguous|can't be read): .*percent-encode"
    ) as by_storage:
        PostgresStorage(url)

    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("AI_BASE_URL", "http://127.0.0.1:9")
    by_doctor = examine(clock=SystemClock()).findings
    reported = f"{by_settings.value!r} {by_storage.value!r} {by_doctor!r} {caplog.text}"
    assert HEAD not in reported
    assert TAIL not in reported
    assert any("percent-encode" in each.problem + each.remedy for each in by_doctor)
    for error in (by_settings.value, by_storage.value):
        assert error.__cause__ is error.__context__ is None


def test_connection_string_of_words_is_read_too() -> None:
    """A string of names and values that can't be read is refused without its parts."""
    with pytest.raises(NotConfigured, match="DATABASE_URL can't be read") as caught:
        PostgresStorage(f"host=127.0.0.1 password={HEAD} {TAIL}")

    assert HEAD not in str(caught.value)
    assert TAIL not in str(caught.value)


def test_keys_in_the_provider_s_address_never_logged(logged: list[str]) -> None:
    """``urllib3`` logs the path that is asked, without the query in which a key may be."""
    with (
        ScriptedServer(default=reply(500, json={})) as server,
        closing(
            HttpAiProvider(clock=SystemClock(), base_url=server.base_url, model="m", query={"key": KEY}, max_requests=1)
        ) as ai,
        pytest.raises(GenerationFailed),
    ):
        ai.generate(a_context(), timeout=timedelta(seconds=10), idempotency_key="k")

    assert server.requests[0].path.endswith(KEY)


def test_key_of_the_data_api_never_logged(logged: list[str], closed_port: int) -> None:
    """Neither ``httpx`` nor ``httpcore`` logs the secret key, be the server there or not."""
    with ScriptedServer(default=reply(500, json={"message": f"no {KEY}"})) as server:
        for url in (server.base_url.removesuffix("/v1"), f"http://127.0.0.1:{closed_port}"):
            with closing(SupabaseStorage(url, KEY)) as storage, suppress(Exception):
                storage.books()


@pytest.mark.parametrize(
    ("said", "logged_as"),
    [
        (f"connecting to {KEY} failed", f"connecting to {DROPPED} failed"),
        (f"key={KEY[4:14]}, try again", f"{DROPPED} try again"),
        ("POST /v1?key=abc HTTP/1.1", f"POST /v1?{DROPPED} HTTP/1.1"),
        ("at http://me:p@ss/w@proxy:80/", f"at http://{DROPPED}@proxy:80/"),
        ("is it running? port 5432", "is it running? port 5432"),
    ],
)
def test_only_the_secret_is_left_out(said: str, logged_as: str, caplog: pytest.LogCaptureFixture) -> None:
    """A whole secret, a part of one, a query and a login are left out; all else stays."""
    guard_logs(KEY)

    logging.getLogger("psycopg.pool").warning("%s", said)

    assert caplog.messages == [logged_as]


@given(
    secrets=st.lists(st.text("abc d", min_size=1, max_size=12), max_size=20),
    words=st.lists(st.text("abcd", min_size=1, max_size=12)),
)
def test_many_secrets_are_left_out_as_one_is(secrets: list[str], words: list[str]) -> None:
    """Of many secrets, which may overlap, no whole and no part stays; a word that holds none of either does."""
    known = secrecy._Secrets()
    for secret in secrets:
        known = known.with_one_more(secret)

    cleaned = known.without(" ".join(words))

    parts = {part for secret in secrets if len(secret) >= PART for part in runs(secret, PART)}
    left = cleaned.split()
    assert [word for word in left if any(part in word for part in parts)] == []
    assert [secret for secret in secrets if secret in cleaned] == []
    if all(" " not in secret for secret in secrets):
        harmless = [word for word in words if not any(each in word for each in {*secrets, *parts})]
        assert [word for word in left if DROPPED not in word] == harmless


def test_a_line_is_read_once_however_many_secrets_are_known() -> None:
    """No function is called more often for a line when hundreds of secrets are known: a process may serve as many."""

    def calls(number: int) -> int:
        known = secrecy._Secrets()
        for each in range(number):
            known = known.with_one_more(f"{HEAD}-{each:04}-{TAIL}")
        count = Counter[str]()
        sys.setprofile(lambda _frame, event, _argument: count.update([event]))
        try:
            known.without("connection given by 'the pool of ai-retry' at 127.0.0.1:5432")
        finally:
            sys.setprofile(None)
        return count["call"]

    assert calls(300) == calls(1)


def test_exceptions_and_odd_arguments_are_cleaned(caplog: pytest.LogCaptureFixture) -> None:
    """A secret in an exception's text, or in arguments that don't fit, is left out too."""
    guard_logs(KEY)
    logger = logging.getLogger("psycopg.pool")

    logger.error("failed", exc_info=ValueError(f"with {KEY}"))
    logger.error("failed %d", KEY)

    assert "ValueError: with" in caplog.text
    assert DROPPED in caplog.text
    assert KEY not in "".join(text_of(record) for record in caplog.records)


def test_every_logger_of_a_driver_is_guarded() -> None:
    """Once the adapters are prepared, no logger of a driver is without the filter."""
    DeadlineAdapter(pool_size=1).close()
    with closing(SupabaseStorage("http://127.0.0.1:9", KEY)) as storage:
        storage.prepare()
    roots = {name.partition(".")[0] for name in DRIVERS}
    manager = logging.getLogger().manager
    theirs = [name for name in manager.loggerDict if name.partition(".")[0] in roots]

    assert set(DRIVERS) <= set(theirs)
    assert [name for name in theirs if not logging.getLogger(name).filters] == []
