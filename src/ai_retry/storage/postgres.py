"""``Storage`` over a direct PostgreSQL connection, with psycopg.

Every call is one statement in autocommit, so it works through a transaction pooler too: no session state matters. A
worker listens where that can last, on a connection of its own. ``functions`` says what each function means,
``_function_connection`` how one is called.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from logging import WARNING
from time import monotonic
from typing import Any, Final

from psycopg_pool import PoolClosed, PoolTimeout

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.logs import write_line
from ai_retry.secrecy import guard_logs
from ai_retry.storage._connection_string import LINK, read_connection_string
from ai_retry.storage._door import NO_ANSWER, Door, Refusal
from ai_retry.storage._function_connection import CallFailed, FunctionConnection
from ai_retry.storage._warm_pool import WarmPool
from ai_retry.storage.codec import Json
from ai_retry.storage.forks import leave_connections_in_forks
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.listening import listening
from ai_retry.storage.operation import OperatorFunctions
from ai_retry.storage.outbox import OutboxFunctions
from ai_retry.storage.recovery import RecoveryFunctions
from ai_retry.storage.repeating import READ_FOR, SETTLE_FOR
from ai_retry.storage.spool import Spool
from ai_retry.storage.transport import NeverReached, failure_of_sqlstate, reply_lost, unreachable

_AT_FIRST: Final = 2.7  # seconds until it is said that nothing was ever reached
_LOOK_EVERY: Final = 0.2  # seconds, until then, for why that is
_CLOSING: Final = 5.0  # seconds for connections that are just being made, where any can be
_NOT_CLOSING: Final = 0.2  # seconds, where none can be
_SHORTEST: Final = 0.001  # seconds; a pool gives nothing to a call that does not wait


class PostgresStorage(OperatorFunctions, RecoveryFunctions, OutboxFunctions, FunctionStorage):
    """The storage as a role that may execute the functions (``service_role`` or the migrations' owner).

    Args:
        conninfo: a libpq connection string; its password is in no repr, in no error and in no log of the driver.
        max_connections: of the pool, which opens them as they are needed.
        pool_timeout: seconds to wait for a free one before ``StorageUnavailable``.
        spool, read_for, settle_for: see ``FunctionStorage``.

    Raises:
        NotConfigured: the string can't be read, or not without doubt, since the password in it is not percent-encoded.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        max_connections: int = 16,
        pool_timeout: float = 5.0,
        spool: Spool | None = None,
        read_for: timedelta = READ_FOR,
        settle_for: timedelta = SETTLE_FOR,
    ) -> None:
        super().__init__(self._call_function, spool=spool, read_for=read_for, settle_for=settle_for)
        read = read_connection_string(conninfo)
        guard_logs(*read.secrets)
        if read.left_out:
            names = ",".join(read.left_out)
            write_line(WARNING, "parameters_left_out", of="DATABASE_URL", names=names)
        self._door = Door()
        self._conninfo, self._hears = read.conninfo, not read.is_transaction_pooler
        kwargs = {"door": self._door, "prepares": not read.is_transaction_pooler, **LINK}
        self._new_pool = partial(
            WarmPool,
            read.conninfo,
            kwargs={"autocommit": True, "prepare_threshold": None, "client_encoding": "utf8", **kwargs},
            min_size=0,
            max_size=max_connections,
            timeout=pool_timeout,
            reconnect_timeout=pool_timeout,  # then a call that needs a connection tries again at once
            name="ai_retry",
        )
        self._pool = self._new_pool(open=True)
        self._inherited: list[object] = []  # pools of the processes that this one was forked from
        self._is_new = False  # the pool is to be opened by the first call
        leave_connections_in_forks(self)

    def __repr__(self) -> str:
        """Show the pool's size, not where it connects."""
        return f"PostgresStorage(max_connections={self._pool.max_size})"

    def listening(self, heard: Callable[[], object]) -> AbstractContextManager[None]:
        """See ``Listens``. Nothing is heard where the connection string shows a pooler in transaction mode."""
        if not self._hears:
            return nullcontext()
        return listening(self._conninfo, heard)

    def leave_connections(self) -> None:
        """See ``forks``. A process that never asks starts no thread."""
        if not self._pool.closed or self._is_new:
            self._inherited.append(self._pool)
            self._pool, self._is_new = self._new_pool(open=False), True

    def close(self) -> None:
        """Close the pool's connections."""
        self._is_new = False
        self._pool.close(timeout=_CLOSING if self._door.was_open else _NOT_CLOSING)

    def _call_function(self, function: str, arguments: Json) -> Any:
        failure: AiRetryError
        if self._is_new:
            self._pool.open()
            self._is_new = False
        try:
            connection = self._connection()
            try:
                return connection.call(function, arguments)
            finally:
                self._pool.putconn(connection)
        except _NoConnection as error:
            failure = error.failure
        except PoolClosed:
            failure = StorageUnavailable("closed")
        except CallFailed as error:
            failure = failure_of_sqlstate(error.sqlstate) if error.sqlstate else reply_lost("connection lost")
            if isinstance(failure, StorageOutcomeUnknown):
                self._pool.check()  # where one connection is dead, others are: after a restart all of them
        raise failure

    def _connection(self) -> FunctionConnection:
        """Take a connection out of the pool; as long as none was ever made, look why."""
        began, pool, door = monotonic(), self._pool, self._door
        longest = pool.timeout if door.was_open else min(pool.timeout, _AT_FIRST)
        while True:
            left, is_known = max(began + longest - monotonic(), _SHORTEST), door.was_open
            try:
                return pool.getconn(timeout=left if is_known else min(left, _LOOK_EVERY))
            except PoolTimeout:
                refusal = door.refusal_since(began)
            if is_known or left <= _LOOK_EVERY or (refusal is not None and refusal.remedy is not None):
                break
        raise _NoConnection(_failure(refusal, was_open=door.was_open))


class _NoConnection(Exception):
    """There is no connection to be had."""

    def __init__(self, failure: AiRetryError) -> None:
        super().__init__(failure)
        self.failure = failure


def _failure(refusal: Refusal | None, *, was_open: bool) -> AiRetryError:
    """Say why; where it worked before, even a refusal may pass: passwords are changed, and poolers restarted."""
    if was_open:
        return unreachable(refusal.reason if refusal is not None else "no connection")
    if refusal is not None and refusal.remedy is not None:
        return NotConfigured(f"{refusal.reason}: {refusal.remedy}")
    return NeverReached((refusal or NO_ANSWER).reason)
