"""What the shipped migrations create, read out of their text, to be compared with what stands in a database.

The text follows our own rules: lower case, qualified names, one dollar-quoted body per function. Of the binding,
``ai_retry.app_*``, only the signatures are read: its source is the app's own.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ai_retry.doctor.model import Signature

BINDING: Final = "ai_retry.app_"
BINDING_VERSION: Final = 1  # what ``ai_retry.app_describe`` returns
_SESSION_FUNCTION: Final = "public.ai_retry_create_session"  # the app's own
_OURS: Final = ("public.ai_retry_", "ai_retry.")

_STATEMENT: Final = re.compile(
    r"""
    create\ (?:or\ replace\ )?function\ (?P<function>[\w.]+)\((?P<arguments>[^)]*)\)
      \s+returns\ (?P<result>.*?)\s+(?P<settings>language\ .*?)\bas\ (?P<quote>\$\w*\$)(?P<body>.*?)(?P=quote)
    | create\ (?:table|(?:or\ replace\ )?view)\ (?:if\ not\ exists\ )?(?P<table>[\w.]+)
    | create\ (?:unique\ )?index\ (?:if\ not\ exists\ )?(?P<index>\w+)\s+on\ public\.ai_retry_
    | grant\ (?P<privileges>[a-z,\ ]+)\ on\ table\ (?P<granted>[\w.]+)\ to\ service_role
    | \bconstraint\ (?P<constraint>\w+)\s+(?:check|unique|primary|foreign)\b
    """,
    re.VERBOSE | re.DOTALL,
)
_SEARCH_PATH: Final = re.compile(r"set search_path = (.*?)(?= set |\n)")
_CATALOGUE_NAMES: Final = {"timestamptz": "timestamp with time zone"}


@dataclass(frozen=True, slots=True)
class ShippedFunction:
    """A function as its migration creates it."""

    migration: str
    signature: Signature
    source: str | None  # the hash; None: it is the app's own
    search_path: str


@dataclass(frozen=True, slots=True)
class Shipped:
    """What stands after the migrations, by qualified names; indexes and constraints by theirs.

    Tables, indexes and constraints have the name of the migration that creates them.
    """

    functions: dict[str, ShippedFunction] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    grants: dict[str, list[str]] = field(default_factory=dict)
    """By table of ours: the privileges that the service role needs."""


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
            if name != _SESSION_FUNCTION:
                source = None if name.startswith(BINDING) else source_hash(found["body"])
                signature = signature_of(found["arguments"], found["result"])
                path = _SEARCH_PATH.search(found["settings"])
                search_path = path[1] if path is not None else ""
                shipped.functions[name] = ShippedFunction(migration, signature, source, search_path)
        elif name := found["table"]:
            table = name
            if table.startswith(_OURS):
                shipped.tables[table] = migration
        elif name := found["index"]:
            shipped.indexes[name] = migration
        elif (name := found["granted"]) and name.startswith(_OURS):
            shipped.grants[name] = found["privileges"].split(", ")
        elif (name := found["constraint"]) and table.startswith(_OURS):
            shipped.constraints[name] = migration


def signature_of(arguments: str, result: str) -> Signature:
    """Read ``p_name type, …`` and what follows ``returns``, and write the types as the catalogue does."""
    types = tuple(_catalogue(each.split(maxsplit=1)[1]) for each in arguments.split(",") if each.strip())
    return Signature(types, _catalogue(result).replace("table (", "table("))


def _catalogue(types: str) -> str:
    return re.sub(r"\w+", lambda word: _CATALOGUE_NAMES.get(word[0], word[0]), " ".join(types.split()))


def source_hash(source: str) -> str:
    """Hash a function's source as ``ai_retry_inspect`` does, without carriage returns."""
    return hashlib.sha256(source.replace("\r", "").encode()).hexdigest()
