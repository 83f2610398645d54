"""A webhook's receiver: the library of Standard Webhooks, which is not ours, judges each signature."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

from standardwebhooks import Webhook

from ai_retry.testing.provider import Reply, Request, Script, ScriptedServer, reply
from tools.log_scan import SCAN

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Inbox:
    """Verifies messages, and keeps those that it takes.

    Attributes:
        deliveries: ids in the order of arrival, with repeats and with those that were not taken.
        messages: what was taken, by id, in the order of arrival.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Reply] | None = None, *, secret: str = SECRET) -> None:
        self._webhook, self._answer = Webhook(secret), answer
        self.deliveries: list[str] = []
        self.messages: dict[str, dict[str, Any]] = {}

    def __call__(self, request: Request) -> Script:
        """Verify a message, and take it unless the test answers in another way."""
        SCAN.read_sink("a webhook", request.body.decode() + json.dumps(dict(request.headers)))
        message = self._webhook.verify(request.body, dict(request.headers))
        self.deliveries.append(request.headers["webhook-id"])
        found = self._answer(message) if self._answer is not None else reply(204)
        script = found if isinstance(found, tuple) else found(request)
        if isinstance(script[0], bytes) and script[0].startswith(b"HTTP/1.1 2"):
            self.messages.setdefault(request.headers["webhook-id"], message)
        return script

    def ends(self) -> list[tuple[UUID, str]]:
        """List which generations have ended, and how; a repeat counts once."""
        kinds = [(each["data"].get("generation_id"), each["type"]) for each in self.messages.values()]
        return [(UUID(found), kind.removeprefix("ai_retry.generation.")) for found, kind in kinds if found]

    def types(self) -> Counter[str]:
        """Count the messages by type; a repeat counts once."""
        return Counter(each["type"].removeprefix("ai_retry.") for each in self.messages.values())


def hook_of(server: ScriptedServer) -> str:
    """Give the address of a receiver."""
    return f"http://127.0.0.1:{server.port}/hook"


def settings_of(server: ScriptedServer, *, secret: str = SECRET) -> dict[str, str]:
    """Give the variables that name a receiver."""
    return {"AI_RETRY_WEBHOOK_URL": hook_of(server), "AI_RETRY_WEBHOOK_SECRET": secret}
