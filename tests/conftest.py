"""Fixtures for every kind of test: the lifecycles of the local stack and its databases."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import settings

settings.register_profile("ai-retry", deadline=None)  # how fast a busy machine is decides about nothing
settings.load_profile("ai-retry")
pytest.register_assert_rewrite("tests.helpers.steps", "tests.helpers.queue_steps")

from tests import adapters, console
from tests.helpers.world import owner_of
from tools import log_scan
from tools.alerts import NOT_RUN, promtool
from tools.stack import Stack, running_stack
from tools.waiting import skipping_without_stack

TESTS = Path(__file__).parent
FAULTS = "tests/faults/"
_LONGEST_FIRST = ("faults", "simulation", "property", "apps", "e2e", "integration", "contract")
_AT_RANDOM = ("simulation", "property")
_LISTENING = pytest.MonkeyPatch()
_MAY_STAY = {
    "ai-retry-lookup",  # until the system's resolver gives up
    "scripted-server",  # of the app that the tests of the endpoint share; its block ends all of its threads
    "TMonitor",  # tqdm's
}


def pytest_configure() -> None:
    """Read everything that is logged from now on; react to SIGINT, and so do the processes that tests start.

    A shell starts what it runs in the background, such as `nohup make test &`, with SIGINT ignored, and every child
    inherits that.
    """
    log_scan.listen(_LISTENING)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when a log held what no log may hold; a worker of pytest-xdist hands over what it found."""
    _LISTENING.undo()
    if log_scan.SCAN.findings:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    workeroutput = getattr(session.config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput["log_findings"] = list(log_scan.SCAN.findings)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker found."""
    log_scan.SCAN.findings.update(dict.fromkeys(getattr(node, "workeroutput", {}).get("log_findings", ())))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name logger and place, not the secret; and what has not run."""
    for line in filter(None, (adapters.not_run(), console.not_run(), None if promtool() else NOT_RUN)):
        terminalreporter.write_line(line, yellow=True)
    if log_scan.SCAN.findings:
        terminalreporter.section("secrets in logs", red=True)
        for finding in log_scan.SCAN.findings:
            terminalreporter.write_line(finding, red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test that uses the stack, directly or not, so that `-m "not stack"` leaves it out.

    Workers of pytest-xdist begin with the directories whose files take longest, so that none ends long after the other.
    Coverage is measured where single cases are tested: it makes long runs of random ones three times as long.
    """
    for item in items:
        if _directory(item) in _AT_RANDOM:
            item.add_marker("no_cover")
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)  # within a directory the order stays random


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker a file at a time, and all files of faults to one: they have many processes each."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - only where pytest-xdist is on

    if config.getoption("dist") != "loadfile":
        return None
    scheduler = LoadFileScheduling(config, log)
    by_file = scheduler._split_scope
    scheduler._split_scope = lambda nodeid: FAULTS if nodeid.startswith(FAULTS) else by_file(nodeid)
    return scheduler


def _rank(item: pytest.Item) -> int:
    return _LONGEST_FIRST.index(_directory(item)) if _directory(item) in _LONGEST_FIRST else len(_LONGEST_FIRST)


def _directory(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]


@pytest.fixture(scope="module", autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a file whose tests leave a thread behind: it would take its time from the tests that follow."""
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread not in before and not {thread.name, type(thread).__name__} & _MAY_STAY:
            thread.join(timeout=60)  # a renewer looks every 5 s whether it is needed
            assert not thread.is_alive(), f"left behind: {thread.name}"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """One stack with our migrations for the whole session; `TEST_STACK` names the env file of another."""
    if env_file := os.environ.get("TEST_STACK"):
        yield Stack.from_env_file(Path(env_file))
        return
    with ExitStack() as cleanup:
        with skipping_without_stack():
            running = cleanup.enter_context(running_stack())
        yield running


@pytest.fixture
def migrated_database(stack: Stack) -> Iterator[str]:
    """The URL of a new database that has our migrations."""
    yield from _database(stack, migrated=True)


@pytest.fixture(scope="module")
def core_database(stack: Stack) -> Iterator[str]:
    """The URL of a new database that has our migrations; one for a module."""
    yield from _database(stack, migrated=True)


@pytest.fixture
def connection(migrated_database: str) -> Iterator[psycopg.Connection]:
    """The owner of that database."""
    with owner_of(migrated_database) as connection:
        yield connection


@pytest.fixture
def bare_database(stack: Stack) -> Iterator[str]:
    """The URL of a new database as Supabase makes it, without our migrations."""
    yield from _database(stack, migrated=False)


@pytest.fixture
def another_database(stack: Stack) -> Iterator[str]:
    """The URL of a second one, for comparisons."""
    yield from _database(stack, migrated=False)


def _database(stack: Stack, *, migrated: bool) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    url = stack.create_database(name, migrated=migrated)
    yield url
    stack.drop_database(name)
