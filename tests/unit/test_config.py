"""What settings promise: every mistake is named, at once, and no value is shown."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_retry.config import OPENROUTER, Settings, meant, variables
from ai_retry.domain.context import RESERVED
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import QuotaRule, ResponseFormat
from ai_retry.domain.policy import RetryPolicy
from ai_retry.provider_settings import Fallback, is_loopback

HOSTED = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SECRET_KEY": "sb_secret_0123456789",
    "AI_API_KEY": "sk-or-v1-0123456789",
}
EVERYTHING = HOSTED | {
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_0123456789",
    "SUPABASE_JWT_SECRET": "hs256-secret-" + "0" * 32,
    "SUPABASE_JWT_ISSUER": "https://auth.example.com/auth/v1, http://kong:8000/auth/v1",
    "DATABASE_URL": "postgresql://app:db-password@db.example.com:6543/postgres",
    "AI_BASE_URL": "https://example.openai.azure.com/openai/deployments/small/",
    "AI_MODEL": "small",
    "AI_MODELS": "small, openai/gpt-4.1 ,large",
    "AI_HEADERS": '{"X-Title": "Training", "api-key": "azure-key-0123456789"}',
    "AI_QUERY": '{"api-version": "2024-10-21"}',
    "AI_RESPONSE_FORMAT": "json_object",
    "AI_EXTRA_BODY": '{"max_tokens": 800, "provider": {"api_key": "byok-0123456789"}}',
    "AI_REASKS": "2",
    "AI_FALLBACK_MODELS": "large, openai/gpt-4.1",
    "AI_FALLBACK_10_BASE_URL": "http://localhost:11434/v1",
    "AI_FALLBACK_2_BASE_URL": "https://other.example.com/v1/",
    "AI_FALLBACK_2_API_KEY": "other-0123456789",
    "AI_FALLBACK_2_MODEL": "medium",
    "AI_FALLBACK_ON": "timeout,refusal",
    "AI_FALLBACK_RESERVE_SECONDS": "4.5",
    "AI_RETRY_MAX_ATTEMPTS": "5",
    "AI_RETRY_HARD_CAP": "30",
    "AI_RETRY_HARD_CAP_WINDOW_SECONDS": "3600",
    "AI_RETRY_BACKOFF_BASE_SECONDS": "0.5",
    "AI_RETRY_BACKOFF_CAP_SECONDS": "60",
    "AI_RETRY_MAX_WAIT_SECONDS": "7200",
    "AI_RETRY_MAX_PARALLEL": "3",
    "AI_RETRY_QUOTA_LIMIT": "0",
    "AI_RETRY_QUOTA_WINDOW_SECONDS": "604800",
    "AI_RETRY_QUOTA_COUNT_OWN_SUCCESSES": "False",
    "AI_RETRY_DEADLINE_SECONDS": "20",
    "AI_RETRY_LEASE_SECONDS": "45",
    "AI_RETRY_SETTLE_MARGIN_SECONDS": "6",
    "AI_RETRY_LEFT_BEHIND_SECONDS": "1200",
    "AI_RETRY_MAX_QUEUED_SECONDS": "43200",
    "AI_RETRY_MAX_ABANDONED": "2",
    "AI_RETRY_OUTAGE_CAP_SECONDS": "20",
    "AI_RETRY_ANSWER_MAX_AGE_SECONDS": "86400",
    "AI_RETRY_MAX_CALLS": "8",
    "AI_RETRY_CONTEXT_FROM": "shop.prompts:Reader.read",
    "AI_RETRY_ACCEPTED_ROLES": "authenticated, coach",
    "AI_RETRY_REQUIRED_AAL": "aal2",
    "AI_RETRY_ALLOW_ANONYMOUS": "false",
    "AI_RETRY_WEBHOOK_URL": "https://example.com/hook?token=url-token-of-a-hook",
    "AI_RETRY_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
SECRETS = ("0123456789", "hs256-secret", "db-password", "MfKQ9r8G", "url-token")


def problems(environ: dict[str, str]) -> str:
    """Read settings that are wrong, and return what the error says."""
    with pytest.raises(NotConfigured) as raised:
        Settings.from_env(environ)
    return str(raised.value)


def test_minimum_is_project_key_and_provider_key() -> None:
    """Three variables are enough; the others have the documented defaults."""
    settings = Settings.from_env(HOSTED)

    assert settings == Settings(
        supabase_url="https://abc.supabase.co",
        supabase_secret_key="sb_secret_0123456789",
        ai_api_key="sk-or-v1-0123456789",
        ai_base_url=OPENROUTER,
        policy=RetryPolicy(),
        max_calls=32,
    )


def test_every_variable_is_read() -> None:
    """Each documented variable ends up where it belongs."""
    settings = Settings.from_env(EVERYTHING)

    assert settings == Settings(
        supabase_url="https://abc.supabase.co",
        supabase_secret_key="sb_secret_0123456789",
        supabase_publishable_key="sb_publishable_0123456789",
        supabase_jwt_secret="hs256-secret-" + "0" * 32,
        supabase_jwt_issuer=("https://auth.example.com/auth/v1", "http://kong:8000/auth/v1"),
        database_url="postgresql://app:db-password@db.example.com:6543/postgres",
        ai_base_url="https://example.openai.azure.com/openai/deployments/small",
        ai_api_key="sk-or-v1-0123456789",
        ai_model="small",
        ai_models=frozenset({"small", "openai/gpt-4.1", "large"}),
        ai_headers={"X-Title": "Training", "api-key": "azure-key-0123456789"},
        ai_query={"api-version": "2024-10-21"},
        ai_response_format=ResponseFormat.JSON_OBJECT,
        ai_extra_body={"max_tokens": 800, "provider": {"api_key": "byok-0123456789"}},
        ai_reasks=2,
        ai_fallback_models=("large", "openai/gpt-4.1"),
        ai_fallbacks=(
            Fallback(number=2, base_url="https://other.example.com/v1", api_key="other-0123456789", model="medium"),
            Fallback(number=10, base_url="http://localhost:11434/v1"),
        ),
        ai_fallback_on=frozenset({"timeout", "refusal"}),
        ai_fallback_reserve=timedelta(seconds=4.5),
        policy=RetryPolicy(
            max_attempts=5,
            hard_cap=30,
            hard_cap_window=timedelta(hours=1),
            backoff_base=timedelta(seconds=0.5),
            backoff_cap=timedelta(minutes=1),
            max_wait=timedelta(hours=2),
            max_parallel=3,
            quota=QuotaRule(limit=0, window=timedelta(days=7), count_own_successes=False),
            deadline=timedelta(seconds=20),
            lease=timedelta(seconds=45),
            settle_margin=timedelta(seconds=6),
            left_behind=timedelta(minutes=20),
            max_queued=timedelta(hours=12),
            max_abandoned=2,
            outage_cap=timedelta(seconds=20),
            answer_max_age=timedelta(days=1),
        ),
        max_calls=8,
        context_from="shop.prompts:Reader.read",
        accepted_roles=frozenset({"authenticated", "coach"}),
        required_aal="aal2",
        webhook_url="https://example.com/hook?token=url-token-of-a-hook",
        webhook_secret=("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",),
        allow_anonymous=False,
    )


def test_answers_are_of_any_age_unless_limited() -> None:
    """Without the variable there is no limit; zero is no age."""
    assert Settings.from_env(HOSTED).policy.answer_max_age is None
    zero = problems(HOSTED | {"AI_RETRY_ANSWER_MAX_AGE_SECONDS": "0"})
    assert "AI_RETRY_*: answer_max_age must be positive" in zero


def test_repr_shows_no_secret() -> None:
    """Keys, passwords and headers are in no repr."""
    shown = repr(Settings.from_env(EVERYTHING))

    assert not any(secret in shown for secret in SECRETS)
    assert "https://abc.supabase.co" in shown


def test_all_problems_are_named_at_once() -> None:
    """One error names every variable that is missing, malformed or unknown, with what to do."""
    reported = problems(
        {
            "SUPABASE_URL": "abc.supabase.co",
            "AI_HEADERS": "[]",
            "AI_RETRY_MAX_PARALEL": "3",
            "AI_RETRY_MAX_ATTEMPTS": "many",
            "AI_RETRY_LEASE_SECONDS": "-1",
        }
    )

    assert "SUPABASE_URL must be an address" in reported
    assert "SUPABASE_SECRET_KEY is missing (a secret key of the project" in reported
    assert "AI_API_KEY is missing" in reported
    assert "AI_HEADERS must be a JSON object of strings" in reported
    assert "AI_RETRY_MAX_PARALEL is unknown (did you mean AI_RETRY_MAX_PARALLEL?)" in reported
    assert "AI_RETRY_MAX_ATTEMPTS must be a whole number" in reported
    assert "AI_RETRY_LEASE_SECONDS must be a number of seconds" in reported


def test_fallback_provider_is_whole_or_refused() -> None:
    """It needs an address and, unless it is on this machine, a key; a part that does not exist is named."""
    reported = problems(
        HOSTED
        | {
            "AI_FALLBACK_1_MODEL": "medium",
            "AI_FALLBACK_2_BASE_URL": "https://other.example.com",
            "AI_FALLBACK_0_MODEL": "x",
            "AI_FALLBACK_1_KEY": "other-0123456789",
            "AI_FALLBACK_ON": "weather",
        }
    )

    assert "AI_FALLBACK_1_BASE_URL is missing" in reported
    assert "AI_FALLBACK_2_API_KEY is missing" in reported
    assert "AI_FALLBACK_0_MODEL is unknown" in reported
    assert "AI_FALLBACK_1_KEY is unknown" in reported
    assert "AI_FALLBACK_ON must hold refusal, timeout or both" in reported
    assert "0123456789" not in reported


def test_unknown_variable_without_likeness_lists_known() -> None:
    """Where no name is near, all are listed."""
    reported = problems(HOSTED | {"AI_RETRY_ZZZ": "1"})

    assert "AI_RETRY_ZZZ is unknown (known: AI_RETRY_ACCEPTED_ROLES, " in reported


@pytest.mark.parametrize(
    ("variable", "close"),
    [("AI_RETRY_EXTRA_BODY", "AI_EXTRA_BODY"), ("AI_RETRY_DATABASE_URL", "DATABASE_URL")],
)
def test_unknown_variable_names_the_right_prefix(variable: str, close: str) -> None:
    """What only has our prefix too much is recognised."""
    assert f"{variable} is unknown (did you mean {close}?)" in problems(HOSTED | {variable: "1"})


@pytest.mark.parametrize("variable", variables())
def test_listed_variables_are_read(variable: str) -> None:
    """Each of them is refused by its name if its value can't be anything."""
    reported = problems(HOSTED | {variable: "\x01"})

    assert f"{variable} " in reported
    assert "is unknown" not in reported


@pytest.mark.parametrize(
    ("variable", "close"),
    [
        ("AI_EXTRABODY", "AI_EXTRA_BODY"),
        ("AI_CONTEXT_FROM", "AI_RETRY_CONTEXT_FROM"),
        ("AI_RESPONSE_FORMT", "AI_RESPONSE_FORMAT"),
        ("AI_VERSION", None),
    ],
)
def test_meant_variable_is_found_by_likeness(variable: str, close: str | None) -> None:
    """A letter or a prefix may be wrong; another name is nothing of ours."""
    assert meant(variable, likeness=0.85) == close


@pytest.mark.parametrize("own", [{"AI_RETRY_PROVIDER": "app.ai:make"}, {}], ids=["of the settings", "given"])
def test_own_provider_needs_no_key(own: dict[str, str]) -> None:
    """Whether a variable names it, or the caller gives it."""
    environ = {name: value for name, value in HOSTED.items() if name != "AI_API_KEY"}

    settings = Settings.from_env(environ | own, asks_provider=bool(own))

    assert (settings.ai_api_key, settings.provider) == (None, own.get("AI_RETRY_PROVIDER"))


def test_what_an_own_provider_does_not_use_is_refused() -> None:
    """Whoever sets a fallback must not find out in an outage that there is none."""
    fallback = {"AI_FALLBACK_MODELS": "large", "AI_REASKS": "0", "AI_FALLBACK_1_BASE_URL": "http://localhost/v1"}

    reported = problems({"AI_RETRY_PROVIDER": "app.ai:make", **fallback})

    assert all(f"{each} is not used beside AI_RETRY_PROVIDER" in reported for each in fallback)


def test_malformed_base_url_asks_for_no_key() -> None:
    """Whether a key is needed can't be said before the address is right."""
    environ = {name: value for name, value in HOSTED.items() if name != "AI_API_KEY"}

    reported = problems(environ | {"AI_BASE_URL": "localhost:1234/v1"})

    assert "AI_BASE_URL must be an address" in reported
    assert "AI_API_KEY" not in reported


def test_numbers_must_work_together() -> None:
    """The policy's own rules are reported in the same error."""
    reported = problems({"AI_RETRY_LEASE_SECONDS": "5"})

    assert "AI_RETRY_*: lease must be longer than settle_margin" in reported
    assert "SUPABASE_URL is missing" in reported


@pytest.mark.parametrize(
    ("variable", "values"),
    {
        "SUPABASE_URL": [
            "x",
            "ftp://a.b",
            "https://",
            "https://u:secret-1@a.b",
            "https://a.b/rest/v1",
            "https://a.b:x",
        ],
        "SUPABASE_SECRET_KEY": ["two secret-1", "sb_publishable_secret-1", "sécret-1"],
        "SUPABASE_PUBLISHABLE_KEY": ["two secret-1", "sb_secret_secret-1"],
        "SUPABASE_JWT_SECRET": ["secret-1"],
        "SUPABASE_JWT_ISSUER": ["two words", ","],
        "AI_RETRY_ACCEPTED_ROLES": [",", "authenticated,service_role", "anon"],
        "AI_RETRY_REQUIRED_AAL": ["2", "AAL2", "aal4"],
        "AI_RETRY_ALLOW_ANONYMOUS": ["no"],
        "DATABASE_URL": ["host=db password=secret-1", "mysql://secret-1@db"],
        "AI_BASE_URL": ["localhost:1234", "https://[", "https://a.b?key=secret-1", "https://a.b#f", "https://a.b:0"],
        "AI_API_KEY": ["two secret-1"],
        "AI_MODEL": ["two words"],
        "AI_MODELS": [",", "two words"],
        "AI_HEADERS": ["{", '{"a": 1}', '{"a b": "secret-1"}', '{"a": "secret-1\\n"}', "[" * 100_000],
        "AI_QUERY": ['"a"', '{"a": null}'],
        "AI_RESPONSE_FORMAT": ["secret-1", "JSON_SCHEMA", "text"],
        "AI_EXTRA_BODY": [
            "{",
            '["secret-1"]',
            '{"a": NaN}',
            "[" * 100_000,
            *(f'{{"{name}": "secret-1"}}' for name in RESERVED),
        ],
        "AI_RETRY_MAX_ATTEMPTS": ["1.5", "-1", "0x1", "\uff11", "1" * 10, "true"],
        "AI_RETRY_QUOTA_LIMIT": ["-1", "5_0"],
        "AI_RETRY_MAX_CALLS": ["0", "-1", "1.0"],
        "AI_RETRY_DEADLINE_SECONDS": ["nan", "inf", "1e9", "-1", "15s", "1,5", "1" * 10],
        "AI_RETRY_QUOTA_COUNT_OWN_SUCCESSES": ["1", "yes"],
    }.items(),
)
def test_malformed_variable_is_named_without_its_value(variable: str, values: list[str]) -> None:
    """A malformed value is refused under its variable's name, and is not repeated: it may be another's secret."""
    for value in values:
        reported = problems(HOSTED | {variable: value})

        assert reported.startswith(f"ai-retry is not set up: {variable} ")
        assert reported.count(";") == 0
        assert "secret-1" not in reported


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_field_of_extra_body_is_named(name: str) -> None:
    """A field that may not be replaced is named, with what to do instead."""
    reported = problems(HOSTED | {"AI_EXTRA_BODY": f'{{"seed": 1, "{name}": "secret-1"}}'})

    assert f"AI_EXTRA_BODY must not hold {name} ({RESERVED[name]})" in reported


@given(st.dictionaries(st.sampled_from([*EVERYTHING, "AI_AUTH_HEADER"]), st.text()))
def test_any_text_gives_settings_or_one_error(environ: dict[str, str]) -> None:
    """Whatever is in the variables, nothing but the one error comes out."""
    with suppress(NotConfigured):
        Settings.from_env(environ)


@pytest.mark.parametrize("variable", HOSTED)
def test_blank_variable_counts_as_absent(variable: str) -> None:
    """A variable that is set to blanks is missing, as with container files that pass empty ones on."""
    assert f"{variable} is missing" in problems(HOSTED | {variable: " \n"})


def test_blanks_around_values_are_dropped() -> None:
    """A key that was pasted with a line's end works."""
    settings = Settings.from_env(HOSTED | {"AI_API_KEY": " sk-1\n"})

    assert settings.ai_api_key == "sk-1"


def test_database_url_replaces_the_data_api() -> None:
    """Straight to PostgreSQL neither the project's address nor its key is needed."""
    settings = Settings.from_env({"DATABASE_URL": "postgres://localhost/app", "AI_API_KEY": "k"})

    assert (settings.supabase_url, settings.supabase_secret_key) == (None, None)


@pytest.mark.parametrize(
    "url", ["http://localhost:8080/v1", "http://127.0.0.1/v1", "http://127.9.9.9", "http://[::1]:1"]
)
def test_local_provider_needs_no_key(url: str) -> None:
    """Model servers on this machine ask for no key."""
    environ = {name: value for name, value in HOSTED.items() if name != "AI_API_KEY"}

    assert Settings.from_env(environ | {"AI_BASE_URL": url}).ai_api_key is None


@pytest.mark.parametrize("url", ["https://127.0.0.1.a.com", "https://localhost.a.com", "http://10.0.0.1", "x"])
def test_other_hosts_are_not_loopback(url: str) -> None:
    """Only this machine's own addresses count as local."""
    assert not is_loopback(url)


def test_environment_is_read_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the process's environment of that moment is read."""
    for name, value in HOSTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AI_MODEL", "small")
    monkeypatch.delenv("TEST_STACK", raising=False)

    assert Settings.from_env().ai_model == "small"


@pytest.mark.parametrize(
    "name", ["prompts", "prompts.read", "prompts:", ":read", "a b:c", "a:b()", "1a:b", "a/b:c", "a.py:b"]
)
def test_reader_is_named_by_module_and_function(name: str) -> None:
    """Anything else is refused with the form that is needed."""
    reported = problems(HOSTED | {"AI_RETRY_CONTEXT_FROM": name})

    assert "AI_RETRY_CONTEXT_FROM must name a function as package.module:function, without .py" in reported
