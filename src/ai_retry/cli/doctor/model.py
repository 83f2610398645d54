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
    SESSION_FUNCTION = "session function"
    STATUSES = "status words"
    WRITES = "columns and triggers"
    PUBLICATIONS = "publications"
    QUEUE = "queue"
    CONTEXTS = "contexts"
    CLOCK = "clock"
    SPOOL = "spool"
    PROVIDER = "provider"
    PROJECT = "project files"
    REHEARSAL = "rehearsal"


class Level(StrEnum):
    """How bad a finding is."""

    PROBLEM = "problem"  # retries fail, or a user may do what they must not
    HINT = "hint"  # it works; worth knowing


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    check: Check
    problem: str  # what is wrong
    remedy: str  # what to do
    level: Level = Level.PROBLEM


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and returns, in the catalogue's words."""

    types: tuple[str, ...]
    result: str  # in lower case

    def __str__(self) -> str:
        return f"({', '.join(self.types)}) that returns {self.result}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function in the database: ours, the binding's, or the one that creates sessions."""

    schema: str
    name: str
    arguments: str
    signature: Signature
    source: str  # its hash, without carriage returns
    creates_sessions: bool
    security_definer: bool
    search_path: str | None  # of its own; None: its caller's
    executable: bool  # by the role that asks
    end_users: tuple[str, ...]  # those of anon and authenticated that may execute it

    @property
    def qualified(self) -> str:
        """The name with its schema."""
        return f"{self.schema}.{self.name}"

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read one of the functions that ``ai_retry_inspect`` returns."""
        row = dict(row)
        signature = Signature(tuple(row.pop("types")), row.pop("result").lower())
        return cls(signature=signature, **_frozen(row))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The schema ``ai_retry``."""

    usable: bool  # by the role that asks
    end_users: tuple[str, ...]  # those of anon and authenticated that may use it


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What the app's ``ai_retry.app_describe`` returns."""

    version: int
    tables: Mapping[str, tuple[str, ...]]  # the app's that it uses, with the privileges that it needs
    generations: str  # the one of them that holds generations
    session_function: str | None  # None: it creates sessions itself
    triggers: frozenset[str] | None = None  # that let it write, as ``table: name``; None: it does not say

    @classmethod
    def from_row(cls, row: Any) -> Self | None:
        """Read it; None when it is absent or has another form."""
        try:
            return cls(
                version=int(row["version"]),
                tables={str(name): tuple(map(str, needed)) for name, needed in row["tables"].items()},
                generations=str(row["generations"]),
                session_function=row["session_function"],
                triggers=frozenset(map(str, row["triggers"])) if row.get("triggers") is not None else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table or view of ours, or one of the app's that the binding uses."""

    name: str  # qualified
    row_level_security: bool
    filtered: bool  # row level security applies to the role that asks
    privileges: tuple[str, ...]  # of the role that asks
    end_users: tuple[str, ...]  # privileges that anon or authenticated have, on the table or on a column

    @property
    def is_ours(self) -> bool:
        """Whether ai-retry created it."""
        return self.name.startswith(("public.ai_retry_", "ai_retry."))


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
    """What ``ai_retry_inspect`` returns."""

    as_of: datetime
    server_version: int  # such as 170002
    role: str
    isolation: str
    read_only: bool
    schema: Schema | None  # None: there is none
    functions: tuple[Function, ...]
    binding: Binding | None
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
            schema=Schema(**_frozen(row["schema"])) if row["schema"] is not None else None,
            functions=tuple(Function.from_row(each) for each in row["functions"]),
            binding=Binding.from_row(row["binding"]),
            tables={table.name: table for table in tables},
            policies=tuple(Policy(**each) for each in row["policies"]),
            indexes=frozenset(row["indexes"]),
            constraints=frozenset(row["constraints"]),
            queue=Queue(**row["queue"]),
        )


def _frozen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
