"""The how-tos' examples for SDKs and frameworks, and the types of all examples: only `make test-adapters` runs them.

The SDKs are large, and some leave event loops open, which would fail any test that runs when those are collected.
"""

import os
from importlib.util import find_spec

SDKS = ("celery", "fastapi", "litellm", "openai", "pydantic_ai")


def not_run() -> str | None:
    """Say which tests are not run, and what would run them; None where they are."""
    missing = [each for each in SDKS if find_spec(each) is None]
    if missing:
        return f"NOT RUN: tests/adapters ({', '.join(missing)} not installed): make test-adapters"
    return None if os.environ.get("ADAPTERS") else "NOT RUN: tests/adapters: make test-adapters"
