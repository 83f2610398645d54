"""The how-tos' examples for SDKs and frameworks, which only `make test-adapters` installs: they are large."""

from importlib.util import find_spec

SDKS = ("celery", "fastapi", "litellm", "openai", "pydantic_ai")


def not_run() -> str | None:
    """Say which tests can't run here, and what would run them."""
    missing = [each for each in SDKS if find_spec(each) is None]
    return f"NOT RUN: tests/adapters ({', '.join(missing)} not installed): make test-adapters" if missing else None
