"""What a worker answers at its ports: whoever asks, however often, and whatever fails."""

from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection

import pytest

from ai_retry.cli.commands._health import WorkerHealth
from ai_retry.cli.commands._ports import Answer, answering
from ai_retry.domain.errors import StorageUnavailable
from ai_retry.domain.queue_model import QueueState
from tests.unit.test_prometheus import STATE


def test_health_that_is_asked_often_reads_once_a_second() -> None:
    """Requests for a worker's health take no connections from its attempts, and soon show what has changed."""
    now, reads = [0.0], [0]

    def state() -> QueueState:
        reads[0] += 1
        if reads[0] == 2:
            raise StorageUnavailable("57P01")
        return replace(STATE, due=reads[0])

    page = WorkerHealth(60, clock=lambda: now[0]).page(state)

    assert [page("")[0] for _ in range(100)] == [200] * 100
    assert reads == [1]
    now[0] += 1
    assert [page("")[0] for _ in range(100)] == [503] * 100
    assert reads == [2]
    now[0] += 1
    assert (page("")[0], reads) == (200, [3])


def test_page_that_fails_is_answered_and_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A defect behind a port gets 500, and neither the answer nor a log has the text of the exception."""

    def page(_: str) -> Answer:
        raise RuntimeError("a secret row")

    with answering(0, "127.0.0.1", {"/metrics": page}) as port, closing(HTTPConnection("127.0.0.1", port)) as http:
        http.request("GET", "/metrics")
        response = http.getresponse()
        assert (response.status, response.read()) == (500, b"")

    assert caplog.messages == ["event=page_failed error=RuntimeError"]
    assert "secret" not in "".join(capfd.readouterr())
