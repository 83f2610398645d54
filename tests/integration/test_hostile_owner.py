"""A user whom the app's own policies let read, insert, update and delete their own generations.

What holds, whatever they write there: attempts keep their numbers, waits keep their ends, exhausted stays exhausted,
units that we captured stay captured, a success of ours stays the only one, and no model outside ``AI_MODELS`` is
called. It holds because all of it is in ``ai_retry_attempts``, by the generation's id.

What can't hold, and is pinned at the end: a generation with another id is another generation, and the app's own
successes count only as long as the app's own table says so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ai_retry.bootstrap import connect, usable_context
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Answer, QuotaRule
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.policy import RetryPolicy
from ai_retry.providers.response_schema import schema_of
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.testing.provider import ScriptedServer, chat
from tests.helpers.steps import ANSWER, FAILURE, answer_too_late
from tests.helpers.world import REFUSALS, SqlWorld
from tests.helpers.worlds import PROMPT_DATA, Row
from tests.integration.test_migrations import AN_APP
from tools.push import apply_migrations
from tools.stack import MIGRATIONS, Stack

POLICIES = """
grant select, insert, update, delete on public.generations to authenticated;
create policy "read own" on public.generations for select to authenticated using (auth.uid() = user_id);
create policy "insert own" on public.generations for insert to authenticated with check (auth.uid() = user_id);
create policy "delete own" on public.generations for delete to authenticated using (auth.uid() = user_id);
create function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)
returns jsonb language sql set search_path = '' as $$
  insert into public.sessions as s (user_id, content) values (p_generation.user_id, p_output) returning to_jsonb(s)
$$;
revoke all on function public.ai_retry_create_session(public.generations, jsonb) from public, anon, authenticated;
grant execute on function public.ai_retry_create_session(public.generations, jsonb) to service_role;
"""
MODELS = frozenset({"small", "large"})
DAY = timedelta(days=1)
PAST_EVERY_WAIT = timedelta(minutes=6)

DELETE = "delete from public.generations where id = %(id)s"
INSERT = """
insert into public.generations (id, user_id, status, model, prompt_data)
values (%(id)s, %(user)s, 'error', 'small', %(prompt)s)
"""
# Each ends with a generation that looks as if it had failed, and had never been retried.
TAMPERINGS = {
    "status back and forth": [
        f"update public.generations set status = '{status}' where id = %(id)s"
        for status in ("success", "processing", "queued", "timeout", "success", "error")
    ],
    "everything as new": [
        "update public.generations set status = 'error', session_id = null, duration_ms = null,"
        " created_at = '2020-01-01Z', updated_at = '2020-01-01Z' where id = %(id)s"
    ],
    "from the future": [
        "update public.generations set status = 'error', created_at = '2090-01-01Z', updated_at = '2090-01-01Z'"
        " where id = %(id)s"
    ],
    "another question": [
        "update public.generations set status = 'error', model = 'large', prompt_data ="
        """ '{"messages": [{"role": "user", "content": "another"}]}' where id = %(id)s"""
    ],
    "deleted and inserted": [DELETE, INSERT],
}
tampering = pytest.mark.parametrize("statements", TAMPERINGS.values(), ids=TAMPERINGS.keys())


@dataclass
class Scene:
    """An app with such policies, one of its users with a failed generation, and our side of it."""

    url: str
    world: SqlWorld
    hostile: psycopg.Connection
    user_id: UUID
    generation_id: UUID

    def act(self, *statements: str, generation_id: UUID | None = None, **arguments: Any) -> int:
        """Do something as the user, through the policies, each statement for itself; count the rows."""
        values = {
            "id": generation_id or self.generation_id,
            "user": self.user_id,
            "prompt": Jsonb(PROMPT_DATA),
            **arguments,
        }
        return sum(self.hostile.execute(statement.encode(), values).rowcount for statement in statements)

    def client(self, ai: ScriptedAiProvider, **policy: Any) -> Client:
        """Make what an app's endpoint would call."""
        context_from = usable_context(stored_context, models=MODELS, default_model=None, check_schema=schema_of)
        return Client(storage=self.world.storage, ai=ai, policy=RetryPolicy(**policy), context_from=context_from)

    def outcome(
        self, ai: ScriptedAiProvider, generation_id: UUID | None = None, key: str | None = None, **policy: Any
    ) -> str:
        """Click "retry"; return the error's code, or the attempt's number as ``session of 2``."""
        try:
            client = self.client(ai, **policy)
            result = client.retry_generation(self.user_id, generation_id or self.generation_id, idempotency_key=key)
        except AiRetryError as error:
            return error.code
        return f"session of {result.attempt}"

    def status(self, generation_id: UUID | None = None, **policy: Any) -> Outlook:
        """Ask for its state."""
        client = self.client(ScriptedAiProvider(), **policy)
        return client.status(self.user_id, generation_id or self.generation_id)

    def books(self) -> list[Row]:
        """Everything that we keep about the generation."""
        return list(self.world.attempts(self.generation_id))

    def captured(self) -> int:
        """Units that our successes spent, as the quota of any other generation shows them."""
        return self.status(self.world.new_generation(self.user_id)).snapshot.quota.captured

    def wait(self) -> None:
        """Let every backoff end."""
        self.world.advance(PAST_EVERY_WAIT)


@pytest.fixture(scope="module")
def app_without_rows(stack: Stack) -> Iterator[str]:
    """The name of a database with the app of the migrations' tests, its users let in; each test has a copy."""
    name = f"test_{uuid4().hex}"
    url = stack.create_database(name, migrated=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((AN_APP + POLICIES + REFUSALS).encode())
    apply_migrations(url, MIGRATIONS)
    yield name
    stack.drop_database(name)


@pytest.fixture
def database(stack: Stack, app_without_rows: str) -> Iterator[str]:
    """The URL of a copy."""
    name = f"test_{uuid4().hex}"
    yield stack.copy_database(app_without_rows, name)
    stack.drop_database(name)


@pytest.fixture
def scene(database: str) -> Iterator[Scene]:
    """The app, and a user signed in to its Data API."""
    with (
        psycopg.connect(database, autocommit=True) as connection,
        psycopg.connect(database, autocommit=True) as hostile,
    ):
        storage = PostgresStorage(database, max_connections=3)
        world = SqlWorld(storage, connection)
        user_id = world.new_user()
        hostile.execute("select set_config('request.jwt.claims', %s, false)", [f'{{"sub": "{user_id}"}}'])
        hostile.execute("select set_config('request.jwt.claim.sub', %s, false)", [str(user_id)])
        hostile.execute("set role authenticated")
        yield Scene(database, world, hostile, user_id, world.new_generation(user_id))
        storage.close()


def failing(times: int) -> ScriptedAiProvider:
    """A provider that is down for so many calls, and must not be asked again."""
    return ScriptedAiProvider(*[FAILURE] * times)


def while_it_runs(act: Callable[[], object], then: Answer = ANSWER) -> AiStep:
    """A call during which something happens, and which then succeeds."""

    def step(_: AiCall) -> Answer:
        act()
        return then

    return step


@tampering
def test_tampering_lands(scene: Scene, statements: list[str]) -> None:
    """The policies really let the user do what these tests are about."""
    assert scene.act(*statements) == len(statements)


def test_only_own_rows_writable(scene: Scene) -> None:
    """The policies keep a user from other users' generations, and from giving theirs away."""
    foreign = scene.world.new_generation(scene.world.new_user())

    assert (
        scene.act(DELETE, "update public.generations set status = 'error' where id = %(id)s", generation_id=foreign)
        == 0
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        scene.act("update public.generations set user_id = gen_random_uuid() where id = %(id)s")


@tampering
def test_wait_and_number_stay_during_backoff(scene: Scene, statements: list[str]) -> None:
    """A backoff ends when it was said to, and the next attempt has the next number."""
    ai = ScriptedAiProvider(FAILURE, ANSWER)
    assert scene.outcome(ai) == "AI_UNAVAILABLE"
    before = scene.books()

    scene.act(*statements)

    assert scene.outcome(ai) in {"RETRY_TOO_SOON", "RETRY_IN_PROGRESS"}
    assert scene.books() == before
    scene.wait()
    assert scene.outcome(ai) == "session of 3"


@tampering
def test_success_of_ours_stays_the_only_one(scene: Scene, statements: list[str]) -> None:
    """After our success nothing makes the generation retryable, and its unit stays captured."""
    ai = ScriptedAiProvider(ANSWER)
    assert scene.outcome(ai) == "session of 2"
    before = scene.books()

    scene.act(*statements)
    scene.wait()

    assert scene.outcome(ai) == "ALREADY_SUCCEEDED"
    assert [row["outcome"] for row in scene.books()] == [row["outcome"] for row in before] == ["succeeded"]
    assert len(scene.world.sessions(scene.user_id)) == 1
    assert scene.captured() == 1


@tampering
def test_second_click_refused_while_attempt_runs(scene: Scene, statements: list[str]) -> None:
    """However the row looks meanwhile, there is no second call beside a running one."""
    ai = ScriptedAiProvider(while_it_runs(lambda: clicks.append((scene.act(*statements), scene.outcome(ai)))))
    clicks: list[tuple[int, str]] = []

    outcome = scene.outcome(ai)

    assert [code for _, code in clicks] == ["RETRY_IN_PROGRESS"]
    assert outcome == "session of 2"
    assert scene.captured() == 1


@tampering
def test_exhausted_stays_exhausted(scene: Scene, statements: list[str]) -> None:
    """After the last attempt there is no other, however new the row looks."""
    ai = failing(3)
    for _ in range(3):
        assert scene.outcome(ai) == "AI_UNAVAILABLE"
        scene.wait()
    before = scene.books()

    scene.act(*statements)

    assert scene.outcome(ai) in {"RETRY_LIMIT_REACHED", "RETRY_IN_PROGRESS"}
    scene.wait()
    assert scene.outcome(ai) in {"RETRY_LIMIT_REACHED", "RETRY_IN_PROGRESS"}
    assert [row["number"] for row in scene.books()] == [row["number"] for row in before] == [2, 3, 4]


@pytest.mark.parametrize("statements", [*TAMPERINGS.values(), [DELETE]], ids=[*TAMPERINGS, "deleted"])
def test_used_up_quota_stays_used_up(scene: Scene, statements: list[str]) -> None:
    """No change to a generation of ours that succeeded gives its unit back."""
    quota = QuotaRule(limit=1, window=DAY)
    other = scene.world.new_generation(scene.user_id)
    assert scene.outcome(ScriptedAiProvider(ANSWER), quota=quota) == "session of 2"

    scene.act(*statements)

    assert scene.outcome(ScriptedAiProvider(), other, quota=quota) == "QUOTA_EXHAUSTED"


@pytest.mark.parametrize("statements", [*TAMPERINGS.values(), [DELETE]], ids=[*TAMPERINGS, "deleted"])
def test_held_unit_stays_held_while_attempt_runs(scene: Scene, statements: list[str]) -> None:
    """No change to a generation that is worked on frees its unit, or its place among the parallel ones."""
    quota = QuotaRule(limit=1, window=DAY)
    other = scene.world.new_generation(scene.user_id)
    seen: list[str] = []

    def meanwhile() -> None:
        scene.act(*statements)
        seen.append(scene.outcome(ScriptedAiProvider(), other, quota=quota))
        seen.append(scene.outcome(ScriptedAiProvider(), other, max_parallel=1))

    scene.outcome(ScriptedAiProvider(while_it_runs(meanwhile)), quota=quota)

    assert seen == ["QUOTA_EXHAUSTED", "TOO_MANY_PARALLEL_RETRIES"]


def test_success_claimed_mid_call_saves_no_unit(scene: Scene) -> None:
    """A user who says ``success`` during the call, then ``error``, gets the paid answer, once, for its unit."""
    says = "update public.generations set status = '{}' where id = %(id)s"
    ai = ScriptedAiProvider(while_it_runs(lambda: scene.act(says.format("success"))))
    assert scene.outcome(ai) == "ALREADY_SUCCEEDED"

    scene.act(says.format("error"))

    assert scene.outcome(ai) == "RETRY_TOO_SOON"
    scene.wait()
    assert scene.outcome(ai) == "session of 3"
    assert scene.outcome(ai) == "ALREADY_SUCCEEDED"
    assert (len(ai.calls), scene.captured()) == (1, 1)


def test_deleting_mid_call_saves_no_attempt_and_no_wait(scene: Scene) -> None:
    """Whoever deletes the generation during each call and inserts it again has three calls in all, and waits."""
    ai = ScriptedAiProvider(*[while_it_runs(lambda: scene.act(DELETE))] * 3)

    for _ in range(3):
        assert scene.outcome(ai) == "GENERATION_NOT_FOUND"
        scene.act(INSERT)
        assert scene.outcome(ai) in {"RETRY_TOO_SOON", "RETRY_LIMIT_REACHED"}
        scene.wait()

    assert scene.outcome(ai) == "RETRY_LIMIT_REACHED"
    assert [(row["number"], row["counted"]) for row in scene.books()] == [(2, True), (3, True), (4, True)]


def test_saying_success_mid_call_of_a_failure_saves_no_attempt(scene: Scene) -> None:
    """A failed call counts and waits though the user says ``success`` meanwhile."""

    def step(_: AiCall) -> Any:
        scene.act("update public.generations set status = 'success' where id = %(id)s")
        return FAILURE

    ai = ScriptedAiProvider(*[step] * 3)
    for _ in range(3):
        scene.outcome(ai)
        scene.act("update public.generations set status = 'error' where id = %(id)s")
        assert scene.outcome(ai) in {"RETRY_TOO_SOON", "RETRY_LIMIT_REACHED"}
        scene.wait()

    assert scene.outcome(ai) == "RETRY_LIMIT_REACHED"


# Models


@pytest.mark.parametrize(
    ("model", "prompt_data"),
    [
        ("huge", {}),
        (None, {"model": "huge"}),
        ("", {"model": "huge"}),
        (" small", {}),
        ("small ", {}),
        ("small,huge", {}),
        ("SMALL", {}),
        ("small:online", {}),
        (None, {}),
        (None, {"model": ["small"]}),
        ("small", {"parameters": {"model": "huge"}}),
        ("small", {"parameters": {"models": ["huge"]}}),
        ("small", {"parameters": {"extra_body": {"model": "huge"}}}),
        ("small", {"parameters": {"n": 100}}),
        ("small", {"parameters": {"tools": []}}),
    ],
    ids=str,
)
def test_model_outside_the_list_never_called(scene: Scene, model: str | None, prompt_data: dict[str, Any]) -> None:
    """Whatever a user writes as model or parameters, a context beyond ``AI_MODELS`` is refused before any call."""
    column = "model = %(model)s" if model is not None else "model = ''"  # the app's column is not null
    scene.act(
        f"update public.generations set {column}, prompt_data = %(data)s where id = %(id)s",
        model=model,
        data=Jsonb(PROMPT_DATA | prompt_data),
    )

    assert scene.outcome(ScriptedAiProvider()) == "CONTEXT_MISSING"
    assert scene.books() == []


def test_only_listed_models_reach_the_wire(scene: Scene) -> None:
    """With the real provider's client, a model swapped before, during and after calls is on the wire only if listed."""

    def swap(model: str) -> None:
        scene.act("update public.generations set status = 'error', model = %(model)s where id = %(id)s", model=model)

    def busy(_: object) -> Any:
        swap("huge")
        return chat("no JSON at all", usage={})

    with ScriptedServer(default=busy) as server:
        settings = Settings(database_url=scene.url, ai_base_url=server.base_url, ai_models=MODELS)
        with connect(settings) as client:
            scene.act(
                "update public.generations set prompt_data = %(data)s where id = %(id)s",
                data=Jsonb(PROMPT_DATA | {"response_schema": {"type": "object"}}),
            )
            for model in ("small", "huge", "large", "small"):
                swap(model)
                with pytest.raises(AiRetryError):
                    client.retry_generation(scene.user_id, scene.generation_id)
                with pytest.raises(AiRetryError):
                    client.retry_generation(scene.user_id, scene.generation_id)
                scene.wait()
        asked = {request.json()["model"] for request in server.requests}

    assert asked == {"small", "large"}


# What belongs to others


def test_foreign_session_never_shown(scene: Scene) -> None:
    """A generation that points at another user's session shows none, in status and in replay."""
    victim = scene.world.new_user()
    theirs = scene.world.new_generation(victim)
    session = scene.client(ScriptedAiProvider(ANSWER)).retry_generation(victim, theirs).session
    ai = ScriptedAiProvider(Answer(output={"mine": True}))
    assert scene.outcome(ai, key="k") == "session of 2"

    for generation_id in (scene.generation_id, scene.world.new_generation(scene.user_id)):
        for status in ("success", "error"):
            scene.act(
                "update public.generations set status = %(status)s, session_id = %(session)s where id = %(id)s",
                generation_id=generation_id,
                status=status,
                session=session["id"],
            )
            shown = scene.status(generation_id).snapshot.session
            assert shown is None or shown["user_id"] == str(scene.user_id)
    replayed = scene.client(ai).retry_generation(scene.user_id, scene.generation_id, idempotency_key="k")

    assert (replayed.replayed, replayed.session["content"]) == (True, {"mine": True})


def test_foreign_stored_answer_never_used(scene: Scene) -> None:
    """Who takes over the id of another user's deleted generation gets no answer that was paid for by them."""
    victim = scene.world.new_user()
    theirs = scene.world.new_generation(victim)
    answer_too_late(scene.world, victim, theirs)
    scene.world.delete_generation(theirs)

    scene.act(INSERT, generation_id=theirs)
    scene.wait()
    ai = ScriptedAiProvider(default=Answer(output={"mine": True}))
    scene.outcome(ai, theirs)

    assert [row["content"] for row in scene.world.sessions(scene.user_id)] in ([], [{"mine": True}])


def test_foreign_key_of_a_repeat_never_replayed(scene: Scene) -> None:
    """An idempotency key of the id's earlier owner replays nothing for the new one."""
    victim = scene.world.new_user()
    theirs = scene.world.new_generation(victim)
    scene.client(ScriptedAiProvider(ANSWER)).retry_generation(victim, theirs, idempotency_key="k")
    scene.world.delete_generation(theirs)

    scene.act(INSERT, generation_id=theirs)

    assert scene.outcome(ScriptedAiProvider(), theirs, key="k") == "ALREADY_SUCCEEDED"
    assert scene.status(theirs).snapshot.session is None


# Values that are no values


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("created_at", "infinity"),
        ("created_at", "-infinity"),
        ("created_at", "4713-01-01 BC"),
        ("created_at", "294276-12-31"),
        ("updated_at", "infinity"),
        ("updated_at", "9999-12-31T23:59:59.999999Z"),
        ("duration_ms", "2147483647"),
        ("duration_ms", "-2147483648"),
    ],
)
@pytest.mark.parametrize("status", ["error", "success", "processing"])
def test_absurd_value_is_refused_by_name(scene: Scene, column: str, value: str, status: str) -> None:
    """A value that the database can hold is an answer or a refusal of ours, never a surprise."""
    other = scene.world.new_generation(scene.user_id)
    scene.act(f"update public.generations set status = '{status}', {column} = %(value)s where id = %(id)s", value=value)

    outcome = scene.outcome(ScriptedAiProvider(default=FAILURE))

    assert outcome in {"AI_UNAVAILABLE", "ALREADY_SUCCEEDED", "NOT_CONFIGURED", "RETRY_IN_PROGRESS"}
    assert scene.outcome(ScriptedAiProvider(default=FAILURE), other) == "AI_UNAVAILABLE"


USER = '"messages": [{"role": "user", "content": "x"}]'
ABSURD_PROMPTS = {
    "deep list": "[" * 3000 + "]" * 3000,
    "deep object": '{"messages": ' + '{"a": ' * 3000 + "1" + "}" * 3000 + "}",
    "deep content": '{"messages": [{"role": "user", "content": [' + "[" * 900 + "]" * 900 + "]}]}",
    "infinite number": f'{{{USER}, "parameters": {{"temperature": 1e400}}}}',
    "long number": f'{{{USER}, "parameters": {{"seed": {"9" * 5000}}}}}',
    "schema of itself": f'{{{USER}, "response_schema": {{"$ref": "#"}}}}',
    "schema elsewhere": f'{{{USER}, "response_schema": {{"$ref": "http://127.0.0.1:1/x"}}}}',
}


@pytest.mark.parametrize("prompt_data", ABSURD_PROMPTS.values(), ids=ABSURD_PROMPTS.keys())
def test_absurd_prompt_is_refused_or_asked(scene: Scene, prompt_data: str) -> None:
    """A prompt of any shape that the database can hold is asked or refused, never a surprise."""
    scene.act("update public.generations set prompt_data = (%(data)s::text)::jsonb where id = %(id)s", data=prompt_data)

    outcome = scene.outcome(ScriptedAiProvider(default=FAILURE))

    assert outcome in {"AI_UNAVAILABLE", "CONTEXT_MISSING", "NOT_CONFIGURED"}


# What such policies do open: pinned, so that no page promises more


def test_another_id_is_another_generation(scene: Scene) -> None:
    """A changed id starts at number 2 again, without a wait; the units that were captured stay so."""
    quota = QuotaRule(limit=2, window=DAY)
    assert scene.outcome(ScriptedAiProvider(ANSWER), quota=quota) == "session of 2"
    new_ids = [uuid4(), uuid4()]

    scene.act(
        "update public.generations set id = %(new)s, status = 'error', session_id = null where id = %(id)s",
        new=new_ids[0],
    )
    assert scene.outcome(ScriptedAiProvider(ANSWER), new_ids[0], quota=quota) == "session of 2"
    scene.act(
        "update public.generations set id = %(new)s, status = 'error', session_id = null where id = %(id)s",
        generation_id=new_ids[0],
        new=new_ids[1],
    )

    assert scene.outcome(ScriptedAiProvider(), new_ids[1], quota=quota) == "QUOTA_EXHAUSTED"


def test_own_successes_are_the_apps_to_guard(scene: Scene) -> None:
    """A success of the app's own call stops counting when its user takes it back; none of ours ever does."""
    own = scene.world.new_generation(scene.user_id, status="success")
    assert scene.outcome(ScriptedAiProvider(ANSWER)) == "session of 2"
    assert scene.captured() == 2

    for generation_id in (own, scene.generation_id):
        scene.act("update public.generations set status = 'error' where id = %(id)s", generation_id=generation_id)

    assert scene.captured() == 1
