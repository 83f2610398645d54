"""``Storage`` over a direct PostgreSQL connection, with psycopg.

Every call is one statement in autocommit, so it works through a transaction pooler too: no session state that matters,
no LISTEN. What the functions mean stands in ``_functions``, how one is called in ``_function_connection``.
"""

from typing import Any

from psycopg_pool import ConnectionPool, PoolTimeout

from ai_retry.domain.errors import AiRetryError, StorageOutcomeUnknown
from ai_retry.secrecy import guard_logs
from ai_retry.storage._connection_string import passwords_of
from ai_retry.storage._function_connection import CallFailed, FunctionConnection
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.recovery import RecoveryFunctions
from ai_retry.storage.rows import Json
from ai_retry.storage.transport import failure_of_sqlstate, reply_lost, unreachable

_LINK = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "tcp_user_timeout": 10_000}


class PostgresStorage(RecoveryFunctions, FunctionStorage):
    """The storage as a role that may execute the functions (``service_role`` or the migrations' owner).

    Args:
        conninfo: a libpq connection string; its password is in no repr, in no error and in no log of the driver.
        max_connections: of the pool, which opens them as they are needed.
        pool_timeout: seconds to wait for a free one before ``StorageUnavailable``.

    Raises:
        NotConfigured: the string can't be read, or not without doubt, since the password in it is not percent-encoded.
    """

    def __init__(self, conninfo: str, *, max_connections: int = 16, pool_timeout: float = 5.0) -> None:
        super().__init__(self._call_function)
        guard_logs(*passwords_of(conninfo))
        self._pool = ConnectionPool(
            conninfo,
            connection_class=FunctionConnection,
            kwargs={"autocommit": True, "prepare_threshold": None, "client_encoding": "utf8", **_LINK},
            min_size=0,
            max_size=max_connections,
            timeout=pool_timeout,
            name="ai_retry",
            open=True,
        )

    def __repr__(self) -> str:
        """Tell the pool's size, not where it connects."""
        return f"PostgresStorage(max_connections={self._pool.max_size})"

    def close(self) -> None:
        """Close the pool's connections."""
        self._pool.close()

    def _call_function(self, function: str, arguments: Json) -> Any:
        failure: AiRetryError
        try:
            with self._pool.connection() as connection:
                return connection.call(function, arguments)
        except PoolTimeout:
            failure = unreachable("no connection")
        except CallFailed as error:
            failure = failure_of_sqlstate(error.sqlstate) if error.sqlstate else reply_lost("connection lost")
            if isinstance(failure, StorageOutcomeUnknown):
                self._pool.check()  # one dead connection is seldom alone: after a restart all of them are
        raise failure
