"""What holds of the pace of a recovery, whatever its calls come to."""

from hypothesis import given
from hypothesis import strategies as st

from ai_retry.domain.pace import CallEnd, Pace

LONGEST = 300.0
ENDS = st.lists(
    st.tuples(st.sampled_from(list(CallEnd)), st.floats(0, LONGEST), st.floats(0, 100), st.integers(0, 31)), max_size=60
)


@given(workers=st.integers(1, 32), ends=ENDS)
def test_never_too_many_and_never_stuck(workers: int, ends: list[tuple[CallEnd, float, float, int]]) -> None:
    """No more calls than workers, one while the provider is unavailable; with nothing running, a next start is near."""
    pace, now = Pace(workers), 0.0
    running: list[int] = []
    for call_end, retry_after, passed, which in ends:
        now += passed
        while pace.wait(now, len(running)) == 0.0:
            running.append(pace.start(now))
            assert len(running) <= workers
            assert len(running) == 1 or not pace.unavailable
        if running:
            pace.end(call_end, now, started_in=running.pop(which % len(running)), retry_after=retry_after)
        wait = pace.wait(now, 0)
        assert 1 <= pace.at_once <= workers
        assert (wait is None) == (pace.stopped is not None)
        assert wait is None or wait <= LONGEST + 1e-6  # of floats


@given(workers=st.integers(1, 32), ends=ENDS)
def test_good_ends_lead_back_to_full_speed(workers: int, ends: list[tuple[CallEnd, float, float, int]]) -> None:
    """Whatever happened, enough good ends let all workers run at once again."""
    pace = Pace(workers)
    for call_end, retry_after, _, _ in ends:
        pace.end(call_end, 0.0, started_in=pace.start(0.0), retry_after=retry_after)

    for _ in range(workers * workers + workers):
        pace.end(CallEnd.WELL, 0.0, started_in=pace.start(0.0))

    assert pace.at_once == workers
