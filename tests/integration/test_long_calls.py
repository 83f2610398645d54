"""A call may take much longer than a lease: it is renewed while its worker lives, and a dead worker is noticed soon."""

import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ai_retry.testing.provider import ScriptedServer
from tests.integration.test_worker import Site, site_of
from tools.stack import Stack
from tools.waiting import eventually
from tools.worker_process import Provider, running_worker

LEASE = timedelta(seconds=3)
NUMBERS = {
    "AI_RETRY_DEADLINE_SECONDS": "3600",
    "AI_RETRY_LEASE_SECONDS": str(LEASE.total_seconds()),
    "AI_RETRY_SETTLE_MARGIN_SECONDS": "1",
}


@pytest.fixture
def site(stack: Stack, migrated_database: str, tmp_path: Path) -> Iterator[Site]:
    """A database of one's own, to which the workers go straight."""
    with site_of(stack, migrated_database, tmp_path / "worker.log", direct=True) as site:
        yield site


def newest(site: Site, generation_id: UUID) -> dict[str, Any]:
    """Return the row of the latest attempt."""
    return dict(site.world.attempts(generation_id)[-1])


def is_renewed(site: Site, generation_id: UUID, *, leases: int) -> bool:
    """Whether its lease reaches so many leases beyond its begin."""
    row = newest(site, generation_id)
    return row["lease_expires_at"] is not None and row["lease_expires_at"] > row["started_at"] + leases * LEASE


def now(site: Site) -> datetime:
    """Read the database's clock."""
    (at,) = site.connection.execute("select clock_timestamp()").fetchone() or ()
    return datetime.fromisoformat(str(at))


def test_call_of_several_leases_is_one_attempt(site: Site) -> None:
    """While it runs a second worker finds nothing to do; its answer becomes the one session."""
    answers = Provider({"title": "long"}, is_open=False)
    _, generation_id = site.queued()

    with (
        ScriptedServer(default=answers) as provider,
        running_worker(site.ask(provider, **NUMBERS), site.log) as worker,
        running_worker(site.ask(provider, **NUMBERS)) as other,
    ):
        eventually(lambda: is_renewed(site, generation_id, leases=3))
        answers.open()
        eventually(lambda: site.statuses(generation_id) == {"success"})
        for each in (worker, other):
            each.signal(signal.SIGTERM)
            assert each.exit_code() == 0

    assert site.outcomes(generation_id) == ["succeeded"]
    assert len(answers.prompts) == 1


def test_worker_killed_in_the_middle_is_noticed_within_a_lease(site: Site) -> None:
    """Its lease ends with it, though its call had an hour; another worker goes on, and what it cost is unknown."""
    answers = Provider({"title": "long"}, is_open=False)
    _, generation_id = site.queued()

    with ScriptedServer(default=answers) as provider:
        with running_worker(site.ask(provider, **NUMBERS), site.log) as worker:
            eventually(lambda: is_renewed(site, generation_id, leases=1))
            worker.signal(signal.SIGKILL)
            worker.exit_code()
            killed_at = now(site)
        answers.open()
        with running_worker(site.ask(provider, **NUMBERS), site.log):
            eventually(lambda: site.statuses(generation_id) == {"success"})

    first, second = site.world.attempts(generation_id)
    assert first["lease_expires_at"] <= killed_at + LEASE
    assert (first["outcome"], first["provider_outcome"], first["calls"]) == ("abandoned", "unknown", None)
    assert (second["outcome"], len(second["calls"])) == ("succeeded", 1)


def test_grace_ends_a_worker_in_the_middle_of_a_call(site: Site) -> None:
    """After SIGTERM it waits so long and no longer; the attempt is left to its lease, and another worker goes on."""
    answers = Provider({"title": "long"}, is_open=False)
    _, generation_id = site.queued()

    with ScriptedServer(default=answers) as provider:
        with running_worker(site.ask(provider, **NUMBERS), site.log, options=["--grace", "0.5"]) as worker:
            eventually(lambda: is_renewed(site, generation_id, leases=1))
            worker.signal(signal.SIGTERM)
            assert worker.exit_code() == 0
            left_at = now(site)
            assert worker.has_told("event=worker_stopped left=1")
            assert newest(site, generation_id)["lease_expires_at"] <= left_at + LEASE
        answers.open()
        with running_worker(site.ask(provider, **NUMBERS), site.log):
            eventually(lambda: site.statuses(generation_id) == {"success"})

    assert site.outcomes(generation_id) == ["abandoned", "succeeded"]
    assert site.world.attempts(generation_id)[0]["provider_outcome"] == "unknown"
