"""Where requests go, and how: what all requests of a provider have in common, put together once.

Preparing a request costs more than sending it: a URL is parsed, headers are merged, and every proxy variable of the
environment is looked for. None of that differs between two requests to one address.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

import requests
from requests.auth import AuthBase

from ai_retry.providers.arguments import key_header
from ai_retry.providers.question import secrets_in

_Headers: TypeAlias = tuple[tuple[str, str | bytes], ...]


class KeyAuth(AuthBase):
    """Carries the key. Given even without one, since ``requests`` would then look into a netrc file."""

    def __init__(self, header: str, api_key: str | None) -> None:
        self.headers = key_header(header, api_key)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the header on a request, as ``requests`` wants it."""
        request.headers.update(self.headers)
        return request


class Address:
    """One address, asked with one session's settings.

    They are read when it is first asked, but for the session's headers: an app may exchange a token in them.
    """

    def __init__(
        self,
        session: requests.Session,
        url: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        auth: KeyAuth,
    ) -> None:
        self._session, self._url = session, url
        self._query, self._auth = dict(query), auth
        self._headers = {**headers, "Content-Type": "application/json"}
        self._known: tuple[_Headers, requests.PreparedRequest] | None = None  # replaced as a whole: it needs no lock

    def request(self, body: bytes, headers: Mapping[str, str]) -> requests.PreparedRequest:
        """Prepare a request.

        Raises:
            ValueError: the address, or a header, can't be used.
        """
        request = self._common().copy()
        request.prepare_body(body, None)
        request.headers.update(headers)
        return request

    @property
    def secrets(self) -> list[str]:
        """What the session's headers carry that must not be shown."""
        return secrets_in(self._session.headers)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """How requests are carried: proxies, certificates, and that the answer is read as it comes."""
        verify = None if self._session.verify is True else self._session.verify  # else REQUESTS_CA_BUNDLE would win
        prepared = str(self._common().url)
        found: Any = self._session.merge_environment_settings(
            prepared, proxies={}, stream=True, verify=verify, cert=None
        )
        return dict(found)

    def _common(self) -> requests.PreparedRequest:
        headers = tuple(self._session.headers.items())
        known = self._known
        if known is None or known[0] != headers:
            asked = requests.Request("POST", self._url, params=self._query, headers=self._headers, auth=self._auth)
            known = self._known = headers, self._session.prepare_request(asked)
        return known[1]
