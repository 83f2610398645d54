"""Looks at a project's files: with declarative schemas, the next diff must not drop what is ours."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ai_retry.cli.doctor.model import Check, Finding, Level

_OURS: Final = {
    "ai-retry's own migration": re.compile(r"create (or replace )?function ai_retry\.snapshot\s*\("),
    "the binding": re.compile(r"create (or replace )?function ai_retry\.app_read\s*\("),
}
_BY_DEFAULT: Final = "./schemas/**/*.sql"  # what the Supabase CLI reads where schema_paths is not set


def is_declarative(directory: Path) -> bool:
    """Whether the project in that directory, as a rule ``supabase``, declares its schema."""
    return (directory / "config.toml").is_file() and any((directory / "schemas").rglob("*.sql"))


def project(directory: Path) -> Iterator[Finding]:
    """Say which of our files ``supabase db diff`` does not know of."""
    config = directory / "config.toml"
    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
        paths = _paths(document)
    except (OSError, ValueError):
        yield Finding(Check.PROJECT, f"{config} can't be read", "correct its TOML", Level.PROBLEM)
        return
    declared = "\n".join(
        path.read_text(errors="replace") for each in paths or [_BY_DEFAULT] for path in _files(directory, each)
    )
    lacking = [name for name, text in _OURS.items() if text.search(declared) is None]
    if lacking:
        yield Finding(
            Check.PROJECT,
            f"{config} does not declare {' and '.join(lacking)}: the next supabase db diff drops what it creates",
            _remedy(directory, config, paths or [_BY_DEFAULT]),
        )


def _paths(document: dict[str, Any]) -> list[str]:
    section = document.get("db", {})
    for name in ("migrations", "schema_paths"):
        section = section.get(name, {}) if isinstance(section, dict) else {}
    return [str(each) for each in section] if isinstance(section, list) else []


def _files(directory: Path, pattern: str) -> list[Path]:
    relative = pattern.removeprefix("./")
    return sorted(path for path in directory.glob(relative) if path.is_file()) if relative else []


def _remedy(directory: Path, config: Path, paths: list[str]) -> str:
    """Write the whole line, with the newest migration of each kind; without one it is to be copied first."""
    migrations = sorted((directory / "migrations").glob("*.sql"), reverse=True)
    found = [
        next((path for path in migrations if text.search(path.read_text(errors="replace"))), None)
        for text in _OURS.values()
    ]
    if None in found:
        return "run ai-retry init, which writes both files and declares them"
    wanted = [*paths, *(f"./migrations/{path.name}" for path in found if path is not None)]
    listed = ", ".join(f'"{each}"' for each in dict.fromkeys(wanted))
    return f"write in {config}, under [db.migrations]: schema_paths = [{listed}]"
