"""Without ``init``: the apps live, and those with a binding by hand, or the shipped one, go through the whole story."""

from pathlib import Path

import pytest

from tests.apps.book import APPS, HERE, App
from tests.apps.install import installed_by_hand
from tests.apps.project import changes, project_of
from tests.apps.story import STAGES, Story
from tools.migration import APP, MIGRATIONS, OURS
from tools.stack import Stack

BY_HAND = {path.stem: path for path in sorted((HERE / "by_hand").glob("*.sql"))}
BINDINGS = BY_HAND | dict.fromkeys(("empty", "seed"), MIGRATIONS / APP.name)


@pytest.mark.parametrize("app", APPS.values(), ids=APPS.keys())
def test_app_has_all_that_its_story_needs(app: App) -> None:
    """No stage passes because the app says nothing of it."""
    assert {stage for stage in STAGES if not app.expects(stage)} == set()
    assert app.output
    assert app.each("break")
    assert app.lines("doctor names")


@pytest.mark.parametrize("app", [each for each in APPS.values() if each.name != "empty"], ids=lambda app: app.name)
def test_app_lives_without_ai_retry(stack: Stack, tmp_path: Path, app: App) -> None:
    """Its users sign up and ask, in their role; what it expects of its old rows holds from the beginning."""
    with project_of(stack, app, tmp_path) as project:
        story = Story(app, project)
        story.expect("migrated")
        story.first_call(project.new_user(app))


@pytest.mark.parametrize("name", BINDINGS)
def test_app_with_a_binding_by_hand_is_retried(stack: Stack, tmp_path: Path, name: str) -> None:
    """The app keeps what it is, and every kind of retry gives what the app expects."""
    app = APPS[name]
    with project_of(stack, app, tmp_path) as project:
        before = project.picture()
        installed_by_hand(project, BINDINGS[name], MIGRATIONS / OURS.name)

        assert changes(before, project.picture()) == []
        Story(app, project).play()
