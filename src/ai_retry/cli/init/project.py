"""The files of a Supabase project: where migrations are written, under which stamps, and config.toml."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ai_retry.cli import _shipped

_STAMPED: Final = re.compile(r"(\d{14})_.*\.sql")
_OURS: Final = re.compile(r"\d{14}_ai_retry\.sql")
_APP: Final = re.compile(r"\d{14}_ai_retry_app\.sql")
_SECTION: Final = re.compile(r"^\s*\[(?P<name>[^\[\]]+)\]\s*(?:#.*)?$")


@dataclass(frozen=True, slots=True)
class Migration:
    """A file to be written."""

    path: Path
    text: str


class ConfigNotUnderstood(Exception):
    """config.toml can't be edited without doubt."""


def shipped_texts() -> tuple[str, str]:
    """The texts of the migrations that ship with the package: ours, and the default binding with the seed's tables."""
    ours, app = _shipped.migrations()
    return ours.read_text(encoding="utf-8"), app.read_text(encoding="utf-8")


def migrations(directory: Path, ours: str, app: str, now: datetime | None = None) -> list[Migration]:
    """Name both migrations: stamped now, or after the newest one that is there.

    Ours is left out where the folder has one with the same text, and the binding where the newest one is the same.
    """
    folder = directory / "migrations"
    there = _migrations_in(folder)
    written = _stamps(there, now)
    bound = [path.read_text(encoding="utf-8") for path in there if _APP.fullmatch(path.name)]
    first = [] if _has(there, ours) else [Migration(folder / f"{written[0]}_ai_retry.sql", ours)]
    second = [] if bound[-1:] == [app] else [Migration(folder / f"{written[1]}_ai_retry_app.sql", app)]
    return [*first, *second]


def upgrade(directory: Path, ours: str, lacking: str | None, now: datetime | None = None) -> list[Migration]:
    """Name ours, unless the folder has it, and the migration that completes a binding, if it lacks anything."""
    folder = directory / "migrations"
    there = _migrations_in(folder)
    written = _stamps(there, now)
    first = [] if _has(there, ours) else [Migration(folder / f"{written[0]}_ai_retry.sql", ours)]
    if lacking is None:
        return first
    return [*first, Migration(folder / f"{written[1]}_ai_retry_app_upgrade.sql", lacking)]


def _has(there: Sequence[Path], ours: str) -> bool:
    return ours in [path.read_text(encoding="utf-8") for path in there if _OURS.fullmatch(path.name)]


def _migrations_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sql")) if folder.is_dir() else []


def _stamps(there: Sequence[Path], now: datetime | None) -> tuple[str, str]:
    """Two stamps: now, or after the newest one that is there."""
    newest = max((match[1] for path in there if (match := _STAMPED.fullmatch(path.name))), default="0")
    first = (now or datetime.now(UTC)).replace(microsecond=0)
    if f"{first:%Y%m%d%H%M%S}" <= newest:
        first = datetime.strptime(newest, "%Y%m%d%H%M%S").replace(tzinfo=UTC) + timedelta(seconds=1)
    return f"{first:%Y%m%d%H%M%S}", f"{first + timedelta(seconds=1):%Y%m%d%H%M%S}"


def write(files: Sequence[Migration]) -> None:
    """Write them; none replaces another file."""
    for each in files:
        each.path.parent.mkdir(parents=True, exist_ok=True)
        with each.path.open("x", encoding="utf-8") as file:
            file.write(each.text)


def with_schema_paths(text: str, paths: Sequence[str]) -> str:
    """Add paths to ``db.migrations.schema_paths`` of a config.toml; everything else stays as it is, comments too.

    Without that key the Supabase CLI takes all of ``schemas/``, in the order of names, so that they are written before.

    Raises:
        ConfigNotUnderstood: the text, or what came of it, is not what was expected; nothing was written.
    """
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigNotUnderstood(str(error)) from None
    there = before.get("db", {}).get("migrations", {}).get("schema_paths")
    added = [each for each in paths if each not in (there or ())]
    if not added:
        return text
    wanted = [*(there or ["./schemas/**/*.sql"]), *added]
    changed = _changed(text, there, added, wanted)
    try:
        after = tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        raise ConfigNotUnderstood("schema_paths is written in a way that can't be edited") from None
    before.setdefault("db", {}).setdefault("migrations", {})["schema_paths"] = wanted
    if after != before:
        raise ConfigNotUnderstood("schema_paths is written in a way that can't be edited")
    return changed


def _changed(text: str, there: list[str] | None, added: Sequence[str], wanted: Sequence[str]) -> str:
    lines = text.splitlines(keepends=True)
    sections = {found["name"].strip(): at for at, line in enumerate(lines) if (found := _SECTION.match(line))}
    start = sections.get("db.migrations")
    quoted = [f'"{each}"' for each in wanted]
    if start is None:
        end = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{end}\n[db.migrations]\nschema_paths = [{', '.join(quoted)}]\n"
    stop = min([at for at in sections.values() if at > start], default=len(lines))
    key = next((at for at in range(start + 1, stop) if re.match(r"\s*schema_paths\s*=", lines[at])), None)
    if key is None:
        return "".join([*lines[: start + 1], f"schema_paths = [{', '.join(quoted)}]\n", *lines[start + 1 :]])
    head, body = "".join(lines[:key]), "".join(lines[key:])
    at = _closing(body)
    inside = body[:at].rstrip()
    indent = "\n  " if "\n" in body[:at] else " "
    items = f",{indent}".join(f'"{each}"' for each in added)
    if not there:
        return f"{head}{body[: body.index('[') + 1]}{', '.join(quoted)}{body[at:]}"
    closing = "\n" if "\n" in body[:at] else ""
    comma = "" if _last_sign(inside) == "," else ","
    inside = _with_comma(inside) if comma else inside
    return f"{head}{inside}{indent}{items}{',' if closing else ''}{closing}{body[at:]}"


def _signs(body: str) -> list[tuple[int, str]]:
    """List the signs that are neither in a string nor in a comment, with their places."""
    found, quote, comment = [], "", False
    for at, sign in enumerate(body):
        if comment:
            comment = sign != "\n"
        elif quote:
            quote = "" if sign == quote and body[at - 1] != "\\" else quote
            found.append((at, "s"))
        elif sign in "\"'":
            quote = sign
            found.append((at, "s"))
        elif sign == "#":
            comment = True
        elif not sign.isspace():
            found.append((at, sign))
    return found


def _closing(body: str) -> int:
    """Where the list ends."""
    at = next((at for at, sign in _signs(body) if sign == "]"), None)
    if at is None:
        raise ConfigNotUnderstood("schema_paths has no end")
    return at


def _last_sign(inside: str) -> str:
    return _signs(inside)[-1][1]


def _with_comma(inside: str) -> str:
    """Put a comma behind the last entry, before a comment that may follow it."""
    at = _signs(inside)[-1][0] + 1
    return f"{inside[:at]},{inside[at:]}"
