"""Repeats: what may pass is tried again for as long as it is worth, and what is raised then says the most."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from ai_retry.domain.errors import (
    AiRetryError,
    NotConfigured,
    StorageFailure,
    StorageOutcomeUnknown,
    StorageUnavailable,
)
from ai_retry.storage.repeating import Patience, repeat
from ai_retry.storage.transport import Fault

SOON = timedelta(seconds=1)
SHORT = timedelta(milliseconds=150)
LONG = timedelta(minutes=10)  # longer than any test waits
NONE = timedelta(0)
READING = Patience(usual=SHORT, faults=SHORT)
ONCE = Patience(usual=NONE, faults=SHORT)
SETTLING = Patience(usual=SHORT, faults=None, stops_at_internal=True)

GONE = StorageUnavailable("no connection", retry_after=SOON)
LOST = StorageOutcomeUnknown("connection lost", retry_after=SOON)
FAULT = Fault("401", "the key is wrong")
INTERNAL = StorageOutcomeUnknown("XX000", retry_after=SOON)
FOR_GOOD = StorageUnavailable("22P05")


class Calls:
    """A call with these failures, the last of them for ever; None: it succeeds."""

    def __init__(self, *failures: AiRetryError | None) -> None:
        self.failures, self.tries = list(failures), 0

    def __call__(self) -> str:
        """Fail or answer."""
        self.tries += 1
        error = self.failures.pop(0) if len(self.failures) > 1 else self.failures[0]
        if error is not None:
            raise error
        return "answer"


def raised(calls: Callable[[], str], patience: Patience) -> AiRetryError:
    """What repeating ends with."""
    with pytest.raises(AiRetryError) as caught:
        repeat(calls, patience)
    assert caught.value.__context__ is None  # a driver's text may hold a row
    return caught.value


@pytest.mark.parametrize("failures", [[GONE], [LOST, LOST], [FAULT, FAULT], [INTERNAL], [GONE, FAULT, LOST]])
@pytest.mark.parametrize("patience", [Patience(usual=LONG, faults=LONG), Patience(usual=LONG, faults=None)])
def test_what_passes_is_not_noticed(failures: list[StorageFailure], patience: Patience) -> None:
    """A call that succeeds in time has its result, whatever was met before."""
    calls = Calls(*failures, None)

    assert repeat(calls, patience) == "answer"
    assert calls.tries == len(failures) + 1


@pytest.mark.parametrize("patience", [READING, SETTLING])
def test_call_is_repeated_once_at_least(patience: Patience) -> None:
    """However long the first try took: a lost reply is asked for again."""
    calls = Calls(LOST)

    assert raised(calls, Patience(usual=timedelta(microseconds=1), faults=patience.faults)) is LOST
    assert calls.tries >= 2


@pytest.mark.parametrize("failure", [GONE, LOST, INTERNAL])
def test_what_is_tried_once_is_tried_once(failure: StorageFailure) -> None:
    """A worker polls again soon: it is not kept waiting by repeats."""
    calls = Calls(failure, None)

    assert raised(calls, ONCE) is failure
    assert calls.tries == 1


@pytest.mark.parametrize("patience", [READING, SETTLING, ONCE])
@pytest.mark.parametrize("failure", [FOR_GOOD, NotConfigured("no such function")])
def test_what_does_not_pass_is_raised_at_once(patience: Patience, failure: AiRetryError) -> None:
    """A refusal of the database is its last word."""
    calls = Calls(failure, None)

    assert raised(calls, patience) is failure
    assert calls.tries == 1


@pytest.mark.parametrize("last", [GONE, FOR_GOOD])
def test_unknown_outcome_outweighs_what_came_after(last: StorageFailure) -> None:
    """An early try may have been committed: then "nothing was written" would be a lie."""
    assert raised(Calls(LOST, last), READING) is LOST


def test_refusal_after_a_lost_reply_is_raised() -> None:
    """What an operator has to do is said, whatever was met before."""
    refusal = NotConfigured("no such function")

    assert raised(Calls(LOST, refusal), READING) is refusal


@pytest.mark.parametrize("patience", [READING, ONCE, Patience(usual=LONG, faults=SHORT)])
def test_fault_that_lasts_is_reported(patience: Patience) -> None:
    """A wrong key, or a missing schema, is named with its remedy in time, however long a call is repeated."""
    calls = Calls(FAULT)

    failure = raised(calls, patience)

    assert isinstance(failure, NotConfigured)
    assert failure.details["missing"] == "the key is wrong"
    assert calls.tries >= 2


def test_fault_beside_another_failure_is_a_lost_reply() -> None:
    """Something in between answers now this, now that: that is no configuration."""
    assert raised(Calls(LOST, FAULT), READING) is FAULT


def test_fault_is_no_verdict_on_what_was_paid_for() -> None:
    """A settle is repeated for its whole time, and its reply counts as lost: the last resort comes next."""
    calls = Calls(FAULT)

    assert raised(calls, SETTLING) is FAULT
    assert calls.tries >= 2


def test_same_internal_error_a_third_time_ends_a_settle() -> None:
    """Any C or extension function of the app's may raise XX000 whenever it is called: repeats don't help then."""
    calls = Calls(INTERNAL)

    assert raised(calls, Patience(usual=LONG, faults=None, stops_at_internal=True)) is INTERNAL
    assert calls.tries == 3


def test_internal_error_ends_no_other_call() -> None:
    """It may come from the link: without another cause it is repeated for its whole time."""
    calls = Calls(INTERNAL, INTERNAL, INTERNAL, INTERNAL, None)

    assert repeat(calls, Patience(usual=LONG, faults=None)) == "answer"
