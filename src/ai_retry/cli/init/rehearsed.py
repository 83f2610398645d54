"""Rehearses a proposal: both migrations are applied, and what ai-retry writes is written; all of it is rolled back."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg

from ai_retry.cli.init.samples import first_call
from ai_retry.cli.rehearsal import Refusal, Rehearsal, rehearse

if TYPE_CHECKING:
    from ai_retry.cli.init.interview import Proposal

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
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise
            return Rehearsal((), (_refused(error),), ())
        binding = proposal.binding
        call = None if binding is None else partial(first_call, binding=binding)
        return rehearse(connection, output=output, first_call=call)


def _refused(error: psycopg.Error) -> Refusal:
    reason = f"{error.diag.message_primary} ({error.sqlstate})"
    return Refusal(step="apply", function=_INSTALLED, reason=reason, sqlstate=error.sqlstate)
