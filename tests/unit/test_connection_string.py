"""Connection strings are read before use: what other drivers need is left out by name, what is misspelt is refused."""

import logging
from contextlib import closing
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from ai_retry.domain.errors import NotConfigured
from ai_retry.storage._connection_string import read_connection_string
from ai_retry.storage._door import Door, Refusal
from ai_retry.storage.postgres import PostgresStorage

ADDRESS = "postgresql://me:pw%40x@db.example:6543/app"


@pytest.mark.parametrize(
    ("query", "left_out", "kept"),
    [
        ("", (), {}),
        ("?pgbouncer=true", ("pgbouncer",), {}),
        ("?sslmode=require&pgbouncer=true&schema=public", ("pgbouncer", "schema"), {"sslmode": "require"}),
        ("?schema=public&supa=base-pooler.x&options=-c%20role%3Dr", ("schema", "supa"), {"options": "-c role=r"}),
        ("?ssl=true", (), {"sslmode": "require"}),
        ("?statement_cache_size=0&", ("statement_cache_size",), {}),
    ],
)  # fmt: skip
def test_parameters_of_other_drivers_are_left_out(query: str, left_out: tuple[str, ...], kept: dict[str, Any]) -> None:
    """What libpq does not know is named and left out; all the rest is as it was."""
    read = read_connection_string(ADDRESS + query)

    assert read.left_out == left_out
    assert conninfo_to_dict(read.conninfo) == {
        "user": "me", "password": "pw@x", "host": "db.example", "port": "6543", "dbname": "app", **kept,
    }  # fmt: skip
    assert "pw" not in repr(read)
    assert read.has_options == ("options" in kept)


@pytest.mark.parametrize(
    ("query", "meant"),
    [("sslmod=verify-full", "sslmode"), ("ssl_mode=require", "sslmode"), ("conect_timeout=3", "connect_timeout")],
)
def test_misspelt_parameter_is_refused(query: str, meant: str) -> None:
    """A parameter that may be about encryption is never just left out; its value is not shown."""
    with pytest.raises(NotConfigured, match=f"write {meant}") as caught:
        read_connection_string(f"{ADDRESS}?{query}")

    assert query.partition("=")[0] in str(caught.value)
    assert query.partition("=")[2] not in str(caught.value).replace(meant, "")


@pytest.mark.parametrize("query", ["%20=1", "a b=1", "x@y/z"])
def test_query_that_is_none_is_refused(query: str) -> None:
    """What can't be the name of a parameter may be a piece of a password, and is not quoted."""
    with pytest.raises(NotConfigured, match="DATABASE_URL can't be read") as caught:
        read_connection_string(f"{ADDRESS}?pgbouncer=true&{query}")

    assert query not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "is_pooler"),
    [
        (ADDRESS, True),
        ("host=db.example port=6543", True),
        ("postgresql://db.example:5432/app?pgbouncer=true", True),
        ("postgresql://db.example:5432/app", False),
        ("postgresql:///app", False),
    ],
)
def test_transaction_pooler_is_recognised(text: str, *, is_pooler: bool) -> None:
    """The port of Supabase's pooler, or what other drivers need for one, shows it."""
    assert read_connection_string(text).is_transaction_pooler is is_pooler


def test_what_is_left_out_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A warning names the parameters and no value."""
    with (
        caplog.at_level(logging.WARNING, logger="ai_retry"),
        closing(PostgresStorage("postgresql://127.0.0.1:9/app?pgbouncer=true&connection_limit=7", pool_timeout=0.1)),
    ):
        pass

    assert caplog.messages == ["event=parameters_left_out of=DATABASE_URL names=pgbouncer,connection_limit"]


FULL = "all connections that the database or its pooler allows are taken"
WORDS = {
    'FATAL:  password authentication failed for user "me"': "the database refuses the password, or the user",
    "FATAL:  SASL authentication failed": "the database refuses the password, or the user",
    'FATAL:  role "absent" does not exist': "the database does not let the user",
    'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "me"': "the database does not let the user",
    "FATAL:  Tenant or user not found": "the pooler does not know the project",
    "FATAL:  (ENOTFOUND) tenant/user postgres.abc not found": "the pooler does not know the project",
    "FATAL:  Max client connections reached": FULL,
    "FATAL:  (EMAXCONN) max client connections reached, limit: 200": FULL,
    "FATAL:  (EMAXCONNSESSION) max clients reached in session mode - max clients are limited to pool_size: 15": FULL,
    "FATAL:  no more connections allowed (max_client_conn)": FULL,
    "FATAL:  sorry, too many clients already": FULL,
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute": FULL,
    'FATAL:  database "shop" does not exist': "there is no database of that name",
    "FATAL:  unsupported startup parameter: options": "the pooler takes no options",
    "server does not support SSL, but SSL was required": "do not agree on encryption",
    "FATAL:  the database system is starting up": "just starting or ending",
    'could not translate host name "db.example" to address: Name or service not known': "there is no such host",
    'connection to server at "127.0.0.1", port 9 failed: Connection refused': "nothing listens there",
    "connection timeout expired": "nothing answers there",
    "something else": "no connection",
}


@pytest.mark.parametrize(("words", "reason"), WORDS.items())
def test_refusals_are_distinguished(words: str, reason: str) -> None:
    """A server's or a pooler's words are read for what has to be done, and are not kept."""
    door = Door()
    door.refused(f"connection failed: {words}")

    refusal = door.refusal_since(0)

    assert refusal is not None
    assert reason in refusal.reason
    assert (refusal.remedy is None) == (reason in {
        FULL, "just starting or ending", "there is no such host", "nothing listens there", "nothing answers there",
        "no connection",
    })  # fmt: skip
    assert "me" not in f"{refusal.reason} {refusal.remedy}".replace("name", "").split()


def test_open_door_forgets_refusals() -> None:
    """A connection that was made says that what was refused before has passed."""
    door = Door()
    door.refused("password authentication failed")
    door.opened()

    assert door.refusal_since(0) is None
    door.refused("Connection refused")
    assert door.refusal_since(float("inf")) is None
    assert door.refusal_since(0) == Refusal("nothing listens there", None)
