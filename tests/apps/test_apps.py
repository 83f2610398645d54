"""`ai-retry init` on twelve apps and an empty project: bound as they are, retried, and diagnosed with the truth."""

from pathlib import Path

import pytest

from tests.apps.book import APPS, App
from tests.apps.install import diagnosis, installed
from tests.apps.project import changes, project_of
from tests.apps.story import Story
from tools.stack import Stack


@pytest.mark.parametrize("app", APPS.values(), ids=APPS.keys())
def test_app_is_bound_and_retried(stack: Stack, tmp_path: Path, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the app's stays as it is; every kind of retry works; the doctor is content until there is a reason."""
    with project_of(stack, app, tmp_path) as project:
        before = project.picture()
        installed(project, app)
        assert changes(before, project.picture()) == []

        found = diagnosis(project, monkeypatch)
        assert [each for each in found if each["level"] == "problem"] == []
        assert_named(app.lines("doctor hints"), found)

        Story(app, project).tell()

        for statements in app.each("break"):
            project.run(statements)
        assert_named(app.lines("doctor names"), diagnosis(project, monkeypatch))


def assert_named(words: list[str], findings: list[dict[str, str]]) -> None:
    """One finding names all of them, and says what to do."""
    if not words:
        return
    naming = [each for each in findings if all(word in each["problem"] + each["remedy"] for word in words)]
    assert naming, findings
    assert all(each["remedy"] for each in naming)
