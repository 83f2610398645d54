"""``Storage`` over the Data API, with supabase-py and the project's secret key.

supabase-py raises ``APIError`` for answers of the API and lets httpx's errors through; it repeats no RPC. What the
functions mean stands in ``_functions``.
"""

from typing import Any

import httpx
from postgrest.exceptions import APIError
from supabase import create_client
from supabase.client import ClientOptions

from ai_retry.domain.errors import AiRetryError, NotConfigured
from ai_retry.secrecy import guard_logs
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.recovery import RecoveryFunctions
from ai_retry.storage.rows import Json
from ai_retry.storage.transport import failure_of_sqlstate, reply_lost, unreachable

_UNREACHABLE = ("PGRST000", "PGRST001", "PGRST002", "PGRST003")  # the API has no database: PostgREST, errors, group 0
_SCHEMA_CACHE = ("PGRST106", "PGRST202", "PGRST203")  # schema not exposed; function unknown or ambiguous
_REFUSED = ("PGRST301", "PGRST302", "PGRST303", "401", "403", "404", "None")  # a gateway's refusal has no code
_TOO_MANY = "429"
_GATEWAY = (502, 503, 504)
_SQLSTATE_LENGTH = 5  # all others are the API's own, or an HTTP status


class SupabaseStorage(RecoveryFunctions, FunctionStorage):
    """The storage as ``service_role`` over HTTPS.

    Args:
        url: the project's URL.
        secret_key: a key that acts as ``service_role``; it is in no repr, in no error and in no log of the driver.
        timeout: seconds for one request: longer than the functions' lock timeout of 3 s, and short enough for a
            second try while a user waits.
        max_connections: kept to the Data API.
    """

    def __init__(self, url: str, secret_key: str, *, timeout: float = 4.0, max_connections: int = 32) -> None:
        super().__init__(self._call_function)
        self._url = url
        self._http = httpx.Client(
            timeout=timeout,
            event_hooks={"response": [_refuse_gateways]},
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
        )
        options = ClientOptions(httpx_client=self._http, auto_refresh_token=False, persist_session=False)
        # Built once here, since supabase-py builds it on first use and not under a lock.
        self._data_api = create_client(url, secret_key, options).postgrest
        guard_logs(secret_key)  # last, since httpx imports its driver, and its loggers, with its first client

    def __repr__(self) -> str:
        """Tell the project, not the key."""
        return f"SupabaseStorage(url={self._url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call_function(self, function: str, arguments: Json) -> Any:
        failure: AiRetryError
        try:
            return self._data_api.rpc(function, dict(arguments)).execute().data
        except APIError as error:
            # Its text may hold a row, so neither it nor its chain leaves this function.
            failure = _failure_of_api_code(str(error.code))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            failure = unreachable("Data API unreachable")
        except httpx.HTTPError:
            failure = reply_lost("Data API's reply lost")
        raise failure


def _refuse_gateways(response: httpx.Response) -> None:
    """Raise for the answers of gateways in front of the API: whatever their body says, the outcome is unknown."""
    if response.status_code in _GATEWAY:
        response.raise_for_status()


def _failure_of_api_code(code: str) -> AiRetryError:
    """Read a SQLSTATE, a PGRST code, or the HTTP status of an answer that was not JSON."""
    if code in _UNREACHABLE or code == _TOO_MANY:
        return unreachable(code)
    if code in _SCHEMA_CACHE:
        remedy = "apply the migrations of this version; if they are, run: notify pgrst, 'reload schema'"
        return NotConfigured(f"the Data API does not know ai-retry's functions ({code}): {remedy}")
    if code in _REFUSED:
        return NotConfigured(f"the Data API refused the request ({code}): check SUPABASE_URL and SUPABASE_SECRET_KEY")
    return failure_of_sqlstate(code) if len(code) == _SQLSTATE_LENGTH else reply_lost(code)
