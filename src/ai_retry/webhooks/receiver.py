"""Sends one message to the webhook's receiver, and says what it answered. Repeats nothing.

Redirects are not followed: what is signed goes to the address that the operator named, and nowhere else.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, timedelta
from http import HTTPStatus
from typing import Any, Final

import requests
from urllib3.exceptions import HTTPError

from ai_retry.deadline import Deadline, DeadlineAdapter, bounded_by
from ai_retry.domain.outbox import Announcement
from ai_retry.domain.ports import Clock
from ai_retry.provider_settings import is_loopback
from ai_retry.secrecy import guard_logs
from ai_retry.webhooks.signature import signed

DEADLINE: Final = 10.0  # seconds for one delivery, whatever the receiver does
GONE: Final = "GONE"  # the receiver wants no more messages
_MOST_READ: Final = 4096  # bytes of an answer; only its status matters
_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "ai-retry"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of one try."""

    code: str | None  # None: it was delivered; else HTTP_500 and so on, GONE, TIMEOUT, UNREACHABLE, BROKEN_OFF
    wait: timedelta | None = None  # how long the receiver asks to wait


class Receiver:
    """One address, and the secrets that messages to it are signed with. Safe to share between threads.

    Args:
        url: takes the messages.
        secrets: each signs.
        clock: of timestamps and deadlines.
        deadline: seconds for one delivery.
    """

    def __init__(self, url: str, secrets: Sequence[str], *, clock: Clock, deadline: float = DEADLINE) -> None:
        guard_logs(*secrets)
        self._url, self._secrets, self._clock, self._seconds = url, secrets, clock, deadline
        self._adapter = DeadlineAdapter(pool_size=4)
        session = requests.Session()
        # With an ``auth``, since requests would else look into a netrc file.
        self._request = session.prepare_request(requests.Request("POST", url, headers=_HEADERS, auth=_unchanged))
        found: Any = session.merge_environment_settings(url, proxies={}, stream=True, verify=None, cert=None)
        if is_loopback(url):  # unencrypted, perhaps: no proxy is between
            found["proxies"] = {}
        self._settings: Mapping[str, Any] = dict(found)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # an address may hold a secret, too

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    def post(self, message: Announcement) -> Answered:
        """Send a message, once. Raises nothing for what the receiver or the network does."""
        body = body_of(message)
        request = self._request.copy()
        request.prepare_body(body, None)
        timestamp = int(self._clock.now().timestamp())
        request.headers.update(signed(message.id, timestamp, body, self._secrets))
        deadline = Deadline(self._clock, self._seconds)
        try:
            with (
                bounded_by(deadline),
                closing(self._adapter.send(request, timeout=None, **self._settings)) as response,
            ):
                with suppress(HTTPError, OSError):
                    response.raw.read(_MOST_READ)  # so that its connection can be used again
                return _answered(response)
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            return Answered(code=_code_of(error, deadline))


def body_of(message: Announcement) -> bytes:
    """Write what is sent; each delivery of a message is the same to the byte."""
    happened_at = message.happened_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    document = {"type": message.type, "timestamp": happened_at, "data": message.data}
    return json.dumps(document, separators=(",", ":")).encode()


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _answered(response: requests.Response) -> Answered:
    status = response.status_code
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Answered(code=None)
    if status == HTTPStatus.GONE:
        return Answered(code=GONE)
    asked = response.headers.get("Retry-After", "")
    wait = timedelta(seconds=int(asked[:9])) if asked.isascii() and asked.isdigit() else None
    return Answered(code=f"HTTP_{status}", wait=wait)


def _code_of(error: Exception, deadline: Deadline) -> str:
    if deadline.left <= 0 or isinstance(error, requests.Timeout | TimeoutError):
        return "TIMEOUT"
    if isinstance(error, requests.exceptions.SSLError):
        return "CERTIFICATE"
    return "BROKEN_OFF" if deadline.sent else "UNREACHABLE"
