"""Sends a request again within its call, after what the provider asks for and some jitter."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TypeAlias

from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_attempt, wait_random_exponential

from ai_retry.domain.model import Answer, Failure

Outcome: TypeAlias = Answer | Failure
_jitter = wait_random_exponential(multiplier=0.5, max=4)  # full jitter: anywhere below 0.5 s, 1 s, 2 s …


def repeats(
    first: Outcome,
    send: Callable[[], Outcome],
    *,
    may: Callable[[Outcome], bool],
    most: int,
    in_time: Callable[[float], bool],
    sleep: Callable[[float], None],
) -> Outcome:
    """Send until there is an outcome that is not to be repeated; the last one otherwise.

    Args:
        first: what came of the first request.
        send: sends the same request.
        may: whether an outcome may be followed by another request.
        most: requests, the first one included.
        in_time: whether there would be time for a request after so many seconds.
        sleep: waits for so many seconds.
    """
    outcomes: Iterator[Outcome] = chain([first], iter(send, None))
    enough = stop_after_attempt(most)

    def wait(state: RetryCallState) -> float:
        asked = _last(state)
        after = asked.retry_after if isinstance(asked, Failure) else None
        return (after.total_seconds() if after else 0.0) + _jitter(state)

    retrying = Retrying(
        retry=retry_if_result(may),
        wait=wait,
        stop=lambda state: enough(state) or not in_time(state.upcoming_sleep),
        sleep=sleep,
        retry_error_callback=_last,
    )
    return retrying(lambda: next(outcomes))


def _last(state: RetryCallState) -> Outcome | None:
    return state.outcome.result() if state.outcome else None
