"""Asking: one guess after the other, in a terminal that the test brings."""

from collections.abc import Iterator

import pytest

from ai_retry.cli.init.answers import Answers
from ai_retry.cli.init.ask import asked, explained
from ai_retry.cli.init.interview import Proposal
from ai_retry.cli.init.notes import CannotBind, Notes
from ai_retry.cli.init.propose import propose, skeleton
from ai_retry.cli.init.write import binding_sql
from tests.helpers.schemas import GENERATION, facts, table

KNOWN = facts(
    table(
        "public.ai_generations",
        GENERATION | {"result": "text", "score": "integer"},
        words=("pending", "done", "failed"),
    ),
    table("public.other_requests", GENERATION | {"answer": "text"}, labels=["raw", "served", "burnt"]),
)


def proposal(answers: Answers) -> Proposal:
    """Propose for a schema without a database."""
    notes = Notes()
    bones = skeleton(KNOWN, answers, notes)
    binding = propose(KNOWN, answers, bones, {}, notes)
    return Proposal("", binding_sql(binding), binding, notes, {})


class Terminal:
    """Answers by what is asked, else takes the guess; remembers everything."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = {name.replace("__", " "): iter(each) for name, each in answers.items()}
        self.asked: list[str] = []
        self.said: list[str] = []
        self.kept: list[Answers] = []

    def ask(self, what: str, guess: str) -> str:
        """Answer."""
        self.asked.append(what)
        given: Iterator[str] = self.answers.get(what, iter(()))
        return next(given, guess)


def test_each_guess_is_asked_once() -> None:
    """Whoever takes every guess gets what --yes gives."""
    terminal = Terminal()

    given, made = asked(Answers(), proposal, ask=terminal.ask, say=terminal.said.append, keep=terminal.kept.append)

    assert len(terminal.asked) == len(set(terminal.asked))
    assert made.app == proposal(Answers()).app
    assert given.generations == "public.ai_generations"


def test_a_question_mark_explains() -> None:
    """The question comes again."""
    terminal = Terminal(generations=["?", "public.ai_generations"])

    asked(Answers(), proposal, ask=terminal.ask, say=terminal.said.append, keep=terminal.kept.append)

    assert terminal.said == [explained("generations")]
    assert terminal.asked[:2] == ["generations", "generations"]


def test_an_answer_changes_what_follows() -> None:
    """Another table has other columns and words; what can't be guessed of it is asked, too."""
    terminal = Terminal(generations=["public.other_requests"])
    given = Answers(status={"success": ("served",), "error": ("burnt",)})

    _, made = asked(given, proposal, ask=terminal.ask, say=terminal.said.append, keep=terminal.kept.append)

    assert made.binding is not None
    assert made.binding.table.name == "other_requests"
    assert "set answer" in terminal.asked


def test_an_answer_that_cannot_be_is_asked_again() -> None:
    """It is said what is wrong with it."""
    terminal = Terminal(column__model=["engine", "none"])

    _, made = asked(Answers(), proposal, ask=terminal.ask, say=terminal.said.append, keep=terminal.kept.append)

    assert ["engine" in each for each in terminal.said] == [True]
    assert made.binding is not None
    assert made.binding.model is None


def test_what_it_cannot_do_without_is_asked() -> None:
    """Words that mean nothing to us; without an answer it ends."""
    terminal = Terminal(status__success=["served"], status__error=["burnt"])
    given = Answers(generations="public.other_requests")

    _, made = asked(given, proposal, ask=terminal.ask, say=terminal.said.append, keep=terminal.kept.append)

    assert made.binding is not None
    assert made.binding.words.written["error"] == "burnt"
    assert terminal.kept[0].status == {"success": ("served",)}
    with pytest.raises(CannotBind):
        asked(given, proposal, ask=Terminal().ask, say=terminal.said.append, keep=terminal.kept.append)


def test_what_was_answered_is_kept_where_it_ends() -> None:
    """An answer that fits is kept before the next one is asked for; one that does not fit is asked again instead."""
    terminal = Terminal(generations=["public.nothing", "public.bare_jobs"], column__user_id=["owner"])
    bare = facts(table("public.bare_jobs", {"owner": "text", "status": "text", "prompt": "text"}, words=("done",)))

    def propose_bare(answers: Answers) -> Proposal:
        notes = Notes()
        bones = skeleton(bare, answers, notes)
        return Proposal("", "", propose(bare, answers, bones, {}, notes), notes, {})

    with pytest.raises(CannotBind, match="of type uuid"):
        asked(
            Answers(generations="public.bare_jobs", status={"error": ("bad",)}),
            propose_bare,
            ask=terminal.ask,
            say=terminal.said.append,
            keep=terminal.kept.append,
        )

    assert [each.columns for each in terminal.kept] == [{"user_id": ("owner",)}]
