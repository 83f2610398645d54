"""Expressions of a binding: what a generation says, in SQL; ``g`` is its row, ``s`` that of its session."""

from ai_retry.cli.init.binding import Binding, Link, Sessions, Value, literal
from ai_retry.cli.init.facts import Column
from ai_retry.cli.init.words import OURS, Word


def status(binding: Binding) -> str:
    """Its status, in our words."""
    column = binding.status
    if column is not None:
        text = f"g.{column.quoted}" if column.type == "text" else f"g.{column.quoted}::text"
        return f"ai_retry.app_status({text})"
    return f"case when {succeeded(binding)} then 'success' else 'error' end"


def succeeded(binding: Binding) -> str:
    """Whether the app says that it succeeded."""
    if binding.status is not None:
        return f"g.{binding.status.quoted} in ({words(binding.words.read['success'])})"
    return has_session(binding)


def has_session(binding: Binding) -> str:
    """Whether its session is there."""
    sessions = binding.sessions
    if sessions.link is Link.FORWARD and sessions.pointer:
        return f"g.{sessions.pointer.quoted} is not null"
    if sessions.link is Link.SELF:
        return " and ".join(f"g.{each.column.quoted} is not null" for each in outputs(binding))
    return f"exists (select from {_table(sessions)} s where {_points(sessions)})"


def outputs(binding: Binding) -> list[Value]:
    """Columns of the generation that hold parts of an output."""
    return [each for each in binding.on_success if "v_answer -> 'output'" in each.sql]


def hidden(binding: Binding) -> str:
    """Whether its user does not see it."""
    if binding.hidden is None:
        return "false"
    plain = binding.hidden.endswith((" is not null", " is true"))
    return binding.hidden if plain else f"coalesce(({binding.hidden}), false)"


def prompt(binding: Binding) -> str:
    """What is asked."""
    columns = binding.prompt
    if not columns:
        return "null"
    if len(columns) == 1 and columns[0].is_json and columns[0].name != "messages":
        return f"g.{columns[0].quoted}"
    if len(columns) == 1 and columns[0].is_text:
        return (
            "pg_catalog.jsonb_build_object('messages', pg_catalog.jsonb_build_array(\n"
            f"  pg_catalog.jsonb_build_object('role', 'user', 'content', g.{columns[0].quoted})))"
        )
    pairs = ", ".join(f"{literal(each.name)}, g.{each.quoted}" for each in columns)
    return f"pg_catalog.jsonb_build_object({pairs})"


def duration(column: Column | None) -> str:
    """How long its call took, in milliseconds."""
    if column is None:
        return "null"
    own = f"g.{column.quoted}"
    if "sec" in column.name:
        own = f"{own} * 1000"
    return own if column.kind.startswith("int") else f"pg_catalog.round({own})::bigint"


def written_duration(column: Column) -> str:
    """What the column holds for milliseconds."""
    return "p_duration_ms / 1000.0" if "sec" in column.name else "p_duration_ms"


def session_id(binding: Binding) -> str:
    """Its session's id."""
    sessions = binding.sessions
    if sessions.link is Link.FORWARD and sessions.pointer:
        return f"g.{sessions.pointer.quoted}"
    if sessions.link is Link.REVERSE and sessions.key:
        return f"(select s.{sessions.key.quoted} from {_table(sessions)} s where {_points(sessions)})"
    done = succeeded(binding) if sessions.link is Link.SELF else has_session(binding)
    return f"case when {done} then g.{binding.id.quoted} end"


def session(binding: Binding) -> str:
    """Its session as JSON."""
    sessions = binding.sessions
    if sessions.link is Link.SELF:
        pairs = "".join(f", {literal(each.column.name)}, g.{each.column.quoted}" for each in outputs(binding))
        row = f"pg_catalog.jsonb_build_object('id', g.{binding.id.quoted}{pairs})"
        return f"case when {succeeded(binding)} then {row} end"
    if sessions.link is Link.ROWS:
        order = f" order by s.{sessions.key.quoted}" if sessions.key else ""
        rows = f"pg_catalog.jsonb_agg(pg_catalog.to_jsonb(s){order})"
        return (
            f"(\n  select pg_catalog.jsonb_build_object('id', g.{binding.id.quoted}, "
            f"{literal(sessions.table.name if sessions.table else 'rows')}, {rows})\n"
            f"  from {_table(sessions)} s where {_points(sessions)} having count(*) > 0)"
        )
    return (
        f"(  -- someone else's session is not theirs\n  select {session_row(sessions)}\n  from {_table(sessions)} s "
        f"where {_points(sessions)}{_owned(binding, binding.owner.read('g'))})"
    )


def session_by_id(binding: Binding) -> str:
    """A session by its id, of a user."""
    sessions = binding.sessions
    if sessions.link in (Link.SELF, Link.ROWS):
        return (
            f"select {session(binding)}\nfrom {binding.table.quoted} g\n"
            f"where g.{binding.id.quoted} = p_session_id::uuid and {binding.owner.read('g')} = p_user_id"
        )
    key = sessions.key
    assert key is not None  # noqa: S101 - both other links need one
    given = "p_session_id" if key.type == "text" else f"p_session_id::{key.type}"
    return (
        f"select {session_row(sessions)}\nfrom {_table(sessions)} s\n"
        f"where s.{key.quoted} = {given}{_owned(binding, 'p_user_id')}"
    )


def session_row(sessions: Sessions) -> str:
    """A session's row as JSON, with an id."""
    if sessions.key is None or sessions.key.name == "id":
        return "pg_catalog.to_jsonb(s)"
    return f"pg_catalog.to_jsonb(s) || pg_catalog.jsonb_build_object('id', s.{sessions.key.quoted})"


def words(given: tuple[Word, ...]) -> str:
    """List words as SQL does."""
    return ", ".join(literal(word) for word in given if word is not None)


def cases(binding: Binding) -> str:
    """The branches that turn the app's words into ours."""
    lines = []
    for ours in OURS:
        read = binding.words.read[ours]
        if None in read:
            lines.append(f"when p_word is null then {literal(ours)}")
        if words(read):
            lines.append(f"when p_word in ({words(read)}) then {literal(ours)}")
    return "\n    ".join(lines)


def _table(sessions: Sessions) -> str:
    return sessions.table.quoted if sessions.table else ""


def _points(sessions: Sessions) -> str:
    pointer, key, pointed = sessions.pointer, sessions.key, sessions.pointed
    assert pointer is not None  # noqa: S101 - such a link has one
    if sessions.link is Link.FORWARD and key is not None:
        own = f"s.{key.quoted}" if key.type == pointer.type else f"s.{key.quoted}::text"
        given = f"g.{pointer.quoted}" if key.type == pointer.type else f"g.{pointer.quoted}::text"
        return f"{own} = {given}"
    return f"s.{pointer.quoted} = g.{pointed.quoted if pointed else 'id'}"


def _owned(binding: Binding, user: str) -> str:
    owner = binding.sessions.owner
    if owner is None:
        return ""
    own = owner.read("s")
    return f" and {own} = {user}" if owner.column.not_null else f" and coalesce({own}, {user}) = {user}"
