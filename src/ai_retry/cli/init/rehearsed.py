"""Rehearses a proposal: both migrations are applied, and what ai-retry writes is written; all of it is rolled back."""

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.cli.init.binding import Binding
from ai_retry.cli.init.samples import sample_request

if TYPE_CHECKING:
    from ai_retry.cli.init.interview import Proposal
from ai_retry.cli.rehearsal import Refusal, Rehearsal, rehearse

_INSTALLED: Final = "the migrations"


def rehearsed(connection: "psycopg.Connection[Any]", proposal: "Proposal", output: Any) -> Rehearsal:
    """Apply both migrations, rehearse, and roll back.

    Raises:
        psycopg.OperationalError: the connection was lost.
    """
    with connection.transaction(force_rollback=True):
        try:
            for text in (proposal.ours, proposal.app):
                with connection.transaction():
                    connection.execute(text.encode())
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            return Rehearsal((), (_refused(error),), ())
        binding = proposal.binding
        first = None if binding is None else _first_call(binding)
        return rehearse(connection, output=output, first_call=first)


def _refused(error: psycopg.Error) -> Refusal:
    return Refusal(
        step="apply", function=_INSTALLED, reason=f"{error.diag.message_primary} ({error.sqlstate})", sqlstate=error.sqlstate
    )
