"""One scripted outage on the real stack: seen on Now, explained on Generation, recovered on Recover by clicks.

A worker and the console's host are processes of their own. What the pages count is what the books and the metrics of
both processes count.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from tests.console.screens import Screen
from tests.console.stage import Stage, metrics_at, total
from tests.helpers.books import violations
from tests.helpers.queue_steps import new_accepted
from tools.outage import failed_generations
from tools.processes import free_port
from tools.waiting import eventually
from tools.worker_process import running_worker

Window = Callable[..., Screen]
FAILED, ACCEPTED = 9, 3
WHY = "the provider is back, says its status page"


def test_outage_from_alarm_to_books(stage: Stage, window: Window, tmp_path: Path) -> None:
    """The whole night by clicks: every user has one session for one unit, and all numbers agree."""
    stage.provider.is_up.clear()
    accepted = [new_accepted(stage.world)[1] for _ in range(ACCEPTED)]
    failed = failed_generations(stage.connection, FAILED)
    port = free_port()
    screen = window(width=390, scheme="dark")
    with running_worker(stage.env, tmp_path / "worker.log", options=["--metrics-port", str(port)]):
        seen_on_now(stage, screen, port)
        explained_on_generation(stage, screen, failed[0], accepted[0])
        stage.provider.is_up.set()
        recovered_by_clicks(stage, screen)
        eventually(lambda: {stage.status(each) for each in (*failed, *accepted)} == {"success"}, within=60)
        eventually(
            lambda: total(metrics_at(f"http://127.0.0.1:{port}/metrics"), "ai_retry_closed_routes") == 0, within=60
        )
        numbers_agree(stage, screen, port)

    assert violations(stage.connection) == []
    assert stage.rows("select count(*) from public.sessions") == [(FAILED + ACCEPTED,)]


def of_worker(port: int, name: str) -> float:
    """Add up a metric of the worker's."""
    return total(metrics_at(f"http://127.0.0.1:{port}/metrics"), name)


def seen_on_now(stage: Stage, screen: Screen, port: int) -> None:
    """The route is unavailable, accepted retries wait for it; after five minutes that is an alarm."""
    eventually(lambda: of_worker(port, "ai_retry_parked") >= 1, within=60)
    screen.open("/")
    assert screen.by("route").count() == 1
    assert screen.page.locator("[data-alarm=AiRetryProviderUnavailable]").count() == 0
    stage.connection.execute("update public.ai_retry_outages set began_at = began_at - interval '6 minutes'")

    def alarms() -> bool:
        screen.open("/")
        return bool(screen.page.locator("[data-alarm=AiRetryProviderUnavailable]").is_visible())

    eventually(alarms, within=30)
    assert screen.number("queued") >= 1
    screen.page.get_by_role("link", name="Routes").click()
    assert "Unavailable" in screen.text()
    assert "AI_UNAVAILABLE" in screen.text()


def explained_on_generation(stage: Stage, screen: Screen, failed: UUID, accepted: UUID) -> None:
    """A click while it lasts is refused; the pages say why, what a worker waits for, and who has tried."""
    screen.page.get_by_role("link", name="Failures").click()
    screen.page.locator(f"[data-id='{failed}'] a").first.click()
    screen.by("retry-open").click()
    screen.page.locator("#retry-reason").fill("does it work again?")
    screen.by("retry-now").click()
    screen.by("note").wait_for()
    assert any(code in screen.by("note").inner_text() for code in ("ROUTE_UNAVAILABLE", "AI_UNAVAILABLE"))
    screen.open(f"/generations/{accepted}")
    assert "503" in screen.text() or "unavailable" in screen.by("why").inner_text()


def recovered_by_clicks(stage: Stage, screen: Screen) -> None:
    """Plan what failed, type how many, start, and watch it end."""
    screen.open("/failures?since=24h&code=AI_UNAVAILABLE")
    count = screen.number("count")
    screen.by("to-recover").click()
    screen.page.get_by_label("Don't wait for the backoff").check()  # a click may have been the probe, and failed
    screen.by("plan").click()
    selected = screen.number("selected")
    assert selected == FAILED <= count
    screen.by("confirm").fill(str(selected))
    screen.page.get_by_label("Reason").fill(WHY)
    screen.by("start").click()
    screen.page.wait_for_selector("[data-state=done]", timeout=90_000)
    assert screen.number("succeeded") == selected


def numbers_agree(stage: Stage, screen: Screen, port: int) -> None:
    """What Now counts of the last hour is what the books and the metrics of both processes count."""
    books = Counter(row["outcome"] for row in stage.attempts())
    calls = sum(row["wire_requests"] for row in stage.attempts())
    processes = [stage.metrics(), metrics_at(f"http://127.0.0.1:{port}/metrics")]

    def counted(name: str, **labels: str) -> float:
        return sum(total(each, name, **labels) for each in processes)

    screen.open("/")
    hour = {name: screen.number_in("last-hour", name) for name in ("succeeded", "failed", "calls", "tokens")}

    assert hour["succeeded"] == books["succeeded"] == counted("ai_retry_attempts_total", outcome="succeeded")
    assert hour["succeeded"] == FAILED + ACCEPTED
    assert hour["failed"] == books["failed"] == counted("ai_retry_attempts_total", outcome="failed")
    assert hour["tokens"] == counted("ai_retry_tokens_total") == 120 * (FAILED + ACCEPTED)
    assert calls == len(stage.server.requests) == counted("ai_retry_provider_calls_total")
    assert hour["calls"] == calls
    assert screen.by("no-alarm").is_visible()
    screen.open("/books")
    assert screen.by("balanced").is_visible()
