"""The only place that wires adapters to ports.

Rules and formats don't belong here. What is heavy (an HTTP client, a database driver, a schema validator) is imported
by the function that needs it, so that ``import ai_retry`` stays light.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.config import DEFAULT_CONCURRENCY, Settings
from ai_retry.domain.context import refuse_reserved, stored_context
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import Context, Generation
from ai_retry.domain.ports import AiProvider, Clock
from ai_retry.domain.reader import ContextFrom, ContextUnusable, read_context
from ai_retry.imported import imported, imported_provider
from ai_retry.provider_settings import is_loopback
from ai_retry.recovery.methods import Diagnosis
from ai_retry.storage.spool import Spool, SpoolReport

if TYPE_CHECKING:
    from ai_retry.auth import TokenVerifier
    from ai_retry.events import OnEvent
    from ai_retry.worker import Worker

_READER = "AI_RETRY_CONTEXT_FROM"
_READS = "takes a Generation and returns a Context"
_REQUEST_SECONDS = 4.0  # more than the functions' lock timeout of 3 s, and short enough for a second try


def connect(
    settings: Settings | None = None,
    *,
    context_from: ContextFrom | None = None,
    ai: AiProvider | None = None,
    doctor: Callable[[], Diagnosis] | None = None,
    on_event: "OnEvent" = (),
) -> Client:
    """Make a client of Supabase, or PostgreSQL, and an OpenAI-compatible provider.

    Answers that an earlier process left in the spool are settled beside what the client does.

    Args:
        settings: what to connect to; from the environment when None.
        context_from: reads what to ask out of a generation; its models and schemas are checked all the same. None:
            what the settings name (``AI_RETRY_CONTEXT_FROM``), else ``stored_context``.
        ai: which provider is called, and is the caller's to close; None: the one that the settings name
            (``AI_RETRY_PROVIDER``), else those of ``AI_BASE_URL``, ``AI_FALLBACK_…`` and so on.
        doctor: examines the set-up, for ``Client.doctor``; ``ai_retry.connect`` passes one.
        on_event: hooks that get every event (``ai_retry.events``), in its thread; the log is written in any case.

    Raises:
        NotConfigured: names every variable that is missing or malformed, what of ``AI_RETRY_CONTEXT_FROM`` or
            ``AI_RETRY_PROVIDER`` can't be imported, or the extra that is not installed.
    """
    settings = settings or Settings.from_env(asks_provider=ai is None)
    clock = SystemClock()
    with ExitStack() as opened:
        own = ai
        if ai is None:
            ai = provider_of(settings, clock)
            own = ai if settings.provider is not None else None
            opened.callback(getattr(ai, "close", _nothing))
        reader = context_reader(settings, context_from, own=own)
        spool = Spool(settings.spool_dir) if settings.spool_dir is not None else None
        storage = opened.enter_context(closing(open_storage(settings, spool=spool)))
        if spool is not None:
            opened.callback(spool.close)
        client = Client(
            storage=storage,
            queue_storage=storage,
            recovery_storage=storage,
            operator_storage=storage,
            provider=getattr(ai, "name", None) or type(ai).__name__,
            ai=ai,
            clock=clock,
            policy=settings.policy,
            context_from=reader,
            max_calls=settings.max_calls,
            spool=spool,
            doctor=doctor,
            on_event=on_event,
            on_close=opened.pop_all().close,
        )
    if spool is not None:
        spool.send_beside(storage)
    return client


def provider_of(settings: Settings, clock: Clock) -> AiProvider:
    """Make the provider that the settings name: the app's own, else those of the API's that they describe.

    Of the latter each asks again for what is not valid, and one is asked when those before it fail.

    Raises:
        NotConfigured: the app's own can't be imported or made.
    """
    if settings.provider is not None:
        return imported_provider(settings.provider)
    from ai_retry.providers.fallback import FallbackProvider  # noqa: PLC0415 - light, but its parts are not
    from ai_retry.providers.http import HttpAiProvider  # noqa: PLC0415
    from ai_retry.providers.reask import ReaskProvider  # noqa: PLC0415

    first = HttpAiProvider(
        base_url=settings.ai_base_url,
        api_key=settings.ai_api_key,
        model=settings.ai_model,
        headers=settings.ai_headers,
        query=settings.ai_query,
        auth_header=settings.ai_auth_header,
        response_format=settings.ai_response_format,
        extra_body=settings.ai_extra_body,
        pool_size=settings.max_calls,
        clock=clock,
    )
    others = [
        HttpAiProvider(
            base_url=each.base_url,
            api_key=each.api_key,
            model=each.model,
            pool_size=settings.max_calls,
            clock=clock,
        )
        for each in settings.ai_fallbacks
    ]
    return FallbackProvider(
        [ReaskProvider(each, reasks=settings.ai_reasks, clock=clock) for each in (first, *others)],
        models=settings.ai_fallback_models,
        fallback_on=settings.ai_fallback_on,
        reserve=settings.ai_fallback_reserve,
        clock=clock,
    )


@contextmanager
def worker(
    settings: Settings | None = None,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    context_from: ContextFrom | None = None,
    on_event: "OnEvent" = (),
) -> "Iterator[Worker]":
    """Make a worker that runs accepted retries; connections are given back at the end.

    It does not touch what was accepted with another reader than its own: give it the same settings as the app. Where
    they name a webhook, its messages are delivered meanwhile.

    Raises:
        NotConfigured: as ``connect``.
    """
    from ai_retry.webhooks.running import delivering  # noqa: PLC0415 - imports requests

    settings = settings or Settings.from_env()
    with connect(replace(settings, max_calls=concurrency), context_from=context_from, on_event=on_event) as client:
        running = client.worker(concurrency=concurrency)
        outbox: Any = running.storage
        with delivering(settings, outbox, client.events):
            yield running


def settle(settings: Settings | None = None, *, adopt: bool = False) -> SpoolReport:
    """Send the answers that wait in the spool, and nothing else: no provider is called.

    Args:
        settings: what to connect to; from the environment when None.
        adopt: send what belongs to another installation or database, too: this one is a copy of it.

    Raises:
        NotConfigured: names what is missing.
    """
    settings = settings or Settings.from_env()
    if settings.spool_dir is None:
        raise NotConfigured("AI_RETRY_SPOOL_DIR is missing (the directory where answers wait)")
    with closing(open_storage(settings)) as storage:
        return Spool(settings.spool_dir).send_again(storage, adopt=adopt)


def _nothing() -> None:
    """Close what needs no closing."""


def context_reader(
    settings: Settings, given: ContextFrom | None = None, *, own: AiProvider | None = None
) -> ContextFrom:
    """Find what reads contexts: the function given, else the one that the settings name, else ``stored_context``.

    Args:
        settings: which models may be asked, and which one where a context names none.
        given: before what the settings name.
        own: the app's own provider, which may have a model of its own, or need none.

    Raises:
        NotConfigured: the settings name what can't be imported or called; says what to do.
    """
    named = settings.context_from
    reader = given or (imported(_READER, named, _READS) if named is not None else stored_context)
    return usable_context(
        reader,
        models=settings.ai_models,
        default_model=settings.ai_model or getattr(own, "model", None),
        check_schema=_check_schema,
        needs_model=own is None and settings.provider is None,
    )


def _check_schema(schema: Mapping[str, Any]) -> None:
    from ai_retry.providers.response_schema import schema_of  # noqa: PLC0415 - imports jsonschema: not every app needs it

    schema_of(schema)


def usable_context(
    context_from: ContextFrom,
    *,
    models: frozenset[str] | None,
    default_model: str | None,
    check_schema: Callable[[Mapping[str, Any]], object],
    needs_model: bool = True,
) -> ContextFrom:
    """Wrap ``context_from`` so that what can't be used is refused by ``admit``, before anything is claimed or called.

    A model that the settings do not allow raises ``ContextUnusable``: a worker with other settings than the app's keeps
    what the app accepted.

    Args:
        context_from: reads the context.
        models: those that a generation may name; None: any. The default is the operator's choice and always allowed.
        default_model: what is asked where a generation names none; None: it has to name one.
        check_schema: raises ``ContextMissing`` for what is not a JSON Schema.
        needs_model: whether the provider has to be given a model's name.
    """

    @wraps(context_from)  # so that it has the reader's name
    def checked(generation: Generation) -> Context:
        context = read_context(context_from, generation)
        if needs_model and context.model is None and default_model is None:
            raise ContextUnusable("it names no model, and no default is configured: set AI_MODEL")
        asked = {context.model, *(context.fallbacks or ())}
        if models is not None and not asked <= models | {None, default_model}:
            raise ContextUnusable("its model is not among those that may be used here (AI_MODELS)")
        if context.response_schema is not None:
            check_schema(context.response_schema)
        refuse_reserved(context.extra_body)
        return context

    return checked


def verifier(settings: Settings) -> "TokenVerifier":
    """Build what reads the user of an access token.

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
        accepted_roles=settings.accepted_roles,
        required_aal=settings.required_aal,
        allow_anonymous=settings.allow_anonymous,
    )


def open_storage(settings: Settings, *, timeout: float = _REQUEST_SECONDS, spool: Spool | None = None) -> Any:
    """Build the ``FunctionStorage`` that the settings name; the caller closes it.

    Args:
        settings: what to connect to.
        timeout: seconds for one request of the Data API.
        spool: where its paid answers are until they are settled; None: nowhere.

    Raises:
        NotConfigured: names what is missing.
    """
    if settings.database_url is not None:
        try:
            from ai_retry.storage.postgres import PostgresStorage  # noqa: PLC0415 - imports psycopg
        except ModuleNotFoundError as error:
            raise NotConfigured(f"{error.name} is not installed: install ai-retry with its extra postgres") from error
        return PostgresStorage(settings.database_url, spool=spool)
    from ai_retry.storage.supabase import SupabaseStorage  # noqa: PLC0415 - not needed beside the other

    if settings.supabase_url is None or settings.supabase_secret_key is None:
        raise NotConfigured("SUPABASE_URL and SUPABASE_SECRET_KEY, or DATABASE_URL, are missing")
    return SupabaseStorage(settings.supabase_url, settings.supabase_secret_key, timeout=timeout, spool=spool)
