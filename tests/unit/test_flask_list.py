"""The list over HTTP: one's own generations, each with its outlook; queries that can't be used are refused by name."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.client import Client
from ai_retry.domain.listing import GenerationPage
from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.recovery import UnreadableRow
from ai_retry.testing.ai import ScriptedAiProvider
from tests.unit.http_edge import ANSWER, PROMPT, UNAVAILABLE, Edge, edge

CURSOR = "Not one that a page gave."
ODD = UnreadableRow(generation_id=uuid4(), column="updated_at", reason="is no instant", status="error", model="small")


def items(response: Any) -> list[Any]:
    """The page."""
    found: list[Any] = response.json["data"]["generations"]
    return found


def ids(response: Any) -> list[UUID]:
    """The generations of a page."""
    return [UUID(each["generation"]["id"]) for each in items(response)]


def test_list_has_the_outlook_of_each() -> None:
    """What is said of each is what its own status says; the newest comes first, and others' are not there."""
    case = edge(UNAVAILABLE, ANSWER)
    oldest, middle, newest = (
        case.add_generation(created_at=case.clock.now() - timedelta(hours=hours)) for hours in (3, 2, 1)
    )
    case.add_generation(user_id=uuid4())
    case.retry(oldest)
    case.retry(middle)

    response = case.list()

    assert ids(response) == [newest, middle, oldest]
    for each in items(response):
        own = case.status(each["generation"]["id"]).json
        assert own is not None
        assert {"generation": own["data"]["generation"], "retry": own["data"]["retry"]} == each
    assert [each["retry"]["possible"] for each in items(response)] == [True, False, False]
    assert items(response)[2]["retry"]["refusal"]["code"] == "RETRY_TOO_SOON"
    assert PROMPT not in response.text


def test_failed_list_is_asked_for_by_status() -> None:
    """One status, or several."""
    case = edge()
    by_status = {each: case.add_generation(status=each) for each in GenerationStatus}

    assert ids(case.list("?status=error")) == [by_status[GenerationStatus.ERROR]]
    both = case.list("?status=error&status=timeout")
    assert set(ids(both)) == {by_status[GenerationStatus.ERROR], by_status[GenerationStatus.TIMEOUT]}


def test_cursor_leads_to_the_next_page() -> None:
    """Until there is none."""
    case = edge()
    added = {case.add_generation() for _ in range(5)}
    response = case.list("?limit=2")
    found = ids(response)
    while (cursor := response.json["data"]["nextCursor"]) is not None:  # type: ignore[index]
        response = case.list(f"?limit=2&cursor={cursor}")
        found += ids(response)

    assert (len(found), set(found)) == (5, added)


def test_hidden_generations_are_left_out() -> None:
    """As the status says 404 of them."""
    case = edge()
    hidden, seen = case.add_generation(), case.add_generation()
    case.storage.app.hidden.add(hidden)

    assert ids(case.list()) == [seen]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?limit=0", {"limit": ["Must be greater than or equal to 1 and less than or equal to 100."]}),
        ("?limit=101", {"limit": ["Must be greater than or equal to 1 and less than or equal to 100."]}),
        ("?limit=%2B5", {"limit": ["Not a whole number."]}),
        ("?limit=%C2%B2", {"limit": ["Not a whole number."]}),
        ("?limit=", {"limit": ["Not a whole number."]}),
        ("?limit=1&limit=2", {"limit": ["Not a whole number."]}),
        ("?limit=99999999999999999999", {"limit": ["Not a whole number."]}),
        ("?staus=error", {"staus": ["Unknown field."]}),
        ("?cursor=", {"cursor": [CURSOR]}),
        ("?cursor=x", {"cursor": [CURSOR]}),
        ("?cursor=a&cursor=b", {"cursor": [CURSOR]}),
        ("?cursor=%00", {"cursor": [CURSOR]}),
        ("?cursor=" + "A" * 5000, {"cursor": [CURSOR]}),
        (
            "?status=failed",
            {"status": {"0": ["Must be one of: queued, processing, success, error, timeout."]}},
        ),
        (
            "?status=error&status=",
            {"status": {"1": ["Must be one of: queued, processing, success, error, timeout."]}},
        ),
    ],
)
def test_query_that_cannot_be_used_is_refused(query: str, fields: Any) -> None:
    """With the parameter's name, what is wrong with it, and nothing of what was sent."""
    response = edge().list(query)

    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"]["code"] == "INVALID_REQUEST"
    assert response.json["error"]["details"] == {"fields": fields}


def test_caller_is_asked_for_first() -> None:
    """An unknown caller does not learn that the query is wrong."""
    assert edge().list("?limit=0", headers={}).status_code == 401


class Odd(Client):
    """A client that finds one generation which can't be read."""

    def generations(self, *_: Any, **__: Any) -> GenerationPage:
        """See there."""
        return GenerationPage(generations=[ODD, replace(ODD, status=None, model=None)], next=None)


def test_generation_that_cannot_be_read_is_listed() -> None:
    """With what could be read of it, and what is wrong with it."""
    case = edge()
    response = Edge(
        client=Odd(storage=case.storage, ai=ScriptedAiProvider()), clock=case.clock, storage=case.storage, ai=case.ai
    ).list()

    one, other = items(response)
    assert (one["generation"]["status"], one["generation"]["model"]) == ("error", "small")
    assert one["generation"]["createdAt"] is None
    assert (one["retry"]["possible"], one["retry"]["refusal"]["code"]) == (False, "NOT_CONFIGURED")
    assert "updated_at is no instant" in one["retry"]["refusal"]["message"]
    assert other["generation"]["status"] is None
