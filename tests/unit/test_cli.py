"""What the command line promises: it copies the shipped migrations, and destroys nothing."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ai_retry.cli import _shipped, main
from ai_retry.cli.commands import cli


def run(*arguments: str | Path) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, [str(each) for each in arguments])


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two migrations in place of the real ones."""
    place = tmp_path / "shipped"
    place.mkdir()
    files = [place / "20260101000000_first.sql", place / "20260102000000_second.sql"]
    for file in files:
        file.write_text(f"-- {file.name}\n")
    monkeypatch.setattr(_shipped, "_PLACES", (tmp_path / "absent", place))
    return files


def test_copy_makes_directory_and_copies_all(tmp_path: Path, shipped: list[Path]) -> None:
    """Every migration ends up in the directory, byte by byte, and is named."""
    target = tmp_path / "supabase" / "migrations"

    result = run("migrations", "copy", target)

    assert result.exit_code == 0
    assert [file.read_bytes() for file in sorted(target.iterdir())] == [file.read_bytes() for file in shipped]
    assert result.output.splitlines() == [f"copied      {target / file.name}" for file in shipped]


def test_copy_repeated_changes_nothing(tmp_path: Path, shipped: list[Path]) -> None:
    """A repeat leaves identical files alone and says so; other files are left alone."""
    target = tmp_path / "migrations"
    run("migrations", "copy", target)
    (target / "20250101000000_apps_own.sql").write_text("-- own")
    before = {file: file.stat().st_mtime_ns for file in target.iterdir()}

    result = run("migrations", "copy", target)

    assert result.exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in target.iterdir()} == before
    assert result.output.splitlines() == [f"unchanged   {target / file.name}" for file in shipped]


def test_copy_refuses_to_overwrite_changed_file(tmp_path: Path, shipped: list[Path]) -> None:
    """A file of the same name that differs stops the copy before the first file, with exit status 1."""
    target = tmp_path / "migrations"
    target.mkdir()
    mine = target / shipped[1].name
    mine.write_text("-- changed by me")

    result = run("migrations", "copy", target)

    assert result.exit_code == 1
    assert shipped[1].name in result.output
    assert "--force" in result.output
    assert list(target.iterdir()) == [mine]
    assert mine.read_text() == "-- changed by me"


def test_copy_overwrites_with_force(tmp_path: Path, shipped: list[Path]) -> None:
    """With --force the shipped content wins, and is named as overwritten."""
    target = tmp_path / "migrations"
    target.mkdir()
    (target / shipped[0].name).write_text("-- changed by me")

    result = run("migrations", "copy", target, "--force")

    assert result.exit_code == 0
    assert (target / shipped[0].name).read_bytes() == shipped[0].read_bytes()
    assert [line.split()[0] for line in result.output.splitlines()] == ["overwritten", "copied"]


def test_copy_into_a_file_is_refused(tmp_path: Path, shipped: list[Path]) -> None:
    """A path that can't be a directory is one clear line, not a traceback."""
    (tmp_path / "file").write_text("")

    result = run("migrations", "copy", tmp_path / "file" / "below")

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_checkout_ships_its_migrations() -> None:
    """In a checkout the repository's own migrations are found, in the order in which they apply."""
    names = [file.name for file in _shipped.migrations()]

    assert names == sorted(names)
    assert any(name.endswith("_ai_retry.sql") for name in names)


@pytest.mark.parametrize("command", ["copy", "check"])
def test_package_without_migrations_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """An installation that lost its migrations says so in one line."""
    monkeypatch.setattr(_shipped, "_PLACES", (tmp_path,))

    result = run("migrations", command, tmp_path)

    assert result.exit_code == 1
    assert result.output == "Error: this installation of ai-retry holds no migrations: install it again\n"


def test_check_is_content_with_what_copy_made(tmp_path: Path, shipped: list[Path]) -> None:
    """After a copy nothing is missing or different, whatever else is in the directory."""
    run("migrations", "copy", tmp_path / "migrations")
    (tmp_path / "migrations" / "20250101000000_apps_own.sql").write_text("-- own")

    result = run("migrations", "check", tmp_path / "migrations")

    assert result.exit_code == 0
    assert result.output.splitlines() == [f"same        {tmp_path / 'migrations' / file.name}" for file in shipped]


def test_check_names_what_is_missing_or_different(tmp_path: Path, shipped: list[Path]) -> None:
    """A missing file and a changed one are named, with exit status 1; nothing is written."""
    (tmp_path / shipped[1].name).write_text("-- changed by me")

    result, for_programs = run("migrations", "check", tmp_path), run("migrations", "check", tmp_path, "--json")

    assert (result.exit_code, for_programs.exit_code) == (1, 1)
    assert result.output.splitlines() == [
        f"missing     {tmp_path / shipped[0].name}",
        f"different   {tmp_path / shipped[1].name}",
    ]
    assert [each["state"] for each in json.loads(for_programs.output)] == ["missing", "different"]
    assert not (tmp_path / shipped[0].name).exists()


def test_migrations_that_init_wrote_are_known_under_their_own_stamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same text is the same, a binding is the app's, `copy` adds nothing to them, and a new version is missing."""
    place, target = tmp_path / "shipped", tmp_path / "migrations"
    for each in (place, target):
        each.mkdir()
    (place / "20260101000000_ai_retry.sql").write_text("-- ours")
    (place / "20260101000100_ai_retry_app.sql").write_text("-- the default binding")
    (target / "20260201000000_ai_retry.sql").write_text("-- ours")
    (target / "20260201000001_ai_retry_app.sql").write_text("-- the app's binding")
    monkeypatch.setattr(_shipped, "_PLACES", (place,))

    checked, copied = run("migrations", "check", target), run("migrations", "copy", target)
    (place / "20260101000000_ai_retry.sql").write_text("-- ours, newer")
    upgraded = run("migrations", "check", target)

    assert (checked.exit_code, copied.exit_code, upgraded.exit_code) == (0, 0, 1)
    assert [each.split()[0] for each in checked.output.splitlines()] == ["same", "yours"]
    assert [each.split()[0] for each in copied.output.splitlines()] == ["unchanged", "yours"]
    assert [each.split()[0] for each in upgraded.output.splitlines()] == ["missing", "yours"]
    assert len(list(target.iterdir())) == 2


def test_check_of_no_directory_is_wrong_usage(tmp_path: Path, shipped: list[Path]) -> None:
    """A directory that is not there is a mistake of the caller's."""
    assert run("migrations", "check", tmp_path / "absent").exit_code == 2


def test_version_is_the_packages() -> None:
    """``ai-retry --version`` names the installed version."""
    assert version("ai-retry") in run("--version").output


def test_installed_command_runs() -> None:
    """The entry point that the package installs is this command line."""
    command = Path(sys.executable).with_name("ai-retry")

    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)

    assert "migrations" in done.stdout


def test_missing_click_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says what to install, and exits with status 1."""
    monkeypatch.setitem(sys.modules, "click", None)
    monkeypatch.delitem(sys.modules, "ai_retry.cli.commands")

    with pytest.raises(SystemExit) as exited:
        main()

    assert exited.value.code == "The command line needs an extra: pip install 'ai-retry[cli]'"


def test_other_missing_module_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the extra's own absence is explained so; anything else stays the error that it is."""
    monkeypatch.setitem(sys.modules, "ai_retry.cli.commands", None)

    with pytest.raises(ModuleNotFoundError):
        main()


def test_main_runs_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the extra the arguments of the process are obeyed."""
    monkeypatch.setattr(sys, "argv", ["ai-retry", "--version"])

    with pytest.raises(SystemExit) as exited:
        main()

    assert exited.value.code == 0
    assert capsys.readouterr().out.startswith("ai-retry")
