"""Secrets stay out of what the libraries below us log.

Drivers log why a connection failed, in the words of a server, and each address that they ask. A filter on their own
loggers leaves out every word that holds a part of a secret of ours, who logs in at an address, and an address's query.
It changes what they log, never whether: the rest of the line still says what is wrong.
"""

import logging
import re
from dataclasses import dataclass, field
from threading import Lock

DROPPED = "[…]"
PART = 6  # characters of a secret in a row that must not be seen

_LIBRARIES = ("hpack", "httpcore", "httpx", "psycopg", "psycopg_pool", "requests", "urllib3")
_LOGIN = re.compile(r"://\S*@")
_QUERY = re.compile(r"\?[^\s\"']+")
_WORD = re.compile(r"\S+")


def runs(text: str, size: int) -> set[str]:
    """All runs of ``size`` characters; a shorter text is one itself."""
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What is left out: each secret as a whole, and each word that holds one of the parts."""

    whole: tuple[str, ...] = field(default=(), repr=False)
    parts: frozenset[str] = field(default=frozenset(), repr=False)  # of ``PART`` characters each

    def with_one_more(self, secret: str) -> "_Secrets":
        """Add a secret; the longest come first, since one may hold another."""
        whole = sorted({*self.whole, secret}, key=len, reverse=True)
        return _Secrets(tuple(whole), self.parts | runs(secret, PART) if len(secret) >= PART else self.parts)

    def without(self, text: str) -> str:
        """Leave them out; a text is read once, however many secrets there are."""
        for secret in self.whole:
            text = text.replace(secret, DROPPED)
        if not self.parts or self.parts.isdisjoint(runs(text, PART)):  # as in nearly every line
            return text
        return _WORD.sub(lambda word: word[0] if self.parts.isdisjoint(runs(word[0], PART)) else DROPPED, text)


class _Guard(logging.Filter):
    """Cleans the records of the loggers that it is put on."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets = _Secrets()  # replaced as a whole, so that readers need no lock
        self._lock = Lock()

    def know(self, secret: str) -> None:
        """Leave this out from now on."""
        with self._lock:
            self._secrets = self._secrets.with_one_more(secret)

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the message and the exception; what needs no cleaning stays as it is."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # logging would print the arguments
            message, record.msg, record.args = DROPPED, DROPPED, ()
        if (cleaned := self._clean(message)) != message:
            record.msg, record.args = cleaned, ()
        if record.exc_info:
            text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            if (cleaned := self._clean(text)) != text:
                record.exc_text, record.exc_info = cleaned, None
        return True

    def _clean(self, text: str) -> str:
        return self._secrets.without(_QUERY.sub(f"?{DROPPED}", _LOGIN.sub(f"://{DROPPED}@", text)))


_guard = _Guard()


def guard_logs(*secrets: str) -> None:
    """Keep these secrets, and the queries of addresses, out of the logs of all drivers; a repeat adds to what is kept.

    An adapter calls it when it is made: by then its driver is imported, and has its loggers.
    """
    for secret in secrets:
        if secret:
            _guard.know(secret)
    known = logging.getLogger().manager.loggerDict
    for name in [*_LIBRARIES, *(name for name in list(known) if name.partition(".")[0] in _LIBRARIES)]:
        logging.getLogger(name).addFilter(_guard)
