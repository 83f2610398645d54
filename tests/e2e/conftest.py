"""The endpoint that the tests of this directory share."""

from collections.abc import Iterator

import pytest

from tests.helpers.endpoint import Endpoint, running_endpoint
from tools.stack import Stack

SETTINGS = {
    "AI_REASKS": "0",  # one request for each answer; test_fallback.py has another app
    "AI_RETRY_BACKOFF_BASE_SECONDS": "0.5",
    "AI_RETRY_DEADLINE_SECONDS": "2",
    "AI_RETRY_MAX_ATTEMPTS": "3",
    "AI_RETRY_QUOTA_LIMIT": "2",
}


@pytest.fixture(scope="session")
def app_over_data_api(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The app over the Data API, one for all tests."""
    yield from _running(stack, tmp_path_factory, direct=False)


@pytest.fixture(scope="session")
def app_over_postgres(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The app over a direct connection, one for all tests."""
    yield from _running(stack, tmp_path_factory, direct=True)


@pytest.fixture(scope="module")
def endpoint_over_data_api(app_over_data_api: Endpoint) -> Iterator[Endpoint]:
    """The app over the Data API."""
    yield from _counted(app_over_data_api)


@pytest.fixture(scope="module")
def endpoint_over_postgres(app_over_postgres: Endpoint) -> Iterator[Endpoint]:
    """The app over a direct connection."""
    yield from _counted(app_over_postgres)


@pytest.fixture(params=["data_api", "postgres"])
def endpoint(request: pytest.FixtureRequest, stack: Stack) -> Endpoint:
    """The app on each of its storages, with numbers that make waits short; in the end the wire agrees with the rows."""
    found: Endpoint = request.getfixturevalue(f"endpoint_over_{request.param}")
    return found


def _running(stack: Stack, tmp_path_factory: pytest.TempPathFactory, *, direct: bool) -> Iterator[Endpoint]:
    log = tmp_path_factory.mktemp("app") / "app.log"
    with running_endpoint(stack, SETTINGS, log, direct=direct) as endpoint:
        yield endpoint


def _counted(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Compare the wire with the rows at the end of each file: later files may delete rows."""
    endpoint.prompts.clear()
    yield endpoint
    assert endpoint.miscounted() == {}
