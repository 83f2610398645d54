"""Another failed generation of the same user, for two retries at once."""

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import psycopg

FirstCall = Callable[["psycopg.Connection[Any]", UUID | None], UUID]

_FAILED: Final = """
select f.id
from ai_retry.app_find(null, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', %s, 50) f
where f.status in ('error', 'timeout') and f.id <> %s
  and not exists (select from ai_retry.attempts a
    where a.generation_id = f.id and (a.is_open or a.attempt ->> 'outcome' = 'succeeded'))
limit 1
"""
_ALIKE: Final = """
select ai_retry.app_create_generation(%s, g.id, ai_retry.app_read(%s)), g.id from (select gen_random_uuid()) g (id)
"""
_ROLE: Final = "select pg_catalog.current_setting('role')"
_SET_ROLE: Final = "select pg_catalog.set_config('role', %s, true)"
_FAIL: Final = "select ai_retry.app_write(%s, 'error', null, 1, clock_timestamp())"


def second_generation(
    connection: "psycopg.Connection[Any]",
    user_id: UUID,
    generation_id: UUID,
    first_call: FirstCall | None,
    role: str,
) -> UUID | str:
    """Find or insert one; a string says why there is none.

    Args:
        connection: in a transaction that is rolled back.
        user_id: whose it has to be.
        generation_id: the one that is there.
        first_call: inserts one as the app does; None: through the binding, with what the other one has.
        role: inserts it; the service role need not be allowed to.

    Raises:
        psycopg.OperationalError: the connection was lost.
    """
    try:
        with connection.transaction():
            found = connection.execute(_FAILED.encode(), [user_id, generation_id]).fetchone()
            if found is not None:
                return UUID(str(found[0]))
            playing = connection.execute(_ROLE).fetchone()
            connection.execute(_SET_ROLE, [role])
            if first_call is not None:
                made = first_call(connection, user_id)
            else:
                row = connection.execute(_ALIKE.encode(), [user_id, generation_id]).fetchone()
                made = UUID(str(row[1])) if row is not None else generation_id
            connection.execute(_FAIL, [made])
            connection.execute("set constraints all immediate")
            connection.execute(_SET_ROLE, playing)
            return made
    except psycopg.OperationalError as error:
        if error.sqlstate is None:
            raise
        return f"{error.sqlstate}"
    except psycopg.Error as error:
        return f"{error.sqlstate}"
