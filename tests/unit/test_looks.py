"""When a worker looks for messages."""

import threading

import pytest

from ai_retry.looks import Looks


class Stop(threading.Event):
    """Notes how long is waited for it, and lets no time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Note it."""
        assert timeout is not None
        self.waits.append(timeout)
        return self.is_set()


def test_announcements_in_vain_give_others_a_head_start() -> None:
    """A worker whose looks found nothing looks later and later at an announcement, at most 20 ms; a find ends that."""
    stop = Stop()
    looks = Looks(stop)

    def announced() -> None:
        looks.begin()
        looks.announced()
        looks.wait(found=False)

    for _ in range(8):
        announced()
    looks.wait(found=True)
    announced()

    assert stop.waits == [0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.02, 0.02, 0.0]


def test_what_no_other_worker_hears_of_is_looked_at_at_once() -> None:
    """After an attempt of its own has ended, a worker gives no head start, however often it found nothing."""
    stop = Stop()
    looks = Looks(stop)
    for _ in range(8):
        looks.begin()
        looks.again()
        looks.wait(found=False)

    assert stop.waits == []


def test_stop_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is stopped goes on waiting for no message."""
    monkeypatch.setattr("ai_retry.looks._IDLE_WAITS", (3600.0,))
    stop = threading.Event()
    waiting = threading.Thread(target=lambda: Looks(stop).wait(found=False), daemon=True)
    waiting.start()
    stop.set()
    waiting.join(10)

    assert not waiting.is_alive()
