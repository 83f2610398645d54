"""A row of the table of signals, and the failure that follows from it."""

from collections.abc import Collection, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from ai_retry.domain.model import Failure, FailureCode

LONGEST_REASON: Final = 300  # characters


@dataclass(frozen=True, slots=True)
class Signal:
    """One way to have no usable answer.

    A row of ``STATUS`` applies when all that it names is there: one of its statuses, one of its machine words, one of
    its phrases in the message. What a row leaves empty does not matter.
    """

    shows: str  # in one phrase, with which the reason of a failure begins
    code: FailureCode
    not_generated: bool = False  # positive evidence that no token was produced
    transient: bool = False  # the identical request may succeed later
    operator_fault: bool = False
    overloaded: bool = False  # it takes no request now, whatever is asked
    refused: bool = False  # by moderation, or by the model: the request itself, and for good
    statuses: Collection[int] = ()
    words: Set[str] = frozenset()  # in lower case
    phrases: Set[str] = frozenset()  # in lower case, for what some providers say in words only
    source: str = ""  # a document by its name; needed in every row

    def applies(self, status: int, words: Collection[str], message: str) -> bool:
        """Whether an answer shows this; its words and its message are in lower case."""
        return (
            (not self.statuses or status in self.statuses)
            and (not self.words or not self.words.isdisjoint(words))
            and (not self.phrases or any(phrase in message for phrase in self.phrases))
        )

    def failure(self, says: str = "", *, facts: str = "", wait: timedelta | None = None, **members: Any) -> Failure:
        """Make the failure that an adapter reports: no other place says what follows from a row.

        Args:
            says: clean words, after our phrase.
            facts: in brackets between the two.
            wait: that the provider asks for; left out unless the identical request may succeed later.
            members: further ones of the failure.
        """
        reason = ": ".join(filter(None, (f"{self.shows} ({facts})" if facts else self.shows, says)))
        return Failure(
            code=self.code,
            reason=reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 1].rstrip() + "…",
            transient=self.transient,
            certainly_not_generated=self.not_generated,
            operator_fault=self.operator_fault,
            overloaded=self.overloaded,
            refused=self.refused,
            retry_after=wait if self.transient else None,
            **members,
        )
