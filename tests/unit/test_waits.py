"""Waits that providers ask for, in every form they are known to use."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ai_retry.providers.waits import duration, retry_after

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def seconds(headers: Mapping[str, str], error: Mapping[str, Any] | None = None) -> float | None:
    """The wait that an answer asks for."""
    wait = retry_after(headers, error or {}, NOW)
    return None if wait is None else wait.total_seconds()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("86400", 86400.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thursday, 01-Jan-26 12:00:30 GMT", 30.0),
        ("Thu Jan  1 12:00:30 2026", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_in_all_standard_forms(value: str, expected: float) -> None:
    """Seconds, decimals and the three forms of an HTTP-date count; a moment that has passed is no wait."""
    assert seconds({"retry-after": value}) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nan",
        "inf",
        "-3",
        "+3",
        "20s",
        "soon",
        "5, 60",
        "1_000",
        "1e3",
        "٣",
        "0x10",
        "1.",
        ".5",
        "9" * 400,
        "5000000000",
        "Thu, 99 Jan 2026 12:00:30 GMT",
        "Thu, 01 Jan 9999 12:00:30 GMT",
        "Thu, 01 Jan 2026 12:00:30 +9999",
        "Thursday",
    ],
)
def test_garbled_retry_after_is_ignored(value: str) -> None:
    """What is not exactly a known form, or asks for more than a year, is passed over and never read as zero."""
    assert seconds({"retry-after": value}) is None


def test_the_first_valid_form_counts() -> None:
    """Milliseconds come before the header, it before the body, the body before resets; invalid ones are skipped."""
    body = {"availability": {"retry_after": 40}}
    reset = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9s"}

    assert seconds({"retry-after-ms": "250", "retry-after": "1"} | reset, body) == 0.25
    assert seconds({"retry-after-ms": "soon", "retry-after": "1"} | reset, body) == 1.0
    assert seconds({"retry-after": "-1"} | reset, body) == 40.0
    assert seconds({"retry-after": "-1"} | reset) == 9.0
    assert seconds({}) is None


def test_dates_are_read_by_the_servers_clock() -> None:
    """A date is relative to the answer's own ``Date``, so that an hour between the clocks changes nothing."""
    headers = {"date": "Thu, 01 Jan 2026 13:00:00 GMT", "retry-after": "Thu, 01 Jan 2026 13:00:30 GMT"}

    assert seconds(headers) == 30.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1.0),
        ("12ms", 0.012),
        ("6m0s", 360.0),
        ("1m30.5s", 90.5),
        ("2m59.56s", 179.56),
        ("24h0m0s", 86400.0),
        ("1d", 86400.0),
        ("38.922534355s", 38.922534),
        ("", None),
        ("5", None),
        ("5x", None),
        ("s", None),
        ("-5s", None),
        ("1s1m", None),
        ("99999999h", None),
    ],
)
def test_durations_are_read(text: str, expected: float | None) -> None:
    """Durations as Go writes them are read; anything else is none."""
    wait = duration(text)

    assert (wait and wait.total_seconds()) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "37",
            },
            37.0,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "-1"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0"}, None),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 60)}, 60.0),
        ({"x-ratelimit-reset": str((int(NOW.timestamp()) + 60) * 1000)}, 60.0),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) - 60)}, None),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": str(int(NOW.timestamp()) + 60)}, None),
        ({"x-ratelimit-reset": "9999999999999"}, None),
    ],
)
def test_resets_count_when_nothing_remains(headers: dict[str, str], expected: float | None) -> None:
    """Of the limits with nothing left the longest reset counts: a duration, seconds, or an epoch in s or ms."""
    assert seconds(headers) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"availability": {"retry_after": 40}}, 40.0),
        ({"availability": {"retry_after": "40"}}, 40.0),
        ({"availability": {"retry_after": -1}}, None),
        ({"availability": {"retry_after": True}}, None),
        ({"availability": "soon"}, None),
        ({"details": [{"@type": "x"}, {"retryDelay": "38.9s"}]}, 38.9),
        ({"details": [{"retryDelay": 38}]}, None),
        ({"details": [None, "x", {"retryDelay": "soon"}]}, None),
        ({"metadata": {"headers": {"X-RateLimit-Reset": str((int(NOW.timestamp()) + 60) * 1000)}}}, 60.0),
        ({"metadata": {"headers": None}}, None),
    ],
)
def test_bodies_show_waits(error: dict[str, Any], expected: float | None) -> None:
    """OpenRouter's and Google's fields in the error object count; other types than theirs do not."""
    assert seconds({}, error) == expected


def test_long_waits_are_handed_up() -> None:
    """A month is a wait like any other: the policy caps it, not the reader."""
    assert retry_after({"retry-after": "2592000"}, {}, NOW) == timedelta(days=30)
