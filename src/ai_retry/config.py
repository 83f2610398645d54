"""Settings from environment variables, checked once; all faults are one error.

Nothing here connects, imports an adapter or keeps state: ``bootstrap`` does with the settings what they say. No error
message holds a value, since the wrong value of one variable may well be the right secret of another.
"""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from ai_retry.auth_settings import assurance, issuers, roles
from ai_retry.connection_settings import jwt_secret, postgres_url, project_url, publishable_key, secret_key
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import QuotaRule, ResponseFormat
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.provider_settings import (
    Fallback,
    extra_body,
    fallback_on,
    header_name,
    headers,
    http_url,
    import_string,
    is_loopback,
    numbered,
    ordered_words,
    response_format,
    texts,
    word,
    words,
)
from ai_retry.scalar_settings import absolute_path, count, positive, seconds, yes_or_no
from ai_retry.webhook_settings import webhook_secrets, webhook_url

OPENROUTER: Final = "https://openrouter.ai/api/v1"
DEFAULT_MAX_CALLS: Final = 32
DEFAULT_CONCURRENCY: Final = 8  # of a worker
_PREFIX: Final = "AI_RETRY_"
_OWN_PROVIDER: Final = "AI_RETRY_PROVIDER"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that ``connect`` needs to know; ``repr`` shows no key, password or header."""

    supabase_url: str | None = None  # the project's address; None only with a database_url
    supabase_secret_key: str | None = field(default=None, repr=False)  # sb_secret_…; None only with a database_url
    supabase_publishable_key: str | None = field(default=None, repr=False)  # sb_publishable_…, to verify HS256 tokens
    supabase_jwt_secret: str | None = field(default=None, repr=False)  # to verify HS256 tokens without a request
    supabase_jwt_issuer: tuple[str, ...] | None = None  # what ``iss`` may be; None: {supabase_url}/auth/v1
    database_url: str | None = field(default=None, repr=False)  # a direct connection instead of the Data API
    ai_base_url: str = OPENROUTER  # address of an OpenAI-compatible API, without chat/completions
    ai_api_key: str | None = field(default=None, repr=False)  # None only for a provider on this machine
    ai_auth_header: str = "Authorization"  # header of the key; a bearer token there, the bare key in any other header
    ai_model: str | None = None  # the model where a generation names none
    ai_models: frozenset[str] | None = None  # the only models that generations may name; None: any
    ai_headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # sent with each call
    ai_query: Mapping[str, str] = field(default_factory=dict, repr=False)  # such as Azure's api-version
    ai_response_format: ResponseFormat = ResponseFormat.JSON_SCHEMA  # how the provider is asked to keep to a schema
    ai_extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)  # further fields of each request
    ai_reasks: int = 1  # how often a model is asked again for an answer that is not valid under its schema
    ai_fallback_models: tuple[str, ...] = ()  # asked in this order when the first model fails
    ai_fallbacks: tuple[Fallback, ...] = ()  # further providers: AI_FALLBACK_1_BASE_URL, …_API_KEY, …_MODEL, 2, …
    ai_fallback_on: frozenset[str] = frozenset()  # fall back also after a timeout, or after a refusal by the model
    ai_fallback_reserve: timedelta = timedelta(seconds=3)  # part of the deadline that is left for each further call
    policy: RetryPolicy = DEFAULT_POLICY
    max_calls: int = DEFAULT_MAX_CALLS  # provider calls that run at once in this process
    spool_dir: Path | None = None  # where paid answers wait while the database is unavailable; None: nowhere
    accepted_roles: frozenset[str] = frozenset({"authenticated"})  # what ``role`` of an access token may be
    required_aal: str | None = None  # aal2: only users who signed in with a second factor; None: any level
    allow_anonymous: bool = True  # whether users who signed in anonymously may retry
    context_from: str | None = None  # package.module:function that reads contexts; None: ``stored_context``
    provider: str | None = None  # package.module:function that makes the provider; None: the one at AI_BASE_URL
    webhook_url: str | None = field(default=None, repr=False)  # gets signed messages about ends; None: nothing does
    webhook_secret: tuple[str, ...] = field(default=(), repr=False)  # signs them: whsec_…; several while it is rotated

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, *, asks_provider: bool = True) -> Self:
        """Read the settings; an empty variable counts as absent, blanks around a value are dropped.

        Args:
            environ: the variables.
            asks_provider: whether the provider of the settings is asked; another one needs no ``AI_API_KEY``.

        Raises:
            NotConfigured: names every variable that is missing, malformed or, with our prefix, unknown.
        """
        return cls(**_Reader(environ, asks_provider=asks_provider).read())


class _Reader:
    """Reads variables and collects what is wrong with them, so that one error names all of it."""

    def __init__(self, environ: Mapping[str, str], *, asks_provider: bool) -> None:
        self._values = {name: text.strip() for name, text in environ.items() if text.strip()}
        self._asks_provider = asks_provider and _OWN_PROVIDER not in self._values
        self._problems: list[str] = []

    def read(self) -> dict[str, Any]:
        settings = self._supabase() | self._provider() | self._fallbacks() | self._numbers()
        if self._problems:
            raise NotConfigured("; ".join(self._problems))
        return settings

    def _supabase(self) -> dict[str, Any]:
        database_url = self._get("DATABASE_URL", postgres_url)
        url = self._get("SUPABASE_URL", project_url)
        key = self._get("SUPABASE_SECRET_KEY", secret_key)
        if "DATABASE_URL" not in self._values:
            self._need("SUPABASE_URL", "the project's address, or set DATABASE_URL to go straight to PostgreSQL")
            self._need("SUPABASE_SECRET_KEY", "a secret key of the project, sb_secret_… in its settings under API Keys")
        return {
            "supabase_url": url,
            "supabase_secret_key": key,
            "supabase_publishable_key": self._get("SUPABASE_PUBLISHABLE_KEY", publishable_key),
            "supabase_jwt_secret": self._get("SUPABASE_JWT_SECRET", jwt_secret),
            "supabase_jwt_issuer": self._get("SUPABASE_JWT_ISSUER", issuers),
            "database_url": database_url,
        }

    def _provider(self) -> dict[str, Any]:
        chosen = self._get("AI_BASE_URL", http_url)
        base_url = chosen or OPENROUTER
        is_far = not is_loopback(base_url) and (chosen is not None or "AI_BASE_URL" not in self._values)
        if is_far and self._asks_provider:
            self._need("AI_API_KEY", "the AI provider's key, which only a provider on this machine goes without")
        return {
            "ai_base_url": base_url,
            "ai_api_key": self._get("AI_API_KEY", word),
            "ai_auth_header": self._get("AI_AUTH_HEADER", header_name) or "Authorization",
            "ai_model": self._get("AI_MODEL", word),
            "ai_models": self._get("AI_MODELS", words),
            "ai_headers": self._get("AI_HEADERS", headers) or {},
            "ai_query": self._get("AI_QUERY", texts) or {},
            "ai_response_format": self._get("AI_RESPONSE_FORMAT", response_format) or ResponseFormat.JSON_SCHEMA,
            "ai_extra_body": self._get("AI_EXTRA_BODY", extra_body) or {},
        }

    def _fallbacks(self) -> dict[str, Any]:
        """Read whom to ask when the first call fails, or when its answer is not valid."""
        known = ("AI_FALLBACK_MODELS", "AI_FALLBACK_ON", "AI_FALLBACK_RESERVE_SECONDS")
        names = [each for each in self._values if each.startswith("AI_FALLBACK_") and each not in known]
        if _OWN_PROVIDER in self._values:
            unused = [each for each in self._values if each.startswith("AI_FALLBACK_") or each == "AI_REASKS"]
            self._problems += [f"{each} is not used beside {_OWN_PROVIDER} (do it in there)" for each in unused]
        numbers, unknown = numbered(names)
        self._problems += [
            f"{each} is unknown (AI_FALLBACK_1_BASE_URL, …_API_KEY and …_MODEL are known)" for each in unknown
        ]
        reasks, reserve = self._get("AI_REASKS", count), self._get("AI_FALLBACK_RESERVE_SECONDS", seconds)
        return {
            "ai_reasks": 1 if reasks is None else reasks,
            "ai_fallback_models": self._get("AI_FALLBACK_MODELS", ordered_words) or (),
            "ai_fallbacks": tuple(self._fallback(number) for number in numbers),
            "ai_fallback_on": self._get("AI_FALLBACK_ON", fallback_on) or frozenset(),
            "ai_fallback_reserve": timedelta(seconds=3) if reserve is None else reserve,
        }

    def _fallback(self, number: int) -> Fallback:
        prefix = f"AI_FALLBACK_{number}_"
        self._need(f"{prefix}BASE_URL", "the address of that provider's API")
        base_url = self._get(f"{prefix}BASE_URL", http_url) or OPENROUTER
        if not is_loopback(base_url):
            self._need(f"{prefix}API_KEY", "that provider's key, which only a provider on this machine goes without")
        key, model = self._get(f"{prefix}API_KEY", word), self._get(f"{prefix}MODEL", word)
        return Fallback(number=number, base_url=base_url, api_key=key, model=model)

    def _numbers(self) -> dict[str, Any]:
        """Read ``AI_RETRY_…``: one variable for each number of the policy, those of ``_OTHERS``, and nothing else."""
        policy, quota = _variables(DEFAULT_POLICY), _variables(DEFAULT_POLICY.quota, "quota_")
        known = {variable: parse for variable, (_, parse) in (policy | quota).items()}
        known |= {variable_of(name): parse for name, parse in _OTHERS.items()}
        for variable in self._values:
            if variable.startswith(_PREFIX) and variable not in known:
                close = meant(variable)
                hint = f"did you mean {close}?" if close else f"known: {', '.join(sorted(known))}"
                self._problems.append(f"{variable} is unknown ({hint})")
        values = {variable: self._get(variable, parse) for variable, parse in known.items()}
        if "AI_RETRY_WEBHOOK_URL" in self._values:
            self._need("AI_RETRY_WEBHOOK_SECRET", "whsec_…, which signs what is sent to the webhook")
        elif "AI_RETRY_WEBHOOK_SECRET" in self._values:
            self._need("AI_RETRY_WEBHOOK_URL", "the address that messages are sent to")
        return {
            "policy": self._policy(_chosen(policy, values), _chosen(quota, values)),
            **{name: value for name in _OTHERS if (value := values[variable_of(name)]) is not None},
        }

    def _policy(self, numbers: dict[str, Any], quota: dict[str, Any]) -> RetryPolicy:
        try:
            return RetryPolicy(quota=QuotaRule(**quota), **numbers)
        except ValueError as error:
            self._problems.append(f"{_PREFIX}*: {error}")
            return DEFAULT_POLICY

    def _need(self, variable: str, remedy: str) -> None:
        if variable not in self._values:
            self._problems.append(f"{variable} is missing ({remedy})")

    def _get(self, variable: str, parse: Callable[[str], _T]) -> _T | None:
        """Parse a variable; None when it is absent, or malformed and noted."""
        if variable not in self._values:
            return None
        try:
            return parse(self._values[variable])
        except ValueError as error:
            self._problems.append(f"{variable} {error}")
            return None


def variables() -> list[str]:
    """List the variables that ``Settings.from_env`` reads."""
    names = (each.name for each in fields(Settings) if each.name not in ("policy", "ai_fallbacks"))
    rules = [*_variables(DEFAULT_POLICY), *_variables(DEFAULT_POLICY.quota, "quota_")]
    return [variable_of(name) for name in names] + rules


def variable_of(field_name: str) -> str:
    """Name the variable that a field of ``Settings`` is read from; ``policy`` and ``ai_fallbacks`` have many."""
    special = {"ai_fallback_reserve": "AI_FALLBACK_RESERVE_SECONDS", "ai_fallbacks": "AI_FALLBACK_<N>_…"}
    if field_name in special:
        return special[field_name]
    return f"{_PREFIX if field_name in _OTHERS else ''}{field_name}".upper()


def meant(variable: str, *, likeness: float = 0.6) -> str | None:
    """Return the variable that was probably meant, also where only its prefix differs; None when no name is like it.

    Args:
        variable: a name that is not read.
        likeness: from 0 to 1, at least.
    """
    known = {_bare(each): each for each in variables()}  # the common part would make all of them alike
    close = difflib.get_close_matches(_bare(variable), known, n=1, cutoff=likeness)
    return known[close[0]] if close else None


def _bare(variable: str) -> str:
    return variable.removeprefix(_PREFIX).removeprefix("AI_")


_Variables = dict[str, tuple[str, Callable[[str], Any]]]


def _variables(defaults: Any, prefix: str = "") -> _Variables:
    """Name a variable for each number in ``defaults``: its field, and how it is written."""
    found: _Variables = {}
    for name in (each.name for each in fields(defaults)):
        match getattr(defaults, name):
            case bool():
                found[f"{_PREFIX}{prefix}{name}".upper()] = name, yes_or_no
            case int():
                found[f"{_PREFIX}{prefix}{name}".upper()] = name, count
            case timedelta() | None:
                found[f"{_PREFIX}{prefix}{name}_seconds".upper()] = name, seconds
    return found


def _chosen(variables: _Variables, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[variable] for variable, (name, _) in variables.items() if values[variable] is not None}


_OTHERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "max_calls": positive,
    "spool_dir": absolute_path,
    "context_from": import_string,
    "provider": import_string,
    "accepted_roles": roles,
    "required_aal": assurance,
    "allow_anonymous": yes_or_no,
    "webhook_url": webhook_url,
    "webhook_secret": webhook_secrets,
}
