"""``Storage`` over a direct PostgreSQL connection, with psycopg.

Every call is one statement in autocommit, so it works through a transaction pooler too: no session state, no named
prepared statement, no LISTEN. What the statements mean stands in ``_functions``.
"""

from functools import cache
from typing import Any

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool, PoolTimeout

from ai_retry.domain.errors import AiRetryError, StorageOutcomeUnknown
from ai_retry.storage._functions import failure_of_sqlstate, reply_lost, unreachable
from ai_retry.storage._queue_functions import FunctionQueueStorage
from ai_retry.storage._recovery_functions import RecoveryFunctions
from ai_retry.storage._rows import Json

_LINK = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "tcp_user_timeout": 10_000}


class PostgresStorage(RecoveryFunctions, FunctionQueueStorage):
    """The storage as a role that may execute the functions (``service_role`` or the migrations' owner).

    Args:
        conninfo: a libpq connection string; its password is in no repr and in no error.
        max_connections: of the pool, which opens them as they are needed.
        pool_timeout: seconds to wait for a free one before ``StorageUnavailable``.
    """

    def __init__(self, conninfo: str, *, max_connections: int = 16, pool_timeout: float = 5.0) -> None:
        super().__init__(self._call_function)
        self._pool = ConnectionPool(
            conninfo,
            kwargs={"autocommit": True, "prepare_threshold": None, **_LINK},
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
        statement = _statement(function, tuple(arguments))
        failure: AiRetryError
        try:
            with self._pool.connection() as connection:
                try:
                    row = connection.execute(statement, arguments).fetchone()
                except (psycopg.errors.DatatypeMismatch, psycopg.errors.FeatureNotSupported):
                    connection.close()  # plans of changed columns go with their connection
                    raise
                return row[0] if row else None
        except PoolTimeout:
            failure = unreachable("no connection")
        except psycopg.OperationalError as error:
            failure = failure_of_sqlstate(error.sqlstate) if error.sqlstate else reply_lost("connection lost")
            if isinstance(failure, StorageOutcomeUnknown):
                self._pool.check()  # one dead connection is seldom alone: after a restart all of them are
        except psycopg.Error as error:
            # Its text may hold a row, so neither it nor its chain leaves this function.
            failure = failure_of_sqlstate(error.sqlstate or "22000")  # without one: a value that can't be sent
        raise failure


@cache
def _statement(function: str, names: tuple[str, ...]) -> bytes:
    """Write the call of a function; once, since composing it costs as much as reading its answer."""
    arguments = [sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in names]
    return sql.SQL("select public.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(arguments)).as_bytes()
