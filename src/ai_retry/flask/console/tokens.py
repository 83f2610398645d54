"""Signed strings: the token that each form carries, and the line that a page shows after an action.

Both belong to one operator and end by themselves. Nothing is stored, so that any worker process of the app can check
what another one has signed.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

FORM_SECONDS: Final = 3600  # after this a form is loaded again
NOTE_SECONDS: Final = 300
SHORTEST_KEY: Final = 16  # bytes
_LONGEST: Final = 2048  # characters of a signed string
_GOOD, _BAD = b"+", b"-"
_LONGEST_NOTE: Final = 1024  # bytes; the address that carries it has to be short enough to be read


@dataclass(frozen=True, slots=True)
class Note:
    """What an action has done, for the page that follows."""

    text: str
    is_good: bool


class Tokens:
    """Signs and checks with the host's key; older keys are good for checking.

    Args:
        keys: the host's secrets, the current one first.
        now: seconds since the epoch.
    """

    def __init__(self, keys: Sequence[bytes], now: Callable[[], float]) -> None:
        self._keys = [hmac.digest(key, b"ai-retry console", hashlib.sha256) for key in keys]
        self._now = now

    @classmethod
    def of(cls, keys: Sequence[str | bytes], now: Callable[[], float]) -> Self:
        """Take keys as apps configure them."""
        return cls([key.encode() if isinstance(key, str) else key for key in keys], now)

    def form(self, operator: str) -> str:
        """Make the token of this operator's forms."""
        return self._signed("form", operator, "", FORM_SECONDS)

    def is_form(self, token: str, operator: str) -> bool:
        """Whether this is a token of this operator's forms, and not too old."""
        return self._read("form", operator, token) == ""

    def note(self, operator: str, note: Note) -> str:
        """Sign what the next page shows."""
        text = note.text.encode(errors="replace")
        if len(text) > _LONGEST_NOTE:
            text = text[:_LONGEST_NOTE].decode(errors="ignore").encode() + "\N{HORIZONTAL ELLIPSIS}".encode()
        content = urlsafe_b64encode((_GOOD if note.is_good else _BAD) + text).decode().rstrip("=")
        return self._signed("note", operator, content, NOTE_SECONDS)

    def noted(self, token: str, operator: str) -> Note | None:
        """Read it; None: it is not ours, not this operator's, or too old."""
        content = self._read("note", operator, token)
        if content is None:
            return None
        plain = urlsafe_b64decode(content + "=" * (-len(content) % 4))
        return Note(plain[1:].decode(), plain[:1] == _GOOD)

    def directory_name(self) -> str:
        """Name what belongs to this key, without showing any of it."""
        return self._mac(self._keys[0], "directory", "", "")[:16]

    def _signed(self, kind: str, operator: str, content: str, seconds: int) -> str:
        body = f"{int(self._now()) + seconds}.{content}"
        return f"{body}.{self._mac(self._keys[0], kind, operator, body)}"

    def _read(self, kind: str, operator: str, token: str) -> str | None:
        if len(token) > _LONGEST or not token.isascii():
            return None
        body, _, mac = token.rpartition(".")
        if not any(hmac.compare_digest(mac, self._mac(key, kind, operator, body)) for key in self._keys):
            return None
        ends, _, content = body.partition(".")
        return content if float(ends) > self._now() else None

    @staticmethod
    def _mac(key: bytes, kind: str, operator: str, body: str) -> str:
        return hmac.new(key, f"{kind}\0{operator}\0{body}".encode(), hashlib.sha256).hexdigest()
