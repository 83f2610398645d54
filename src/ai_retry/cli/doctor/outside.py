"""Judges what lies around the database: configuration, connection, clocks and the AI provider."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from importlib.util import find_spec

from ai_retry.cli.doctor.model import Check, Finding, Level
from ai_retry.config import Settings, meant, variables
from ai_retry.domain.errors import AiRetryError, NotConfigured
from ai_retry.domain.policy import RetryPolicy

_LEEWAY = timedelta(seconds=10)  # of ``auth`` for the times of an access token
_SUCCESS, _REDIRECT = 2, 3  # the first digit of a status
_NOT_FOUND = 404  # also where an API has no list of models
_JWT = "eyJ"  # how the JSON of a token's header begins, in Base64
_AGAIN = "then run ai-retry doctor again"
_LONGEST_REQUEST = timedelta(seconds=60)  # that servers, proxies and browsers bear as a rule
_PAUSED = "540"  # Supabase's own status for a paused project
_ALIKE = 0.85  # from 0 to 1; two letters of a dozen may be wrong


class Reach(StrEnum):
    """How far a plain connection gets."""

    OPEN = "a server answers there"
    REFUSED = "nothing listens there"
    SILENT = "there is no answer from there"
    UNKNOWN_HOST = "there is no such host"


@dataclass(frozen=True, slots=True)
class Asked:
    """How the provider answered a cheap question."""

    status: int | None  # None: no answer
    certificate_refused: bool = False
    something_else: str | None = None  # what shows that the API is not at this address; None: nothing does
    better_base: str | None = None  # an address near it, below which models are listed


def configuration(error: NotConfigured) -> Iterator[Finding]:
    """One finding for each variable that is missing, malformed or unknown."""
    for problem in str(error.details["missing"]).split("; "):
        yield Finding(Check.CONFIGURATION, problem, f"correct it in the environment, {_AGAIN}")


def misspelt(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Hint at variables that nothing reads and that look like one of ours; with our whole prefix they are refused."""
    read = variables()
    for name in sorted(environ):
        ours = name.startswith("AI_") and not name.startswith("AI_RETRY_") and name not in read
        ours = ours and not name.startswith("AI_FALLBACK_")  # those are refused where they are unknown
        if ours and (close := meant(name, likeness=_ALIKE)) is not None:
            yield Finding(
                Check.CONFIGURATION,
                f"{name} is not read",
                f"if you mean {close}, correct the name; if it is a variable of your own, leave it",
                Level.HINT,
            )


def deadline(policy: RetryPolicy) -> Iterator[Finding]:
    """Hint at calls that last longer than a proxy in front of an endpoint waits."""
    if policy.deadline > _LONGEST_REQUEST:
        yield Finding(
            Check.CONFIGURATION,
            f"AI_RETRY_DEADLINE_SECONDS is {policy.deadline.total_seconds():g}: a request would wait as long",
            "let clients send Prefer: respond-async, and run workers: servers and browsers end long requests",
            Level.HINT,
        )


def webhook(reached: Reach) -> Iterator[Finding]:
    """Say why messages can't arrive. Nothing is sent to find out."""
    if reached is not Reach.OPEN:
        yield Finding(
            Check.CONFIGURATION,
            f"the webhook's receiver can't be reached: {reached}",
            "check host and port in AI_RETRY_WEBHOOK_URL, and the network between; messages wait for about three days",
        )


def legacy_keys(settings: Settings) -> Iterator[Finding]:
    """Hint at API keys that Supabase deprecates: they are JWTs, and the newer ones have a prefix."""
    for variable, key, form in (
        ("SUPABASE_SECRET_KEY", settings.supabase_secret_key, "sb_secret_…"),
        ("SUPABASE_PUBLISHABLE_KEY", settings.supabase_publishable_key, "sb_publishable_…"),
    ):
        if key is not None and key.startswith(_JWT):
            yield Finding(
                Check.CONFIGURATION,
                f"{variable} is a legacy key, which Supabase deprecates by the end of 2026",
                f"create a key {form} in the project's settings, under API Keys, and set it",
                Level.HINT,
            )


def with_a_driver(settings: Settings) -> tuple[Settings, list[Finding]]:
    """Ask the Data API where psycopg, which DATABASE_URL needs, is not installed, and say so."""
    if settings.database_url is None or settings.supabase_url is None or settings.supabase_secret_key is None:
        return settings, []
    if find_spec("psycopg") is not None and find_spec("psycopg_pool") is not None:
        return settings, []
    problem = "psycopg is not installed, which DATABASE_URL needs: the Data API was asked in its place"
    remedy = "pip install 'ai-retry[postgres]', or take DATABASE_URL out of the environment"
    return replace(settings, database_url=None), [Finding(Check.CONNECTION, problem, remedy)]


def connection(error: AiRetryError, variable: str, reach: Reach) -> Finding:
    """Say why the database could not be asked.

    Args:
        error: what the storage raised; one that an operator can cure says how after a colon.
        variable: the one that holds the address.
        reach: how far a plain connection to that address gets.
    """
    if isinstance(error, NotConfigured):
        problem, _, remedy = str(error.details["missing"]).partition(": ")
        check = Check.MIGRATIONS if remedy.startswith("apply the migrations") else Check.CONNECTION
        return Finding(check, problem, remedy or f"correct what it names, {_AGAIN}")
    if reach is not Reach.OPEN:
        return Finding(
            Check.CONNECTION,
            f"the database can't be reached: {reach}",
            f"check host and port in {variable}, that the project is not paused, and the network between",
        )
    problem = f"a server answers at the address in {variable}, but the database could not be asked: {error}"
    if variable != "SUPABASE_URL":
        remedy = (
            f"check user, password and database in {variable}, and whether the server still has connections to give"
        )
    elif _PAUSED in str(error):
        problem, remedy = f"the project is paused (HTTP {_PAUSED})", "restore it in Supabase's dashboard"
    else:
        remedy = (
            f"check that {variable} is the project's own address, such as https://PROJECT.supabase.co, and that the "
            "project is up in Supabase's dashboard"
        )
    return Finding(Check.CONNECTION, problem.rstrip("."), remedy)


def clock(before: datetime, as_of: datetime, after: datetime) -> Iterator[Finding]:
    """Compare this machine's time around a question with the database's time in it."""
    ahead, behind = before - as_of, as_of - after
    apart = max(ahead, behind)
    if apart > _LEEWAY:
        yield Finding(
            Check.CLOCK,
            f"this machine's clock is {apart.total_seconds():.0f} s {'ahead of' if ahead > behind else 'behind'} the "
            "database's: good access tokens are refused, or expired ones taken; nothing else rests on it",
            "synchronise the clocks (NTP)",
        )


def provider(asked: Asked, reach: Reach, *, prefix: str = "AI_") -> Iterator[Finding]:
    """Judge the answer of a provider whose variables have this prefix."""
    for found in _provider(asked, reach):
        if prefix == "AI_":
            yield found
        else:
            remedy = found.remedy.replace("; AI_AUTH_HEADER names the header that carries it", "")
            yield replace(found, problem=f"{prefix}…: {_named(found.problem, prefix)}", remedy=_named(remedy, prefix))


def _named(text: str, prefix: str) -> str:
    """Name the variables of another provider."""
    return text.replace("AI_BASE_URL", f"{prefix}BASE_URL").replace("AI_API_KEY", f"{prefix}API_KEY")


def _provider(asked: Asked, reach: Reach) -> Iterator[Finding]:
    match asked.status:
        case None if asked.certificate_refused:
            yield _of_provider("its certificate is refused", "correct it, or name its authority in REQUESTS_CA_BUNDLE")
        case None if reach is Reach.OPEN:
            remedy = "check AI_BASE_URL: http or https, host and port"
            yield _of_provider(
                "a server takes the connection, and gives no answer to the question for its models", remedy
            )
        case None:
            remedy = "check AI_BASE_URL, the network, and HTTPS_PROXY and NO_PROXY if there is a proxy"
            yield _of_provider(f"it gives no answer: {reach}", remedy)
        case 401 | 403:
            remedy = "set AI_API_KEY to a valid key with credit; AI_AUTH_HEADER names the header that carries it"
            yield _of_provider(f"it refuses the key ({asked.status})", remedy)
        case _ if asked.better_base is not None:
            remedy = f"set AI_BASE_URL to {asked.better_base}, where models are listed"
            yield _of_provider(f"AI_BASE_URL is not the API's address: {asked.something_else}", remedy)
        case status if asked.something_else is not None and status != _NOT_FOUND:
            remedy = "check AI_BASE_URL: chat/completions is asked below it, and most APIs want /v1 at its end"
            yield _of_provider(f"AI_BASE_URL is not the API's address: {asked.something_else}", remedy)
        case status if status // 100 == _REDIRECT:
            remedy = "set AI_BASE_URL to the address it points at: redirects are not followed"
            yield _of_provider(f"it redirects ({status})", remedy)
        case status if status // 100 != _SUCCESS:
            remedy = (
                "not every API has that list; if retries fail, check AI_BASE_URL: chat/completions is asked below it"
            )
            yield _of_provider(f"it is there, and answers {status} when asked for its models", remedy, Level.HINT)


def _of_provider(problem: str, remedy: str, level: Level = Level.PROBLEM) -> Finding:
    return Finding(Check.PROVIDER, problem, remedy, level)
