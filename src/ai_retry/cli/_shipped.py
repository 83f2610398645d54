"""Where the migrations are that ship with the package, and how they get into a project.

They are in ``ai_retry/migrations`` of an installed wheel and in ``supabase/migrations`` of a checkout. Applying them
is the Supabase CLI's business, not ours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "migrations", _PACKAGE.parents[1] / "supabase" / "migrations")
_STAMPED = re.compile(r"\d{14}_(?P<name>.*\.sql)")
_BINDING = "ai_retry_app.sql"


class MigrationsDiffer(Exception):
    """Files of the same name hold something else; nothing was copied."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"{', '.join(names)}: there already, with another content")
        self.names = names


@dataclass(frozen=True, slots=True)
class Compared:
    """What a directory holds of one migration."""

    name: str
    state: str  # same, missing, different, or yours: a binding that ai-retry init wrote


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one migration."""

    name: str
    action: str  # copied, unchanged, overwritten or yours


_ACTIONS = {"missing": "copied", "same": "unchanged", "different": "overwritten", "yours": "yours"}


def migrations() -> list[Path]:
    """List the SQL files, in the order in which they apply.

    Raises:
        FileNotFoundError: the package was built without them.
    """
    for place in _PLACES:
        if files := sorted(place.glob("*.sql")):
            return files
    raise FileNotFoundError("this installation of ai-retry holds no migrations: install it again")


def copy_migrations(directory: Path, *, force: bool = False) -> list[Copied]:
    """Copy the migrations into a directory, which is made if need be. A repeat changes nothing.

    Args:
        directory: as a rule ``supabase/migrations`` of a project.
        force: overwrite files of the same name that differ.

    Raises:
        MigrationsDiffer: there are such files and ``force`` is not set; checked before the first is copied.
    """
    compared = compare(directory)
    differing = [each.name for each in compared if each.state == "different"]
    if differing and not force:
        raise MigrationsDiffer(differing)
    directory.mkdir(parents=True, exist_ok=True)
    for file, each in zip(migrations(), compared, strict=True):
        if each.state in {"missing", "different"}:
            (directory / file.name).write_bytes(file.read_bytes())
    return [Copied(each.name, _ACTIONS[each.state]) for each in compared]


def compare(directory: Path) -> list[Compared]:
    """Compare a directory with the migrations, byte by byte; other files are left out.

    ``ai-retry init`` stamps them anew: the same text under another stamp is the same, and its binding is the app's.
    """
    return [_compared(file, directory) for file in migrations()]


def _compared(file: Path, directory: Path) -> Compared:
    shipped, target = file.read_bytes(), directory / file.name
    if target.exists():
        return Compared(file.name, "same" if target.read_bytes() == shipped else "different")
    for other in sorted(directory.glob("*.sql"), reverse=True):
        if _name(other) == _name(file):
            if other.read_bytes() == shipped:
                return Compared(other.name, "same")
            if _name(file) == _BINDING:
                return Compared(other.name, "yours")
    return Compared(file.name, "missing")


def _name(file: Path) -> str:
    """A migration's name without its stamp."""
    found = _STAMPED.fullmatch(file.name)
    return found["name"] if found else file.name
