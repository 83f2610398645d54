"""The reference of the configuration, from ``Settings`` and ``RetryPolicy``."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any

from ai_retry import config
from ai_retry.config import Settings
from ai_retry.domain.policy import DEFAULT_POLICY
from tools.pages.markdown import code, notice, page, table
from tools.pages.sources import meaning, member

_INTRODUCTION = f"""# Configuration

{notice("ai_retry.config.Settings and ai_retry.RetryPolicy")}

Everything is read from the environment, once, at the start. An empty variable counts as absent. One error names every
variable that is missing or malformed, and every unknown one that begins with `AI_RETRY_`. It says what to do, and never
shows a value. Other unknown names may be your own; `ai-retry doctor` lists those that look like a misspelt variable of
ours.

There are two ways to the database: over the Data API with `SUPABASE_URL` and `SUPABASE_SECRET_KEY`, or directly with
`DATABASE_URL`. If all are set, `DATABASE_URL` is used. The blueprint needs `SUPABASE_URL` in any case, to verify access
tokens.

`SUPABASE_SECRET_KEY` is a secret key of the project (`sb_secret_…`), and `SUPABASE_PUBLISHABLE_KEY` a publishable one
(`sb_publishable_…`). The [legacy keys](../how-to/keys.md#from-legacy-api-keys) `service_role` and `anon` work as well;
Supabase deprecates them by the end of 2026.
"""
_FORMS = """## How values are written

- **Addresses** hold no credentials, no query and no fragment. `DATABASE_URL` starts with `postgresql://`, and its
  password is percent-encoded (`@` is `%40`, `/` is `%2F`, `%` is `%25`). An address that can be read in two ways is an
  error. Its parameters are libpq's; those of [other drivers](../how-to/pooler.md#if-something-is-odd) are left out.
- **`AI_MODELS`, `AI_FALLBACK_MODELS`, `AI_FALLBACK_ON`** are lists separated by commas; `AI_FALLBACK_ON` may hold
  `timeout` and `refusal`.
- **`AI_RETRY_ACCEPTED_ROLES`, `SUPABASE_JWT_ISSUER`** are lists separated by commas:
  [whose tokens count](../how-to/flask-app.md#whose-tokens-count).
- **`AI_FALLBACK_1_BASE_URL`, `AI_FALLBACK_1_API_KEY`, `AI_FALLBACK_1_MODEL`** name a further provider,
  `AI_FALLBACK_2_…` the next one, up to 99: [how calls fall back](../how-to/providers.md#fall-back).
- **`AI_HEADERS`, `AI_QUERY`** are JSON objects of strings: `{"api-version": "2024-10-21"}`.
- **`AI_RESPONSE_FORMAT`** is `json_schema`, `json_object` or `none`: [how they differ](../how-to/prompts.md#schemas).
- **`AI_EXTRA_BODY`** is a JSON object of request fields: `{"max_tokens": 800}`; not `messages`, `model` or `stream`.
- **Durations** are seconds, with a fraction if you like; **booleans** are `true` or `false`.
- **`AI_RETRY_CONTEXT_FROM`** is `package.module:function`: [what it names](../how-to/prompts.md#another-form).
- **`AI_RETRY_SPOOL_DIR`** is an absolute path.
- **`AI_RETRY_WEBHOOK_URL`** begins with `https://`, but for a receiver on this machine, and may have a query.
  **`AI_RETRY_WEBHOOK_SECRET`** is `whsec_…`, or several, separated by blanks: [how to rotate
  it](../how-to/webhooks.md#rotate-the-secret).
"""


def render() -> str:
    """Render the page."""
    return page(
        [
            _INTRODUCTION,
            "## Connections",
            "",
            *table(("variable", "default", "meaning"), _connections()),
            "## Rules",
            "",
            "The same numbers are the fields of `ai_retry.RetryPolicy`, and of its `quota`.",
            "",
            *table(("variable", "default", "meaning"), _rules()),
            "Numbers that can't work together are refused: the lease must be longer than the settle margin, and the"
            " first wait must not exceed the longest.",
            "",
            _FORMS,
        ]
    )


def _connections() -> Iterator[tuple[str, ...]]:
    for each in fields(Settings):
        if each.name != "policy":
            yield _row(config.variable_of(each.name), each.default, f"config.Settings.{each.name}")


def _rules() -> Iterator[tuple[str, ...]]:
    for owner, defaults, prefix in (
        ("domain.policy.RetryPolicy", DEFAULT_POLICY, ""),
        ("domain.model.QuotaRule", DEFAULT_POLICY.quota, "quota_"),
    ):
        for variable, (name, _) in config._variables(defaults, prefix).items():
            yield _row(variable, getattr(defaults, name), f"{owner}.{name}")


def _row(variable: str, default: Any, path: str) -> tuple[str, ...]:
    return code(variable), code(_written(default)), _of_a_variable(meaning(member(path)))


def _of_a_variable(text: str) -> str:
    """Describe a variable as its field is described."""
    return text.replace("``", "`").replace("None", "unset").replace("database_url", "`DATABASE_URL`")


def _written(default: Any) -> str:
    match default:
        case bool():
            return str(default).lower()
        case int() | str():
            return str(default)
        case frozenset():
            return ", ".join(sorted(default))
        case timedelta():
            return f"{default.total_seconds():g}"
        case _:
            return ""
