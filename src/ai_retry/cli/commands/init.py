"""``ai-retry init``: a binding that fits an app's tables."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._reach import NotReady
from ai_retry.cli.commands._shared import reported
from ai_retry.cli.init import ask, report
from ai_retry.cli.init.answers import COLUMNS, AnswerRefused, Answers, parse_pairs, read_file
from ai_retry.cli.init.notes import CannotBind
from ai_retry.cli.init.project import (
    ConfigNotUnderstood,
    Migration,
    migrations,
    shipped_texts,
    with_schema_paths,
    write,
)
from ai_retry.cli.init.project import upgrade as project_upgrade
from ai_retry.cli.init.words import OURS

if TYPE_CHECKING:
    from ai_retry.cli.init.interview import Proposal

_EXTRA = "ai-retry init needs psycopg: pip install 'ai-retry[cli,postgres]'"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    short_help="Bind ai-retry to your own tables.",
    epilog=examples("ai-retry init", "ai-retry init --dry-run", "ai-retry init --yes --generations app.generations"),
)
@click.option("--database-url", help="The database, as the owner of the app's tables; else DATABASE_URL.")
@click.option("--dir", "directory", default="supabase", type=click.Path(path_type=Path), show_default=True)
@click.option("--yes", is_flag=True, help="Ask nothing: take the guesses, and list them.")
@click.option("--upgrade", is_flag=True, help="Write ours if it differs, and of the binding only what it lacks.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--config", default="ai-retry.toml", type=_FILE, show_default=True, help="Answers, read and written.")
@click.option("--example-output", type=_FILE, metavar="FILE", help="What the provider answers, for the rehearsal.")
@click.option("--generations", metavar="TABLE", help="Holds generations.")
@click.option("--sessions", metavar="TABLE|none", help="Holds what successes create.")
@click.option("--error-logs", metavar="TABLE|none", help="Gets a row for each failure.")
@click.option("--events", metavar="TABLE|none", help="Gets a row for each end of an attempt.")
@click.option("--column", "columns", multiple=True, metavar="NAME=COLUMN", help=f"{', '.join(COLUMNS)}; repeatable.")
@click.option("--status", "words", multiple=True, metavar="OURS=WORD[,WORD]", help=f"{', '.join(OURS)}; repeatable.")
@click.option("--hidden", metavar="CONDITION", help="SQL over a generation's columns: its user does not see it.")
@click.option("--soft-delete", metavar="COLUMN", help="Says that a generation is hidden.")
@click.option("--time-zone", metavar="ZONE", help="Of instants that have none; UTC.")
@click.option("--session-function", metavar="FUNCTION", help="The app's own, which creates a session.")
@click.option("--set", "filled", multiple=True, metavar="COLUMN=output.PATH", help="What a success fills; repeatable.")
def init(**options: Any) -> None:
    """Bind ai-retry to the app's own tables: look, ask, rehearse, and write two migrations.

    Exit code 0: both are written; 1: the tables can't be bound as they are, and it is said why; 2: wrong usage; 3: the
    database can't be reached.
    """
    try:
        from ai_retry.cli.init import connection as to  # noqa: PLC0415 - imports psycopg, an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise NotReady(_EXTRA) from None
    url = options["database_url"] or os.environ.get("DATABASE_URL")
    if not url:
        raise click.UsageError("give --database-url, or set DATABASE_URL")
    if not url.startswith(("postgres://", "postgresql://")) and "=" not in url:
        raise click.UsageError("the database's address must start with postgresql://: see --database-url")
    flags, output = _flags(options), _example(options["example_output"])
    answers = _over_file(flags, options["config"])
    asks = not options["yes"] and _is_terminal()
    if not (asks or options["yes"] or options["dry_run"]):
        raise click.UsageError("there is no terminal to ask in: give --yes to take the guesses")
    try:
        with reported(), to.connected(url) as connection, _kept(options) as kept:
            bind = partial(_bound, connection, answers, flags, kept.append if asks else None)
            if options["upgrade"]:
                answers, proposal, files = _upgraded(connection, bind, options["directory"])
            else:
                answers, proposal = bind()
                if _rehearsed(connection, proposal, output):
                    sys.exit(1)
                files = migrations(options["directory"], proposal.ours, proposal.app)
            kept.clear()
    except to.Unreachable as error:
        raise NotReady(f"DATABASE_URL: {error}") from None
    _finish(files, proposal, answers, options)


@contextmanager
def _kept(options: dict[str, Any]) -> Iterator[list[Answers]]:
    """Write the answers of a terminal, however it ends there: none is asked again."""
    typed: list[Answers] = []
    try:
        yield typed
    finally:
        if typed and not options["dry_run"]:
            options["config"].write_text(typed[-1].written(), encoding="utf-8")
            click.echo(f"Your answers are kept in {options['config']}: run ai-retry init again to go on.")


def _flags(options: dict[str, Any]) -> Answers:
    """Read the flags."""
    scalars = (
        "generations",
        "sessions",
        "error_logs",
        "events",
        "hidden",
        "soft_delete",
        "time_zone",
        "session_function",
    )
    try:
        return Answers(
            **{name: options[name] for name in scalars},
            columns=parse_pairs(options["columns"], "--column", COLUMNS),
            status=parse_pairs(options["words"], "--status", OURS),
            set={name: values[0] for name, values in parse_pairs(options["filled"], "--set").items()},
        )
    except AnswerRefused as error:
        raise click.UsageError(str(error)) from None


def _over_file(flags: Answers, path: Path) -> Answers:
    """Read the file of an earlier run, which the flags override."""
    try:
        return flags.over(read_file(path)) if path.exists() else flags
    except AnswerRefused as error:
        raise click.UsageError(str(error)) from None


def _example(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--example-output {path}: {type(error).__name__}") from None


def _bound(
    connection: Any, answers: Answers, flags: Answers, keep: Callable[[Answers], None] | None
) -> tuple[Answers, "Proposal"]:
    """Propose, ask where something keeps answers, and print what was proposed; what can't be bound ends here."""
    from ai_retry.cli.init import interview  # noqa: PLC0415 - they import psycopg
    from ai_retry.cli.init.look import look  # noqa: PLC0415

    facts = look(connection)
    if lines := report.no_project(facts):
        _end(lines)
    propose = partial(interview.proposed, connection, facts)
    try:
        if keep is not None:
            answers, proposal = ask.asked(answers, propose, ask=_prompt, say=click.echo, keep=keep)
        else:
            proposal = propose(answers)
    except CannotBind as error:
        _end(report.obstacle(error.obstacle, interview.tried(connection, error.obstacle.lines), flags))
    _say(report.proposal(proposal))
    return answers, proposal


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _prompt(what: str, guess: str) -> str:
    return str(click.prompt(what, default=guess))


def _rehearsed(connection: Any, proposal: "Proposal", output: Any) -> bool:
    """Rehearse, and print what came of it; whether it is to end here."""
    from ai_retry.cli.init.rehearsed import rehearsed  # noqa: PLC0415 - imports psycopg

    result = rehearsed(connection, proposal, output)
    _say(report.rehearsal(result))
    return report.is_fatal(result)


def _upgraded(
    connection: Any, bind: Callable[[], tuple[Answers, "Proposal"]], directory: Path
) -> tuple[Answers, "Proposal | None", list[Migration]]:
    """Say what the binding lacks, and propose that alone; it ends here where the database refuses it."""
    from ai_retry.cli.init import interview  # noqa: PLC0415 - they import psycopg
    from ai_retry.cli.init import upgrade as binding  # noqa: PLC0415

    there = binding.standing(connection)
    if not there:
        _end(["There is no binding in this database yet: run ai-retry init without --upgrade."])
    lacking, ours = binding.lacking(there), shipped_texts()[0]
    if not lacking:
        return Answers(), None, project_upgrade(directory, ours, None)
    answers, proposal = bind()
    text = binding.upgrade_sql(proposal.app, there)
    click.echo(f"Lacking: {', '.join(lacking)}")
    tried = interview.tried(connection, (text,))
    if tried is not None and tried.refused is not None:
        _end([f"The database refuses what would be written ({tried.refused}); nothing was written."])
    return answers, proposal, project_upgrade(directory, ours, text)


def _finish(files: list[Migration], proposal: "Proposal | None", answers: Answers, options: dict[str, Any]) -> None:
    """Write the files, or print them."""
    directory: Path = options["directory"]
    if not files:
        click.echo(f"\nNothing to write: {directory / 'migrations'} has all that would be written now.")
        return
    if options["dry_run"]:
        click.echo(f"\nNothing is written. {', '.join(str(each.path) for each in files)}; the last one:\n")
        click.echo(files[-1].text)
        return
    write(files)
    for each in files:
        click.echo(f"written     {each.path}")
    _configure(directory, files)
    if proposal is not None and proposal.binding is not None:
        options["config"].write_text(report.all_answers(answers, proposal).written(), encoding="utf-8")
        click.echo(f"written     {options['config']}")
    click.echo("Apply them as your own: supabase db push. Then run ai-retry doctor.")


def _configure(directory: Path, files: list[Migration]) -> None:
    """Add both to schema_paths, where the project declares its schemas."""
    config, schemas = directory / "config.toml", directory / "schemas"
    if not schemas.is_dir():
        return
    paths = [f"./migrations/{each.path.name}" for each in files]
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    try:
        changed = with_schema_paths(text, paths)
    except ConfigNotUnderstood as error:
        listed = ", ".join(f'"{each}"' for each in paths)
        click.echo(f"{config} is left as it is ({error}): add {listed} to schema_paths in [db.migrations] by hand")
        return
    config.write_text(changed, encoding="utf-8")
    click.echo(f"changed     {config}: schema_paths")


def _say(lines: list[str]) -> None:
    for each in lines:
        click.echo(each)


def _end(lines: list[str]) -> None:
    _say(lines)
    sys.exit(1)
