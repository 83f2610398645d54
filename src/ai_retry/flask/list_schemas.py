"""What goes over HTTP for a user's list: the query and the answer, as marshmallow schemas in camelCase."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from marshmallow import RAISE, ValidationError, fields, validate

from ai_retry.domain.listing import LARGEST_PAGE, PAGE, GenerationPage
from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.recovery import UnreadableRow
from ai_retry.flask.schemas import Camel, GenerationSchema, Meta, RetryOutlookSchema, about, generation_of, outlook_of
from ai_retry.flask.wire_fields import Count, Cursor, Instant
from ai_retry.problems import Refused, invalid_request

_STATUSES: Final = [each.value for each in GenerationStatus]


class ListQuery(Camel):
    """Query parameters of the list."""

    class Meta:
        """Refuse what is not documented: a misspelt filter would list everything."""

        unknown = RAISE

    status = fields.List(
        fields.String(validate=validate.OneOf(_STATUSES)),
        metadata=about("Only generations that say this; several may be asked for. Absent: any."),
    )
    limit = Count(
        load_default=PAGE,
        validate=validate.Range(1, LARGEST_PAGE),
        metadata=about("Of the page; it may be shorter, or empty, although more follow."),
    )
    cursor = Cursor(metadata=about("nextCursor of the page before; absent: the first one."))


class ListedGeneration(GenerationSchema):
    """A generation of the list; of one that can't be read, only its id is certain."""

    status = fields.String(required=True, allow_none=True)
    attempt = fields.Integer(required=True, allow_none=True, metadata=about("Number of its last attempt."))
    created_at = Instant(allow_none=True)


class ListItem(Camel):
    """A generation, and whether and when a retry of it is possible."""

    generation = fields.Nested(ListedGeneration, required=True)
    retry = fields.Nested(RetryOutlookSchema, required=True)


class ListData(Camel):
    """One page."""

    generations = fields.List(fields.Nested(ListItem), required=True, metadata=about("The newest first."))
    next_cursor = fields.String(
        required=True, allow_none=True, metadata=about("Of the next page; null: this was the last.")
    )


class ListResponse(Camel):
    """A user's own generations."""

    data = fields.Nested(ListData, required=True)
    meta = fields.Nested(Meta, required=True)


_QUERY: Final = ListQuery()
_RESPONSE: Final = ListResponse()


def read_query(values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Read the query.

    Raises:
        Refused: names the parameters that can't be used; given twice, only ``status`` can.
    """
    single = {name: given[0] for name, given in values.items() if len(given) == 1}
    try:
        query: dict[str, Any] = _QUERY.load({**values, **single, **_listed("status", values)})
    except ValidationError as error:
        refused = invalid_request(error.messages)
    else:
        return query
    raise Refused(refused)


def _listed(name: str, values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {name: list(values[name])} if name in values else {}


def list_response(page: GenerationPage, request_id: str) -> dict[str, Any]:
    """Render a page."""
    data = {"generations": [_item(each) for each in page.generations], "next_cursor": page.next}
    document: dict[str, Any] = _RESPONSE.dump({"data": data, "meta": {"request_id": request_id}})
    return document


def _item(row: Outlook | UnreadableRow) -> dict[str, Any]:
    if isinstance(row, Outlook):
        return {"generation": generation_of(row.snapshot), "retry": outlook_of(row)}
    generation = dict.fromkeys(ListedGeneration().fields)
    generation |= {"id": row.generation_id, "status": row.status, "model": row.model}
    return {"generation": generation, "retry": outlook_of(row)}
