"""Cleans what providers say before it is kept: one line, no control characters, nothing of our prompt, no key.

Providers quote what they were sent. A quotation can't be cut out safely, since it may be shortened, escaped or wrapped
otherwise than the prompt, so a text that holds one is dropped as a whole: the machine words beside it still say what
happened. Only texts that a provider wrote pass through here; our own words need no cleaning.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from ai_retry.secrecy import DROPPED, PART, runs

_MOST_READ = 500  # characters of a text that are looked at; what is kept is shorter
_QUOTED = 20  # characters in a row, spaces and case evened out, that make a quotation
_QUOTED_DENSE = 16  # the same without any spaces, quotes and backslashes
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_NOT_CONTENT = ("role", "type")  # of a message: the protocol's words, not the user's


class Redactor:
    """Cleans texts of one call."""

    def __init__(self, *, prompt: Any, secrets: Iterable[str]) -> None:
        """Remember what must not be shown.

        Args:
            prompt: JSON; every text in it counts, other than roles and types.
            secrets: keys.
        """
        self._prompt = prompt
        self._secrets = [secret for secret in secrets if secret]

    def line(self, text: str, most: int) -> str:
        """One line of at most ``most`` characters; ``[…]`` where something was left out."""
        text = _one_line(text[:_MOST_READ])
        if self._quotes(text):
            return DROPPED
        text = re.sub(r"\S+", lambda token: DROPPED if self._is_secret(token[0]) else token[0], text)
        return text if len(text) <= most else text[: most - 1].rstrip() + "…"

    def _is_secret(self, token: str) -> bool:
        if "***" in token:
            return True  # a key that the provider masked
        return any(part in token for secret in self._secrets for part in runs(secret, PART))

    def _quotes(self, text: str) -> bool:
        """Whether ``text`` quotes the prompt, as it is or with its escapes undone."""
        return any(self._holds(_even(form)) for form in {text, _one_line(_unescape(text))})

    def _holds(self, text: str) -> bool:
        if len(text) >= _QUOTED and _share(text, self._long, _QUOTED):
            return True
        dense = _dense(text)
        if len(dense) >= _QUOTED_DENSE and _share(dense, self._long_dense, _QUOTED_DENSE):
            return True
        return any(whole in text and re.search(rf"(?<!\w){re.escape(whole)}(?!\w)", text) for whole in self._short)

    @cached_property
    def _private(self) -> list[str]:
        return [_even(_one_line(text)) for text in _texts(self._prompt)]

    @cached_property
    def _long(self) -> str:
        """All of the prompt, to search in."""
        return "\0".join(self._private)

    @cached_property
    def _long_dense(self) -> str:
        """The same for dense texts; a model's name is too short to need it."""
        return "\0".join(map(_dense, self._private))

    @cached_property
    def _short(self) -> list[str]:
        """Those of its texts that are too short for that."""
        return sorted({text for text in self._private if text and len(text) < _QUOTED})


def _texts(value: Any) -> list[str]:
    found: list[str] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, Mapping):
            pending.extend(part for name, part in item.items() if name not in _NOT_CONTENT)
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return found


class _Cleaner(dict[int, int]):
    """For ``str.translate``: control, format, surrogate and unassigned characters (Unicode category C) to spaces."""

    def __missing__(self, code: int) -> int:
        self[code] = ord(" ") if unicodedata.category(chr(code)).startswith("C") else code
        return self[code]


_cleaner = _Cleaner()


def _one_line(text: str) -> str:
    return " ".join(text.translate(_cleaner).split())


def _even(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _dense(text: str) -> str:
    return "".join(text.split()).replace('"', "").replace("'", "").replace("\\", "")


def _unescape(text: str) -> str:
    """Undo the escapes of JSON, HTML and URLs."""
    text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    text = re.sub(r"\\([nrtbf])", " ", text)
    return unquote(html.unescape(text))


def _share(short: str, long: str, size: int) -> bool:
    """Whether both hold the same run of ``size`` characters: few searches in a prompt, which may be long."""
    return any(run in long for run in runs(short, size))
