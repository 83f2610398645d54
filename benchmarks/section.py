"""What a measurement hands to the report."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.sampling import short


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A number that was asked for, and the one that was found."""

    text: str
    limit: float
    measured: float
    at_most: bool = False  # else at least

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def line(self) -> str:
        """Say it in one line."""
        than = "at most" if self.at_most else "at least"
        verdict = "met" if self.met else "**missed**"
        return f"{self.text}: {short(self.measured)} ({than} {short(self.limit)}): {verdict}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table with what has to be said about it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """For the JSON: numbers alone."""
