"""What pages name exists: commands and their options, variables, and configuration of other programs."""

import configparser
import json
import re
import shlex
from pathlib import Path
from uuid import uuid4

import click
import pytest

from ai_retry import config
from ai_retry.cli.commands import cli
from ai_retry.domain.policy import DEFAULT_POLICY
from tools.examples import PAGES, example, examples
from tools.npm import REPOSITORY

QUEUE = REPOSITORY / "docs" / "how-to" / "queue.md"
_COMMAND = re.compile(r"(?:^|[/ =])ai-retry (?P<words>[a-z].*?)(?= 2>| &| \|| #|$)", re.MULTILINE)
COMMANDS = sorted(
    {
        words
        for page in PAGES
        for each in examples(page)
        if each.language in {"sh", "ini", "yaml"}
        for words in _COMMAND.findall(each.code)
    }
)


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Let click parse a command line, down to its last word, without running it."""
    if isinstance(command, click.Group) and not (command.invoke_without_command and not words):
        name, *words = words
        parse(command.commands[name], words, click.Context(command, info_name=command.name, parent=parent))
    else:
        with command.make_context(command.name, words, parent=parent):
            return  # leaving it closes the files that were named


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_of_pages_are_understood(words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each ``ai-retry`` that a page shows has these arguments and options, where the files that it names are."""
    (tmp_path / "supabase").symlink_to(REPOSITORY / "supabase")
    (tmp_path / "answer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    words = re.sub(r"\$(?:GENERATION|USER_ID)\b", str(uuid4()), words)  # as the reader's shell does
    parse(cli, shlex.split(words))


WORDS = (
    *("generation", "session", "context", "attempt", "counted", "open, closed", "claim", "lease", "fencing token"),
    *("settle", "abandoned", "late answer", "stored answer", "rejected session", "hold, capture, release", "backoff"),
    *("exhausted", "snapshot", "change", "stale", "binding", "route", "outage", "accepted", "waiver", "plan", "spool"),
)


@pytest.mark.parametrize("word", WORDS)
def test_glossary_has_the_words_of_the_design(word: str) -> None:
    """Each word that code, SQL and pages share is explained where a reader begins."""
    glossary = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")

    assert re.search(rf"^\| {word}(, \w+)? \| \S", glossary, flags=re.MULTILINE)


def test_commands_were_found() -> None:
    """The test above has something to do."""
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_of_pages_exist(page: Path) -> None:
    """Each of our variables that a page names is read."""
    named = set(re.findall(r"\bAI_RETRY_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))

    assert named <= set(config.variables())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_of_pages_is_json(page: Path) -> None:
    """Each block of JSON can be parsed."""
    for each in examples(page):
        if each.language == "json":
            json.loads(each.code)


def test_links_of_the_readme_lead_somewhere() -> None:
    """Each link to a file of the repository does; those of the site's pages are checked with the site."""
    links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", (REPOSITORY / "README.md").read_text(encoding="utf-8"))

    assert len(links) > 10
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_every_make_target_is_explained() -> None:
    """CONTRIBUTING or the README says what each make target is for."""
    words = "".join((REPOSITORY / page).read_text() for page in ("CONTRIBUTING.md", "README.md"))
    targets = re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)

    named = set(re.findall(r"make\s+([a-z-]+)", words))

    assert "stack-up" in targets
    assert set(targets) - named == set()


def test_every_how_to_is_in_the_readme() -> None:
    """The README leads to each how-to."""
    links = set(re.findall(r"docs/how-to/([a-z-]+\.md)", (REPOSITORY / "README.md").read_text()))

    assert {each.name for each in (REPOSITORY / "docs" / "how-to").glob("*.md")} - links == set()


def test_unit_of_systemd_lets_attempts_end() -> None:
    """The unit gives a worker more than a lease to stop."""
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(example(QUEUE, "ini", "ExecStart"))

    assert int(unit["Service"]["TimeoutStopSec"]) > DEFAULT_POLICY.lease.total_seconds()


def test_service_of_compose_lets_attempts_end() -> None:
    """The service does, too, and its file is YAML."""
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load(example(QUEUE, "yaml", "stop_grace_period"))["services"]["retries"]

    assert int(service["stop_grace_period"].removesuffix("s")) > DEFAULT_POLICY.lease.total_seconds()
