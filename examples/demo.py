"""The main job, end to end, on a local Supabase stack: a line for each step of a generation's life, and its rows.

Run it with ``make demo``, or ``make demo ARGS=-v`` to see each exchange as JSON. It starts PostgreSQL, Auth and the
Data API, a scripted AI provider on a real socket, and the Flask app under gunicorn; plays a story to them over HTTP;
checks every answer; and takes everything down again.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import psycopg
import requests
from psycopg.types.json import Jsonb

from ai_retry.domain.model import ResponseFormat
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, pause, reply
from examples.demo_app import prompt
from tools.app_server import running_app
from tools.model_server import running_model
from tools.stack import SignedInUser, running_stack
from tools.worker_process import running_worker

WISH = "An easy run for a beginner."
APP = "examples.demo_app:create_app()"
FIRST_CALLS = "/sessions/ai"
BUSY = reply(503, json={"error": {"message": "The model is overloaded.", "code": 503}})
_STEP = 57  # characters; what is longer pushes its reason to the right
SESSION = chat({"title": "Easy run", "minutes": 30})
_PROVED = """
A failed generation was retried after its wait; the failure cost its user nothing.
Two clicks made one call and one charge, and so did a retry accepted for later.
Every attempt is on record, and no refused request reached the provider.
"""


class Answers:
    """What the provider answers: a session after half a second, or that it is down."""

    def __init__(self) -> None:
        self.available = True

    def __call__(self, request: Request) -> Script:
        """Answer one request."""
        return self.generate(request) if self.available else BUSY

    def generate(self, request: Request) -> Script:  # noqa: ARG002 - a real model reads it
        """Answer as a provider that works."""
        return (*pause(0.5), *SESSION)


class ModelAnswers(Answers):
    """The same with a real model: every request is passed on to it."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self._base_url = base_url

    def generate(self, request: Request) -> Script:
        """Ask the model and give back its answer as it came."""
        answer = requests.post(
            f"{self._base_url}/chat/completions",
            data=request.body,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        return reply(answer.status_code, body=answer.content, headers={"Content-Type": "application/json"})


class Unexpected(Exception):
    """The story went another way."""


@dataclass
class Story:
    """Plays it: prints a line for each request, and raises when an answer is not the expected one."""

    app: str
    calls: ScriptedServer
    verbose: bool

    def ask(
        self,
        why: str,
        path: str,
        expected: int,
        *,
        token: str | None,
        method: str = "POST",
        later: bool = False,
        body: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        """Make one exchange, print it, and check its status; ``later`` prefers an answer before it is tried."""
        response = self.send(path, token=token, method=method, later=later, body=body)
        self.show(why, method, path, response, later=later, body=body)
        if response.status_code != expected:
            raise Unexpected(f"{why}: expected {expected}, got {response.status_code}")
        return response

    def send(
        self,
        path: str,
        *,
        token: str | None,
        method: str = "POST",
        later: bool = False,
        body: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        """Make one exchange in silence."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Prefer": "respond-async"} if later else {}
        return requests.request(method, self.app + path, headers=headers, json=body, timeout=60)

    def show(
        self,
        why: str,
        method: str,
        path: str,
        response: requests.Response,
        *,
        later: bool = False,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        """Print an exchange: what was answered, and why."""
        step = f"{method} {_name_of(path)}{' later' if later else ''} \u2192 {_outcome(response)}"
        print(f"  {step:<{_STEP}} {why}".rstrip())
        if self.verbose:
            sent = f"  {json.dumps(body)}" if body is not None else ""
            print(f"    {method} {path}{'  Prefer: respond-async' if later else ''}{sent}")
            print(f"    {json.dumps(_short(response.json()), ensure_ascii=False)}")

    def check(self, claim: str, *, holds: bool) -> None:
        """State what must be true now."""
        if not holds:
            raise Unexpected(f"this is not so: {claim}")
        if self.verbose:
            print(f"    ok: {claim}")


def main(arguments: Sequence[str]) -> int:
    """Run the demo; 0 when every answer was the expected one."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--model", action="store_true", help="answer with a real small language model")
    parser.add_argument(
        "--response-format",
        type=ResponseFormat,
        choices=list(ResponseFormat),
        default=ResponseFormat.JSON_SCHEMA,
        help="how the provider is asked for JSON: AI_RESPONSE_FORMAT",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print each exchange as JSON, and each check")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        with ExitStack() as cleanup:
            play(cleanup, options)
    except (Unexpected, requests.RequestException, psycopg.Error, AssertionError, RuntimeError) as error:
        print(f"\ndemo: failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything was taken down", file=sys.stderr)
        return 1
    print(_PROVED)
    print(f"demo: ok ({time.monotonic() - began:.1f} s)")
    return 0


def play(cleanup: ExitStack, options: argparse.Namespace) -> None:
    """Start the parts and go through the story."""
    print("Starting PostgreSQL, Auth, Data API, an AI provider and the app on 127.0.0.1 ...")
    stack = cleanup.enter_context(running_stack())
    answers = ModelAnswers(cleanup.enter_context(running_model())) if options.model else Answers()
    provider = cleanup.enter_context(ScriptedServer(default=answers))
    settings = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}
    settings |= {"AI_BASE_URL": provider.base_url, "AI_MODEL": "demo", "AI_RESPONSE_FORMAT": options.response_format}
    app = cleanup.enter_context(running_app(settings, app=APP))
    database = cleanup.enter_context(psycopg.connect(stack.database_url, autocommit=True))
    story = Story(app=app, calls=provider, verbose=options.verbose)
    ada = stack.sign_up("ada@example.com", "correct horse battery staple")
    bob = stack.sign_up("bob@example.com", "correct horse battery staple")
    someone_elses, second, third = (failed_generation(database, user) for user in (bob, ada, ada))
    refused_at_the_door(story, ada, someone_elses)
    failed_waited_retried(story, ada, answers)
    two_clicks_at_once(story, ada, second)
    accepted_for_later(story, ada, third, settings)
    show_rows(database, ada)


def refused_at_the_door(story: Story, ada: SignedInUser, someone_elses: UUID) -> None:
    """A caller who may not learns nothing, and causes no call."""
    token = ada.access_token
    print("\nRefused before anything happens")
    story.ask("no token", FIRST_CALLS, 401, token=None, body={"wish": WISH})
    story.ask("not what the app asks", FIRST_CALLS, 400, token=token, body={"wish": ["run"]})
    story.ask("not a UUID", "/sessions/ai/session-7/retry", 400, token=token)
    story.ask("another user's", retry_path(someone_elses), 404, token=token)
    story.check("no call was made", holds=not story.calls.requests)


def failed_waited_retried(story: Story, ada: SignedInUser, answers: Answers) -> None:
    """A failure costs nothing, the wait is kept, the success is charged once."""
    token = ada.access_token
    print("\nA first call fails, and is retried")
    answers.available = False
    failed = story.ask("the provider is down", FIRST_CALLS, 502, token=token, body={"wish": WISH})
    story.check("a Retry-After says when to come back", holds="Retry-After" in failed.headers)
    generation = UUID(failed.json()["error"]["details"]["generationId"])
    story.check("its Location is the generation's", holds=failed.headers["Location"].endswith(str(generation)))
    before = len(story.calls.requests)
    early = story.ask("too soon", retry_path(generation), 429, token=token)
    story.check("the provider was not called", holds=len(story.calls.requests) == before)
    answers.available = True
    wait = int(early.headers["Retry-After"])
    print(f"  ... {wait} s ...")
    time.sleep(wait)
    failures = f"{FIRST_CALLS}?status=error&limit=5"
    listed = story.ask("what can be retried?", failures, 200, token=token, method="GET")
    items = listed.json()["data"]["generations"]
    possible = {each["generation"]["id"]: each["retry"]["possible"] for each in items}
    story.check("this one can", holds=possible[str(generation)])
    status = story.ask("it cost no quota", f"/sessions/ai/{generation}", 200, token=token, method="GET")
    story.check("the failure cost no quota", holds=_quota(status)["remaining"] == _quota(status)["limit"])
    done = story.ask("charged once", retry_path(generation), 200, token=token)
    story.check("it was charged once", holds=_quota(done)["remaining"] == _quota(done)["limit"] - 1)
    before = len(story.calls.requests)
    story.ask("it has its session", retry_path(generation), 409, token=token)
    story.check("the provider was not called", holds=len(story.calls.requests) == before)


def two_clicks_at_once(story: Story, ada: SignedInUser, generation: UUID) -> None:
    """Two threads, a barrier, one generation."""
    print("\nTwo clicks at once")
    before = len(story.calls.requests)
    barrier = Barrier(2)

    def click() -> requests.Response:
        barrier.wait(timeout=10)
        return story.send(retry_path(generation), token=ada.access_token)

    with ThreadPoolExecutor(2) as threads:
        clicks = [threads.submit(click) for _ in range(2)]
        responses = sorted((each.result() for each in clicks), key=lambda response: response.status_code)
    for response, why in zip(responses, ("one click is tried", "the other is refused"), strict=True):
        story.show(why, "POST", retry_path(generation), response)
    story.check("one 200 and one 429", holds=[each.status_code for each in responses] == [200, 429])
    story.check("one call of the provider", holds=len(story.calls.requests) == before + 1)
    quota = _quota(responses[0])
    story.check("charged once", holds=quota["remaining"] == quota["limit"] - 2)


def accepted_for_later(story: Story, ada: SignedInUser, generation: UUID, settings: Mapping[str, str]) -> None:
    """Accepted at once, run by a worker, charged once."""
    print("\nAccepted now, run later")
    token, path, state = ada.access_token, retry_path(generation), f"/sessions/ai/{generation}"
    accepted = story.ask("a unit is held", path, 202, token=token, later=True)
    story.check("its unit of quota is held", holds=_quota(accepted)["remaining"] == _quota(accepted)["limit"] - 3)
    story.ask("no second attempt", path, 202, token=token, later=True)
    story.ask("accepted already", path, 429, token=token)
    story.ask("waits for a worker", state, 200, token=token, method="GET")
    print("  ... ai-retry worker ...")
    with running_worker(settings) as worker:
        deadline = time.monotonic() + 30
        while story.send(state, token=token, method="GET").json()["data"]["generation"]["status"] != "success":
            if worker.process.poll() is not None or time.monotonic() > deadline:
                raise Unexpected("the worker made no session")
            time.sleep(0.1)
    done = story.ask("its session", state, 200, token=token, method="GET")
    story.check("it was charged once", holds=_quota(done)["remaining"] == _quota(done)["limit"] - 3)
    story.check("the worker was stopped, and exited with 0", holds=worker.process.returncode == 0)


def show_rows(database: psycopg.Connection, user: SignedInUser) -> None:
    """Print what is in the database now."""
    table(
        database,
        "Attempts (ai_retry_attempts): each call, or try, of a generation",
        "counted: uses up one of the attempts; calls: requests to the provider; charged: spent a unit of quota",
        "select left(generation_id::text, 8) as id, number as no, outcome, coalesce(code, '-') as code, counted,"
        " wire_requests as calls, captured_at is not null as charged,"
        " coalesce(left(session_id::text, 8), '-') as session"
        " from public.ai_retry_attempts where user_id = %s order by started_at",
        user.id,
    )
    table(
        database,
        "The app's error log (generation_error_logs)",
        "one row for each attempt that failed",
        "select left(generation_id::text, 8) as id, error_type, error_message"
        " from public.generation_error_logs where user_id = %s order by created_at",
        user.id,
    )
    table(
        database,
        "The app's events (events)",
        "one row for each attempt that ended",
        "select event_type, left(event_data ->> 'generation_id', 8) as id, event_data ->> 'attempt' as attempt"
        " from public.events where user_id = %s order by created_at",
        user.id,
    )


def table(database: psycopg.Connection, title: str, meaning: str, query: str, user_id: UUID) -> None:
    """Print a query's rows under their names, with what they mean."""
    cursor = database.execute(query.encode(), [user_id])
    names = [column.name for column in cursor.description or ()]
    words = {True: "yes", False: "no", None: ""}
    rows = [[words[value] if isinstance(value, bool | None) else str(value) for value in row] for row in cursor]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    print(f"\n{title}\n{textwrap.fill(meaning, 80, initial_indent='  ', subsequent_indent='  ')}")
    for row in (names, *rows):
        print("  " + "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def failed_generation(database: psycopg.Connection, user: SignedInUser) -> UUID:
    """Store a generation as the app does, after its own call failed."""
    generation_id = uuid4()
    database.execute(
        "insert into public.generations (id, user_id, status, prompt_data) values (%s, %s, 'error', %s)",
        [generation_id, user.id, Jsonb(prompt(WISH))],
    )
    return generation_id


def retry_path(generation_id: UUID) -> str:
    """Where a generation is retried."""
    return f"/sessions/ai/{generation_id}/retry"


def _name_of(path: str) -> str:
    """What a path is for."""
    resource = path.partition("?")[0]
    if resource == FIRST_CALLS:
        return "list" if "?" in path else "generate"
    return "retry" if resource.endswith("/retry") else "status"


def _outcome(response: requests.Response) -> str:
    """Say in a few words what was answered: status, code, wait, quota."""
    body = response.json()
    parts = [f"{response.status_code} {body['error']['code'] if 'error' in body else ''}".rstrip()]
    if "generation" in body.get("data", {}):
        parts[0] += f" {body['data']['generation']['status']}"
    if "Retry-After" in response.headers:
        parts.append(f"again in {response.headers['Retry-After']} s")
    if "quota" in body["meta"]:
        parts.append(f"quota {body['meta']['quota']['remaining']}/{body['meta']['quota']['limit']}")
    return " \u00b7 ".join(parts)


def _quota(response: requests.Response) -> dict[str, Any]:
    quota: dict[str, Any] = response.json()["meta"]["quota"]
    return quota


def _short(value: Any) -> Any:
    """Cut ids, so that an exchange fits a few lines."""
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_short(each) for each in value]
    return value[:8] + "…" if isinstance(value, str) and len(value) == len(str(UUID(int=0))) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
