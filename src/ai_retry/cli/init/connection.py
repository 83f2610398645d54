"""Connects to the database that is looked at; says in words of ours why it can't."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

import psycopg

from ai_retry.secrecy import guard_logs
from ai_retry.storage._connection_string import read_connection_string
from ai_retry.storage._door import NO_ANSWER, Door
from ai_retry.storage._function_connection import FunctionConnection

_TIMEOUT: Final = 10


class Unreachable(Exception):
    """There is no connection, or it was lost; the text is ours."""


@contextmanager
def connected(url: str) -> Iterator["psycopg.Connection[Any]"]:
    """Connect, in autocommit.

    Raises:
        NotConfigured: the connection string can't be read.
        Unreachable: says why.
    """
    said = read_connection_string(url)
    guard_logs(*said.secrets)
    door, began = Door(), monotonic()
    options = {"autocommit": True, "connect_timeout": _TIMEOUT, "prepare_threshold": None}
    try:
        connection = FunctionConnection.connect(said.conninfo, door=door, prepares=False, **options)
    except psycopg.OperationalError:
        refusal = door.refusal_since(began) or NO_ANSWER
        raise Unreachable(f"{refusal.reason}; {refusal.remedy}" if refusal.remedy else refusal.reason) from None
    with connection:
        try:
            yield connection
        except psycopg.Error as error:
            state = f" ({error.sqlstate})" if error.sqlstate else ", and the connection is lost"
            raise Unreachable(f"the database did not answer a question{state}") from None
