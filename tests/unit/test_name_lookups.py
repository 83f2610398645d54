"""Lookups of names under a deadline: what one that can't begin means for those after it."""

import threading
from datetime import timedelta

import pytest
import requests

from ai_retry.clock import SystemClock
from ai_retry.deadline import Deadline, DeadlineAdapter, bounded_by
from ai_retry.testing.provider import ScriptedServer, reply

SECONDS = timedelta(seconds=5).total_seconds()


def test_lookup_without_a_thread_hinders_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has no thread left fails at once, and looks the same name up again when it has one."""
    adapter, start = DeadlineAdapter(pool_size=1), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "ai-retry-lookup":
            raise RuntimeError("can't start new thread")
        start(thread)

    with ScriptedServer(default=reply(204)) as server:
        request = requests.Request("GET", f"http://localhost:{server.port}/").prepare()
        with monkeypatch.context() as without:
            without.setattr(threading.Thread, "start", refuse)
            with pytest.raises(requests.ConnectionError), bounded_by(Deadline(SystemClock(), SECONDS)):
                adapter.send(request)
        with bounded_by(Deadline(SystemClock(), SECONDS)):
            assert adapter.send(request).status_code == 204
    adapter.close()
