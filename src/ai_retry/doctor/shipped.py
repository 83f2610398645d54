"""What the shipped migrations make, read out of their text, to be compared with what stands in a database.

The text follows our own rules for migrations: lower case, ``public.ai_retry_…``, one dollar-quoted body per function.
The seam is left out, since it is the app's.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SEAM = "ai_retry_create_session"
DROPPED = ""

_STATEMENT = re.compile(
    r"""
    create\ (?:or\ replace\ )?function\ public\.(?P<function>\w+)\b.*?\bas\ (?P<quote>\$\w*\$)(?P<body>.*?)(?P=quote)
    | drop\ function\ (?:if\ exists\ )?public\.(?P<no_function>\w+)
    | create\ (?:unique\ )?index\ (?:if\ not\ exists\ )?(?P<index>\w+)\s+on\ public\.ai_retry_
    | drop\ index\ (?:if\ exists\ )?public\.(?P<no_index>\w+)
    | (?:create|alter)\ table\ (?:if\ (?:not\ )?exists\ )?public\.(?P<table>\w+)
    | drop\ constraint\ (?:if\ exists\ )?(?P<no_constraint>\w+)
    | grant\ (?P<privileges>[a-z,\ ]+)\ on\ table\ (?P<granted>[\w.,\s]+?)\ to\ service_role
    | \bconstraint\ (?P<constraint>\w+)\s+(?:check|unique|primary|foreign)\b
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Shipped:
    """What stands after the last migration; objects of ours with the name of the migration that makes them."""

    functions: dict[str, dict[str, str]] = field(default_factory=dict)
    """By name: the hash of each version's source, or DROPPED, and its migration; what shall stand is the last."""
    tables: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    grants: dict[str, list[str]] = field(default_factory=dict)
    """By table, the app's too: the privileges that ai-retry needs."""


def read(migrations: Iterable[Path]) -> Shipped:
    """Read the migrations, in the order in which they apply."""
    shipped = Shipped()
    for path in migrations:
        _read(path.read_text(encoding="utf-8"), path.name, shipped)
    return shipped


def _read(text: str, migration: str, shipped: Shipped) -> None:
    table = ""
    for found in _STATEMENT.finditer(text):
        if name := found["function"]:
            _note(shipped, name, source_hash(found["body"]), migration)
        elif name := found["no_function"]:
            _note(shipped, name, DROPPED, migration)
        elif name := found["table"]:
            table = name
            if table.startswith("ai_retry_"):
                shipped.tables.setdefault(table, migration)
        elif name := found["index"]:
            shipped.indexes[name] = migration
        elif granted := found["granted"]:
            for each in granted.replace("public.", "").split(","):
                shipped.grants[each.strip()] = found["privileges"].split(", ")
        elif (name := found["constraint"]) and table.startswith("ai_retry_"):
            shipped.constraints[name] = migration
        shipped.indexes.pop(found["no_index"] or "", None)
        shipped.constraints.pop(found["no_constraint"] or "", None)


def _note(shipped: Shipped, function: str, version: str, migration: str) -> None:
    if function != SEAM:
        versions = shipped.functions.setdefault(function, {})
        versions.pop(version, None)  # one that comes back is the last again
        versions[version] = migration


def source_hash(source: str) -> str:
    """Hash a function's source as ``ai_retry_inspect`` does, without carriage returns."""
    return hashlib.sha256(source.replace("\r", "").encode()).hexdigest()
