"""Calls functions over the Data API, with supabase-py's client of it: what the first call of a process imports.

The rest of supabase-py, for Auth, files and so on, takes as long to import as all else, and is left alone.

What the API, or a gateway in front of it, answers with an error is read here, before supabase-py does: only what the
database says itself is certain.
"""

import re
from typing import Any

import httpx
from postgrest import SyncPostgrestClient

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageUnavailable
from ai_retry.secrecy import guard_logs
from ai_retry.storage.codec import Json
from ai_retry.storage.forks import leave_connections_in_forks
from ai_retry.storage.transport import Fault, failure_of_sqlstate, reply_lost, unreachable

_NO_DATABASE = ("PGRST000", "PGRST001", "PGRST002", "PGRST003")  # PostgREST, errors, group 0
_SCHEMA_CACHE = ("PGRST106", "PGRST202", "PGRST203")  # schema not exposed; function unknown or ambiguous
_REFUSED = ("PGRST301", "PGRST302", "PGRST303")  # the key
_GATEWAY = (502, 503, 504)
_WRONG_PLACE = (401, 403, 404)  # where nothing else is known of them: a wrong key, or a wrong address
_SQLSTATE = re.compile("[0-9A-Z]{5}")
_API_CODE = re.compile("PGRST[0-9A-Z]{3}")


def connect(url: str, secret_key: str, *, timeout: float, max_connections: int) -> "DataApi":
    """Make the transport; it connects when it calls.

    Raises:
        NotConfigured: the environment names a proxy, or certificates, that can't be used.
    """
    try:
        return DataApi(url, secret_key, timeout=timeout, max_connections=max_connections)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        found = type(error).__name__
    remedy = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    raise NotConfigured(f"no client of the Data API can be made ({found}): {remedy}")


class DataApi:
    """The transport of a ``SupabaseStorage``, which says what each argument is. Safe to share between threads."""

    def __init__(self, url: str, secret_key: str, *, timeout: float, max_connections: int) -> None:
        self._has_answered = False
        self._inherited: list[object] = []  # clients of the processes that this one was forked from

        def connect() -> tuple[httpx.Client, SyncPostgrestClient]:
            http = httpx.Client(
                timeout=timeout,
                event_hooks={"response": [_raise_for_error]},
                limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            )
            headers = {"apiKey": secret_key, "Authorization": f"Bearer {secret_key}"}
            return http, SyncPostgrestClient(f"{url.rstrip('/')}/rest/v1", headers=headers, http_client=http)

        self._connect = connect
        self._http, self._data_api = connect()
        leave_connections_in_forks(self)
        guard_logs(secret_key)  # last, since httpx imports its driver, and its loggers, with its first client

    def leave_connections(self) -> None:
        """See ``forks``."""
        if not self._http.is_closed:
            self._inherited.append((self._http, self._data_api))
            self._http, self._data_api = self._connect()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, function: str, arguments: Json) -> Any:
        """Call ``public.<function>`` with named arguments, and return its JSON; see ``Transport``."""
        failure: AiRetryError
        try:
            reply = self._data_api.rpc(function, dict(arguments)).execute().data
        except _Refused as refused:
            failure = self._failure(refused.status, refused.code)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            failure = unreachable("Data API unreachable")
        except httpx.HTTPError:
            failure = reply_lost("Data API's reply lost")
        except RuntimeError:
            if not self._http.is_closed:
                raise
            failure = StorageUnavailable("closed")
        else:
            self._has_answered = True
            return reply
        raise failure

    def _failure(self, status: int, code: str | None) -> AiRetryError:
        """Say what an error means; where something in between may have answered, the outcome is unknown."""
        if status in _GATEWAY:
            return reply_lost(str(status))
        if code is not None and _SQLSTATE.fullmatch(code):
            return failure_of_sqlstate(code)
        if code in _NO_DATABASE:
            return unreachable(code)
        reason = code or str(status)
        if code in _SCHEMA_CACHE:
            remedy = "apply the migrations of this version; if they are, run: notify pgrst, 'reload schema'"
            return Fault(reason, f"the Data API does not know ai-retry's functions ({reason}): {remedy}")
        if code in _REFUSED or (code is None and status in _WRONG_PLACE and not self._has_answered):
            remedy = "check SUPABASE_URL and SUPABASE_SECRET_KEY"
            return Fault(reason, f"the Data API refused the request ({reason}): {remedy}")
        return reply_lost(reason)


class _Refused(Exception):
    """The answer is an error: its status, and the code in it where it is one of the API's or a SQLSTATE."""

    def __init__(self, status: int, code: str | None) -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


def _raise_for_error(response: httpx.Response) -> None:
    """Raise for an error without its text, which may hold a row, or be a page of something in between."""
    if not response.is_success:
        response.read()
        raise _Refused(response.status_code, _code_in(response))


def _code_in(response: httpx.Response) -> str | None:
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return None
    code = document.get("code") if isinstance(document, dict) else None
    known = isinstance(code, str) and (_SQLSTATE.fullmatch(code) or _API_CODE.fullmatch(code))
    return code if known else None
