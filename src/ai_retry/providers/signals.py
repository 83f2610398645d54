"""The table of signals and the one classifier: from a status, headers and a body to an answer or a failure.

Pure: no I/O, no clock. A rule about a provider is a row of ``SIGNALS`` with its source, so that a person on call can
read why an attempt was judged as it was; code below the table only finds the row. In doubt a row says that something may
have been generated: that costs one of the attempts, never a wrong "it was free".
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from ai_retry.domain.model import FailureCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One way in which a call shows that it has no usable answer.

    A row of ``STATUS_SIGNALS`` applies when all that it names is there: one of its statuses, one of its machine words,
    one of its phrases in the message. What it leaves empty does not matter.
    """

    shows: str  # in one phrase
    code: FailureCode
    transient: bool  # the identical request may succeed later
    not_generated: bool  # positive evidence that no token was produced
    operator_fault: bool = False
    statuses: Collection[int] = ()
    words: Collection[str] = ()  # in lower case
    phrases: Collection[str] = ()  # in lower case; only where no machine word tells
    source: str
