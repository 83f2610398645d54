"""The only place that wires adapters to ports.

Rules and formats don't belong here. What is heavy (an HTTP client, a database driver, a schema validator) is imported
by the function that needs it, so that ``import ai_retry`` stays light.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from ai_retry.clock import SystemClock
from ai_retry.config import DEFAULT_MAX_CALLS, Settings, is_loopback
from ai_retry.domain import retry
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import ContextMissing, NotConfigured
from ai_retry.domain.model import Context, Generation, RetryResult, Waiver
from ai_retry.domain.policy import DEFAULT_POLICY, ContextFrom, RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, Storage
from ai_retry.domain.retry import RetryStatus, as_uuid
from ai_retry.slots import CallSlots, SlottedStorage
from ai_retry.spool import Spool, SpoolReport

if TYPE_CHECKING:
    from ai_retry.auth import TokenVerifier

_NO_WAIVERS: frozenset[Waiver] = frozenset()


class Client:
    """Retries generations with what it was given; ``connect`` makes one from settings.

    Safe to share between threads. Close it, or use it as a context manager, to give back connections.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        ai: AiProvider,
        clock: Clock | None = None,
        policy: RetryPolicy = DEFAULT_POLICY,
        context_from: ContextFrom = stored_context,
        max_calls: int = DEFAULT_MAX_CALLS,
        spool: Spool | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the parts.

        Args:
            storage: where generations and attempts live.
            ai: whom to ask.
            clock: measures durations; this machine's when None.
            policy: the numbers behind the rules.
            context_from: reads what to ask out of a generation.
            max_calls: provider calls that run at once through this client.
            spool: where answers wait that ``storage`` could not settle, for ``settle``.
            on_close: frees what the client was given.
        """
        self._storage, self._ai, self._clock = storage, ai, clock or SystemClock()
        self._policy, self._context_from = policy, context_from
        self._slots = CallSlots(max_calls)
        self._spool = spool
        self._on_close = on_close

    def retry_generation(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        idempotency_key: str | None = None,
        waive: frozenset[Waiver] = _NO_WAIVERS,
        charge: bool = True,
        operator: str | None = None,
    ) -> RetryResult:
        """Try a failed generation again, once, and return its session: see ``ai_retry.domain.retry``.

        Raises:
            TooManyParallel: also when ``max_calls`` calls are running here; nothing was written.
            AiRetryError: as told there.
            ValueError: an id is not a UUID.
        """
        with SlottedStorage(self._storage, self._slots) as storage:
            return retry.retry_generation(
                user_id,
                generation_id,
                storage=storage,
                ai=self._ai,
                clock=self._clock,
                policy=self._policy,
                context_from=self._context_from,
                idempotency_key=idempotency_key,
                waive=waive,
                charge=charge,
                operator=operator,
            )

    def status(self, user_id: UUID | str, generation_id: UUID | str) -> RetryStatus:
        """Tell where a generation stands and what a retry would be answered now. Reads only.

        Raises:
            GenerationNotFound: there is none for this user.
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID.
        """
        return retry.retry_status(
            user_id, generation_id, storage=self._storage, policy=self._policy, context_from=self._context_from
        )

    def discard_answer(self, user_id: UUID | str, generation_id: UUID | str, *, operator: str) -> bool:
        """Drop a stored answer that can never become a session, so that the next retry calls again; recorded.

        Returns:
            Whether there was one.

        Raises:
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID.
        """
        return self._storage.discard_answer(
            as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id"), operator=operator
        )

    def settle(self) -> SpoolReport:
        """Send answers again that wait in the spool because the storage was away. Safe to repeat at any time."""
        return self._spool.send_again(self._storage) if self._spool is not None else SpoolReport()

    def close(self) -> None:
        """Give back connections. A repeat does nothing."""
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(storage={self._storage!r}, ai={self._ai!r})"


def connect(settings: Settings | None = None, *, context_from: ContextFrom = stored_context) -> Client:
    """Make a client of Supabase, or PostgreSQL, and an OpenAI-compatible provider.

    Answers that an earlier process left in the spool are settled first, as far as the storage is there.

    Args:
        settings: what to connect to; from the environment when None.
        context_from: reads what to ask out of a generation; its models and schemas are checked all the same.

    Raises:
        NotConfigured: names every variable that is missing or malformed, or the extra that is not installed.
    """
    from ai_retry.providers.http import HttpAiProvider  # noqa: PLC0415 - imports requests
    from ai_retry.providers.validation import check_schema  # noqa: PLC0415 - imports jsonschema
    from ai_retry.storage.repeating import RepeatingStorage  # noqa: PLC0415 - imports tenacity

    settings = settings or Settings.from_env()
    clock = SystemClock()
    with ExitStack() as opened:
        adapter = opened.enter_context(closing(_storage(settings)))
        spool = Spool(settings.spool_dir) if settings.spool_dir is not None else None
        ai = HttpAiProvider(
            base_url=settings.ai_base_url,
            api_key=settings.ai_api_key,
            model=settings.ai_model,
            headers=settings.ai_headers,
            query=settings.ai_query,
            auth_header=settings.ai_auth_header,
            pool_size=settings.max_calls,
            clock=clock,
        )
        opened.callback(ai.close)
        if spool is not None:
            spool.send_again(adapter)
        return Client(
            storage=RepeatingStorage(adapter, spool),
            ai=ai,
            clock=clock,
            policy=settings.policy,
            context_from=usable_context(
                context_from, models=settings.ai_models, default_model=settings.ai_model, check_schema=check_schema
            ),
            max_calls=settings.max_calls,
            spool=spool,
            on_close=opened.pop_all().close,
        )


def settle(settings: Settings | None = None) -> SpoolReport:
    """Send the answers that wait in the spool, and nothing else: no provider is called.

    Raises:
        NotConfigured: names what is missing.
    """
    settings = settings or Settings.from_env()
    if settings.spool_dir is None:
        raise NotConfigured("AI_RETRY_SPOOL_DIR is missing (the directory where answers wait)")
    with closing(_storage(settings)) as storage:
        return Spool(settings.spool_dir).send_again(storage)


def usable_context(
    context_from: ContextFrom,
    *,
    models: frozenset[str] | None,
    default_model: str | None,
    check_schema: Callable[[Mapping[str, Any]], object],
) -> ContextFrom:
    """Wrap ``context_from`` so that what can't be used is refused by ``admit``, before anything is claimed or called.

    Args:
        context_from: reads the context.
        models: those that a generation may name; None: any. The default is the operator's choice and always allowed.
        default_model: what is asked where a generation names none; None: it has to name one.
        check_schema: raises ``ContextMissing`` for a JSON Schema that is none.
    """

    def checked(generation: Generation) -> Context:
        context = context_from(generation)
        if context.model is None and default_model is None:
            raise ContextMissing("it names no model, and no default is configured")
        if models is not None and context.model not in models | {None, default_model}:
            raise ContextMissing("its model is not among those that may be used here")
        if context.response_schema is not None:
            check_schema(context.response_schema)
        return context

    return checked


def verifier(settings: Settings) -> "TokenVerifier":
    """Make what tells the user of an access token.

    Only a Supabase on this machine may leave ``iss`` out of its HS256 tokens: Supabase Lite does, a hosted one never.

    Raises:
        NotConfigured: the project's address is not set.
    """
    from ai_retry.auth import TokenVerifier  # noqa: PLC0415 - imports requests and PyJWT

    if settings.supabase_url is None:
        raise NotConfigured("SUPABASE_URL is missing (the project's address, to verify access tokens)")
    return TokenVerifier(
        settings.supabase_url,
        jwt_secret=settings.supabase_jwt_secret,
        publishable_key=settings.supabase_publishable_key,
        issuer=settings.supabase_jwt_issuer,
        require_issuer=not is_loopback(settings.supabase_url),
    )


def _storage(settings: Settings) -> Any:  # a ``Storage`` that can be closed
    if settings.database_url is not None:
        try:
            from ai_retry.storage.postgres import PostgresStorage  # noqa: PLC0415 - imports psycopg
        except ModuleNotFoundError as error:
            raise NotConfigured(f"{error.name} is not installed: pip install 'ai-retry[postgres]'") from error
        return PostgresStorage(settings.database_url)
    from ai_retry.storage.supabase import SupabaseStorage  # noqa: PLC0415 - imports supabase

    if settings.supabase_url is None or settings.supabase_secret_key is None:
        raise NotConfigured("SUPABASE_URL and SUPABASE_SECRET_KEY, or DATABASE_URL, are missing")
    return SupabaseStorage(settings.supabase_url, settings.supabase_secret_key)
