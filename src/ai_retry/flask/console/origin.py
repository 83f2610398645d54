"""Whether a request comes from the console's own pages: what browsers say of a request's origin has to agree."""

from collections.abc import Collection
from typing import Protocol
from urllib.parse import urlsplit


class Headers(Protocol):
    """The headers of a request, by name in any case."""

    def get(self, name: str, /) -> str | None:
        """Return one; None: it is not there."""
        ...


def refused_by(headers: Headers, *, own: Collection[str], changes: bool) -> str | None:
    """Return the name of the header because of which a request is refused; None: it is not.

    Every one of these headers that is there has to agree. A request that changes something needs one at least: browsers
    send one, and what sends none is no browser of an operator.

    Args:
        headers: of the request; its look-up ignores case.
        own: origins that the console's pages have, such as ``https://app.example``.
        changes: whether the request changes something; if not, it may be a link on a page elsewhere.
    """
    site, mode = headers.get("Sec-Fetch-Site"), headers.get("Sec-Fetch-Mode")
    origin, referer = headers.get("Origin"), headers.get("Referer")
    if site is not None and site != "same-origin" and (changes or (site != "none" and mode != "navigate")):
        return "Sec-Fetch-Site"
    if origin is not None and origin not in own:
        return "Origin"
    if not changes:
        return None
    if referer is not None and _origin_of(referer) not in own:
        return "Referer"
    return "Origin" if site is None and origin is None and referer is None else None


def as_origin(address: str) -> str:
    """Return an address of an app as browsers write its origin.

    Raises:
        ValueError: it is no such address, and no browser would ever send it.
    """
    parts = urlsplit(address.rstrip("/").lower())
    port = {"https": ":443", "http": ":80"}.get(parts.scheme)
    if port is None or not parts.hostname or "@" in parts.netloc or not address.isascii() or any(parts[2:]):
        raise ValueError("no origin")
    return f"{parts.scheme}://{parts.netloc.removesuffix(port)}"


def _origin_of(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"
