"""What service_role lacks to use the app's tables, as statements of the migration."""

from collections.abc import Iterator

from ai_retry.cli.init.binding import ErrorLog, Insert, Owner, Sessions
from ai_retry.cli.init.facts import Facts, Table


def grants(
    facts: Facts, table: Table, owner: Owner, sessions: Sessions, log: ErrorLog | None, event: Insert | None
) -> tuple[str, ...]:
    """List the statements, none where nothing is lacking."""
    needs: dict[str, tuple[Table, set[str]]] = {}

    def need(of: Table | None, *privileges: str) -> None:
        if of is not None:
            needs.setdefault(of.quoted, (of, set()))[1].update(privileges)

    need(table, "select", "update")
    need(owner.profiles, "select")
    need(sessions.table, "select", *(["insert"] if sessions.is_written else []))
    need(log.insert.table if log else None, "select", "insert")
    need(event.table if event else None, "insert")
    return tuple(dict.fromkeys((*_of_schemas(facts, needs), *_of_tables(needs), *_of_calls(sessions))))


def _of_schemas(facts: Facts, needs: dict[str, tuple[Table, set[str]]]) -> Iterator[str]:
    for table, _ in needs.values():
        if table.schema not in facts.usable_schemas:
            yield f"grant usage on schema {table.quoted.rpartition('.')[0]} to service_role;"


def _of_tables(needs: dict[str, tuple[Table, set[str]]]) -> Iterator[str]:
    for name, (table, needed) in needs.items():
        lacking = [each for each in ("select", "insert", "update") if each in needed - table.granted]
        if lacking:
            yield f"grant {', '.join(lacking)} on table {name} to service_role;"
        if "insert" in needed:
            for sequence in table.sequences:
                yield f"grant usage on sequence {sequence} to service_role;"


def _of_calls(sessions: Sessions) -> Iterator[str]:
    call = sessions.call
    if call is not None and not call.function.executable:
        yield f"grant execute on function {call.function.signature} to service_role;"
