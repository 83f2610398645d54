"""Kinds of values that go over HTTP, as fields of marshmallow: ids, idempotency keys and instants."""

import re
from typing import Any, Final
from uuid import UUID

from marshmallow import ValidationError, fields

from ai_retry.domain.listing import read_cursor
from ai_retry.domain.names import PLAN_PREFIX
from ai_retry.problems import instant

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BARE_KEY: Final = re.compile(r"[!#-~][!-~]{0,254}")
_QUOTED_KEY: Final = re.compile(r'"((?:[!#-\[\]-~]|\\["\\]){1,255})"')
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_PLANS_KEY: Final = re.compile(f'"?{PLAN_PREFIX}')


class CanonicalUuid(fields.UUID):
    """A UUID in its one canonical text form, in either case (RFC 9562, section 4)."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> UUID:
        if not isinstance(value, str) or _UUID.fullmatch(value) is None:
            raise ValidationError("not a canonical UUID")
        return UUID(value)


class IdempotencyKey(fields.String):
    """A user's key, bare or as the string of the IETF draft: ``"k"`` and ``k`` are the same key.

    See draft-ietf-httpapi-idempotency-key-header and, for strings, RFC 9651, section 3.3.3.
    """

    PATTERN: Final = f"^(?!{_PLANS_KEY.pattern})(?:{_BARE_KEY.pattern}|{_QUOTED_KEY.pattern})$"

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> str:
        if _PLANS_KEY.match(value):
            raise ValidationError("a key of recovery plans")
        if _BARE_KEY.fullmatch(value):
            return str(value)
        quoted = _QUOTED_KEY.fullmatch(value)
        if quoted is None:
            raise ValidationError("not an idempotency key")
        return re.sub(r'\\(["\\])', r"\1", quoted[1])


class Count(fields.Integer):
    """A whole number as clients write it: digits only."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> int:
        if not isinstance(value, str) or _COUNT.fullmatch(value) is None:
            raise ValidationError("Not a whole number.")
        return int(value)


class Cursor(fields.String):
    """A cursor that a page of a list gave."""

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> str:
        try:
            read_cursor(value)
        except (ValueError, AttributeError):
            raise ValidationError("Not one that a page gave.") from None
        return str(value)


class Instant(fields.String):
    """An instant in UTC: ``2026-01-31T12:00:00.000000Z``."""

    def __init__(self, *, description: str | None = None, allow_none: bool = False) -> None:
        metadata = {"format": "date-time"} | ({} if description is None else {"description": description})
        super().__init__(required=True, allow_none=allow_none, metadata=metadata)

    def _serialize(self, value: Any, *_args: Any, **_kwargs: Any) -> str | None:
        return None if value is None else instant(value)
