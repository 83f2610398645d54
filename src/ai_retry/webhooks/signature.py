"""Signs messages as Standard Webhooks says, so that any library of it can verify them."""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Sequence
from uuid import UUID

from ai_retry.webhook_settings import key_of


def signed(message_id: UUID, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers of one delivery.

    Args:
        message_id: the same at each delivery.
        timestamp: seconds since 1970, now: receivers refuse what is old.
        body: what is sent.
        secrets: each signs it, so that a receiver may know the old one or the new one.
    """
    name = f"msg_{message_id.hex}"
    content = f"{name}.{timestamp}.".encode() + body
    digests = (hmac.new(key_of(secret), content, hashlib.sha256).digest() for secret in secrets)
    signatures = (f"v1,{b64encode(digest).decode()}" for digest in digests)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
