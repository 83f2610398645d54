"""The app's own function that creates sessions: which one, and what it is called with."""

from typing import Final

from ai_retry.cli.init.answers import NONE, Answers
from ai_retry.cli.init.binding import SessionCall, Sessions
from ai_retry.cli.init.facts import Argument, Facts, Function, Table
from ai_retry.cli.init.notes import AnswerDoesNotFit, Notes

_SEAM: Final = "ai_retry_create_session"
_OUTPUT: Final = ("output", "content", "result", "answer", "data", "response", "payload", "body", "json")
_USER: Final = ("user", "owner", "profile", "author")
_ATTEMPT: Final = ("attempt", "meta", "usage")


def named_function(facts: Facts, table: Table, answers: Answers, notes: Notes) -> Function | None:
    """Find the function that an answer names, or the one with ai-retry's own name for it; None: there is none.

    Raises:
        CannotBind: there is no such function.
    """
    wanted = answers.session_function
    if wanted == NONE:
        return None
    if wanted is not None:
        plain = wanted.partition("(")[0].replace('"', "")
        found = [
            each
            for each in facts.functions
            if plain in {f"{each.schema}.{each.name}", each.name if each.schema == "public" else ""}
        ]
        if not found:
            raise AnswerDoesNotFit(f"--session-function {wanted}: there is no such function")
        return found[0]
    for each in facts.functions:
        if each.name == _SEAM and each.arguments and each.arguments[0].type == table.quoted:
            notes.guess("session_function", each.signature)
            return each
    return None


def call_of(function: Function, table: Table, sessions: Sessions) -> SessionCall:
    """Say what a function is called with.

    Raises:
        CannotBind: an argument means nothing to us.
    """
    given: list[str] = []
    seen: set[str] = set()
    for place, argument in enumerate(function.arguments):
        value = _value(argument, table, seen)
        if value is None and argument.has_default:
            break
        if value is None:
            raise AnswerDoesNotFit(
                f"--session-function {function.signature}: argument {place + 1} ({argument.name or argument.type}) is "
                "none of user, generation, output and attempt",
                then="write a function (user_id uuid, generation_id uuid, output jsonb, attempt jsonb) around it",
            )
        seen.add(value)
        given.append(value)
    if function.result_kind == "void" and sessions.table is None:
        raise AnswerDoesNotFit(f"--session-function {function.signature}: it has to return the session, or its id")
    return SessionCall(function, tuple(given))


def _value(argument: Argument, table: Table, seen: set[str]) -> str | None:
    """What an argument is given; None: it means nothing to us."""
    name, value = argument.name.lower(), None
    if argument.type == table.quoted:
        value = "v_generation"
    elif argument.kind == "uuid":
        is_user = any(word in name for word in _USER) if name else "p_user_id" not in seen
        value = "p_user_id" if is_user else "p_generation_id"
    elif argument.kind in {"json", "jsonb"}:
        is_attempt = any(word in name for word in _ATTEMPT) or bool(seen & {"p_output", "p_output::json"})
        value = "p_attempt" if is_attempt else "p_output"
        value += "" if argument.kind == "jsonb" else "::json"
    elif argument.kind in {"text", "varchar"} and "model" in name:
        value = "p_attempt ->> 'model'"
    elif argument.kind in {"text", "varchar"} and any(word in name for word in _OUTPUT):
        value = "p_output #>> '{}'"
    elif argument.kind in {"int4", "int8"} and "attempt" in name:
        value = "(p_attempt ->> 'number')::integer"
    return value
