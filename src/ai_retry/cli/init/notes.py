"""What a proposal notes while it is made: guesses, what was left out, and what can't be bound."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that can't be bound, with the lines that would change it; they are tried before they are printed."""

    problem: str
    lines: tuple[str, ...] = ()
    then: str = ""  # what to do after them


class CannotBind(Exception):
    """The proposal has to end here; ``asks``: unless this answer is given."""

    def __init__(self, problem: str, lines: Sequence[str] = (), then: str = "", asks: str = "") -> None:
        super().__init__(problem)
        self.obstacle = Obstacle(problem, tuple(lines), then)
        self.asks = asks


class AnswerDoesNotFit(CannotBind):
    """An answer names something that is not there, or that can't be used for it."""


@dataclass(frozen=True, slots=True)
class Guess:
    """An answer that was not given: ``column id``, ``status error``, ``set result`` or the name of another one."""

    what: str
    which: str
    why: str = ""


@dataclass(slots=True)
class Notes:
    """Collects them."""

    guesses: list[Guess] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def guess(self, what: str, which: str, why: str = "") -> None:
        """Note what a guess was."""
        self.guesses.append(Guess(what, which, why))

    def leave_out(self, sentence: str) -> None:
        """Note what is not done, and why."""
        self.left_out.append(sentence)
