"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Each is an argument of the command."""

    rounds: int
    """Of which the median counts."""
    seconds: float
    """About so long a round of one engine takes."""
    small: int
    """Generations with attempts in the small database."""
    large: int
    """The same in the large one."""
    finished: int
    """Finished generations of one user who has many."""
    held: float
    """Seconds for which an idle transaction is held open."""
    clicks: int
    """At once, at one generation."""


FULL = Sizes(rounds=5, seconds=1.5, small=10_000, large=1_000_000, finished=10_000, held=150, clicks=1000)
QUICK = Sizes(rounds=3, seconds=0.3, small=1_000, large=20_000, finished=2_000, held=3, clicks=200)
