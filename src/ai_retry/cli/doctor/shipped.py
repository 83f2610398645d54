"""What the shipped migrations create, to be compared with what a database holds.

``make migration`` writes the manifest with the migrations, out of the catalogue of a database that has them. Of the
binding, ``ai_retry.app_*``, it holds the signatures only: the source is the app's own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Self

from ai_retry.cli.doctor.model import Signature

BINDING: Final = "ai_retry.app_"
DESCRIBE: Final = f"{BINDING}describe"
BINDING_VERSION: Final = 1  # what ``ai_retry.app_describe`` returns


@dataclass(frozen=True, slots=True)
class ShippedFunction:
    """A function as its migration creates it."""

    migration: str
    signature: Signature
    source: str | None  # the hash; None: it is the app's own
    search_path: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read what the manifest says of it."""
        signature = Signature(tuple(row["types"]), row["result"])
        return cls(row["migration"], signature, row["source"], row["search_path"])


@dataclass(frozen=True, slots=True)
class Shipped:
    """What the migrations create, by qualified names; indexes and constraints by theirs.

    Tables, indexes and constraints have the name of the migration that creates them.
    """

    functions: Mapping[str, ShippedFunction]
    tables: Mapping[str, str]
    indexes: Mapping[str, str]
    constraints: Mapping[str, str]
    grants: Mapping[str, list[str]]
    """By table of ours: the privileges that the service role needs."""


def shipped() -> Shipped:
    """Read the manifest."""
    document = json.loads((files("ai_retry.cli.doctor") / "manifest.json").read_text(encoding="utf-8"))
    functions = {name: ShippedFunction.from_row(row) for name, row in document["functions"].items()}
    others = {name: document[name] for name in ("tables", "indexes", "constraints", "grants")}
    return Shipped(functions=functions, **others)
