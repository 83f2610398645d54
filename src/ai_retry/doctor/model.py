"""What was found out about a set-up (facts), and what is wrong with it (findings). Data alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self


class Check(StrEnum):
    """What is looked at, in this order."""

    CONFIGURATION = "configuration"
    CONNECTION = "connection"
    MIGRATIONS = "migrations"
    GRANTS = "grants"
    ROW_LEVEL_SECURITY = "row level security"
    SEAM = "seam"
    QUEUE = "queue"
    CONTEXTS = "contexts"
    CLOCK = "clock"
    SPOOL = "spool"
    PROVIDER = "provider"


class Level(StrEnum):
    """How bad a finding is."""

    PROBLEM = "problem"  # retries fail, or somebody may do what they must not
    HINT = "hint"  # it works; worth knowing


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    check: Check
    problem: str  # what is wrong
    remedy: str  # what to do
    level: Level = Level.PROBLEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function named ``ai_retry_…`` in the database."""

    name: str
    arguments: str
    source: str  # its hash: ``shipped.source_hash``
    security_definer: bool
    own_search_path: bool
    executable: bool  # by the role that asks
    end_users: tuple[str, ...]  # those of anon and authenticated that may execute it


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of ours, or one of the app's that we use."""

    name: str
    row_level_security: bool
    filtered: bool  # row level security applies to the role that asks
    privileges: tuple[str, ...]  # of the role that asks
    end_users: tuple[str, ...]  # privileges that anon or authenticated have, on the table or on a column


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A permissive policy for end users."""

    table: str
    name: str
    command: str  # select, insert, update, delete or all


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Supabase Queues (pgmq) and our queue in it."""

    available: bool  # the extension could be created
    installed: bool
    made: bool  # the queue ai_retry exists
    usable: bool  # by the role that asks


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What ``ai_retry_inspect`` tells."""

    as_of: datetime
    server_version: int  # such as 170002
    role: str
    isolation: str
    read_only: bool
    functions: tuple[Function, ...]
    seam: bool  # there is an ``ai_retry_create_session`` of the right form
    tables: Mapping[str, Table]
    policies: tuple[Policy, ...]
    indexes: frozenset[str]
    constraints: frozenset[str]
    queue: Queue

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read the function's JSON.

        Raises:
            KeyError, TypeError, ValueError: it has another form: the function is not ours.
        """
        tables = (Table(**_frozen(each)) for each in row["tables"])
        return cls(
            as_of=datetime.fromisoformat(row["as_of"]),
            server_version=int(row["server_version"]),
            role=row["role"],
            isolation=row["isolation"],
            read_only=row["read_only"],
            functions=tuple(Function(**_frozen(each)) for each in row["functions"]),
            seam=row["seam"],
            tables={table.name: table for table in tables},
            policies=tuple(Policy(**each) for each in row["policies"]),
            indexes=frozenset(row["indexes"]),
            constraints=frozenset(row["constraints"]),
            queue=Queue(**row["queue"]),
        )


def _frozen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
