"""``Storage`` over the Data API, with supabase-py's client of it and the project's secret key.

``data_api`` sends the requests, and imports that client. The first call, or ``prepare``, loads it: a program that sends
no request does not import it. ``functions`` says what each function means.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ai_retry.domain.errors import StorageUnavailable
from ai_retry.storage.codec import Json
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.operation import OperatorFunctions
from ai_retry.storage.outbox import OutboxFunctions
from ai_retry.storage.recovery import RecoveryFunctions
from ai_retry.storage.repeating import READ_FOR, SETTLE_FOR
from ai_retry.storage.spool import Spool

if TYPE_CHECKING:
    from ai_retry.storage.data_api import DataApi


class SupabaseStorage(OperatorFunctions, RecoveryFunctions, OutboxFunctions, FunctionStorage):
    """The storage as ``service_role`` over HTTPS.

    Args:
        url: the project's URL.
        secret_key: a key that acts as ``service_role``; it is in no repr, in no error and in no log of the driver.
        timeout: seconds for one request: longer than the functions' lock timeout of 3 s, and short enough for a
            second try while a user waits.
        max_connections: kept to the Data API.
        spool, read_for, settle_for: see ``FunctionStorage``.
    """

    def __init__(
        self,
        url: str,
        secret_key: str,
        *,
        timeout: float = 4.0,
        max_connections: int = 32,
        spool: Spool | None = None,
        read_for: timedelta = READ_FOR,
        settle_for: timedelta = SETTLE_FOR,
    ) -> None:
        super().__init__(self._call_function, spool=spool, read_for=read_for, settle_for=settle_for)
        self._url, self._is_closed = url, False
        self._apis: dict[str, DataApi] = {}  # one at most

        def make() -> "DataApi":  # so that no attribute holds the key
            from ai_retry.storage.data_api import connect  # noqa: PLC0415 - imports httpx and postgrest

            return connect(url, secret_key, timeout=timeout, max_connections=max_connections)

        self._make = make

    def __repr__(self) -> str:
        """Name the project, not the key."""
        return f"SupabaseStorage(url={self._url!r})"

    def prepare(self) -> None:
        """Import what the first call needs, so that no user waits for it. A repeat does nothing.

        Raises:
            NotConfigured: as the first call would.
        """
        self._api()

    def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        for api in self._apis.values():
            api.close()

    def _call_function(self, function: str, arguments: Json) -> Any:
        if self._is_closed:
            raise StorageUnavailable("closed")
        return self._api().call(function, arguments)

    def _api(self) -> "DataApi":
        """Return what sends requests, created once: first calls that run at once need no lock, and all get the same."""
        return self._apis.get("") or self._apis.setdefault("", self._make())
