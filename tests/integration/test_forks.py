"""A process that was forked after the app had asked the database shares no connection with its parent."""

import os
import subprocess
import sys

import psycopg
import pytest

from ai_retry.testing.provider import ScriptedServer, chat
from tools.npm import REPOSITORY
from tools.stack import Stack

# Runs by itself: a fork of pytest would have its threads' locks. Each side asks many times at once, and looks at what
# it was answered; then the child ends as workers do, and the parent asks again.
PRELOADED = """
import os, sys, uuid
from ai_retry.domain.model import QuotaRule
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage

def is_answered(limit):
    rule = QuotaRule(limit=limit)
    return all(storage.load(user, generation, rule, None).quota.limit == limit for _ in range(200))

env = os.environ
if "DATABASE_URL" in env:
    storage = PostgresStorage(env["DATABASE_URL"])
else:
    storage = SupabaseStorage(env["SUPABASE_URL"], env["SUPABASE_SECRET_KEY"])
user, generation = (uuid.UUID(each) for each in sys.argv[1:])
is_answered(1)
child = os.fork()
if child == 0:
    good = is_answered(2)
    storage.close()
    os._exit(0 if good else 1)
good = is_answered(3)
_, status = os.waitpid(child, 0)
good = good and status == 0 and is_answered(4)
storage.close()
sys.exit(0 if good else 1)
"""


@pytest.mark.parametrize("way", ["postgres", "data_api"])
def test_fork_has_connections_of_its_own(stack: Stack, way: str) -> None:
    """Parent and child ask at the same time, and each gets its own answers; the child's end closes nothing of both."""
    with psycopg.connect(stack.database_url, autocommit=True) as owner:
        user = owner.execute("insert into auth.users (id) values (gen_random_uuid()) returning id").fetchone()
        assert user is not None
        generation = owner.execute(
            "insert into public.generations (user_id, status) values (%s, 'error') returning id", user
        ).fetchone()
        assert generation is not None
    env = {**os.environ, **stack.env()}
    if way == "data_api":
        del env["DATABASE_URL"]

    done = subprocess.run(
        [sys.executable, "-c", PRELOADED, str(user[0]), str(generation[0])],
        env=env,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


# The same for a provider: on one connection, each would read what the other has paid for.
ASKED = """
import os, sys
from datetime import timedelta
from ai_retry.clock import SystemClock
from ai_retry.domain.model import Context
from ai_retry.providers.http import HttpAiProvider

ai = HttpAiProvider(clock=SystemClock(), base_url=sys.argv[1], model="small")

def is_answered():
    context = Context(messages=[{"role": "user", "content": "x"}], model="small")
    return bool(ai.generate(context, timeout=timedelta(seconds=10), idempotency_key="g-1").output)

good = is_answered()
child = os.fork()
if child == 0:
    os._exit(0 if is_answered() else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if good and status == 0 and is_answered() else 1)
"""


def test_fork_asks_a_provider_on_a_connection_of_its_own() -> None:
    """A connection that was used just before the fork stays the parent's, which goes on using it."""
    env = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with ScriptedServer(*[chat({"title": "x"})] * 3) as server:
        done = subprocess.run([sys.executable, "-c", ASKED, server.base_url], env=env, check=False, timeout=60)

        assert done.returncode == 0
        assert server.connections == 2


# A name is being looked up, and a lease renewed, in the parent when it forks; the child does both for itself.
THREADS_LEFT = """
import os, socket, sys, threading, time
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID
from ai_retry.clock import SystemClock
from ai_retry.deadline import Deadline, _lookups, bounded_by
from ai_retry.renewal import LeaseRenewer

begun, parent, resolve, renewed = threading.Event(), os.getpid(), socket.getaddrinfo, set()

def resolving(*arguments, **options):
    if os.getpid() == parent and not options.get("flags"):
        begun.set()
        time.sleep(60)
    return resolve(*arguments, **options)

class Renewals:
    def amend(self, change):
        renewed.add(change.token)
        return SimpleNamespace(applied=True)

def look_up():
    with bounded_by(Deadline(SystemClock(), 10)):
        return _lookups.addresses("localhost", 80)

socket.getaddrinfo = resolving
threading.Thread(target=look_up, daemon=True).start()
begun.wait(10)
renewer, theirs, mine = LeaseRenewer(Renewals(), timedelta(seconds=0.1)), UUID(int=1), UUID(int=2)
with renewer.renewing(theirs, theirs):
    child = os.fork()
    if child == 0:
        renewed.clear()
        found = look_up()
        with renewer.renewing(mine, mine):
            while not renewed:
                time.sleep(0.01)
            time.sleep(0.3)
        os._exit(0 if found and renewed == {mine} else 1)
    _, status = os.waitpid(child, 0)
os._exit(0 if status == 0 else 1)
"""


def test_fork_waits_for_no_thread_of_its_parent_and_renews_no_lease_of_its() -> None:
    """A child looks names up itself; and were its parent killed, the parent's attempts would be abandoned in time."""
    assert subprocess.run([sys.executable, "-c", THREADS_LEFT], check=False, timeout=60).returncode == 0


CALLS_RUN = """
import os, sys
from ai_retry.slots import CallSlots

slots = CallSlots(1)
slots.take()
child = os.fork()
slots.take() if child == 0 else None
os._exit(0 if child == 0 or os.waitpid(child, 0)[1] == 0 else 1)
"""


def test_calls_that_ran_at_a_fork_take_no_slot_of_the_child() -> None:
    """They end in the parent: a child that counted them would have fewer slots for ever."""
    assert subprocess.run([sys.executable, "-c", CALLS_RUN], check=False, timeout=60).returncode == 0
