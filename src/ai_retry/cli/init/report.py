"""What ``ai-retry init`` prints, line by line."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ai_retry.cli.init.answers import Answers
from ai_retry.cli.init.facts import Facts
from ai_retry.cli.init.moves import moves
from ai_retry.cli.init.notes import Obstacle
from ai_retry.tables import printable

if TYPE_CHECKING:
    from ai_retry.cli.init.interview import Proposal, Tried
    from ai_retry.cli.rehearsal import Rehearsal

_OLDEST = 150000
_CURABLE = "nothing, if its user can cure it: a retry answers 409 SESSION_CONFLICT then, and keeps the paid answer"
_CONFLICTS = ("23505", "23P01", "PT409")


def no_project(facts: Facts) -> list[str]:
    """Say what a Supabase project has that is missing here; nothing: it is one."""
    lines = [f"there is no role {each}" for each in facts.missing_roles]
    if not facts.has_users:
        lines.append("there is no table auth.users")
    if facts.server_version < _OLDEST:
        lines.append(f"this is PostgreSQL {facts.server_version // 10000}, and 15 or newer is needed")
    return (
        ["ai-retry needs a Supabase project; nothing was written:", *(f"  {each}" for each in lines)] if lines else []
    )


def obstacle(what: Obstacle, tried: "Tried | None", flags: Answers) -> list[str]:
    """Say why the tables can't be bound, with the lines that change it, if they do.

    Args:
        what: can't be bound.
        tried: what came of the lines.
        flags: the answers that this run was given and that no file keeps.
    """
    lines = ["The tables can't be bound as they are; nothing was written.", f"  {printable(what.problem)}"]
    if tried is not None and tried.refused is None:
        lines += [
            "  These lines change it; they were run here, and rolled back:",
            *(f"    {each}" for each in what.lines),
        ]
    elif tried is not None:
        lines.append(f"  What would change it is refused here ({tried.refused}): {' '.join(what.lines)}")
    if what.then:
        lines.append(f"  {printable(_with_flags(what.then, flags))}")
    return lines


def _with_flags(then: str, flags: Answers) -> str:
    """Put this run's flags into the command that is to follow, but those that it replaces."""
    again = [f"{flag}{shlex.quote(value)}" for flag, value in flags.flags() if flag not in then]
    return then.replace("ai-retry init --", f"ai-retry init {' '.join([*again, '--'])}", 1)


def proposal(what: "Proposal") -> list[str]:
    """List what was guessed, what is left out, and what moves when ai-retry writes."""
    if what.binding is None:
        return ["There are no tables of generations yet: ai-retry creates its own four."]
    lines = ["Guessed (each is a flag, and a line of the answers' file):"] if what.notes.guesses else []
    for each in what.notes.guesses:
        why = f"  ({each.why})" if each.why else ""
        lines.append(f"  {each.what:<22} {printable(each.which)}{why}")
    lines += _section("Left out:", what.notes.left_out)
    lines += _section("Granted to service_role:", what.binding.grants)
    for title, found in moves(what.binding):
        lines += _section(title, found)
    return lines


def rehearsal(result: "Rehearsal") -> list[str]:
    """Say what was rehearsed, and what was refused by what."""
    from ai_retry.cli.rehearsal.model import AGAIN  # noqa: PLC0415 - imports psycopg

    lines = ["Rehearsed, and rolled back:"]
    lines += [f"  ok          {each}" for each in result.ran]
    lines += [f"  NOT RUN     {each}" for each in result.not_run]
    lines += [f"  note        {printable(each)}" for each in result.notes]
    for each in result.refusals:
        remedy = each.remedy.replace(AGAIN, "then run ai-retry init again")
        if each.step == "succeed" and each.sqlstate in _CONFLICTS:
            remedy = _CURABLE
        lines += [f"  refused     {printable(each.problem)}", f"              -> {printable(remedy)}"]
    if is_fatal(result):
        lines.append("Retries would fail; nothing was written.")
    return lines


def is_fatal(result: "Rehearsal") -> bool:
    """Whether retries would fail.

    A first call of ai-retry's own is left out, which need not be made, and so are sessions that conflict with another
    one of their user.
    """
    return any(
        each.is_fatal and each.step != "first call" and each.sqlstate not in _CONFLICTS for each in result.refusals
    )


def all_answers(given: Answers, what: "Proposal") -> Answers:
    """The answers, with the guesses among them."""
    for each in what.notes.guesses:
        given = given.with_answer(each.what, each.which)
    return given


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *(f"  {printable(each)}" for each in lines)] if lines else []
