"""The steps of ``ai-retry init`` in their order, without a terminal: what is read, proposed and rendered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from ai_retry.cli.init import project
from ai_retry.cli.init.answers import Answers
from ai_retry.cli.init.binding import Binding
from ai_retry.cli.init.choose import is_empty
from ai_retry.cli.init.facts import Facts
from ai_retry.cli.init.look import words_of
from ai_retry.cli.init.notes import Notes
from ai_retry.cli.init.propose import propose, skeleton
from ai_retry.cli.init.words import Word
from ai_retry.cli.init.write import binding_sql


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would be written."""

    ours: str
    app: str
    binding: Binding | None  # None: the seed's four tables
    notes: Notes
    counted: Mapping[Word, int]


def proposed(connection: "psycopg.Connection[Any]", facts: Facts, answers: Answers) -> Proposal:
    """Propose what to write for the answers that there are.

    Raises:
        CannotBind: as it says.
        psycopg.Error: the words of the status can't be read.
    """
    ours, app = project.shipped_texts()
    notes = Notes()
    if is_empty(facts, answers):
        return Proposal(ours, app, None, notes, {})
    bones = skeleton(facts, answers, notes)
    counted = words_of(connection, bones.table, bones.status.name) if bones.status is not None else {}
    binding = propose(facts, answers, bones, counted, notes)
    return Proposal(ours, binding_sql(binding), binding, notes, counted)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of lines that were run and rolled back; ``refused``: the SQLSTATE."""

    refused: str | None


def tried(connection: "psycopg.Connection[Any]", lines: tuple[str, ...]) -> Tried | None:
    """Run lines in a transaction that is rolled back; None: there are none."""
    if not lines:
        return None
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("set local lock_timeout = '2s'")
            connection.execute("set local statement_timeout = '30s'")
            for each in lines:
                connection.execute(each.encode())
    except psycopg.Error as error:
        return Tried(error.sqlstate or "no connection")
    return Tried(None)
