"""Rehearses what ai-retry writes, where a direct connection is configured, and turns what was refused into findings."""

from collections.abc import Iterator
from typing import Any

import psycopg

from ai_retry.cli.doctor.model import Check, Finding, Level
from ai_retry.cli.rehearsal import Rehearsal, rehearse
from ai_retry.storage._connection_string import read_connection_string

_PATIENCE = 3  # seconds to connect


def rehearsed(database_url: str, output: Any) -> Rehearsal:
    """Rehearse and roll back; a connection that was lost says so among what could not be tried."""
    conninfo = read_connection_string(database_url).conninfo
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": None, "connect_timeout": _PATIENCE}
    try:
        with psycopg.connect(conninfo, **options) as connection:
            return rehearse(connection, output=output)
    except psycopg.Error as error:
        return Rehearsal((), (), (f"the connection was lost, or refused ({error.sqlstate or 'lost'})",))


def refusals(rehearsal: Rehearsal) -> Iterator[Finding]:
    """Say what was refused, and what to know; an event or an error log that is refused is left out of retries."""
    for each in rehearsal.refusals:
        yield Finding(Check.REHEARSAL, each.problem, each.remedy, Level.PROBLEM if each.is_fatal else Level.HINT)
    for note in rehearsal.notes:
        yield Finding(Check.REHEARSAL, note, "nothing has to be done", Level.HINT)
