"""Many clicks at once, on the real stack: one of them wins, and the others learn that it is being done."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Semaphore

import requests

from ai_retry.testing.provider import Script, chat
from tests.helpers.attempts import ATTEMPTS
from tests.helpers.endpoint import SESSION, Endpoint

CLICKS = 20
LONGEST = 20.0  # seconds of the call, if no click were refused


def test_one_of_twenty_clicks_wins(endpoint: Endpoint) -> None:
    """Twenty requests at once make one call that outlasts them, one session and one captured unit; nineteen get 429."""
    user = endpoint.sign_up()
    barrier, refused = Barrier(CLICKS), Semaphore(0)

    def answer() -> Script:
        for _ in range(CLICKS - 1):
            refused.acquire(timeout=LONGEST / CLICKS)
        return chat(SESSION)

    generation_id = endpoint.failed_generation(user, answer)

    def click() -> requests.Response:
        barrier.wait(timeout=10)
        response = endpoint.retry(generation_id, user)
        refused.release()
        return response

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
