"""Reads the apps of this folder: an SQL file each, in sections that a comment ``-- ## name`` begins.

The head says with which flags ``ai-retry init`` is called, and what the app's old rows mean in ai-retry's words.
Sections are what the app brings: its schema, its old rows, its own first call, and what it expects afterwards. Each
expectation is one query that gives true, under a comment that says what it promises.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

HERE: Final = Path(__file__).parent

_SECTION: Final = re.compile(r"^-- ## (.+)\n", re.MULTILINE)
_FACT: Final = re.compile(r"^-- (\w+): (.+)$", re.MULTILINE)
_PROMISE: Final = re.compile(r"^-- (.+)\n((?:(?!--).*\n?)+)", re.MULTILINE)
_PLACE: Final = re.compile(r"(?<!:):([a-z]+)\b")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an app promises itself, and the query that gives true when it holds."""

    promise: str
    query: str


@dataclass(frozen=True, slots=True)
class Act:
    """Statements of the app's own, and the role that runs them; None: the owner."""

    statements: str
    role: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One app, as its file describes it."""

    name: str
    flags: Sequence[str]
    has_legacy_privileges: bool
    asks: str  # words that must reach the provider
    old: Mapping[str, int]  # rows from before, by ai-retry's words
    users: int = 10  # among whom the generations of the recovery are
    project: Path | None = None  # a folder of which the app is made, beside the file
    sections: Mapping[str, Sequence[str]] = field(repr=False)

    @property
    def output(self) -> Any:
        """What the provider answers."""
        return json.loads(self.sections["output"][0])

    def act(self, name: str) -> Act | None:
        """What the app does by itself, such as its first call; None: it does nothing of the kind."""
        for title, texts in self.sections.items():
            head, _, role = title.partition(" as ")
            if head == name:
                return Act("\n".join(texts), role or None)
        return None

    def each(self, name: str) -> Sequence[str]:
        """The sections of that name, to be run one by one."""
        return self.sections.get(name, ())

    def lines(self, name: str) -> list[str]:
        """The lines of a section that lists words."""
        return [line for text in self.each(name) for line in text.splitlines() if line]

    def expects(self, stage: str) -> list[Expectation]:
        """What the app expects by then."""
        text = "\n".join(self.each(f"expect {stage}"))
        return [Expectation(promise, query.strip().rstrip(";")) for promise, query in _PROMISE.findall(text)]


def filled(statements: str, **values: UUID | Sequence[UUID]) -> str:
    """Put ids into the places ``:user``, ``:generation`` and so on."""

    def literal(place: re.Match[str]) -> str:
        value = values[place[1]]
        if isinstance(value, UUID):
            return f"'{value}'::uuid"
        return f"'{{{','.join(map(str, value))}}}'::uuid[]"

    return _PLACE.sub(literal, statements)


def read_app(path: Path) -> App:
    """Read one app."""
    head, *rest = _SECTION.split(path.read_text(encoding="utf-8"))
    sections: dict[str, list[str]] = {}
    for title, text in zip(rest[::2], rest[1::2], strict=True):
        sections.setdefault(title.strip(), []).append(text.strip() + "\n")
    facts: dict[str, list[str]] = {}
    for name, value in _FACT.findall(head):
        facts.setdefault(name, []).append(value)
    return App(
        name=path.stem,
        flags=" ".join(facts["flags"]).split(),
        has_legacy_privileges=facts["privileges"] == ["legacy"],
        asks=facts["asks"][0],
        old={word: int(count) for word, count in re.findall(r"(\w+) (\d+)", facts["old"][0])},
        users=int(facts.get("users", ["10"])[0]),
        project=HERE / facts["project"][0] if "project" in facts else None,
        sections=sections,
    )


APPS: Final = {path.stem: read_app(path) for path in sorted(HERE.glob("*.sql"))}
