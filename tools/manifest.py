"""The manifest of the migrations: what is in a database after them, as ``ai_retry_inspect`` reports it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = Path(__file__).resolve().parents[1] / "src" / "ai_retry" / "cli" / "doctor" / "manifest.json"
_BINDING: Final = "app_"
_OURS: Final = ("public.ai_retry_", "ai_retry.")
_KINDS: Final = ("functions", "tables", "indexes", "constraints")

Facts = Mapping[str, Any]


def manifest(migrations: Mapping[str, str], apply: Callable[[str], Facts]) -> Mapping[str, Any]:
    """Put the manifest together.

    Args:
        migrations: their texts by their names, in their order.
        apply: applies one of them to a database that had none before, and returns what the service role inspects then.
    """
    document: dict[str, Any] = {"migrations": {name: digest(text) for name, text in migrations.items()}}
    document |= {kind: {} for kind in _KINDS}
    for name in migrations:
        facts = apply(name)
        for kind, created in _created(facts, name).items():
            document[kind] |= {each: row for each, row in created.items() if each not in document[kind]}
        document["grants"] = {each["name"]: each["privileges"] for each in facts["tables"] if _is_ours(each["name"])}
    return document


def written(document: Mapping[str, Any]) -> str:
    """Write it, each fact on a line of its own, in a fixed order."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def digest(text: str) -> str:
    """Name the text of a migration."""
    return hashlib.sha256(text.encode()).hexdigest()


def _created(facts: Facts, migration: str) -> Mapping[str, Mapping[str, Any]]:
    return {
        "functions": {
            f"{each['schema']}.{each['name']}": {
                "migration": migration,
                "types": each["types"],
                "result": each["result"].lower(),
                "source": None if each["name"].startswith(_BINDING) else each["source"],
                "search_path": each["search_path"],
            }
            for each in facts["functions"]
            if not each["creates_sessions"]
        },
        "tables": {each["name"]: migration for each in facts["tables"] if _is_ours(each["name"])},
        "indexes": dict.fromkeys(set(facts["indexes"]) - set(facts["constraints"]), migration),
        "constraints": dict.fromkeys(facts["constraints"], migration),
    }


def _is_ours(table: str) -> bool:
    return table.startswith(_OURS)
