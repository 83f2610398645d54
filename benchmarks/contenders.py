"""Who answers the same question in the endpoint's benchmark: this commit, earlier ones, a bare view, a gateway."""

import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import jwt
import psutil
import psycopg

from benchmarks.app_rows import PROMPT_DATA, PROMPT_WITH_SCHEMA, failed_generations
from benchmarks.asking import chat_request
from benchmarks.clients import Request, post
from benchmarks.commits import checked_out
from tools.app_server import FLASK_APP, Served, clean, served
from tools.npm import REPOSITORY
from tools.processes import die_with_parent, end, free_port
from tools.push import apply_migrations
from tools.stack import Stack

THREADS = 72  # of gunicorn's one worker: the calls, and some for refusals
MAX_CALLS = 64
COMMITS = {"before": "dfc1b13", "long before": "1cbeb96"}
NOW, LOGGED, BARE, GATEWAY = "this commit", "this commit, with its log", "a bare Flask view", "LiteLLM's proxy"
QUIET_APP = "benchmarks.quiet_app:create_app()"
LITELLM = REPOSITORY / ".cache" / "gateway" / "bin" / "litellm"
_GATEWAY_CONFIG = """\
model_list:
  - model_name: small
    litellm_params: {{model: openai/small, api_base: "{url}/v1", api_key: key}}
"""


@dataclass(frozen=True)
class Contender:
    """One that runs, and how it is asked."""

    name: str
    served: Served
    requests: Callable[[int, bool], Sequence[Request]]
    """So many that will succeed, with a schema or without."""

    def processor_seconds(self) -> float:
        """Sum up what its processes have used so far."""
        first = psutil.Process(self.served.pid)
        return sum(sum(each.cpu_times()[:2]) for each in (first, *first.children(recursive=True)))


@contextmanager
def contenders(stack: Stack, provider: str) -> Iterator[Sequence[Contender | str]]:
    """Start all of them; a string says who could not be started, and why."""
    with ExitStack() as started:
        folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="ai-retry-bench-")))
        found: list[Contender | str] = [
            started.enter_context(ours(stack, provider, NOW, REPOSITORY, QUIET_APP)),
            started.enter_context(ours(stack, provider, LOGGED, REPOSITORY)),
        ]
        for name, commit in COMMITS.items():
            checkout = checked_out(commit, folder)
            if checkout is None:
                found.append(f"{name} ({commit}): NOT RUN, this copy of the repository does not have that commit")
            else:
                found.append(started.enter_context(ours(stack, provider, f"{name} ({commit})", checkout)))
        found.append(started.enter_context(_bare(provider)))
        if LITELLM.exists():
            found.append(started.enter_context(_gateway(provider, folder)))
        else:
            found.append(f"{GATEWAY}: NOT RUN, it is not installed: make bench-gateway")
        yield found


@contextmanager
def ours(stack: Stack, provider: str, name: str, checkout: Path, app: str = FLASK_APP) -> Iterator[Contender]:
    """Serve our endpoint as it is in a checkout, with a database that has its migrations."""
    url = stack.create_database("endpoint_" + re.sub(r"\W+", "_", name), migrated=False)
    apply_migrations(url, checkout / "supabase" / "migrations")
    env = {**stack.env(), "DATABASE_URL": url, **provider_env(provider)}
    with (
        served(env, threads=THREADS, checkout=checkout, app=app) as found,
        psycopg.connect(url, autocommit=True) as database,
    ):

        def requests(count: int, shaped: bool) -> list[Request]:  # noqa: FBT001 - as the field says
            rows = failed_generations(database, count, PROMPT_WITH_SCHEMA if shaped else PROMPT_DATA)
            return [retry(found.url, stack.jwt_secret, *row) for row in rows]

        yield Contender(name, found, requests)


def provider_env(provider: str) -> dict[str, str]:
    """Give an app's settings for a provider."""
    names = {"AI_BASE_URL": f"{provider}/v1", "AI_API_KEY": "key", "AI_MODEL": "small"}
    return names | {"AI_RETRY_MAX_CALLS": str(MAX_CALLS)}


def retry(app: str, jwt_secret: str, user_id: UUID, generation_id: UUID) -> Request:
    """Prepare the request of a user who is signed in."""
    now = int(time.time())
    claims = {"sub": str(user_id), "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 3600}
    return partial(post, app, f"/sessions/ai/{generation_id}/retry", jwt.encode(claims, jwt_secret, "HS256"))


@contextmanager
def _bare(provider: str) -> Iterator[Contender]:
    env = {"AI_BASE_URL": f"{provider}/v1"}
    with served(env, threads=THREADS, app="benchmarks.bare_view:create_app()") as app:

        def requests(count: int, shaped: bool) -> list[Request]:  # noqa: FBT001
            return [partial(post, app.url, "/shaped" if shaped else "/plain", "none")] * count

        yield Contender(BARE, app, requests)


@contextmanager
def _gateway(provider: str, folder: Path) -> Iterator[Contender]:
    config, port, key = folder / "litellm.yaml", free_port(), f"sk-{secrets.token_hex(16)}"
    config.write_text(_GATEWAY_CONFIG.format(url=provider))
    process = subprocess.Popen(
        [str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        cwd=folder,
        env=clean(os.environ) | {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - nothing else runs in the child
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/health/liveliness")

        def requests(count: int, shaped: bool) -> list[Request]:  # noqa: FBT001
            body = json.dumps(chat_request(shaped=shaped)).encode()
            return [partial(post, url, "/v1/chat/completions", key, body)] * count

        yield Contender(GATEWAY, Served(url, process.pid), requests)
    finally:
        end(process, within=15)


def _wait_for(url: str) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"{re.sub('/health.*', '', url)} did not answer")
