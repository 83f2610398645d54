"""A short part of the campaign over the Data API, and what its gateway does to a request."""

from collections.abc import Iterator

import pytest
import requests

from ai_retry.testing.provider import Request, Script, ScriptedServer, reply
from tests.faults.gateway import CUTS, REPLIES, Gateway, Odd, following


def api(request: Request) -> Script:
    """Answer as an API would: with what was asked."""
    return reply(json={"function": request.path.rpartition("/")[2], **request.json()})


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """An API."""
    with ScriptedServer(default=api) as server:
        yield server


def call(gateway: Gateway, function: str) -> requests.Response:
    """Call a function through the gateway."""
    url = f"http://127.0.0.1:{gateway.port}/rest/v1/rpc/{function}"
    return requests.post(url, json={"p": 1}, timeout=5)


def test_gateway_passes_on_what_it_does_not_answer(server: ScriptedServer) -> None:
    """Only the calls of the rule are answered with nonsense, as often as it says."""
    with Gateway(server.port, following(Odd(functions=("begin",), does="403 HTML"))) as gateway:
        answers = [call(gateway, function) for function in ("load", "begin", "begin")]

    assert [answer.status_code for answer in answers] == [200, 403, 200]
    assert answers[0].json() == {"function": "load", "p": 1}
    assert "<html>" in answers[1].text
    assert (gateway.fired, gateway.requests, len(server.requests)) == (1, 3, 2)


@pytest.mark.parametrize("does", REPLIES)
def test_gateway_takes_the_place_of_a_reply(server: ScriptedServer, does: str) -> None:
    """A call that gets through is answered with nonsense all the same."""
    with Gateway(server.port, following(Odd(functions=("begin",), does=does, passes=True))) as gateway:
        answer = call(gateway, "begin")

    assert (answer.status_code, answer.content) == (REPLIES[does][0], REPLIES[does][2])
    assert len(server.requests) == 1


@pytest.mark.parametrize("does", CUTS)
def test_gateway_cuts(server: ScriptedServer, does: str) -> None:
    """A connection that is cut gives no answer, or half of one."""
    with Gateway(server.port, following(Odd(functions=("begin",), does=does))) as gateway:
        with pytest.raises(requests.RequestException):
            call(gateway, "begin")
        assert call(gateway, "begin").ok
