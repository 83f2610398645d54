"""`make pages`: write every generated page."""

from pathlib import Path

from tools.npm import REPOSITORY
from tools.pages import DATABASE_PAGES, PAGES
from tools.stack import running_stack


def main() -> None:
    """Write the pages; those of the database from a stack that is gone afterwards."""
    for path, render in PAGES.items():
        _write(path, render())
    with running_stack() as stack:
        for path, render_database in DATABASE_PAGES.items():
            _write(path, render_database(stack.database_url))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
