"""``Storage`` over a direct PostgreSQL connection, with psycopg.

Every call is one statement in autocommit, so it works through a transaction pooler too: no session state that matters,
no LISTEN. What the functions mean stands in ``functions``, how one is called in ``_function_connection``.
"""

from datetime import timedelta
from functools import partial
from typing import Any

from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from ai_retry.domain.errors import AiRetryError, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.secrecy import guard_logs
from ai_retry.storage._connection_string import passwords_of
from ai_retry.storage._function_connection import CallFailed, FunctionConnection
from ai_retry.storage.codec import Json
from ai_retry.storage.forks import leave_connections_in_forks
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.recovery import RecoveryFunctions
from ai_retry.storage.repeating import READ_FOR, SETTLE_FOR
from ai_retry.storage.spool import Spool
from ai_retry.storage.transport import failure_of_sqlstate, reply_lost, unreachable

_LINK = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "tcp_user_timeout": 10_000}


class PostgresStorage(RecoveryFunctions, FunctionStorage):
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
        guard_logs(*passwords_of(conninfo))
        self._new_pool = partial(
            ConnectionPool,
            conninfo,
            connection_class=FunctionConnection,
            kwargs={"autocommit": True, "prepare_threshold": None, "client_encoding": "utf8", **_LINK},
            min_size=0,
            max_size=max_connections,
            timeout=pool_timeout,
            name="ai_retry",
        )
        self._pool = self._new_pool(open=True)
        self._inherited: list[object] = []  # pools of the processes that this one was forked from
        self._is_new = False  # the pool is to be opened by the first call
        leave_connections_in_forks(self)

    def __repr__(self) -> str:
        """Tell the pool's size, not where it connects."""
        return f"PostgresStorage(max_connections={self._pool.max_size})"

    def leave_connections(self) -> None:
        """See ``forks``. A process that never asks starts no thread."""
        if not self._pool.closed or self._is_new:
            self._inherited.append(self._pool)
            self._pool, self._is_new = self._new_pool(open=False), True

    def close(self) -> None:
        """Close the pool's connections."""
        self._is_new = False
        self._pool.close()

    def _call_function(self, function: str, arguments: Json) -> Any:
        failure: AiRetryError
        if self._is_new:
            self._pool.open()
            self._is_new = False
        try:
            connection = self._pool.getconn()
            try:
                return connection.call(function, arguments)
            finally:
                self._pool.putconn(connection)
        except PoolTimeout:
            failure = unreachable("no connection")
        except PoolClosed:
            failure = StorageUnavailable("closed")
        except CallFailed as error:
            failure = failure_of_sqlstate(error.sqlstate) if error.sqlstate else reply_lost("connection lost")
            if isinstance(failure, StorageOutcomeUnknown):
                self._pool.check()  # where one connection is dead, others are: after a restart all of them
        raise failure
