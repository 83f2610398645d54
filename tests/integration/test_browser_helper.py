"""The helper for browsers in ``examples``: its types are right, and it does what it says, by Node, to a real server."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server
from werkzeug.test import run_wsgi_app

from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.domain.model import Failure, FailureCode
from ai_retry.domain.policy import RetryPolicy
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.first_calls_app import prompt_from
from tests.unit.http_edge import ANSWER, Edge
from tools.npm import REPOSITORY, install_node_packages, node

HELPER = REPOSITORY / "examples" / "ai-retry.ts"
DOWN = Failure(
    code=FailureCode.UNAVAILABLE, reason="503", transient=True, certainly_not_generated=True, wire_requests=1
)
STRICT = (
    *("--noEmit", "--strict", "--noUncheckedIndexedAccess", "--noImplicitReturns", "--noUnusedLocals"),
    *("--target", "es2022", "--module", "es2022", "--lib", "es2022,dom"),
)


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    """Let TypeScript check a file."""
    modules = install_node_packages(manifest=REPOSITORY / "tools" / "node_typescript")
    command = [str(node()), str(modules / "typescript" / "bin" / "tsc"), *STRICT, str(file)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_types_are_right() -> None:
    """TypeScript finds nothing in it, as strictly as it can."""
    done = checked(HELPER)

    assert (done.returncode, done.stdout) == (0, "")


def test_wrong_type_is_found(tmp_path: Path) -> None:
    """The check above can fail: it finds a use that is wrong, and a member that does not exist."""
    wrong = tmp_path / "wrong.ts"
    wrong.write_text(
        HELPER.read_text() + "\naiRetry('', async () => 5);\nnew Refused({} as Problem).problem.nothing;\n"
    )

    done = checked(wrong)

    assert done.returncode != 0
    assert ("TS2322" in done.stdout, "TS2339" in done.stdout) == (True, True)


@dataclass
class Server:
    """The blueprint behind a real socket."""

    edge: Edge
    url: str
    lost: list[str] = field(default_factory=list)
    """Requests, such as ``POST``, whose next answer gets lost after it was made."""

    def run(self, expression: str) -> Any:
        """Evaluate an expression of the helper ``ai`` with Node; return its value, or the code that refused it."""
        script = f"""
            import {{ aiRetry, Refused }} from {json.dumps(HELPER.as_uri())};
            const ai = aiRetry({json.dumps(self.url + self.edge.prefix)}, async () => "user.{self.edge.user_id}");
            const shown = (value) => console.log(JSON.stringify(value));
            try {{ shown(await {expression}); }} catch (error) {{
              if (!(error instanceof Refused)) throw error;
              shown(error.problem);
            }}
        """
        done = subprocess.run(
            [str(node()), "--no-warnings", "--input-type=module", "--eval", script],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def serving(*script: AiStep) -> Iterator[Server]:
    """Serve the blueprint with a provider that plays a script; waits are short, and real."""
    clock = SystemClock()
    storage, ai = MemoryStorage(clock), ScriptedAiProvider(*script)
    policy = RetryPolicy(backoff_base=timedelta(milliseconds=100))
    client = Client(storage=storage, queue_storage=storage, ai=ai, clock=clock, policy=policy)
    edge = Edge(client=client, clock=clock, storage=storage, ai=ai, prompt_from=prompt_from)  # type: ignore[arg-type]
    server = Server(edge, "")
    app = edge.app.wsgi_app

    def losing(environ: Any, start_response: Callable[..., Any]) -> Any:
        """Answer with the page of something in between, whatever was answered."""
        if environ["REQUEST_METHOD"] not in server.lost:
            return app(environ, start_response)
        server.lost.remove(environ["REQUEST_METHOD"])
        run_wsgi_app(app, environ)
        start_response("502 Bad Gateway", [("Content-Type", "text/html")])
        return [b"<html>Bad gateway</html>"]

    listening = make_server("127.0.0.1", 0, losing, threaded=True)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.port}"
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
        client.close()


def test_first_call_that_fails_is_tried_again() -> None:
    """It waits as long as it is asked to, and retries the generation that the failure left."""
    with serving(DOWN, DOWN, ANSWER) as server:
        done = server.run('ai.generate({ wish: "run" })')

        assert done["session"]["content"] == ANSWER.output
        assert (done["generation"]["attempt"], len(server.edge.ai.calls)) == (3, 3)
        assert len(server.edge.storage.app.generations) == 1


def test_answer_that_gets_lost_is_asked_for_again() -> None:
    """A page of something in between is no answer: the same key asks again, and no second call is made."""
    with serving(ANSWER) as server:
        server.lost = ["POST"]
        done = server.run('ai.generate({ wish: "run" })')

        assert done["session"]["content"] == ANSWER.output
        assert len(server.edge.ai.calls) == len(server.edge.storage.app.sessions) == 1


def test_accepted_call_is_polled() -> None:
    """What a worker makes is read when it is there, although an answer gets lost meanwhile."""
    stop = threading.Event()
    with serving(ANSWER) as server:
        server.lost = ["GET"]
        worker = threading.Thread(target=server.edge.client.worker(concurrency=1).run, args=[stop])
        worker.start()
        try:
            done = server.run('ai.generateLater({ wish: "run" })')
        finally:
            stop.set()
            worker.join()

        assert (done["session"]["content"], done["generation"]["status"]) == (ANSWER.output, "success")


def test_failed_generation_is_retried() -> None:
    """By its id; once more, its session is read."""
    with serving(ANSWER) as server:
        generation_id = server.edge.add_generation()
        first, second = (server.run(f'ai.retry("{generation_id}")') for _ in range(2))

        assert first["session"] == second["session"]
        assert len(server.edge.ai.calls) == 1


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("ai.generate({ wish: 5 })", "INVALID_REQUEST"),
        ('ai.retry("nothing")', "INVALID_GENERATION_ID"),
        ('aiRetry(BASE, async () => "no one").generate({ wish: "run" })', "UNAUTHENTICATED"),
    ],
)
def test_what_waiting_does_not_cure_is_refused(expression: str, code: str) -> None:
    """With the problem as the server gave it, and at once."""
    with serving() as server:
        base = json.dumps(server.url + server.edge.prefix)

        assert server.run(expression.replace("BASE", base))["code"] == code


def test_long_wait_is_the_users() -> None:
    """A wait that is longer than a page should last is refused, and names it."""
    with serving(*[ANSWER] * 5) as server:
        for _ in range(5):
            server.edge.create({"wish": "run"})
        problem = server.run('ai.generate({ wish: "run" })')

        assert problem["code"] == "QUOTA_EXHAUSTED"
        assert problem["details"]["retryAfterSeconds"] > 3600
