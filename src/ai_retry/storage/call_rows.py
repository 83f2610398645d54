"""The requests of an attempt as the JSON of its row, and back."""

from collections.abc import Sequence
from datetime import timedelta

from ai_retry.domain.model import FailureCode, ProviderCall
from ai_retry.storage.rows import Json, milliseconds, read_usage, storable, usage_row


def call_rows(calls: Sequence[ProviderCall]) -> Sequence[Json] | None:
    """Write each request of an attempt; None: nothing is known of them."""
    rows = [
        {
            "provider": storable(each.provider),
            "model": storable(each.model),
            "code": each.code,
            "http_status": each.http_status,
            "usage": usage_row(each.usage) if each.usage else None,
            "duration_ms": milliseconds(each.duration),
        }
        for each in calls
    ]
    return rows or None


def read_calls(rows: Sequence[Json] | None) -> Sequence[ProviderCall]:
    """Read what ``call_rows`` wrote."""
    return tuple(
        ProviderCall(
            provider=row["provider"],
            model=row["model"],
            code=FailureCode(row["code"]) if row["code"] else None,
            http_status=row["http_status"],
            usage=read_usage(row["usage"]) if row["usage"] else None,
            duration=None if row["duration_ms"] is None else timedelta(milliseconds=row["duration_ms"]),
        )
        for row in rows or ()
    )
