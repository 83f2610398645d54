"""Pages of the documentation that are generated from the code; `make pages` writes them, tests keep them equal.

One module per page. Those about the database need a migrated one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from tools.npm import REPOSITORY
from tools.pages import commands, database, endpoint, errors, events, provider_signals, python_api, settings

DOCS = REPOSITORY / "docs"
_REFERENCE = DOCS / "reference"

PAGES: Mapping[Path, Callable[[], str]] = {
    DOCS / "provider-signals.md": provider_signals.render,
    _REFERENCE / "cli.md": commands.render,
    _REFERENCE / "configuration.md": settings.render,
    _REFERENCE / "errors.md": errors.render,
    _REFERENCE / "events.md": events.render,
    _REFERENCE / "http.md": endpoint.render,
    _REFERENCE / "python-extend.md": python_api.render_extend,
    _REFERENCE / "python-use.md": python_api.render_use,
}
DATABASE_PAGES: Mapping[Path, Callable[[str], str]] = {_REFERENCE / "sql.md": database.render}
