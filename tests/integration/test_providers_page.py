"""Every example of the page on providers runs as it is, and what it makes keeps the contract."""

import base64
import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ai_retry
from ai_retry.config import Settings
from ai_retry.domain.model import Context, FailureCode
from ai_retry.imported import imported_provider
from ai_retry.providers.fallback import FallbackProvider
from ai_retry.testing import provider_contract
from ai_retry.testing.provider import ScriptedServer, chat, reply
from tests.helpers.builders import a_context
from tools.examples import PAGES, example, examples, execute
from tools.npm import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "providers.md"
KEY = "sk-page-0123456789"
IMAGE = b"\x89PNG the image itself"
DEADLINE = timedelta(seconds=10)


class Bucket:
    """The app's own storage."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def upload(self, image: bytes) -> str:
        """Store an image under the name of its content."""
        name = f"images/{hashlib.sha256(image).hexdigest()}.png"
        self.objects[name] = image
        return name


def made(containing: str, **names: object) -> Any:
    """Run the block that holds these words; return its ``ai``."""
    return execute(example(PAGE, "python", containing), dict(names))["ai"]


def test_page_is_looked_at() -> None:
    """The blocks below are all that it has."""
    assert PAGE in PAGES
    assert len(examples(PAGE)) == 12


@pytest.mark.parametrize("at", [0, 1])
def test_settings_are_read(at: int) -> None:
    """As a shell would set them."""
    lines = [each.code for each in examples(PAGE) if each.language == "sh"][at].splitlines()
    set_by_page = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    needed = {"DATABASE_URL": "postgresql://app@localhost/app", "AI_BASE_URL": "http://localhost/v1"}

    settings = Settings.from_env(needed | set_by_page)

    assert settings.ai_fallback_models == (("large", "another/large") if at == 0 else ())
    assert [each.model for each in settings.ai_fallbacks] == ([] if at == 0 else ["medium"])


def test_second_provider_answers() -> None:
    """The first one refuses its key: the second one is asked for its own model."""
    refused = reply(401, json={"error": {"message": "no such key"}})
    with ScriptedServer(refused) as first, ScriptedServer(chat({"title": "x"}, model="large")) as second:
        names = {"FIRST_URL": first.base_url, "SECOND_URL": second.base_url, "FIRST_KEY": KEY, "SECOND_KEY": KEY}
        ai = made("fallback_on={", **names)

        answer = ai.generate(a_context(), timeout=DEADLINE, idempotency_key="key")

    assert isinstance(ai, FallbackProvider)
    assert (answer.model, second.requests[0].json()["model"]) == ("large", "large")
    assert [each.code for each in answer.calls] == [FailureCode.REJECTED, None]


def test_function_that_makes_the_provider_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the page is what the variable names, and answers."""
    (line,) = [each.code.strip() for each in examples(PAGE) if "AI_RETRY_PROVIDER" in each.code]
    (shown,) = [each for each in examples(PAGE) if each.title is not None]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / str(shown.title)).write_text(shown.code)
    with ScriptedServer(reply(json={"summary": "short"})) as server:
        monkeypatch.setenv("SUMMARIES_URL", server.base_url)

        ai = imported_provider(line.partition("=")[2])
        answer = ai.generate(a_context(), timeout=DEADLINE, idempotency_key="key")

    assert answer.output == "short"
    assert [each.provider for each in answer.calls] == ["ours"]


def test_function_keeps_the_contract() -> None:
    """A plain function, whatever comes over the wire."""
    provider_contract(lambda base_url: made("def ask(", BASE_URL=base_url, API_KEY=KEY), secrets=[KEY])


def test_image_is_in_the_app_s_own_storage() -> None:
    """The session holds the reference; the contract is kept, too."""
    bucket = Bucket()
    good = reply(json={"data": [{"b64_json": base64.b64encode(IMAGE).decode()}]})
    schema = {"type": "object", "properties": {"image": {"type": "string"}}, "required": ["image"]}
    context = Context(messages=({"role": "user", "content": "A knee."},), model=None, response_schema=schema)
    output = {"image": f"images/{hashlib.sha256(IMAGE).hexdigest()}.png"}

    provider_contract(
        lambda base_url: made("def draw", BASE_URL=base_url, API_KEY=KEY, upload=bucket.upload),
        good=good,
        output=output,
        invalid=reply(json={"data": [{"b64_json": "not base64"}]}),
        context=context,
        secrets=[KEY],
    )

    assert bucket.objects == {output["image"]: IMAGE}


def test_client_asks_the_given_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the settings name."""
    for name in [each for each in os.environ if each.startswith(("AI_", "SUPABASE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@localhost/app")
    monkeypatch.setenv("AI_BASE_URL", "http://localhost/v1")
    ai = made("def ask(", BASE_URL="http://localhost/v1", API_KEY=KEY)

    client = execute(example(PAGE, "python", "ai_retry.connect"), {"ai": ai})["client"]

    assert isinstance(client, ai_retry.client.Client)
    assert "ai=FunctionProvider(name='ours', model='small')" in repr(client)
    client.close()


def test_example_of_a_test_is_one() -> None:
    """It passes with our own adapter's maker."""
    block = example(PAGE, "python", "provider_contract")

    def make(base_url: str) -> Any:
        return made("def ask(", BASE_URL=base_url, API_KEY=KEY)

    names = execute(block, {"make": make, "API_KEY": KEY})

    assert callable(names["test_our_provider_keeps_the_contract"])
