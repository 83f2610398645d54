"""How fast a recovery calls: more while it goes well, half after a call too many, one at a time after an outage."""

import pytest

from ai_retry.domain.pace import CallEnd, Pace


def end(pace: Pace, call_end: CallEnd, *, now: float = 0.0, times: int = 1, retry_after: float = 0.0) -> None:
    """Let calls start and end one after the other."""
    for _ in range(times):
        pace.end(call_end, now, started_in=pace.start(now), retry_after=retry_after)


def test_begins_with_a_few_and_grows_to_all_workers() -> None:
    """Four calls run at once in the beginning; each that goes well makes room for one more, up to the workers."""
    pace = Pace(32)
    assert pace.at_once == 4

    end(pace, CallEnd.WELL)
    assert pace.at_once == 5

    end(pace, CallEnd.WELL, times=100)
    assert pace.at_once == 32


def test_one_worker_is_one_call() -> None:
    """With one worker one call runs at once, from the beginning."""
    pace = Pace(1)

    assert pace.at_once == 1
    assert pace.wait(0.0, 0) == 0.0
    assert pace.wait(0.0, 1) is None


def test_rate_spaces_the_starts() -> None:
    """Two starts are the interval apart; time that passed unused gives no burst."""
    pace = Pace(8, interval=2.0)
    pace.start(10.0)
    assert pace.wait(10.5, 1) == 1.5

    pace.start(100.0)
    assert pace.wait(100.0, 1) == 2.0


def test_rate_limit_halves_and_waits_as_asked() -> None:
    """A call too many halves what runs at once, and no call starts before the provider's Retry-After."""
    pace = Pace(32)
    end(pace, CallEnd.WELL, times=28)

    end(pace, CallEnd.TOO_FAST, now=5.0, retry_after=7.0)

    assert pace.at_once == 16
    assert pace.wait(5.0, 0) == 7.0


def test_calls_of_one_round_halve_once() -> None:
    """All calls that were under way when the provider limited requests are one answer, but each Retry-After counts."""
    pace = Pace(32)
    end(pace, CallEnd.WELL, times=28)
    rounds = [pace.start(0.0) for _ in range(32)]

    for place, started_in in enumerate(rounds):
        pace.end(CallEnd.TOO_FAST, 0.0, started_in=started_in, retry_after=float(place))

    assert pace.at_once == 16
    assert pace.wait(0.0, 0) == 31.0


def test_rate_limits_in_a_row_wait_longer() -> None:
    """Without a Retry-After the pauses double from one second to a minute, and start anew after a good end."""
    pace = Pace(8)
    pauses: list[float | None] = []
    for _ in range(8):
        end(pace, CallEnd.TOO_FAST, now=1000.0 * len(pauses))
        pauses.append(pace.wait(1000.0 * len(pauses), 0))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]

    end(pace, CallEnd.WELL, now=9000.0)
    end(pace, CallEnd.TOO_FAST, now=9000.0)
    assert pace.wait(9000.0, 0) == 1.0


def test_grows_slowly_where_it_was_too_fast() -> None:
    """Beyond half of what was too much, a whole round of good ends makes room for one more."""
    pace = Pace(32)
    end(pace, CallEnd.WELL, times=28)
    end(pace, CallEnd.TOO_FAST)
    assert pace.at_once == 16

    end(pace, CallEnd.WELL, now=100.0, times=15)
    assert pace.at_once == 16
    end(pace, CallEnd.WELL, now=100.0, times=3)
    assert pace.at_once == 17


def test_single_failures_are_no_outage() -> None:
    """Two calls that found the provider unavailable, with a good one between each pair, are not an outage."""
    pace = Pace(8)
    for _ in range(10):
        end(pace, CallEnd.UNAVAILABLE, times=2)
        end(pace, CallEnd.WELL)

    assert not pace.unavailable
    assert pace.stopped is None


def test_outage_asks_with_one_call_at_a_time() -> None:
    """The third in a row is an outage: then one call at a time, each after a longer pause, until one goes well."""
    pace = Pace(8)
    end(pace, CallEnd.UNAVAILABLE, times=3)
    assert (pace.unavailable, pace.at_once) == (True, 1)
    assert pace.wait(100.0, 1) is None
    assert pace.wait(100.0, 0) == 0.0

    end(pace, CallEnd.UNAVAILABLE, now=100.0)
    assert pace.wait(100.0, 0) == 8.0

    end(pace, CallEnd.WELL, now=200.0)
    assert (pace.unavailable, pace.at_once) == (False, 2)


def test_provider_that_limits_is_back() -> None:
    """After an outage, a provider that asks for patience is there again."""
    pace = Pace(8)
    end(pace, CallEnd.UNAVAILABLE, times=3)

    end(pace, CallEnd.TOO_FAST, now=100.0, retry_after=30.0)

    assert not pace.unavailable
    assert pace.at_once == 1
    assert pace.wait(100.0, 0) == 30.0


def test_outage_stops_where_asked_to() -> None:
    """With ``stop_on_outage`` nothing starts any more, and the reason is reported."""
    pace = Pace(8, stop_on_outage=True)

    end(pace, CallEnd.UNAVAILABLE, times=3)

    assert pace.stopped == "OUTAGE"
    assert pace.wait(1e9, 0) is None


def test_operators_fault_stops() -> None:
    """Three calls in a row that fail for the operator's reasons stop the run: a bad key is bad for all."""
    pace = Pace(8)
    end(pace, CallEnd.REFUSING, times=2)
    end(pace, CallEnd.WELL)
    end(pace, CallEnd.REFUSING, times=2)
    assert pace.stopped is None

    end(pace, CallEnd.REFUSING)

    assert pace.stopped == "OPERATOR_NEEDED"


@pytest.mark.parametrize("call_end", [CallEnd.UNAVAILABLE, CallEnd.REFUSING])
def test_who_did_not_call_says_nothing(call_end: CallEnd) -> None:
    """A generation that needed no call neither ends a row of failures nor makes one."""
    pace = Pace(8)
    end(pace, call_end, times=2)
    end(pace, CallEnd.NOTHING, times=5)
    before = pace.at_once

    end(pace, CallEnd.NOTHING)

    assert (pace.at_once, pace.unavailable, pace.stopped) == (before, False, None)
    end(pace, call_end)
    assert pace.unavailable or pace.stopped
