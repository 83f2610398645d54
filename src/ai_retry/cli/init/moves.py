"""What moves in the app when ai-retry writes: triggers, indexes, policies and more, which their owner should know."""

import re
from collections.abc import Callable, Iterator
from typing import Final

from ai_retry.cli.init import names
from ai_retry.cli.init.binding import Binding
from ai_retry.cli.init.facts import Table, Trigger

_USERS: Final = "auth.users"
_CALLS = ("http_request", "net.http_", "http_post", "pg_net", "http(")
_CHARGES = ("credit", "balance", "token", "quota", "usage", "charge", "ledger")


def moves(binding: Binding) -> Iterator[tuple[str, list[str]]]:
    """List what moves, by headings; headings with nothing below them are left out by the caller."""
    tables = [table for table, _ in binding.tables()]
    for heading, found in _HEADINGS:
        yield heading, [line for table in tables for line in found(table, binding)]
    yield "A first call of ai-retry's inserts a generation, and so would start or charge again:", _inserts(binding)
    yield (
        "Indexes that searches need; without them they read the whole table. Build them without a lock:",
        _wanted(binding),
    )


def _triggers(table: Table, binding: Binding) -> Iterator[str]:
    written = {"insert"} | ({"update"} if table is binding.table else set())
    for each in table.triggers:
        events = [event for event in each.events if event in written]
        if events:
            on = f" of {', '.join(each.columns)}" if each.columns else ""
            choice = _choice(each, binding) if table is binding.table else ""
            yield f"{table.quoted}: {each.name} ({' or '.join(events)}{on}) runs {each.function}{choice}"


def _choice(trigger: Trigger, binding: Binding) -> str:
    """What can be done about a trigger that fires on the status."""
    if binding.status is None or not trigger.acts or "update" not in trigger.events:
        return ""
    if not trigger.mentions(binding.status.name):
        return ""
    if binding.words.quiet:
        return "; no status is written while a retry waits or runs"
    return "; write none while a retry runs: --status processing=none"


def _inserts(binding: Binding) -> list[str]:
    found = []
    for each in binding.table.triggers:
        text = f"{each.definition} {each.source}".lower()
        if "insert" in each.events and any(word in text for word in (*_CALLS, *_CHARGES)):
            found.append(f"{binding.table.quoted}: {each.name} runs {each.function}")
    return found


def _indexes(table: Table, binding: Binding) -> Iterator[str]:
    status = binding.status.name if binding.status else ""
    for each in table.indexes:
        partial = each.predicate is not None
        involves = (
            table is not binding.table or status in each.columns or (partial and status in (each.predicate or ""))
        )
        if (each.unique or each.exclusion) and (partial or each.exclusion) and involves:
            yield each.definition


def _writable(table: Table, _: Binding) -> Iterator[str]:
    for each in table.policies:
        if each.permissive and each.command in {"insert", "update", "all"}:
            yield f'{table.quoted}: "{each.name}" ({each.command})'


def _restrictive(table: Table, _: Binding) -> Iterator[str]:
    for each in table.policies:
        if not each.permissive:
            yield f'{table.quoted}: "{each.name}" ({each.command})'


def _partitioned(table: Table, _: Binding) -> Iterator[str]:
    if table.partitioned:
        yield table.quoted


def _generated(table: Table, _: Binding) -> Iterator[str]:
    found = [each.name for each in table.columns.values() if each.generated]
    if found:
        yield f"{table.quoted}: {', '.join(found)}"


def _profiles(table: Table, _: Binding) -> Iterator[str]:
    for key in table.foreign_keys:
        if any("profile" in key.table.lower() or each in names.USERS for each in key.columns) and key.table != _USERS:
            yield f"{table.quoted}: {', '.join(key.columns)}, to {key.table}"


def _wanted(binding: Binding) -> list[str]:
    created = binding.created.column if binding.created else None
    if created is None:
        return []
    table, found = binding.table, []
    for name, columns in (
        ("created_at", (created, binding.id)),
        ("user_created_at", (binding.owner.column, created)),
    ):
        wanted = tuple(each.name for each in columns)
        if not any(each.predicate is None and each.columns[: len(wanted)] == wanted for each in table.indexes):
            keys = ", ".join(each.quoted for each in columns)
            stem = re.sub(r"\W", "_", table.name).lower()
            found.append(f"create index concurrently {stem}_ai_retry_{name} on {table.quoted} ({keys});")
    return found


_HEADINGS: Final[tuple[tuple[str, Callable[[Table, Binding], Iterator[str]]], ...]] = (
    ("Triggers that fire when ai-retry writes:", _triggers),
    (
        "Unique or exclusion indexes that a status or a session may violate, which refuses a retry with 429 or 409:",
        _indexes,
    ),
    ("Users have to have a row there, or an insert for them is refused:", _profiles),
    ("The database generates these columns; they are not written:", _generated),
    ("End users can write:", _writable),
    (
        "Restrictive policies, which the service role passes over; an endpoint has to ask the same, such as aal2:",
        _restrictive,
    ),
    ("Partitioned, so that a row without a partition is refused:", _partitioned),
)
