"""Apps composed at random from traits: bound and retried, or refused with lines that run."""

import os
import re
from pathlib import Path

import psycopg
import pytest

from tests.apps.composed import composed
from tests.apps.install import Said, init
from tests.apps.project import Picture, Project, changes, project_of
from tests.apps.story import Story
from tests.apps.traits import described
from tools.push import apply_migrations
from tools.stack import Stack

FIRST, COUNT = int(os.environ.get("APPS_SEED", "0")), int(os.environ.get("APPS", "6"))
SEEDS = range(FIRST, FIRST + COUNT)
_STATEMENT = re.compile(r"^\s*((?:alter|create|drop|update|grant|insert|delete|set|comment)\b[^;]*;)", re.M | re.I)


@pytest.mark.parametrize("seed", SEEDS)
def test_composed_app_lives_by_itself(stack: Stack, tmp_path: Path, seed: int) -> None:
    """What is composed is an app: its schema is created, and its users ask."""
    app, traits = composed(seed)
    with project_of(stack, app, tmp_path) as project:
        story = Story(app, project)
        story.expect("migrated")
        if traits.obstacle is None:
            story.failed_call(project.new_user(app))


@pytest.mark.parametrize("seed", SEEDS)
def test_composed_app_is_bound_or_refused_with_lines_that_run(stack: Stack, tmp_path: Path, seed: int) -> None:
    """An app is refused only for what can't be bound, and then with statements that its database accepts."""
    app, traits = composed(seed)
    with project_of(stack, app, tmp_path) as project:
        before = project.picture()
        said = init(project, *app.flags)
        if said.exit_code == 1 and traits.obstacle is not None:
            assert_refused_with_lines(project, said, before)
            return
        assert said.exit_code == 0, f"{said.output}\n{described(traits)}"
        apply_migrations(project.url, project.folder / "migrations")
        assert changes(before, project.picture()) == [], described(traits)
        Story(app, project, recovered=5).play()


def assert_refused_with_lines(project: Project, said: Said, before: Picture) -> None:
    """Nothing was written, and what it proposes runs."""
    lines = _STATEMENT.findall(said.output)
    assert lines, said.output
    assert changes(before, project.picture()) == []
    assert list((project.folder / "migrations").glob("*ai_retry*")) == []
    with psycopg.connect(project.url) as connection:
        for line in lines:
            connection.execute(line.encode())
        connection.rollback()
