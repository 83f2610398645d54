"""A PostgreSQL connection that calls functions, each prepared once under a name that its text gives.

Such a name makes prepared statements safe behind a transaction pooler: whichever client prepared it on the server's
connection that a call happens to get, it is the same statement. A pooler that loses them is noticed, and gets no more.

It talks to libpq through ``psycopg.pq``: one call, one wait. Other threads run meanwhile, and signals are handled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from json import JSONDecoder
from typing import Any, Final, Self

import psycopg
from psycopg import generators, sql, waiting
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from ai_retry.storage._door import Door

# PostgreSQL documentation, appendix A
_DUPLICATE_STATEMENT: Final = "42P05"
_USELESS_STATEMENT: Final = ("26000", "42883")  # it is gone, or knows other types of the arguments
_NOT_TEXT: Final = "22021"
_COLUMN_CHANGED: Final = ("42804", "0A000")  # under a plan, which goes with its connection
_SIGNALS_EVERY: Final = 0.1  # seconds, for a signal that another thread got
_decode: Final = JSONDecoder().raw_decode  # the database puts no space around a value


class CallFailed(Exception):
    """The database refused the call, or its reply was lost."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(sqlstate)
        self.sqlstate: Final = sqlstate
        """None: the connection was lost, perhaps after the commit."""


@dataclass(frozen=True, slots=True)
class _Statement:
    name: bytes
    text: bytes


class FunctionConnection(psycopg.Connection[Any]):
    """For autocommit: every call is one statement, and so one transaction."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn)
        self._known: set[bytes] = set()
        self.prepares = True

    @classmethod
    def connect(cls, conninfo: str = "", *, door: Door | None = None, prepares: bool = True, **options: Any) -> Self:  # type: ignore[override]
        """Connect.

        Args:
            conninfo: see libpq.
            door: is informed of what came of it.
            prepares: False where a prepared statement is known not to last.
            options: see psycopg.
        """
        try:
            connection = super().connect(conninfo, **options)
        except psycopg.OperationalError as error:
            if door is not None:
                door.refused(str(error))
            raise
        if door is not None:
            door.opened()
        connection.prepares = prepares
        return connection

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call ``public.<function>`` with named arguments; return what it answers, as JSON has it.

        Raises:
            CallFailed: with the SQLSTATE; never with its message, which may hold a row.
        """
        statement = _statement(function, tuple(arguments))
        result = self._run(statement, [_sent(value) for value in arguments.values()])
        if result.status != ExecStatus.TUPLES_OK:
            failure = CallFailed(_sqlstate(result))
            if failure.sqlstate in _COLUMN_CHANGED:
                self.close()
            raise failure
        value = result.get_value(0, 0)
        return None if value is None else _decode(value.decode())[0]

    def _run(self, statement: _Statement, values: list[bytes | None]) -> PGresult:
        pgconn = self.pgconn
        if self.prepares and statement.name not in self._known:
            prepared = self._reply(pgconn.send_prepare, statement.name, statement.text)
            if prepared.status != ExecStatus.COMMAND_OK and _sqlstate(prepared) != _DUPLICATE_STATEMENT:
                return prepared  # what is wrong with the call; nothing has run
            self._known.add(statement.name)
        if self.prepares:
            result = self._reply(pgconn.send_query_prepared, statement.name, values)
            if result.status == ExecStatus.TUPLES_OK or _sqlstate(result) not in _USELESS_STATEMENT:
                return result
            self.prepares = False  # behind a pooler that loses them, say; nothing has run
        return self._reply(pgconn.send_query_params, statement.text, values)

    def _reply(self, send: Callable[..., None], *what: object) -> PGresult:
        """Send and wait; who is interrupted has no connection any more: its reply would be the next call's."""
        try:
            send(*what)
            results: list[PGresult] = waiting.wait(
                generators.execute(self.pgconn), self.pgconn.socket, interval=_SIGNALS_EVERY
            )
            return results[-1]
        except psycopg.OperationalError:
            self.close()
            raise CallFailed(None) from None
        except BaseException:
            self.close()
            raise


@cache
def _statement(function: str, names: tuple[str, ...]) -> _Statement:
    """Write the call of a function; once, since composing it costs as much as reading its answer."""
    arguments = [
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.SQL(f"${number}")) for number, name in enumerate(names, 1)
    ]
    call = sql.SQL("select pg_catalog.to_jsonb(public.{}({}))")  # some return a string or a number
    text = call.format(sql.Identifier(function), sql.SQL(", ").join(arguments)).as_bytes()
    return _Statement(name=f"{function}_{sha256(text).hexdigest()[:16]}".encode(), text=text)


def _sent(value: object) -> bytes | None:
    """Write a value in PostgreSQL's text format; the function's signature says its type."""
    if value is None:
        return None
    text = str(value)
    try:
        sent = text.encode()
    except UnicodeEncodeError:
        sent = b"\0"
    if b"\0" in sent:
        raise CallFailed(_NOT_TEXT)
    return sent


def _sqlstate(result: PGresult) -> str | None:
    field = result.error_field(DiagnosticField.SQLSTATE)
    return field.decode() if field else None
