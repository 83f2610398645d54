"""What a binding is made of: which tables and columns say what, in which words. ``write`` turns it into SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ai_retry.cli.init.facts import Column, Function, Table
from ai_retry.cli.init.words import Words


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a row is: a column with the user's id, or with that of a profile which has it."""

    column: Column
    profiles: Table | None = None
    key: Column | None = None  # of profiles
    user: Column | None = None  # of profiles

    def read(self, alias: str) -> str:
        """The user's id of a row."""
        own = f"{alias}.{self.column.quoted}"
        if self.profiles is None or self.key is None or self.user is None:
            return own
        return f"(select o.{self.user.quoted} from {self.profiles.quoted} o where o.{self.key.quoted} = {own})"

    def given(self, user: str) -> str:
        """What the column holds for a user's id."""
        if self.profiles is None or self.key is None or self.user is None:
            return user
        return f"(select o.{self.key.quoted} from {self.profiles.quoted} o where o.{self.user.quoted} = {user} limit 1)"


@dataclass(frozen=True, slots=True)
class Instant:
    """A column with an instant; where it has no zone, the one that the app means."""

    column: Column
    zone: str = "UTC"

    @property
    def _is_bare(self) -> bool:
        return self.column.kind in {"timestamp", "date"}

    def read(self, alias: str) -> str:
        """The instant."""
        own = f"{alias}.{self.column.quoted}"
        if not self._is_bare:
            return own
        return f"({own}{'::timestamp' if self.column.kind == 'date' else ''} at time zone {literal(self.zone)})"

    def given(self, at: str) -> str:
        """What the column holds for an instant."""
        if not self._is_bare:
            return at
        return f"({at} at time zone {literal(self.zone)}){'::date' if self.column.kind == 'date' else ''}"


class Link(StrEnum):
    """How a generation and its session know each other."""

    FORWARD = "forward"  # a column of the generation has the session's id
    REVERSE = "reverse"  # a column of the session has the generation's
    ROWS = "rows"  # several rows point at the generation, and are its session together
    SELF = "self"  # the output is kept in the generation itself


@dataclass(frozen=True, slots=True)
class Value:
    """A column, and the SQL expression that an insert or an update gives it."""

    column: Column
    sql: str


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows for a table of the app's; ``g`` in an expression is the generation, ``r.item`` one of several outputs."""

    table: Table
    values: tuple[Value, ...]
    items: str | None = None  # a JSON array, a row for each element

    @property
    def reads_generation(self) -> bool:
        """Whether an expression needs the generation's row."""
        return any(each.sql.startswith("g.") or "(g." in each.sql for each in self.values)


@dataclass(frozen=True, slots=True)
class SessionCall:
    """The app's own function, and what it is called with."""

    function: Function
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sessions:
    """What successes create."""

    link: Link
    table: Table | None = None
    key: Column | None = None  # the session's id
    pointer: Column | None = None  # of the generation (forward), or of the table
    pointed: Column | None = None  # of the generation, at which a reverse pointer points
    owner: Owner | None = None
    call: SessionCall | None = None
    insert: Insert | None = None

    @property
    def is_written(self) -> bool:
        """Whether the role that settles inserts rows of the table; a function may do so with its owner's rights."""
        return self.insert is not None or (self.call is not None and not self.call.function.security_definer)


@dataclass(frozen=True, slots=True)
class ErrorLog:
    """Where errors are logged, and how the last one is read."""

    insert: Insert
    generation: Column | None
    pointed: Column  # of the generation
    code: Column | None
    at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The app's tables, in our words."""

    table: Table
    id: Column
    owner: Owner
    status: Column | None
    words: Words
    model: Column | None
    prompt: tuple[Column, ...]
    duration: Column | None
    created: Instant | None
    updated: Instant | None
    hidden: str | None  # SQL over the table's columns, which are not qualified
    sessions: Sessions
    error_log: ErrorLog | None
    event: Insert | None
    recovery_event: Insert | None
    on_success: tuple[Value, ...]  # columns of the generation that a success fills
    on_failure: tuple[Value, ...]  # its columns that say why it failed
    on_create: tuple[Value, ...]  # its columns that a first call gives
    error_code: Column | None  # of the generation
    grants: tuple[str, ...]  # statements

    @property
    def keeps_answer(self) -> bool:
        """Whether a success writes of its answer into the generation."""
        return any("v_answer" in each.sql for each in self.on_success)

    def tables(self) -> list[tuple[Table, tuple[str, ...]]]:
        """Each table that the binding uses, with the privileges that it needs."""
        found: dict[str, tuple[Table, set[str]]] = {}

        def need(table: Table | None, *privileges: str) -> None:
            if table is not None:
                found.setdefault(table.quoted, (table, set()))[1].update(privileges)

        need(self.table, "select", "update")
        need(self.owner.profiles, "select")
        need(self.sessions.table, "select", *(["insert"] if self.sessions.is_written else []))
        if self.error_log:
            need(self.error_log.insert.table, "select", "insert")
        for insert in (self.event, self.recovery_event):
            need(insert.table if insert else None, "insert")
        order = ("select", "insert", "update")
        return [(table, tuple(each for each in order if each in needed)) for table, needed in found.values()]


def literal(text: str) -> str:
    """Write a string as SQL does."""
    return (
        "'" + text.replace("'", "''") + "'"
        if "\\" not in text
        else "e'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    )


def cast(expression: str, column: Column) -> str:
    """Cast a string to what a column holds; any string type takes one as it is."""
    if column.is_text:
        return expression
    simple = expression.replace("_", "").replace(".", "").isalnum() or expression.endswith((")", "'"))
    return f"{expression}::{column.type}" if simple else f"({expression})::{column.type}"


def copied(values: Sequence[Value]) -> tuple[str, str]:
    """The columns and the expressions of an insert."""
    return ", ".join(each.column.quoted for each in values), ", ".join(each.sql for each in values)
