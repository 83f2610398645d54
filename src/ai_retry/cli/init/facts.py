"""What a database holds, as far as a binding needs it. Values only."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_LITERAL: Final = re.compile(r"'((?:[^']|'')*)'(?:::[\w\s.\"]+)?")
_PATTERN: Final = re.compile(r"~ '\^\(([\w|-]+)\)\$'::")  # one of some words
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "citext", "name"})
_WRITES: Final = re.compile(
    r"\b(?:insert\s+into|(?<!for )update\s+[\w.\"]+\s+set|delete\s+from|merge\s+into|net\.http_)", re.IGNORECASE
)
_NUMBERS: Final = frozenset({"int2", "int4", "int8", "numeric", "float4", "float8"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``quoted`` is its name as SQL writes it."""

    name: str
    quoted: str
    type: str  # as SQL writes it, qualified
    kind: str  # the type's short name, of a domain that of its base
    not_null: bool = False
    default: str | None = None
    generated: bool = False  # always: it can't be written
    identity: bool = False
    labels: tuple[str, ...] = ()  # of an enum

    @property
    def is_enum(self) -> bool:
        """Whether its values are labels."""
        return bool(self.labels)

    @property
    def is_text(self) -> bool:
        """Whether any string fits."""
        return self.kind in _TEXTS

    @property
    def is_json(self) -> bool:
        """Whether it is json or jsonb."""
        return self.kind in {"json", "jsonb"}

    @property
    def is_number(self) -> bool:
        """Whether it is a number."""
        return self.kind in _NUMBERS

    @property
    def is_instant(self) -> bool:
        """Whether it is an instant, with a zone or without."""
        return self.kind in {"timestamptz", "timestamp"}

    @property
    def is_required(self) -> bool:
        """Whether an insert has to give it."""
        return self.not_null and self.default is None and not self.generated and not self.identity


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns that point at another table's."""

    columns: tuple[str, ...]
    table: str
    referenced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A check; its expression is as PostgreSQL writes it."""

    name: str
    columns: tuple[str, ...]
    expression: str


@dataclass(frozen=True, slots=True)
class Index:
    """An index, or what an exclusion constraint rests on."""

    name: str
    columns: tuple[str, ...]  # its keys; an expression has an empty name
    unique: bool
    exclusion: bool
    predicate: str | None
    definition: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger, with what its function does."""

    name: str
    definition: str
    events: tuple[str, ...]  # insert, update, delete, truncate
    columns: tuple[str, ...]  # of ``update of``
    is_after: bool
    function: str
    source: str

    @property
    def acts(self) -> bool:
        """Whether it may do more than fill or refuse its row: fires afterwards, writes rows, sends a request."""
        return self.is_after or _WRITES.search(self.source) is not None

    def mentions(self, column: str) -> bool:
        """Whether it fires on a column, or its condition or its function reads it."""
        word = re.compile(rf"\b(?:new|old)\.\"?{re.escape(column)}\b", re.IGNORECASE)
        return column in self.columns or any(word.search(each) for each in (self.definition, self.source))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy of row level security."""

    name: str
    command: str  # select, insert, update, delete, all
    permissive: bool
    roles: tuple[str, ...]
    expression: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the app's; ``quoted`` is its qualified name as SQL writes it."""

    schema: str
    name: str
    quoted: str
    columns: Mapping[str, Column]
    key: tuple[str, ...] = ()
    foreign_keys: Sequence[ForeignKey] = ()
    checks: Sequence[Constraint] = ()
    indexes: Sequence[Index] = ()
    triggers: Sequence[Trigger] = ()
    policies: Sequence[Policy] = ()
    granted: frozenset[str] = frozenset()  # to service_role
    sequences: tuple[str, ...] = ()  # of its columns' defaults, without usage for service_role
    rows: int = 0  # an estimate
    comment: str = ""
    partitioned: bool = False
    row_level_security: bool = False

    def target(self, column: str) -> str | None:
        """The table that a column points at, if it does so by itself."""
        return next((each.table for each in self.foreign_keys if each.columns == (column,)), None)

    def referenced(self, column: str) -> str | None:
        """The column that a column points at."""
        return next((each.referenced[0] for each in self.foreign_keys if each.columns == (column,)), None)

    def unique(self, column: str) -> bool:
        """Whether no two rows have the same value there."""
        return any(
            each.unique and each.columns == (column,) and each.predicate is None for each in self.indexes
        ) or self.key == (column,)

    def names_rows(self, column: str) -> bool:
        """Whether a value names one row; in a partitioned table no index can say so by itself."""
        return self.unique(column) or (self.partitioned and column in self.key)

    def allowed(self, column: str) -> tuple[str, ...]:
        """The words that checks, or the enum, allow in a column; none: any."""
        if self.columns[column].labels:
            return self.columns[column].labels
        for check in self.checks:
            if check.columns == (column,) and (pattern := _PATTERN.search(check.expression)) is not None:
                return tuple(pattern[1].split("|"))
            if check.columns == (column,) and "<>" not in check.expression:
                found = [each.replace("''", "'") for each in _LITERAL.findall(check.expression)]
                if found and "=" in check.expression:
                    return tuple(dict.fromkeys(found))
        return ()

    def mentioned(self, column: str) -> list[str]:
        """The words that a column's default and the conditions of indexes name."""
        texts = [self.columns[column].default or ""]
        word = re.compile(rf"\b{re.escape(column)}\b")
        texts += [each.predicate for each in self.indexes if each.predicate and word.search(each.predicate)]
        return [found.replace("''", "'") for text in texts for found in _LITERAL.findall(text)]


@dataclass(frozen=True, slots=True)
class Argument:
    """What a function takes."""

    name: str
    type: str
    kind: str
    has_default: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the app's."""

    schema: str
    name: str
    quoted: str
    signature: str  # as to_regprocedure reads it
    arguments: tuple[Argument, ...]
    result: str
    result_kind: str
    returns_set: bool
    executable: bool  # by service_role
    security_definer: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found."""

    tables: Mapping[str, Table]  # by quoted name
    functions: Sequence[Function] = ()
    server_version: int = 150000
    missing_roles: tuple[str, ...] = ()
    has_users: bool = True
    usable_schemas: frozenset[str] = frozenset()  # by service_role
    superuser: bool = False
    words: Mapping[str, Mapping[str | None, int]] = field(default_factory=dict)

    def table(self, name: str) -> Table | None:
        """Find a table by its name, as a person writes it: with its schema, or of public."""
        plain = name.replace('"', "")
        for each in self.tables.values():
            if plain in {f"{each.schema}.{each.name}", each.name if each.schema == "public" else ""}:
                return each
        return None

    def pointing_at(self, table: Table) -> Iterator[tuple[Table, str]]:
        """List the tables that point at one, with the column that does."""
        for each in self.tables.values():
            for key in each.foreign_keys:
                if key.table == table.quoted and len(key.columns) == 1 and each is not table:
                    yield each, key.columns[0]


def read_table(row: Mapping[str, Any]) -> Table:
    """Read what the catalogue says of a table."""
    return Table(
        schema=row["schema"],
        name=row["name"],
        quoted=row["quoted"],
        columns={each["name"]: _column(each) for each in row["columns"]},
        key=tuple(row["key"] or ()),
        foreign_keys=[ForeignKey(tuple(e["columns"]), e["table"], tuple(e["referenced"])) for e in row["foreign_keys"]],
        checks=[Constraint(e["name"], tuple(e["columns"]), e["expression"]) for e in row["checks"]],
        indexes=[Index(**{**e, "columns": tuple(e["columns"])}) for e in row["indexes"]],
        triggers=[_trigger(each) for each in row["triggers"]],
        policies=[Policy(**{**e, "roles": tuple(e["roles"])}) for e in row["policies"]],
        granted=frozenset(row["granted"]),
        sequences=tuple(row["sequences"]),
        rows=max(int(row["rows"]), 0),
        comment=row["comment"] or "",
        partitioned=row["partitioned"],
        row_level_security=row["row_level_security"],
    )


def read_function(row: Mapping[str, Any]) -> Function:
    """Read what the catalogue says of a function."""
    return Function(**{**row, "arguments": tuple(Argument(**each) for each in row["arguments"])})


def _column(row: Mapping[str, Any]) -> Column:
    return Column(**{**row, "labels": tuple(row["labels"] or ())})


def _trigger(row: Mapping[str, Any]) -> Trigger:
    return Trigger(**{**row, "events": tuple(row["events"]), "columns": tuple(row["columns"])})
