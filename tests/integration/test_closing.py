"""What closes an attempt looks at its row again: between a search and the end, a renewal or another end may come."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.helpers.attempts import add_running
from tests.helpers.world import owner_of

ABANDON = """
select ai_retry.close(
  o.generation_id, coalesce(%(token)s, o.token),
  '{"outcome": "abandoned", "code": "LEASE_LOST", "counted": true, "goes_on": true}', null, clock_timestamp())
from public.ai_retry_open o where o.generation_id = %(generation_id)s
"""
SECONDS = timedelta(seconds=30)


@pytest.fixture
def owner(core_database: str) -> Iterator[psycopg.Connection]:
    """The owner of the database."""
    with owner_of(core_database) as connection:
        yield connection


@pytest.mark.rule("over")
@pytest.mark.parametrize(
    ("lease", "token", "columns", "is_closed"),
    [
        (-SECONDS, None, {}, True),
        (SECONDS, None, {}, False),
        (-SECONDS, uuid4(), {}, False),
        (-SECONDS, None, {"answer": "{}", "kept_cause": "55P03"}, False),
    ],
    ids=["over", "renewed", "begun anew", "kept"],
)
def test_attempt_is_abandoned_only_when_it_is_over(
    owner: psycopg.Connection, lease: timedelta, token: UUID | None, columns: dict[str, str], *, is_closed: bool
) -> None:
    """Whoever read it as over abandons it under its token, and only if its row says so still."""
    user_id, generation_id = uuid4(), uuid4()
    owner.execute("insert into auth.users (id) values (%s)", [user_id])
    add_running(owner, user_id, generation_id, lease_expires_at=datetime.now(UTC) + lease, **columns)

    reply = owner.execute(ABANDON, {"token": token, "generation_id": generation_id}).fetchone()

    is_open = owner.execute("select from public.ai_retry_open where generation_id = %s", [generation_id]).fetchone()
    assert (reply, is_open is None) == ((is_closed,), is_closed)
