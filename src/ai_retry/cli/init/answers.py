"""What an operator has answered: flags, and before them the file ``ai-retry.toml``; what is missing is guessed."""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

NONE: Final = "none"
COLUMNS: Final = (
    *("id", "user_id", "status", "model", "prompt_data", "session_id", "duration_ms", "created_at", "updated_at"),
    *("error_code", "error_message"),
)
_TABLES: Final = ("generations", "sessions", "error_logs", "events")
_SCALARS: Final = (*_TABLES, "session_function", "hidden", "soft_delete", "time_zone")
_HEAD: Final = "# What `ai-retry init` was answered. The next run reads this file; a flag overrides it.\n"


class AnswerRefused(ValueError):
    """An answer can't be used; names it."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers by name; None, or no entry, where there is none yet. ``none`` is an answer: there is no such thing."""

    generations: str | None = None
    sessions: str | None = None
    error_logs: str | None = None
    events: str | None = None
    session_function: str | None = None
    hidden: str | None = None
    soft_delete: str | None = None
    time_zone: str | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # ("none",): there is none
    status: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # words of the app's, by ours
    set: Mapping[str, str] = field(default_factory=dict)  # a path in the output, by column

    def over(self, others: "Answers") -> "Answers":
        """These answers, and where there is none, those of others."""
        merged: dict[str, Any] = {name: getattr(self, name) or getattr(others, name) for name in _SCALARS}
        for name in ("columns", "status", "set"):
            merged[name] = {**getattr(others, name), **getattr(self, name)}
        return replace(self, **merged)

    def with_answer(self, what: str, which: str) -> "Answers":
        """These answers and one more, by its name: ``column id``, ``status error``, ``set result``, ``sessions``."""
        kind, _, name = what.partition(" ")
        values = tuple(part.strip() for part in which.split(",") if part.strip())
        match kind:
            case "column":
                return replace(self, columns={**self.columns, name: values})
            case "status":
                return replace(self, status={**self.status, name: values})
            case "set":
                return replace(self, set={**self.set, name: which})
        single: dict[str, Any] = {kind: which}
        return replace(self, **single)

    def flags(self) -> Iterator[tuple[str, str]]:
        """The answers as flags; of each the part that names the answer, and the value."""
        for name in _SCALARS:
            if (value := getattr(self, name)) is not None:
                yield f"--{name.replace('_', '-')} ", value
        yield from ((f"--column {name}=", ",".join(values)) for name, values in self.columns.items())
        yield from ((f"--status {name}=", ",".join(values)) for name, values in self.status.items())
        yield from ((f"--set {name}=", value) for name, value in self.set.items())

    def written(self) -> str:
        """The file's text."""
        lines = [f"{name} = {_toml(value)}" for name in _SCALARS if (value := getattr(self, name)) is not None]
        for name in ("columns", "status", "set"):
            table = getattr(self, name)
            if table:
                lines += ["", f"[{name}]"]
                lines += [f"{_key(key)} = {_toml(value)}" for key, value in table.items()]
        return _HEAD + "\n" + "\n".join(lines) + "\n"


def parse_pairs(given: Sequence[str], option: str, known: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Read ``NAME=VALUE[,VALUE]`` of an option that may be repeated.

    Raises:
        AnswerRefused: names the option.
    """
    found: dict[str, tuple[str, ...]] = {}
    for each in given:
        name, separator, value = each.partition("=")
        values = tuple(part.strip() for part in value.split(",") if part.strip())
        if not separator or not values:
            raise AnswerRefused(f"{option} {each}: write NAME=VALUE")
        if known is not None and name.strip() not in known:
            raise AnswerRefused(f"{option} {each}: the name is one of {', '.join(known)}")
        found[name.strip()] = (*found.get(name.strip(), ()), *values)
    return found


def read_file(path: Path) -> Answers:
    """Read the answers of an earlier run.

    Raises:
        AnswerRefused: it can't be read.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AnswerRefused(f"{path}: {error}") from None
    unknown = set(document) - {*_SCALARS, "columns", "status", "set"}
    if unknown:
        raise AnswerRefused(f"{path}: {', '.join(sorted(unknown))}: no such answer")
    tables = {name: document.get(name, {}) for name in ("columns", "status", "set")}
    if not all(isinstance(each, dict) for each in tables.values()):
        raise AnswerRefused(f"{path}: columns, status and set are tables")
    return Answers(
        **{name: str(document[name]) for name in _SCALARS if name in document},
        columns={name: _values(value) for name, value in tables["columns"].items()},
        status={name: _values(value) for name, value in tables["status"].items()},
        set={name: str(value) for name, value in tables["set"].items()},
    )


def _values(value: object) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, list) else (str(value),)


def _toml(value: str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return _toml(value[0]) if len(value) == 1 else f"[{', '.join(_toml(each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a basic string of TOML


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)
