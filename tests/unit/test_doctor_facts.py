"""What the doctor reads: the manifest of the migrations, and what an app says of its binding."""

import sys
from dataclasses import replace
from typing import Any

import pytest

from ai_retry.cli import _shipped
from ai_retry.cli.doctor import outside
from ai_retry.cli.doctor.model import Binding
from ai_retry.cli.doctor.shipped import BINDING, shipped
from ai_retry.config import Settings

DESCRIBED = {
    "version": 1,
    "tables": {"shop.texts": ["select", "update"]},
    "generations": "shop.texts",
    "session_function": None,
}


def test_every_function_of_the_binding_is_the_apps_own() -> None:
    """Only functions of the binding have no source to compare, and all of them are from the migration of the app."""
    known = shipped()

    of_the_app = {name for name, each in known.functions.items() if each.source is None}
    assert of_the_app == {name for name in known.functions if name.startswith(BINDING)}
    assert {known.functions[name].migration for name in of_the_app} == {_shipped.migrations()[-1].name}


def test_manifest_names_the_shipped_migrations() -> None:
    """Each object is of a migration that is shipped."""
    known = shipped()

    named = {each.migration for each in known.functions.values()}
    named |= {*known.tables.values(), *known.indexes.values(), *known.constraints.values()}
    assert named == {path.name for path in _shipped.migrations()}


def test_description_of_a_binding_is_read() -> None:
    """Version, tables with what they need, the one of generations, and the session function, if there is one."""
    binding = Binding.from_row(DESCRIBED)

    assert binding is not None
    assert (binding.version, binding.generations, binding.session_function) == (1, "shop.texts", None)
    assert binding.tables == {"shop.texts": ("select", "update")}


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        "texts",
        {},
        {**DESCRIBED, "version": "new"},
        {**DESCRIBED, "tables": ["shop.texts"]},
        {**DESCRIBED, "tables": {"shop.texts": None}},
        {name: value for name, value in DESCRIBED.items() if name != "session_function"},
    ],
)
def test_description_of_another_form_is_none(row: Any) -> None:
    """An app may return anything: it is no description, and no crash."""
    assert Binding.from_row(row) is None


def test_data_api_is_asked_without_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where psycopg is not installed, and the Data API is configured, that is asked, and the problem is reported."""
    settings = Settings.from_env(
        {
            "DATABASE_URL": "postgresql://me@127.0.0.1:9/db",
            "SUPABASE_URL": "http://127.0.0.1:9",
            "SUPABASE_SECRET_KEY": "sb_secret_x",
            "AI_BASE_URL": "http://127.0.0.1:9",
            "AI_MODEL": "scripted",
        }
    )
    assert outside.with_a_driver(settings) == (settings, [])
    monkeypatch.setitem(sys.modules, "psycopg", None)

    asked, (finding,) = outside.with_a_driver(settings)

    assert asked == replace(settings, database_url=None)
    assert "the Data API was asked in its place" in finding.problem
    assert "ai-retry[postgres]" in finding.remedy
    assert outside.with_a_driver(replace(settings, supabase_url=None))[1] == []


@pytest.mark.parametrize(
    ("secret", "publishable", "hinted"),
    [
        ("eyJhbGciOiJIUzI1NiJ9.legacy.key", "sb_publishable_1", ["SUPABASE_SECRET_KEY"]),
        ("sb_secret_1", "eyJhbGciOiJIUzI1NiJ9.legacy.key", ["SUPABASE_PUBLISHABLE_KEY"]),
        ("sb_secret_1", "sb_publishable_1", []),
        (None, None, []),
    ],
)
def test_legacy_keys_are_hinted_at(secret: str | None, publishable: str | None, hinted: list[str]) -> None:
    """Each key that Supabase deprecates is named by its variable, with what to set instead, and never shown."""
    settings = Settings(supabase_secret_key=secret, supabase_publishable_key=publishable)

    found = list(outside.legacy_keys(settings))

    assert [each.problem.partition(" ")[0] for each in found] == hinted
    assert all("sb_" in each.remedy and "legacy.key" not in f"{each}" for each in found)


@pytest.mark.parametrize("reached", [each for each in outside.Reach if each is not outside.Reach.OPEN])
def test_receiver_of_the_webhook_that_can_t_be_reached_is_named(reached: outside.Reach) -> None:
    """Messages would wait; nothing is said of one that can be reached, and nothing is sent to it."""
    (finding,) = outside.webhook(reached)

    assert str(reached) in finding.problem
    assert "AI_RETRY_WEBHOOK_URL" in finding.remedy
    assert list(outside.webhook(outside.Reach.OPEN)) == []
