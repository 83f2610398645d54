"""The app's status words: which of ours each one means, and which of them is written for each of ours."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

OURS: Final = ("queued", "processing", "success", "error", "timeout")
Word = str | None

_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "queued": (
        "queued",
        "pending",
        "created",
        "new",
        "waiting",
        "scheduled",
        "requested",
        "submitted",
        "enqueued",
        "todo",
        "retry",
    ),
    "processing": (
        *("processing", "running", "generating", "started", "in_progress", "inprogress", "working", "active", "busy"),
        *("retrying", "streaming", "thinking"),
    ),
    "success": (
        *(
            "success",
            "completed",
            "complete",
            "succeeded",
            "successful",
            "done",
            "finished",
            "ready",
            "generated",
            "ok",
        ),
        *("fulfilled", "delivered"),
    ),
    "error": ("error", "failed", "failure", "errored", "fail", "crashed", "broken"),
    "timeout": ("timeout", "timed_out", "timedout", "expired", "time_out"),
}
_ENDED: Final = frozenset(
    {
        *("cancelled", "canceled", "aborted", "abandoned", "revoked", "stopped", "terminated", "rejected", "refused"),
        *("moderated", "flagged", "blocked", "refunded", "deleted", "discarded", "archived", "draft"),
    }
)
_NEAREST: Final[Mapping[str, tuple[str, ...]]] = {
    "queued": ("queued", "processing"),
    "processing": ("processing", "queued"),
    "success": ("success",),
    "error": ("error", "timeout"),
    "timeout": ("timeout", "error"),
}


@dataclass(frozen=True, slots=True)
class Words:
    """``read``: the app's words by ours; None is null. ``written``: the word written for ours; None: nothing is."""

    read: Mapping[str, tuple[Word, ...]]
    written: Mapping[str, str | None]

    @property
    def quiet(self) -> bool:
        """Whether a retry writes no status until it succeeds."""
        return self.written["processing"] is None

    def unbound(self, there: Iterable[Word]) -> list[Word]:
        """List those words that mean nothing to us."""
        bound = {word for each in self.read.values() for word in each}
        return [word for word in there if word not in bound]


def _plain(word: str) -> str:
    return re.sub(r"[\s-]+", "_", word.strip().lower())


def _place(known: tuple[str, ...], word: Word) -> int:
    """The place of a word in a list, null last."""
    return len(known) if word is None else known.index(_plain(word))


def meaning(word: Word) -> str | None:
    """Guess which of ours a word of the app's means."""
    if word is None:
        return "queued"
    return next((ours for ours, known in _KNOWN.items() if _plain(word) in known), None)


def is_ended(word: Word) -> bool:
    """Whether it says that no result is wanted any more, or not yet: neither a failure nor a success."""
    return word is not None and _plain(word) in _ENDED


def bind(
    there: Iterable[Word],
    allowed: Iterable[str],
    given: Mapping[str, tuple[Word, ...]],
    *,
    silent: Iterable[str] = (),
) -> Words:
    """Bind the words that a column holds or allows.

    Args:
        there: the words of its rows and its default.
        allowed: the words of its enum or its check, in their order; none: any word may be written.
        given: answers, by ours; they go before guesses.
        silent: those of ours that are not written.
    """
    allowed = tuple(allowed)
    taken = {word for words in given.values() for word in words}
    read: dict[str, list[Word]] = {ours: list(given.get(ours, ())) for ours in OURS}
    for ours in OURS:
        guessed = [word for word in dict.fromkeys((*allowed, *there)) if word not in taken and meaning(word) == ours]
        read[ours] += sorted(guessed, key=partial(_place, _KNOWN[ours]))
    if not allowed:  # a word that is nowhere yet
        for ours in ("success", "error"):
            if not any(read[ours]):
                read[ours].append(ours)
    silent = set(silent)
    written = {ours: None if ours in silent else _written(ours, read) for ours in OURS}
    return Words({ours: tuple(words) for ours, words in read.items()}, written)


def _written(ours: str, read: Mapping[str, list[Word]]) -> str | None:
    """The first word of the nearest of ours that the app has one for."""
    return next((word for near in _NEAREST[ours] for word in read[near] if word is not None), None)
