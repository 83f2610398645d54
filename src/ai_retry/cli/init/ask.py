"""Asks, one guess after the other: an answer may change those that follow. Whoever calls brings the terminal."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ai_retry.cli.init.answers import Answers
from ai_retry.cli.init.notes import AnswerDoesNotFit, CannotBind, Guess

if TYPE_CHECKING:
    from ai_retry.cli.init.interview import Proposal

_HELP: Final = "?"
_EXPLAINED: Final = {
    "generations": "The table with one row for each AI result that a user asked for, with a unique uuid.",
    "sessions": "The table of what a successful generation creates; none: the output is kept in the generation itself.",
    "error_logs": "A table that gets a row for each failure; none: failures are not logged for the app.",
    "events": "A table that gets a row whenever an attempt ends; none: no events.",
    "session_function": "A function of yours that creates a session: (user uuid, generation uuid, output jsonb, "
    "attempt jsonb), or (generation row, output jsonb); none: ai-retry inserts.",
    "hidden": "SQL over a generation's columns: its user no longer sees it, or wants it; none: they see all.",
    "soft_delete": "A column that says that the user has deleted the generation: it is neither found nor retried then.",
    "time_zone": "What the clock showed where instants are stored without a zone, such as UTC or Europe/Warsaw.",
    "column id": "The unique uuid of a generation.",
    "column user_id": "Whose the generation is: a user's uuid, or that of a profile which refers to one.",
    "column status": "The generation's state; none: it has succeeded when its session is there, else failed.",
    "column model": "The model that is asked; none: the provider's default.",
    "column prompt_data": "What is asked: a column with JSON, one with plain text, or several, joined by commas.",
    "column session_id": "The column that has the session's id; none: the session has the generation's.",
    "column duration_ms": "How long the call took, in milliseconds; none: nowhere.",
    "column created_at": "When it was asked for.",
    "column updated_at": "When it changed last; none: nowhere.",
    "column error_code": "A column that gets the code of a failure, such as AI_TIMEOUT, until a success; none.",
    "column error_message": "A column that gets one line about a failure, or JSON, until a success; none.",
    "status queued": "Your words, with commas between them, for one that waits for its call; the first one is written.",
    "status processing": "Your words for one whose call runs; none, by itself or before them: nothing is written "
    "while a retry waits or runs, for apps whose triggers fire on it.",
    "status success": "Your words for one that has its result; the first one is written.",
    "status error": "Your words for one that failed, null among them; the first one is written.",
    "status timeout": "Your words for one that got no answer in time.",
}
_FILLED: Final = "What a success puts there: output, output.KEY, model, usage, attempt, now or null; none: nothing."

Ask = Callable[[str, str], str]
Propose = Callable[[Answers], "Proposal"]


def explained(what: str) -> str:
    """Say what an answer is about."""
    return _FILLED if what.startswith("set ") else _EXPLAINED[what]


def asked(
    given: Answers, propose: Propose, *, ask: Ask, say: Callable[[str], None], keep: Callable[[Answers], None]
) -> tuple[Answers, "Proposal"]:
    """Put each guess to the operator, until there is none left.

    Args:
        given: what is answered already, and not asked.
        propose: makes the proposal for some answers.
        ask: puts a question with its guess, and returns the answer.
        say: prints a line.
        keep: is given the answers so far, each time that there is one more.

    Raises:
        CannotBind: as the first proposal says.
    """
    given, proposal = _first(given, propose, ask, say, keep)
    seen: set[str] = set()
    while (guess := next((each for each in proposal.notes.guesses if each.what not in seen), None)) is not None:
        answers = given.with_answer(guess.what, _answer(guess, ask, say))
        try:
            proposal = propose(answers)
        except CannotBind as error:
            say(str(error))
            continue
        given = answers
        keep(given)
        seen.add(guess.what)
    return given, proposal


def _first(
    given: Answers, propose: Propose, ask: Ask, say: Callable[[str], None], keep: Callable[[Answers], None]
) -> tuple[Answers, "Proposal"]:
    """Make the first proposal; what it can't do without is asked."""
    answers, asks = given, ""
    while True:
        try:
            proposal = propose(answers)
        except CannotBind as error:
            if not isinstance(error, AnswerDoesNotFit):
                given, asks = _kept(answers, given, keep), error.asks
            if not asks:
                raise
            say(str(error))
            answer = _answer(Guess(asks, ""), ask, say)
            if not answer:
                raise
            answers = given.with_answer(asks, answer)
        else:
            return _kept(answers, given, keep), proposal


def _kept(answers: Answers, before: Answers, keep: Callable[[Answers], None]) -> Answers:
    if answers != before:
        keep(answers)
    return answers


def _answer(guess: Guess, ask: Ask, say: Callable[[str], None]) -> str:
    if guess.why:
        say(f"({guess.why})")
    while (answer := ask(guess.what, guess.which).strip()) == _HELP:
        say(explained(guess.what))
    return answer or guess.which
