"""How fast a recovery calls: it adapts to how the last calls ended.

Pure: it knows no clock and no thread; instants are seconds that the caller measures. More calls run at once while they
go well, half as many after a call too many, one at a time after an outage.
"""

from enum import Enum, auto

_FIRST = 4  # calls at once, before anything is known
_OUTAGE_AFTER = 3  # calls in a row that found the provider unavailable
_REFUSALS = 3  # calls in a row that failed for the operator's reasons
_SHORTEST_PAUSE = 1.0  # seconds; doubles
_LONGEST_PAUSE = 60.0


class CallEnd(Enum):
    """What the end of a call says about the provider."""

    WELL = auto()  # it answers, be it with a refusal of this one request
    TOO_FAST = auto()  # it limits requests
    UNAVAILABLE = auto()  # it can't be reached, is broken, or does not answer in time
    REFUSING = auto()  # bad key, no credit, no such model: an operator has to look
    NOTHING = auto()  # it was not called


class Pace:
    """Says when the next call may start.

    Args:
        max_workers: calls at once, at most.
        interval: seconds between two starts, at least.
        stop_on_outage: stop rather than wait for an unavailable provider.

    Attributes:
        stopped: why no call may start any more; None: it may.
        unavailable: whether the provider is; then one call at a time asks whether it is back.
    """

    def __init__(self, max_workers: int, *, interval: float = 0.0, stop_on_outage: bool = False) -> None:
        self.stopped: str | None = None
        self.unavailable = False
        self._max = float(max_workers)
        self._interval = interval
        self._stop_on_outage = stop_on_outage
        self._at_once = min(float(_FIRST), self._max)
        self._calm_below = self._max  # up to here every good end makes room for one more
        self._round = 0  # calls of an earlier round say nothing new about the provider
        self._pause = _SHORTEST_PAUSE
        self._not_before = float("-inf")
        self._next_slot = float("-inf")
        self._unavailable_in_a_row = 0
        self._refusing_in_a_row = 0

    @property
    def at_once(self) -> int:
        """How many calls may run at once now."""
        return 1 if self.unavailable else int(self._at_once)

    def wait(self, now: float, running: int) -> float | None:
        """Seconds until the next call may start, 0 for now; None: not before one of the running has ended."""
        if self.stopped is not None or running >= self.at_once:
            return None
        return max(0.0, self._not_before - now, self._next_slot - now)

    def start(self, now: float) -> int:
        """Note that a call starts; its end is noted with the number that this returns."""
        self._next_slot = max(now, self._next_slot) + self._interval
        return self._round

    def end(self, call_end: CallEnd, now: float, *, started_in: int, retry_after: float = 0.0) -> None:
        """Note how a call ended; ``retry_after`` is what the provider asked to wait, in seconds."""
        if call_end is CallEnd.NOTHING:
            return
        self._refusing_in_a_row = self._refusing_in_a_row + 1 if call_end is CallEnd.REFUSING else 0
        if self._refusing_in_a_row >= _REFUSALS:
            self.stopped = "OPERATOR_NEEDED"
        if call_end in (CallEnd.WELL, CallEnd.REFUSING):
            self._speed_up()
        else:
            self._slow_down(call_end, now, started_in, retry_after)

    def _speed_up(self) -> None:
        if self.unavailable:
            self.unavailable, self._at_once = False, 1.0
        self._unavailable_in_a_row, self._pause = 0, _SHORTEST_PAUSE
        more = 1.0 if self._at_once < self._calm_below else 1.0 / self._at_once
        self._at_once = min(self._max, self._at_once + more)

    def _slow_down(self, call_end: CallEnd, now: float, started_in: int, retry_after: float) -> None:
        self._not_before = max(self._not_before, now + retry_after)
        self._unavailable_in_a_row = self._unavailable_in_a_row + 1 if call_end is CallEnd.UNAVAILABLE else 0
        if call_end is CallEnd.TOO_FAST and self.unavailable:
            self.unavailable, self._at_once = False, 1.0  # it is back, and asks for patience
        if started_in == self._round:  # else this end belongs to what was answered already
            self._round += 1
            self._not_before = max(self._not_before, now + self._pause)
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
            self._at_once = self._calm_below = max(1.0, self._at_once / 2)
        if self._unavailable_in_a_row >= _OUTAGE_AFTER:
            self.unavailable = True
            if self._stop_on_outage:
                self.stopped = "OUTAGE"
