"""A client that can't connect says why: a wrong password, an unknown project and a full pooler are three things."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageUnavailable
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.transport import NeverReached
from tests.helpers.pooler import transaction_pooler
from tools.postgres import Postgres
from tools.waiting import skipping_without_stack

pytestmark = pytest.mark.stack

ASKS_FOR_PASSWORDS = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that lets its owner in, and asks others for their passwords."""
    directory = tmp_path_factory.mktemp("guarded")
    rules: Path = directory / "hba.conf"
    rules.write_text(ASKS_FOR_PASSWORDS)
    rules.chmod(0o644)
    directory.chmod(0o755)
    server = Postgres(directory, {"hba_file": str(rules)})
    with skipping_without_stack():
        asyncio.run(server.start())
    try:
        with psycopg.connect(server.url(), autocommit=True) as owner:
            owner.execute("create role ada login password 'right'")
            owner.execute("create role crowd login password 'right' connection limit 0")
        yield server.url()
    finally:
        asyncio.run(server.stop())


@contextmanager
def saying(sqlstate: str, words: str) -> Iterator[str]:
    """Run a pooler that refuses each connection in its own words; yield an address."""
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{words}\0\0".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    with connection:
                        connection.settimeout(5)
                        if connection.recv(8)[4:8] == b"\x04\xd2\x16\x2f":  # asks for TLS
                            connection.sendall(b"N")
                        connection.recv(4096)
                        connection.sendall(b"E" + (len(fields) + 4).to_bytes(4) + fields)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"postgresql://postgres.abc:wrong@127.0.0.1:{listener.getsockname()[1]}/postgres"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def failure(url: str) -> AiRetryError:
    """Ask a database once, as an app does at its start; print how long that took."""
    began = monotonic()
    with closing(PostgresStorage(url)) as storage, pytest.raises(AiRetryError) as caught:
        storage.installation()
    print(f"{caught.value}: said after {monotonic() - began:.2f} s (at most 3 s)")
    return caught.value


def test_wrong_password_is_said(guarded: str) -> None:
    """A server that refuses the password: an operator has to act, at once, and no password is shown."""
    error = failure(guarded.replace("postgres@", "ada:wrong@"))

    assert isinstance(error, NotConfigured)
    assert "the database refuses the password, or the user, in DATABASE_URL: set the password" in str(error)
    assert "wrong" not in str(error)


def test_missing_database_is_said(guarded: str) -> None:
    """A server that has no such database: an operator has to act."""
    error = failure(guarded.replace("postgres@", "ada:right@").replace("/postgres", "/shop"))

    assert isinstance(error, NotConfigured)
    assert "there is no database of that name" in str(error)


def test_full_server_is_said(guarded: str) -> None:
    """All connections are taken: that passes by itself, and is not said to be a password."""
    error = failure(guarded.replace("postgres@", "crowd:right@"))

    assert isinstance(error, StorageUnavailable)
    assert error.retry_after is not None
    assert "all connections that the database or its pooler allows are taken" in str(error)


@pytest.mark.parametrize(
    ("sqlstate", "words", "kind", "said"),
    [
        ("XX000", "Tenant or user not found", NotConfigured, "the pooler does not know the project"),
        ("28P01", "password authentication failed for user \"postgres\"", NotConfigured, "refuses the password"),
        ("XX000", "(EMAXCONNSESSION) max clients reached in session mode", StorageUnavailable, "are taken"),
        ("08P01", "unsupported startup parameter: options", NotConfigured, "the pooler takes no options"),
    ],
    ids=["unknown project", "wrong password", "full", "options"],
)  # fmt: skip
def test_refusal_of_a_pooler_is_said(sqlstate: str, words: str, kind: type[AiRetryError], said: str) -> None:
    """A pooler's refusals are distinguished, too, and its words go no further."""
    with saying(sqlstate, words) as url:
        error = failure(url)

    assert isinstance(error, kind)
    assert said in str(error)
    assert words not in str(error)
    assert "wrong" not in str(error)


def test_silent_server_is_said() -> None:
    """A server that accepts and never answers is given up once, not again and again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = failure(f"postgresql://ada:wrong@127.0.0.1:{listener.getsockname()[1]}/postgres")

    assert isinstance(error, NeverReached)
    assert "nothing answers there" in str(error)


def test_closed_port_is_said() -> None:
    """A port at which nothing listens is named as that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    assert "nothing listens there" in str(failure(f"postgresql://ada:wrong@127.0.0.1:{port}/postgres"))


def test_first_refusal_is_no_last_word(migrated_database: str) -> None:
    """What was refused at first is asked again by the next call, and works when its cause is gone."""
    with psycopg.connect(migrated_database, autocommit=True) as owner:
        owner.execute("drop role if exists late_login")
        address = migrated_database.replace("postgres@", "late_login@")
        try:
            with closing(PostgresStorage(address)) as storage:
                with pytest.raises(NotConfigured, match="does not let the user"):
                    storage.installation()
                owner.execute("create role late_login login bypassrls in role service_role")
                assert storage.installation().id
        finally:
            owner.execute("drop role late_login")


def test_lost_server_is_named_and_found_again(migrated_database: str) -> None:
    """Where it worked before, a refusal may pass: the reason is given, an operator is not called."""
    with psycopg.connect(migrated_database, autocommit=True) as owner:
        owner.execute("drop role if exists barred")
        owner.execute("create role barred login bypassrls in role service_role")
        try:
            with closing(
                PostgresStorage(migrated_database.replace("postgres@", "barred@"), pool_timeout=0.5)
            ) as storage:
                assert storage.installation().id
                owner.execute("alter role barred nologin")
                owner.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'barred'")
                with pytest.raises(StorageUnavailable) as caught:
                    storage.state()
                owner.execute("alter role barred login")
                assert storage.state().queued == 0
        finally:
            owner.execute("drop role barred")

    assert caught.value.retry_after is not None


def test_recognised_pooler_gets_no_prepared_statement(migrated_database: str, caplog: pytest.LogCaptureFixture) -> None:
    """An address made for a transaction pooler is used as it is, and nothing is prepared behind it."""
    with transaction_pooler(migrated_database, connections=2) as url, caplog.at_level(logging.WARNING, "ai_retry"):
        with closing(PostgresStorage(f"{url}?pgbouncer=true")) as storage:
            assert [storage.installation().id for _ in range(3)]
            assert storage.books() == []
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            left = [connection.execute("select count(*) from pg_prepared_statements").fetchone() for _ in range(2)]

    assert left == [(0,), (0,)]
    assert any("names=pgbouncer" in each for each in caplog.messages)
