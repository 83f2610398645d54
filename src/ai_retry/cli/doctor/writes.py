"""Judges whether the binding fits the tables as they are now: words, columns, triggers, policies; and who gets ours."""

from collections.abc import Iterator, Sequence

from ai_retry.cli.doctor.case import Case, listed, statements, title
from ai_retry.cli.doctor.model import Check, Finding, Level
from ai_retry.cli.doctor.shipped import BINDING, DESCRIBE
from ai_retry.domain.model import GenerationStatus

_LONGEST_WORD = 40  # characters
_READ = f"{BINDING}read, {BINDING}lock, {BINDING}look_up and {BINDING}find"
_MAY_NOT = "42501"  # grants are judged elsewhere
_REHEARSE = "run ai-retry doctor --rehearse"


def words(case: Case) -> Iterator[Finding]:
    """Name the statuses that the binding leaves as the app writes them."""
    known = set(GenerationStatus)
    for each, count in ((case.around.words if case.around is not None else None) or {}).items():
        if each not in known:
            word = "no status" if each is None else f'"{each[:_LONGEST_WORD]}"'
            yield Finding(
                Check.STATUSES,
                f"{count} of the newest generations have {word}, which is not bound: their retries are refused",
                f"let {_READ} return one of {', '.join(GenerationStatus)} for it",
            )


def broken(case: Case) -> Iterator[Finding]:
    """Name the functions of the binding that no longer fit the app's tables; missing ones are named elsewhere."""
    for each in case.around.broken if case.around is not None else ():
        if each.sqlstate != _MAY_NOT and case.fits(each.function):
            yield Finding(
                Check.WRITES,
                f"{each.function} fails: {each.message} ({each.sqlstate})",
                f"write {each.function} for the tables as they are now, or run ai-retry init again",
            )


def required_columns(case: Case) -> Iterator[Finding]:
    """Name the columns that an insert has to fill, and that no function of the database knows."""
    if case.around is None or not case.creates_sessions():
        return
    for table, columns in case.around.required.items():
        yield Finding(
            Check.WRITES,
            f"{table} requires {listed(list(columns))}, which neither the binding nor any other function names",
            f"let the function that inserts there write it, or {statements(_optional(table, columns))}",
        )


def new_triggers(case: Case) -> Iterator[Finding]:
    """Name the triggers that fire on what the binding writes, and that it does not know."""
    binding = case.database.binding
    if case.around is None or binding is None or binding.triggers is None:
        return
    for each in case.around.triggers:
        if f"{each.table}: {each.name}" not in binding.triggers:
            yield Finding(
                Check.WRITES,
                f"the trigger {each.name} on {each.table}, which runs {each.function}, is new, and fires on our writes",
                f'{_REHEARSE}; if it may run then, add "{each.table}: {each.name}" to triggers in {DESCRIBE}',
                Level.HINT,
            )


def _optional(table: str, columns: Sequence[str]) -> list[str]:
    return [f"alter table {table} alter column {each} drop not null" for each in columns]


def restrictive(case: Case) -> Iterator[Finding]:
    """Name the policies that bind every user, and not ai-retry."""
    for policy in case.around.restrictions if case.around is not None else ():
        problem = f'the restrictive policy "{policy.name}" on {policy.table} does not bind ai-retry, which bypasses it'
        if not policy.asks_for_aal:
            remedy = (
                f"let {BINDING}read and {BINDING}lock return hidden: true for the rows that it hides from their users"
            )
            yield Finding(Check.ROW_LEVEL_SECURITY, problem, remedy, Level.HINT)
        elif case.required_aal is None:
            remedy = "set AI_RETRY_REQUIRED_AAL to the level that it asks for, such as aal2"
            asks = f"{problem}; it reads the assurance level"
            yield Finding(Check.ROW_LEVEL_SECURITY, asks, remedy, Level.HINT)


def publications(case: Case) -> Iterator[Finding]:
    """Name the publications through which answers leave the database."""
    for each in case.around.publications if case.around is not None else ():
        problem = (
            f"the publication {each.name} sends {listed([title(table) for table in each.tables])} to its subscribers"
        )
        if each.is_of_all:
            remedy = "nothing, if they may have users' answers; else publish tables by name"
            yield Finding(Check.PUBLICATIONS, f"{problem}, as all tables", remedy, Level.HINT)
        else:
            remedy = statements([f"alter publication {each.name} drop table {', '.join(each.tables)}"])
            yield Finding(Check.PUBLICATIONS, problem, remedy)
