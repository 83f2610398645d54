"""`supabase/schemas` reads as it is: one object in a file, nothing twice, nothing dead, no more than can be read."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ai_retry.domain.outbox import OutboxStorage
from ai_retry.domain.ports import QueueStorage, Storage
from ai_retry.domain.recovery import RecoveryStorage
from tools.migration import SCHEMAS
from tools.npm import REPOSITORY

BINDING = SCHEMAS / "app.sql"  # of the app as a whole: it is replaced as one
MOST_LINES = 3324
PORTS: Mapping[str, type] = {
    "verbs": Storage,
    "queue": QueueStorage,
    "recovery": RecoveryStorage,
    "outbox": OutboxStorage,
}
OWNERS = {"create_queue"}  # the database's owner runs it
OPERATORS = {"books"}  # is in operate/
TABLES = sorted((SCHEMAS / "tables").glob("*.sql"))
FILES = sorted(each for each in SCHEMAS.rglob("*.sql") if each != BINDING)

_CREATED = re.compile(r"^create (function|view|table) ([\w.]+)", re.MULTILINE)
_LINE_COMMENT = re.compile(r"--.*$", re.MULTILINE)
_STATEMENT = re.compile(r"^(?:comment on|revoke|grant) .*?;$", re.MULTILINE | re.DOTALL)


def created(text: str) -> list[tuple[str, str]]:
    """The kinds and names of what is created."""
    return [(found[1], found[2]) for found in _CREATED.finditer(text)]


def working(text: str) -> str:
    """What is left without comments, revokes and grants."""
    return _STATEMENT.sub("", _LINE_COMMENT.sub("", text))


def bodies() -> Iterator[tuple[str, str]]:
    """Every function and view with the text that creates it, without what is said about it."""
    for path in [BINDING, *FILES]:
        for each in re.split(r"^(?=create )", path.read_text(), flags=re.MULTILINE):
            for kind, name in created(each):
                if kind != "table":
                    yield name, working(each)


def texts() -> Iterator[str]:
    """Everything that runs in the database and is no function or view: tables, triggers, grants, blocks."""
    for path in FILES:
        for each in re.split(r"^(?=create |do )", path.read_text(), flags=re.MULTILINE):
            if not any(kind != "table" for kind, _ in created(each)):
                yield working(each)


def python() -> str:
    """All of the package's source."""
    return "\n".join(path.read_text() for path in (REPOSITORY / "src").rglob("*.py"))


def docs() -> str:
    """What operators are shown."""
    return "\n".join(path.read_text() for path in (REPOSITORY / "docs" / "how-to").glob("*.md"))


def test_schemas_are_short() -> None:
    """All of the SQL, tables and the default binding included, can be read in one sitting."""
    assert sum(len(path.read_text().splitlines()) for path in [BINDING, *FILES]) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCHEMAS)))
def test_file_has_one_object_and_all_that_belongs_to_it(path: Path) -> None:
    """A file creates one table, view or function, has its name, and says what it is and who may use it."""
    text = path.read_text()
    objects = created(text)

    assert len(objects) <= 1
    for kind, name in objects:
        of = kind if kind == "function" else "table"
        assert path.stem == re.sub(r"^(public\.ai_retry_|ai_retry\.|public\.)", "", name)
        assert f"comment on {kind} {name}" in text
        assert f"revoke all on {of} {name}" in text


@pytest.mark.parametrize(("folder", "port"), PORTS.items(), ids=PORTS)
def test_verbs_have_the_names_of_the_ports_methods(folder: str, port: type) -> None:
    """A reader who knows a method of a port finds the function that it calls in the file of that name."""
    verbs = {
        path.stem
        for path in (SCHEMAS / folder).glob("*.sql")
        if f"create function public.ai_retry_{path.stem}(" in path.read_text()
    }

    assert verbs - OWNERS == {name for name in vars(port) if not name.startswith("_")} - OPERATORS


def test_no_object_is_created_twice() -> None:
    """Each object is created once, overloads included: the one that a reader finds is the one that runs."""
    names = Counter(each for path in [BINDING, *FILES] for each in created(path.read_text()))

    assert {each for each, times in names.items() if times > 1} == set()


def test_no_function_is_dead() -> None:
    """Each function and view is used by another one, by the package, by a trigger, or by a line for operators."""
    written: Mapping[str, str] = dict(bodies())
    elsewhere = "\n".join([*texts(), python(), docs()])
    dead = [
        name
        for name in written
        if not re.search(rf"\b{re.escape(name.removeprefix('public.'))}\b", elsewhere)
        and not any(re.search(rf"\b{re.escape(name)}\b", body) for other, body in written.items() if other != name)
    ]

    assert dead == []


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_no_column_is_dead(path: Path) -> None:
    """Each column of ours is used by a function or a view, or by a constraint of its own table."""
    text = path.read_text()
    columns = re.findall(r"^comment on column [\w.]+\.(\w+) is", text, re.MULTILINE)
    used = "\n".join([*(body for _, body in bodies()), *re.findall(r"^  constraint .*$", text, re.MULTILINE)])

    assert columns
    assert [name for name in columns if not re.search(rf"\b{name}\b", used)] == []
