"""Delivers messages to the webhook that the settings name: beside a worker, or by a command."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from ai_retry.clock import SystemClock
from ai_retry.config import Settings
from ai_retry.domain.outbox import OutboxStorage
from ai_retry.events import Emit
from ai_retry.webhooks.deliveries import Deliveries
from ai_retry.webhooks.receiver import DEADLINE, Receiver

_ENDING = DEADLINE + 5.0  # seconds for the delivery that runs, and to record what became of it


@contextmanager
def delivering(settings: Settings, outbox: OutboxStorage, emit: Emit) -> Iterator[None]:
    """Deliver messages in a thread meanwhile, where the settings name a webhook."""
    if settings.webhook_url is None:
        yield
        return
    stop = threading.Event()
    with closing(receiver_of(settings)) as receiver:
        deliveries = Deliveries(outbox, receiver, emit)
        thread = threading.Thread(target=deliveries.run, args=[stop], name="ai_retry_webhooks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(_ENDING)


def receiver_of(settings: Settings) -> Receiver:
    """Make the receiver that the settings name."""
    return Receiver(str(settings.webhook_url), settings.webhook_secret, clock=SystemClock())
