"""How long a provider asks to wait, in all the forms in which providers say it.

The first valid form counts, in the order of ``retry_after``; an invalid one is passed over and never read as zero. How
long is too long is for the caller's policy: nothing is cut here, but a wait of more than a year is absurd, so invalid.
Message texts are not searched: they mislead.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)  # float() alone would read nan, -3, 1_000 and ٣
_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .*[0-9]{2}:[0-9]{2}:[0-9]{2}.*", re.ASCII)
_DURATION = re.compile(
    r"(?=.)(?:([0-9]{1,6})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m(?!s))?(?:([0-9]{1,9}(?:\.[0-9]{1,15})?)s)?"
    r"(?:([0-9]{1,12}(?:\.[0-9]{1,15})?)ms)?",
    re.ASCII,
)
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 10, 13  # digits, from the year 2001 to 2286
_ABSURD = timedelta(days=366)


def retry_after(headers: Mapping[str, str], error: Mapping[str, Any], now: datetime) -> timedelta | None:
    """Read the wait out of an answer; None when it names no wait.

    Args:
        headers: of the answer, names in lower case.
        error: the error object of its body, empty when there is none.
        now: of this machine; the answer's own ``Date`` is preferred, so that clocks may disagree.
    """
    server_now = _date(headers.get("date", "")) or now
    asked = (
        _milliseconds(headers.get("retry-after-ms", "")),
        _seconds_or_date(headers.get("retry-after", ""), server_now),
        _from_body(error),
        _from_resets(headers, server_now),
        _from_resets(_metadata_headers(error), server_now),
    )
    return next((wait for wait in asked if wait is not None), None)


def _milliseconds(text: str) -> timedelta | None:
    """``retry-after-ms``: Azure OpenAI, and first choice of OpenAI's own client."""
    seconds = _seconds(text)
    return None if seconds is None else seconds / 1000


def _seconds(text: str) -> timedelta | None:
    text = text.strip()
    return _sane(float(text)) if _NUMBER.fullmatch(text) else None


def _seconds_or_date(text: str, server_now: datetime) -> timedelta | None:
    """``Retry-After`` (RFC 9110, section 10.2.3), decimals allowed as several providers send them."""
    seconds = _seconds(text)
    if seconds is not None:
        return seconds
    moment = _date(text)
    return None if moment is None else _sane(max(0.0, (moment - server_now).total_seconds()))


def _date(text: str) -> datetime | None:
    """An HTTP-date in any of its three forms (RFC 9110, section 5.6.7)."""
    if not _DATE.fullmatch(text.strip()):
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def duration(text: str) -> timedelta | None:
    """Read ``6m0s``, ``2m59.56s``, ``20ms``, ``24h0m0s``: resets of OpenAI and Groq, Gemini's ``retryDelay``."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return _sane(days * 86400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)


def _from_body(error: Mapping[str, Any]) -> timedelta | None:
    """OpenRouter's ``availability.retry_after`` in seconds; Google's ``RetryInfo`` (google.rpc, error_details)."""
    availability = error.get("availability")
    if isinstance(availability, Mapping):
        wait = _seconds(str(availability.get("retry_after")))
        if wait is not None:
            return wait
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        wait = duration(delay) if isinstance(delay, str) else None
        if wait is not None:
            return wait
    return None


def _metadata_headers(error: Mapping[str, Any]) -> dict[str, str]:
    """OpenRouter repeats an upstream's headers in ``error.metadata.headers``."""
    metadata = error.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, Mapping) else None
    return {str(name).lower(): str(value) for name, value in headers.items()} if isinstance(headers, Mapping) else {}


def _from_resets(headers: Mapping[str, str], server_now: datetime) -> timedelta | None:
    """The longest reset of those limits of which nothing remains; a reset is when all of a limit is back."""
    waits = [
        _reset(headers.get(f"x-ratelimit-reset{limit}", ""), server_now)
        for limit, unnamed in (("", "0"), ("-requests", ""), ("-tokens", ""))
        if headers.get(f"x-ratelimit-remaining{limit}", unnamed).strip() == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def _reset(text: str, server_now: datetime) -> timedelta | None:
    """A duration, seconds from now, or seconds or milliseconds since 1970."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) in (_EPOCH_SECONDS, _EPOCH_MILLISECONDS):
        epoch = int(text) / (1000 if len(text) == _EPOCH_MILLISECONDS else 1)
        wait = _sane(epoch - server_now.timestamp())
    else:
        wait = duration(text) or _seconds(text)
    return wait or None  # a reset that is over says nothing


def _sane(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if 0 <= seconds <= _ABSURD.total_seconds() else None
