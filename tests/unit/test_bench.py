"""The benchmark's own small parts: what is counted right is worth measuring."""

import asyncio
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chart import svg
from benchmarks.clients import Reply, Request, closed_loop
from benchmarks.drain import jain
from benchmarks.report import table
from benchmarks.sampling import percentile, short
from benchmarks.section import Aim
from benchmarks.server import counted

_WALDUMP = """\
WAL statistics between 0/5AC5EA0 and 0/5E5BA50:
Type                      N      (%)   Record size      (%)   FPI size      (%)   Combined size      (%)
----                      -      ---   -----------      ---   --------      ---   -------------      ---
Transaction/COMMIT     2000 (  6.22)         80000 (  2.16)          0 (  0.00)           80000 (  2.16)
Heap/INSERT+INIT         48 (  0.15)         10580 (  0.29)       8192 (  0.00)           18772 (  0.29)
Heap/TRUNCATE             0 (  0.00)             0 (  0.00)          0 (  0.00)               0 (  0.00)
                   --------               --------            --------                 --------
Total                  2048                  90580 [100.00%]      8192 [0.00%]            98772 [100%]
"""


@given(samples=st.lists(st.floats(0, 1e6), min_size=1), percent=st.floats(0, 100))
def test_percentile_is_a_sample_that_so_many_do_not_exceed(samples: list[float], percent: float) -> None:
    """At least the asked share of the samples is no larger, and no smaller sample would do."""
    found = percentile(samples, percent)

    assert found in samples
    assert sum(sample <= found for sample in samples) >= len(samples) * percent / 100 - 1e-9
    below = [sample for sample in samples if sample < found]
    assert len(below) < max(1, len(samples) * percent / 100 + 1e-9)


def test_percentile_of_nothing_is_refused() -> None:
    """No samples have no percentile."""
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (3, "3"), (0.8765, "0.876"), (12.345, "12.3"), (123.4, "123"), (1234.5, "1,234"), (1e6, "1,000,000")],
)
def test_numbers_are_written_with_three_digits(number: float, written: str) -> None:
    """As many digits as mean something."""
    assert short(number) == written


@pytest.mark.parametrize(
    ("measured", "at_most", "met"), [(2, False, True), (1.9, False, False), (2, True, True), (2.1, True, False)]
)
def test_an_aim_says_whether_it_was_met(measured: float, *, at_most: bool, met: bool) -> None:
    """A missed aim shows in the report."""
    aim = Aim(text="writes", limit=2, measured=measured, at_most=at_most)

    assert aim.met is met
    assert ("**missed**" in aim.line()) is not met


def test_records_of_the_log_are_counted_per_attempt() -> None:
    """What pg_waldump reports is divided; kinds that did not occur are left out."""
    assert counted(_WALDUMP, 1000) == {"Transaction/COMMIT": (2.0, 80.0), "Heap/INSERT+INIT": (0.048, 18.772)}


def test_clients_make_every_request_once_and_no_more_at_a_time_than_they_are() -> None:
    """A closed loop: the next request starts when the client has its answer."""
    running: list[int] = []
    most = 0

    def requests() -> Iterator[Request]:
        for number in range(20):

            async def request(number: int = number) -> Reply:
                nonlocal most
                running.append(number)
                most = max(most, len(running))
                await asyncio.sleep(0)
                running.remove(number)
                return Reply(number, 0.0, b"")

            yield request

    replies = asyncio.run(closed_loop(3, requests()))

    assert sorted(reply.status for reply in replies) == list(range(20))
    assert most == 3


def test_the_chart_shows_every_engine_and_every_rate() -> None:
    """It is well-formed, and names are escaped."""
    data = {"names": {"a": "<floor>", "b": "ours"}, "medians": {"a": {1: 1500.4, 8: 3000.0}, "b": {1: 700.2, 8: 99.0}}}

    drawn = svg(data)

    texts = [each.text for each in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert {"<floor>", "ours", "1,500", "3,000", "700", "99", "1 at once", "8 at once"} <= set(texts)


@pytest.mark.parametrize(("shares", "fairness"), [([2, 2, 2], 1), ([6, 0, 0], 1 / 3), ([0, 0], 1)])
def test_fairness_is_one_where_all_have_the_same(shares: list[float], fairness: float) -> None:
    """One who has everything of n is a share of 1/n; where there is nothing, no one has more than others."""
    assert jain(shares) == pytest.approx(fairness)


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    """Columns are aligned, so that the text is readable as it is."""
    assert list(table(("a", "b"), [("long", "1")])) == ["| a    | b |", "|------|---|", "| long | 1 |"]
