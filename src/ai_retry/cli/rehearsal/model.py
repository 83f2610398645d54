"""What a rehearsal found: what was refused, by what, and what could not be tried."""

import re
from dataclasses import dataclass
from typing import Final

import psycopg

AGAIN: Final = "then run ai-retry doctor --rehearse"
_NAMES_ONLY: Final = ("23", "42", "0A", "2BP", "55")  # classes whose messages name objects, and hold no value of a row
_RAISED: Final = "exec_stmt_raise"  # where PL/pgSQL's raise is, in the server's source
_PLACE: Final = re.compile(r'(?:PL/pgSQL|SQL) function ([\w."]+)\([^\n]*?\)(?: line (\d+))?')


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One write that was refused, or that did not last."""

    step: str  # such as fail
    function: str  # of ours or of the binding, that was called
    reason: str  # no value of a row is in it
    place: str | None = None  # the function in the database that raised it, with the line
    sqlstate: str | None = None  # None: nothing was raised

    @property
    def is_fatal(self) -> bool:
        """Whether retries fail; an event or an error log that is refused is left out."""
        return self.function != "ai_retry.app_report"

    @property
    def problem(self) -> str:
        """What was refused, and by what."""
        where = f" in {self.place}" if self.place is not None else ""
        return f'rehearsing "{self.step}", {self.function}: {self.reason}{where}'

    @property
    def remedy(self) -> str:
        """What to do."""
        if self.sqlstate == "42501":
            return f"grant what is refused to the role, {AGAIN}"
        refuses = f"change {self.place.partition(', line')[0]}" if self.place else "change what refuses it"
        if self.function.startswith("public."):
            return f"{refuses}, {AGAIN}"
        return f"{refuses}, or let {self.function} write what is allowed, {AGAIN}"


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of it; all of it was rolled back."""

    ran: tuple[str, ...]  # what was written, as ``step: function``
    refusals: tuple[Refusal, ...]
    not_run: tuple[str, ...]  # what could not be tried, and why
    notes: tuple[str, ...] = ()  # what an operator should know, though retries work

    @property
    def passed(self) -> bool:
        """Whether everything that a retry needs was tried, and nothing was refused."""
        return not (self.refusals or self.not_run)


def of_error(step: str, function: str, error: psycopg.Error) -> Refusal:
    """Describe what the database raised, without its detail, which prints rows, or a message that may hold a value."""
    diagnostics, state = error.diag, error.sqlstate or ""
    is_own = diagnostics.source_function == _RAISED  # of the app: it may hold any value
    said = diagnostics.message_primary if state.startswith(_NAMES_ONLY) and not is_own else "it raises an error"
    if diagnostics.constraint_name:
        table = ".".join(each for each in (diagnostics.schema_name, diagnostics.table_name) if each)
        said = f"the constraint {diagnostics.constraint_name}{f' on {table}' if table else ''} refuses it"
    return Refusal(
        step=step,
        function=function,
        reason=f"{said} ({state})",
        place=_place(diagnostics.context, function),
        sqlstate=state,
    )


def _place(context: str | None, called: str) -> str | None:
    """Find the innermost function that raised it; None where that is the one that was called."""
    found = _PLACE.search(context or "")
    if found is None or found[1] == called:
        return None
    return found[1] if found[2] is None else f"{found[1]}, line {found[2]}"
