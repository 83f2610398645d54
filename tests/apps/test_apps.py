"""`ai-retry init` on twelve apps and an empty project: bound as they are, retried, and diagnosed with the truth."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.book import APPS, App
from tests.apps.install import diagnosis, installed
from tests.apps.project import Project, changes, project_of
from tests.apps.story import Story
from tools.stack import Stack

every_app = pytest.mark.parametrize("app", APPS.values(), ids=APPS.keys())


@pytest.fixture
def project(stack: Stack, tmp_path: Path, app: App) -> Iterator[Project]:
    """The app's project, in which ai-retry is installed; what is the app's is as it was."""
    with project_of(stack, app, tmp_path) as project:
        before = project.picture()
        installed(project, app)
        assert changes(before, project.picture()) == []
        yield project


@every_app
def test_app_is_bound_and_retried(project: Project, app: App) -> None:
    """Each kind of retry works with the app as it is, and gives what the app expects."""
    Story(app, project).play()


@every_app
def test_doctor_knows_the_app(project: Project, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor sees all, is content with the app, names what its developer has to know, and what changed since."""
    found = diagnosis(project, monkeypatch)
    assert [each for each in found if each["level"] in {"problem", "not run"}] == []
    assert_named(app.lines("doctor hints"), found)

    for statements in app.each("break"):
        project.run(statements)
    assert_named(app.lines("doctor names"), diagnosis(project, monkeypatch))


def assert_named(words: list[str], findings: list[dict[str, str]]) -> None:
    """One finding names all of them, and says what to do."""
    naming = [each for each in findings if all(word in each["problem"] + each["remedy"] for word in words)]
    assert not words or naming, findings
    assert all(each["remedy"] for each in naming)
