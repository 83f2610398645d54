"""The documentation's site: built, and checked beyond what its generator checks. `make docs` writes it to .cache/site.

It is built from a copy, since the generator keeps a cache beside its configuration, and since the diagrams' library is
added there: the pages ask no other server for anything.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.npm import REPOSITORY, install_node_packages, node

CONFIGURATION = REPOSITORY / "zensical.toml"
DOCS = REPOSITORY / "docs"
CHANGELOG = REPOSITORY / "CHANGELOG.md"
CHANGELOG_PAGE = "changelog.md"
NOTEBOOK = REPOSITORY / "examples" / "recovery.ipynb"
_SITE = REPOSITORY / ".cache" / "site"
_MANIFEST = Path(__file__).parent / "node_docs"
_CHECK_DIAGRAM = _MANIFEST / "check.cjs"
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"([^\"]+)\"|<link\b[^>]*?\bhref=\"([^\"]+)\"")


class SiteBroken(Exception):
    """The site can't be built, or not as it should be; the text says why."""


def build(target: Path, *, docs: Path = DOCS) -> None:
    """Build the site anew.

    Raises:
        SiteBroken: a link or an anchor leads nowhere, a page is not in the navigation, a diagram has no form, or
            a page would load something from another server.
        StackUnavailable: npm failed.
    """
    problems = [*_outside_navigation(docs), *_broken_diagrams(docs)]
    if problems:
        raise SiteBroken("\n".join(problems))
    with tempfile.TemporaryDirectory(prefix="ai-retry-docs-") as directory:
        project = Path(directory)
        shutil.copy(CONFIGURATION, project)
        shutil.copytree(docs, project / "docs")
        _bring_in(project / "docs")
        _run_generator(project)
        if problems := list(_loaded_from_elsewhere(project / "site")):
            raise SiteBroken("\n".join(problems))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(project / "site", target)


def _bring_in(docs: Path) -> None:
    """Add what the pages use from outside their folder: the changelog, the notebook, the library of the diagrams."""
    assets = docs / "assets"
    assets.mkdir(exist_ok=True)
    shutil.copy(_diagram_library(), assets / "mermaid.js")
    shutil.copy(NOTEBOOK, assets)
    (docs / CHANGELOG_PAGE).write_text(CHANGELOG.read_text().replace("](docs/", "]("))
    home = docs / "index.md"
    text = home.read_text()
    for file, place in ((CHANGELOG, CHANGELOG_PAGE), (NOTEBOOK, f"assets/{NOTEBOOK.name}")):
        text = text.replace(f"](../{file.relative_to(REPOSITORY)})", f"]({place})")
    home.write_text(text)


def _run_generator(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        check=False,
        cwd=project,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        printed = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr + done.stdout)
        raise SiteBroken(printed.partition("Traceback (most recent call last)")[0])


def _outside_navigation(docs: Path) -> Iterator[str]:
    """Compare the navigation with the pages."""
    listed = set(_pages(tomllib.loads(CONFIGURATION.read_text())["project"]["nav"]))
    there = {CHANGELOG_PAGE, *(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))}
    yield from (f"docs/{name} is not in the navigation of {CONFIGURATION.name}" for name in sorted(there - listed))
    yield from (f"docs/{name} does not exist, and the navigation names it" for name in sorted(listed - there))


def _pages(navigation: Any) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    else:
        for each in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from _pages(each)


def _broken_diagrams(docs: Path) -> Iterator[str]:
    """Let the library that will draw the diagrams read them."""
    diagrams = [(path, text) for path in sorted(docs.rglob("*.md")) for text in _DIAGRAM.findall(path.read_text())]
    done = subprocess.run(
        [str(node()), str(_CHECK_DIAGRAM), str(_diagram_library())],
        input=json.dumps([text for _, text in diagrams]),
        check=True,
        capture_output=True,
        text=True,
    )
    for (path, _), problem in zip(diagrams, json.loads(done.stdout), strict=True):
        if problem is not None:
            yield f"docs/{path.relative_to(docs)}: a diagram can't be read: {problem}"


def _diagram_library() -> Path:
    return install_node_packages(manifest=_MANIFEST) / "@mermaid-js" / "tiny" / "dist" / "mermaid.tiny.js"


def _loaded_from_elsewhere(site: Path) -> Iterator[str]:
    """List what a reader's browser would load from other servers; the generator's script would load mermaid there."""
    for path in sorted(site.rglob("*.html")):
        text = path.read_text()
        loaded = {script or link for script, link in _LOADED.findall(text)}
        yield from (f"{path.relative_to(site)} loads {each}" for each in sorted(loaded) if "//" in each)
        if 'class="mermaid"' in text and not any(each.endswith("assets/mermaid.js") for each in loaded):
            yield f"{path.relative_to(site)} would load the diagrams' library from elsewhere"


def main() -> int:
    """Build the site; 1 when something is wrong with it."""
    try:
        build(_SITE)
    except SiteBroken as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{_SITE.relative_to(REPOSITORY)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
