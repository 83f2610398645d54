"""What the wiring promises: the parts that the settings name, one limit on calls, and nothing usable wasted."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest

import ai_retry
from ai_retry import bootstrap
from ai_retry.auth import Unauthenticated
from ai_retry.bootstrap import connect, context_reader, usable_context, verifier
from ai_retry.clock import SystemClock
from ai_retry.config import OPENROUTER, Settings
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import (
    ContextMissing,
    NotConfigured,
)
from ai_retry.domain.model import Context, Generation, ResponseFormat
from ai_retry.domain.reader import reader_name
from ai_retry.providers import dialect
from ai_retry.providers.function import FunctionProvider
from ai_retry.providers.http import OPENROUTER as PROVIDERS_OPENROUTER
from ai_retry.providers.http import HttpAiProvider
from ai_retry.storage.spool import Spool, SpoolReport
from ai_retry.testing.memory import MemoryApp, MemoryStorage
from ai_retry.testing.provider import ScriptedServer, chat
from tests.helpers.builders import MESSAGES, USER_ID, a_generation

SECRETS = ("sb_secret_key", "db-password", "provider-key", "header-key", "jwt-secret")
HOSTED = Settings(
    supabase_url="https://abc.supabase.co",
    supabase_secret_key="sb_secret_key",
    supabase_jwt_secret="jwt-secret" + "0" * 32,
    ai_api_key="provider-key",
    ai_headers={"X-Key": "header-key"},
)
DIRECT = replace(HOSTED, database_url="postgresql://app:db-password@127.0.0.1:1/postgres")


class TestUsableContext:
    """What can't be used is refused before anything is begun."""

    def context(self, model: str | None, *, models: frozenset[str] | None, default: str | None) -> Context:
        """Read the context of a generation with this model."""
        context_from = usable_context(stored_context, models=models, default_model=default, check_schema=dict)
        return context_from(a_generation(model=model))

    @pytest.mark.parametrize(
        ("model", "models", "default"),
        [
            ("small", None, None),
            ("small", frozenset({"small", "large"}), None),
            ("small", frozenset({"large"}), "small"),
            (None, frozenset({"large"}), "small"),
            (None, None, "small"),
        ],
    )
    def test_allowed_model_passes(self, model: str | None, models: frozenset[str] | None, default: str | None) -> None:
        """A model passes when all do, when it is listed, or when it is the operator's own default."""
        assert self.context(model, models=models, default=default).model == model

    def test_other_model_is_refused_without_list(self) -> None:
        """The message names neither the model, which may be anyone's words, nor those that would pass."""
        with pytest.raises(ContextMissing) as refused:
            self.context("enormous", models=frozenset({"small"}), default="medium")

        assert not any(model in str(refused.value) for model in ("enormous", "small", "medium"))
        assert "model" in refused.value.details["problem"]

    def test_no_model_at_all_is_refused(self) -> None:
        """Where neither the generation nor the configuration names one, nothing could be asked."""
        with pytest.raises(ContextMissing, match="no model"):
            self.context(None, models=None, default=None)

    def test_reserved_field_is_refused(self) -> None:
        """A context's ``extra_body`` can't replace the model, past the list of those that are allowed."""

        def context_from(generation: Generation) -> Context:
            return replace(stored_context(generation), extra_body={"model": "enormous"})

        with pytest.raises(ContextMissing, match=r"extra_body must not hold model \(") as refused:
            usable_context(context_from, models=None, default_model="small", check_schema=dict)(a_generation())

        assert "enormous" not in str(refused.value)

    def test_schema_is_checked_when_there_is_one(self) -> None:
        """The schema goes to the check, and what the check raises is the refusal."""
        seen: list[Mapping[str, Any]] = []
        schema = {"type": "object"}
        context_from = usable_context(stored_context, models=None, default_model=None, check_schema=seen.append)

        context_from(a_generation())
        context_from(a_generation(prompt_data={"messages": MESSAGES, "response_schema": schema}))

        assert seen == [schema]


def titled(generation: Generation) -> Context:
    """Read a context, and ask for a title."""
    return replace(stored_context(generation), response_schema={"required": ["title"]})


class Closable(MemoryStorage):
    """A storage in memory that has connections, as it were."""

    closed = 0
    spool: Spool | None = None

    def close(self) -> None:
        """Count."""
        self.closed += 1


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Closable]:
    """Let ``connect`` use a storage in memory, and see that it is closed."""
    storage = Closable(SystemClock(), MemoryApp())

    def open_storage(_: Settings, *, spool: Spool | None) -> Closable:
        storage.spool = spool
        return storage

    monkeypatch.setattr(bootstrap, "open_storage", open_storage)
    yield storage
    assert storage.closed == 1


def add(storage: Closable, **columns: Any) -> UUID:
    """Store a generation that failed an hour ago."""
    generation = a_generation(created_at=SystemClock().now() - timedelta(hours=1), **columns)
    storage.app.generations[generation.id] = generation
    return generation.id


class TestConnect:
    """``connect`` wires what the settings name."""

    def test_provider_is_asked_as_configured(self, storage: Closable) -> None:
        """Address, key, headers, query and model of the settings are on the wire."""
        generation_id = add(storage, model=None)
        with ScriptedServer(chat({"title": "Intervals"})) as server:
            settings = replace(
                HOSTED,
                ai_base_url=server.base_url,
                ai_model="default-model",
                ai_headers={"X-Title": "Training"},
                ai_query={"api-version": "1"},
                ai_auth_header="api-key",
                ai_response_format=ResponseFormat.JSON_OBJECT,
                ai_extra_body={"max_tokens": 800},
            )
            with connect(settings, context_from=titled) as client:
                client.retry_generation(USER_ID, generation_id)

        (request,) = server.requests
        assert request.path == "/v1/chat/completions?api-version=1"
        assert request.headers["api-key"] == "provider-key"
        assert request.headers["x-title"] == "Training"
        assert "authorization" not in request.headers
        assert request.json()["model"] == "default-model"
        assert request.json()["max_tokens"] == 800
        assert request.json()["response_format"] == {"type": "json_object"}

    def test_schema_is_checked_once_for_all(self, storage: Closable, monkeypatch: pytest.MonkeyPatch) -> None:
        """Status pages, the retry and its request ask about the same schema, and it is checked once."""
        checked: list[Any] = []
        fault = dialect.fault

        def counted(schema: Mapping[str, Any]) -> str | None:
            checked.append(schema)
            return fault(schema)

        monkeypatch.setattr(dialect, "fault", counted)
        schema = {"title": "checked once for all", "required": ["title"]}
        prompt = {"messages": MESSAGES, "response_schema": schema}
        generation_id = add(storage, prompt_data=prompt)

        with ScriptedServer(chat({"title": "Intervals"})) as server:
            settings = replace(HOSTED, ai_base_url=server.base_url)
            with connect(settings) as client:
                for _ in range(3):
                    client.status(USER_ID, generation_id)
                client.retry_generation(USER_ID, generation_id)

        assert checked == [schema]

    @pytest.mark.parametrize(
        ("columns", "problem"),
        [
            ({"model": "enormous"}, "model"),
            ({"prompt_data": {"messages": MESSAGES, "response_schema": {"type": "no-type"}}}, "response_schema"),
        ],
    )
    def test_unusable_context_is_refused_unclaimed(
        self, storage: Closable, columns: dict[str, Any], problem: str
    ) -> None:
        """A model that is not listed and a schema that is none are refused before anything is written or called."""
        generation_id = add(storage, **columns)

        with (
            connect(replace(HOSTED, ai_models=frozenset({"small"}))) as client,
            pytest.raises(ContextMissing, match=problem),
        ):
            client.retry_generation(USER_ID, generation_id)

        assert not storage.rows

    def test_apps_own_context_is_used_and_checked(self, storage: Closable) -> None:
        """An app's ``context_from`` replaces the default, not the checks."""
        generation_id = add(storage, prompt_data=None)

        def context_from(_: Generation) -> Context:
            return Context(messages=MESSAGES, model="enormous")

        with connect(replace(HOSTED, ai_models=frozenset({"small"})), context_from=context_from) as client:
            refusal = client.status(USER_ID, generation_id).refusal

        assert isinstance(refusal, ContextMissing)
        assert "model" in str(refusal)

    def test_failing_connect_closes_what_it_opened(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """When a later part can't be made, the provider's connections don't stay open."""
        closed: list[HttpAiProvider] = []
        monkeypatch.setattr(HttpAiProvider, "close", lambda provider: closed.append(provider))  # noqa: PLW0108 (it binds)
        (tmp_path / "file").touch()

        with pytest.raises(NotConfigured, match="spool directory"):
            connect(replace(HOSTED, spool_dir=tmp_path / "file" / "spool"))

        assert len(closed) == 1

    def test_spool_is_given_to_storage_and_client(self, storage: Closable, tmp_path: Path) -> None:
        """The storage writes answers where the client settles them, and the directory is there from the start."""
        with connect(replace(HOSTED, spool_dir=tmp_path / "spool")) as client:
            assert isinstance(storage.spool, Spool)
            assert client._spool is storage.spool
            assert (tmp_path / "spool").is_dir()
            assert client.settle() == SpoolReport()

    def test_unusable_spool_is_refused_at_the_start(self, tmp_path: Path) -> None:
        """Whoever asked for a spool has one, or is refused before anything is opened."""
        (tmp_path / "file").touch()

        with pytest.raises(NotConfigured, match="spool directory"):
            connect(replace(HOSTED, spool_dir=tmp_path / "file" / "spool"))

    @pytest.mark.parametrize(
        ("settings", "name"), [(HOSTED, "SupabaseStorage"), (DIRECT, "PostgresStorage")], ids=["data-api", "direct"]
    )
    def test_settings_choose_the_storage(self, settings: Settings, name: str) -> None:
        """The Data API, or PostgreSQL when its address is given; neither is asked before it is needed."""
        with connect(settings) as client:
            shown = repr(client)

        assert shown.startswith(f"Client(storage={name}(")
        assert "HttpAiProvider(" in shown

    def test_environment_is_used_without_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With an empty environment the one error names what is needed."""
        for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY", "DATABASE_URL", "AI_API_KEY", "AI_BASE_URL"):
            monkeypatch.delenv(name, raising=False)

        with pytest.raises(NotConfigured, match=r"SUPABASE_URL is missing.*SUPABASE_SECRET_KEY.*AI_API_KEY"):
            connect()

    def test_settings_without_storage_are_refused(self) -> None:
        """The error of settings that were written in code names what they lack."""
        with pytest.raises(NotConfigured, match="SUPABASE_URL and SUPABASE_SECRET_KEY, or DATABASE_URL"):
            connect(Settings(ai_api_key="k"))

    def test_missing_driver_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without psycopg the error says what to install."""
        monkeypatch.setitem(sys.modules, "psycopg", None)
        for module in ("postgres", "_function_connection"):
            monkeypatch.delitem(sys.modules, f"ai_retry.storage.{module}", raising=False)

        with pytest.raises(NotConfigured, match="install ai-retry with its extra postgres"):
            connect(DIRECT)

    @pytest.mark.parametrize("settings", [HOSTED, DIRECT], ids=["data-api", "direct"])
    def test_no_repr_shows_a_secret(self, settings: Settings) -> None:
        """Neither the client nor any of its parts shows a key, a password or a header."""
        with connect(settings) as client:
            parts = [settings, client, *vars(client).values(), verifier(settings)]

            shown = " ".join(map(repr, parts))

        assert not any(secret in shown for secret in SECRETS)

    def test_default_provider_is_openrouter(self) -> None:
        """Settings, which import no adapter, and the adapter name the same address."""
        assert OPENROUTER == PROVIDERS_OPENROUTER


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module of the app's, and give its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"app_{uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(f"from ai_retry.domain.errors import ContextMissing\n{text}")
        return name

    return write


class TestContextReader:
    """What reads contexts: the function given, else the one that the settings name, else the default."""

    READS = "def read(generation):\n    raise ContextMissing('by the settings')\n"

    @staticmethod
    def given(_: Generation) -> Context:
        """Find nothing."""
        raise ContextMissing("by the argument")

    @pytest.mark.parametrize("is_given", [True, False])
    def test_given_reader_wins_over_the_settings(self, app: Callable[[str], str], *, is_given: bool) -> None:
        """An explicit function is the caller's word."""
        settings = replace(HOSTED, context_from=f"{app(self.READS)}:read")

        reader = context_reader(settings, self.given if is_given else None)

        with pytest.raises(ContextMissing, match="by the argument" if is_given else "by the settings"):
            reader(a_generation())

    def test_facade_takes_the_arguments_of_bootstrap(self) -> None:
        """``ai_retry.connect`` passes everything on, has no default of its own, and wires the doctor itself."""
        facade, wiring = (list(signature(each).parameters.values()) for each in (ai_retry.connect, connect))

        assert [(each.name, each.kind, each.default) for each in facade] == [
            (each.name, each.kind, each.default) for each in wiring if each.name != "doctor"
        ]

    def test_given_reader_spares_the_import(self) -> None:
        """What the settings name is not even looked at then."""
        context_reader(replace(HOSTED, context_from="no_such_module:read"), self.given)

    def test_default_reads_the_documented_form(self) -> None:
        """Without either it is ``stored_context``."""
        assert reader_name(context_reader(HOSTED)) == reader_name(stored_context)

    def test_attribute_may_lie_deeper(self, app: Callable[[str], str]) -> None:
        """A method of a class is named with a dot."""
        name = app("class Reader:\n    @staticmethod\n    def read(generation):\n        raise ContextMissing('x')\n")

        assert reader_name(context_reader(replace(HOSTED, context_from=f"{name}:Reader.read"))) == f"{name}:Reader.read"

    @pytest.mark.parametrize(
        ("text", "attribute", "problem"),
        [
            (READS, "reads", "{name} has no reads: name a function"),
            (READS, "read.deeper", "{name} has no read.deeper: name a function"),
            ("read = 7\n", "read", "{name} holds something that can't be called as read"),
            (
                "import no_such_library\n",
                "read",
                "{name} imports no_such_library, which is not installed ({name}.py:2)",
            ),
            ("1 / 0\n", "read", "importing {name} raised ZeroDivisionError ({name}.py:2)"),
            ("raise ValueError('secret-of-the-app')\n", "read", "importing {name} raised ValueError"),
            ("raise SystemExit('secret-of-the-app')\n", "read", "importing {name} raised SystemExit"),
            ("def read(:\n", "read", "importing {name} raised SyntaxError ({name}.py:2)"),
        ],
    )
    def test_unusable_reader_is_reported(
        self, app: Callable[[str], str], text: str, attribute: str, problem: str
    ) -> None:
        """The error names the variable, what is wrong and what to do; no text of the app's own errors."""
        name = app(text)

        with pytest.raises(NotConfigured) as caught:
            connect(replace(HOSTED, context_from=f"{name}:{attribute}"))

        assert f"AI_RETRY_CONTEXT_FROM: {problem.format(name=name)}" in str(caught.value)
        assert "secret-of-the-app" not in str(caught.value)
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize("name", ["no_such_module", "no_such_package.prompts", "ai_retry.no_such_module"])
    def test_missing_module_is_reported(self, name: str) -> None:
        """Where no such module can be imported, the error says where it is looked for."""
        with pytest.raises(NotConfigured, match=r"there is no module .*: start where .*PYTHONPATH"):
            connect(replace(HOSTED, context_from=f"{name}:read"))


MAKES = """
from ai_retry.domain.model import Answer

class Own:
    closed = 0

    def generate(self, context, *, timeout, idempotency_key):
        return Answer(output={"title": str(context.model)})

    def close(self):
        Own.closed += 1

def make():
    return Own()
"""


class TestOwnProvider:
    """A provider of the app's own, which a variable names."""

    def test_own_provider_is_asked(
        self, storage: Closable, app: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By app, workers and commands alike; it needs no key and no model, and is closed with the client."""
        name = app(MAKES)
        for each in [each for each in os.environ if each.startswith(("AI_", "SUPABASE_", "DATABASE_"))]:
            monkeypatch.delenv(each)
        monkeypatch.setenv("DATABASE_URL", "postgresql://app@localhost/app")
        monkeypatch.setenv("AI_RETRY_PROVIDER", f"{name}:make")
        generation_id = add(storage, model=None)

        with bootstrap.worker() as worker, connect(context_from=stored_context) as client:
            assert type(worker.ai).__name__ == "Own"
            assert client.retry_generation(USER_ID, generation_id).session["content"] == {"title": "None"}
            assert client._route_of(client._context_from(a_generation())) == "Own/small"
        storage.closed -= 1  # of two clients

        assert sys.modules[name].Own.closed == 2

    def test_given_provider_wins(self, storage: Closable) -> None:
        """An explicit provider is the caller's word: what the settings name is not even looked at, nor is it closed."""
        ai = FunctionProvider(lambda *_: "hello", model="ours")
        generation_id = add(storage, model=None)

        with connect(replace(HOSTED, ai_api_key=None, provider="no_such_module:make"), ai=ai) as client:
            client.retry_generation(USER_ID, generation_id)

        assert next(iter(storage.rows.values())).call.model == "ours"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("make = 7\n", "holds something that can't be called as make: name a function that takes nothing"),
            ("def make():\n    raise ValueError('secret-of-the-app')\n", "{name}:make raised ValueError ({name}.py:3)"),
            ("def make():\n    return 'secret-of-the-app'\n", "{name}:make returned str, which has no generate"),
            ("def make(a):\n    pass\n", "{name}:make raised TypeError"),
            ("class make:\n    generate = print\n    def __new__(cls):\n        return cls\n", "has no generate"),
            ("1 / 0\n", "importing {name} raised ZeroDivisionError ({name}.py:2)"),
        ],
    )
    def test_unusable_provider_is_reported(self, app: Callable[[str], str], text: str, problem: str) -> None:
        """Before anything is connected; the error names the variable, and holds no text of the app's own errors."""
        name = app(text)

        with pytest.raises(NotConfigured) as caught:
            connect(replace(HOSTED, provider=f"{name}:make"))

        assert "AI_RETRY_PROVIDER: " in str(caught.value)
        assert problem.format(name=name) in str(caught.value)
        assert "secret-of-the-app" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_system_clock_shows_this_machines_time() -> None:
    """The wall clock is aware and in UTC; the monotonic one does not go back while it waits."""
    clock = SystemClock()

    before = clock.monotonic()
    clock.sleep(0.001)

    assert clock.monotonic() - before >= 0.001
    assert clock.now().utcoffset() == timedelta(0)


class TestVerifier:
    """Access tokens are verified against the project that the settings name."""

    def test_issuer_is_the_project_unless_overridden(self) -> None:
        """The issuer follows from the address; behind a domain of one's own it is given."""
        assert "https://abc.supabase.co/auth/v1" in repr(verifier(HOSTED))
        assert "https://own.example" in repr(verifier(replace(HOSTED, supabase_jwt_issuer=("https://own.example",))))

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"accepted_roles": frozenset({"coach"})}, "role"),
            ({"required_aal": "aal2"}, "assurance level"),
            ({"allow_anonymous": False}, "anonymous"),
            ({}, None),
        ],
    )
    def test_settings_say_whose_tokens_count(self, settings: dict[str, Any], reason: str | None) -> None:
        """Role, assurance level and anonymous users are as the settings say."""
        now = int(SystemClock().now().timestamp())
        claims = {"sub": str(USER_ID), "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 60}
        claims |= {"iss": "https://abc.supabase.co/auth/v1", "aal": "aal1", "is_anonymous": True}
        token = jwt.encode(claims, HOSTED.supabase_jwt_secret or "", algorithm="HS256")
        verify = verifier(replace(HOSTED, **settings)).verify

        if reason is None:
            assert verify(token) == USER_ID
        else:
            with pytest.raises(Unauthenticated) as caught:
                verify(token)
            assert caught.value.reason == reason

    def test_missing_project_is_named(self) -> None:
        """Straight to PostgreSQL the project's address may be missing; to verify tokens it may not."""
        with pytest.raises(NotConfigured, match="SUPABASE_URL"):
            verifier(replace(DIRECT, supabase_url=None))

    @pytest.mark.parametrize(
        ("url", "accepted"), [("http://127.0.0.1:54321", True), ("https://abc.supabase.co", False)]
    )
    def test_issuer_may_lack_on_this_machine_alone(self, url: str, accepted: bool) -> None:
        """Only a stack on this machine may leave ``iss`` out of its HS256 tokens."""
        now = int(SystemClock().now().timestamp())
        claims = {"sub": str(USER_ID), "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 60}
        secret = HOSTED.supabase_jwt_secret
        assert secret is not None
        token = jwt.encode(claims, secret, algorithm="HS256")
        verify = verifier(replace(HOSTED, supabase_url=url)).verify

        if accepted:
            assert verify(token) == USER_ID
        else:
            with pytest.raises(Unauthenticated):
                verify(token)
