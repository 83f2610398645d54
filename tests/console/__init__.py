"""The console in a real browser, which only `make test-console` starts.

Playwright brings no browser of its own here: a Chromium of the system's is driven, such as Debian's package.
"""

import os
import shutil
from importlib.util import find_spec

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Find the browser: the one that CHROMIUM names, else one on the path."""
    named = os.environ.get("CHROMIUM")
    return next((found for name in ([named] if named else NAMES) if (found := shutil.which(name))), None)


def not_run() -> str | None:
    """Say that these tests are not run, and what would run them; None where they are."""
    if chromium() is None:
        return "NOT RUN: tests/console (no Chromium; Debian's package is chromium): make test-console"
    if find_spec("playwright") is None:
        return "NOT RUN: tests/console (playwright is not installed): make test-console"
    return None if os.environ.get("CONSOLE") else "NOT RUN: tests/console: make test-console"
