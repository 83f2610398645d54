"""Many clicks at once, on the real stack: one of them wins, and the others learn that it is being done."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import requests

from ai_retry.testing.provider import chat, pause
from tests.support.attempts import ATTEMPTS
from tests.support.endpoint import SESSION, Endpoint

CLICKS = 20


def test_one_of_twenty_clicks_wins(endpoint: Endpoint) -> None:
    """Twenty requests at once make one call, one session and one captured unit; nineteen are answered 429."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, (*pause(1), *chat(SESSION)))
    barrier = Barrier(CLICKS)

    def click() -> requests.Response:
        barrier.wait(timeout=10)
        return endpoint.retry(generation_id, user)

    with ThreadPoolExecutor(CLICKS) as threads:
        responses = [each.result() for each in [threads.submit(click) for _ in range(CLICKS)]]
    answers = Counter(
        (response.status_code, response.json().get("error", {}).get("code"), "Retry-After" in response.headers)
        for response in responses
    )

    assert answers == {(200, None, False): 1, (429, "RETRY_IN_PROGRESS", True): CLICKS - 1}
    assert endpoint.calls(generation_id) == 1
    assert endpoint.rows("select count(*) from public.sessions where user_id = %s", user.id) == [(1,)]
    attempts = f"select count(*), count(captured_at) from {ATTEMPTS} a where user_id = %s"
    assert endpoint.rows(attempts, user.id) == [(1, 1)]
    quota = endpoint.status(generation_id, user).json()["meta"]["quota"]
    assert quota["limit"] - quota["remaining"] == 1
