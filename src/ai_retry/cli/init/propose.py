"""Proposes a binding: facts and answers in, a description out; what was guessed and left out is noted."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from ai_retry.cli.init import names
from ai_retry.cli.init.answers import NONE, Answers
from ai_retry.cli.init.binding import Binding, Instant, Link, Sessions, Value, literal
from ai_retry.cli.init.choose import Columns, generations_owner, generations_table, key_of, prompt_of
from ai_retry.cli.init.facts import Column, Facts, Table
from ai_retry.cli.init.filled import error_columns, on_create
from ai_retry.cli.init.grants import grants
from ai_retry.cli.init.logs import error_log, events
from ai_retry.cli.init.notes import AnswerDoesNotFit, CannotBind, Notes
from ai_retry.cli.init.sessions import find_sessions, with_creation
from ai_retry.cli.init.values import among, from_output, guessed_output, placed, unclaimed
from ai_retry.cli.init.words import OURS, Word, Words, bind, is_ended

_NO_WORDS: Final = Words(dict.fromkeys(OURS, ()), dict.fromkeys(OURS))


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What has to be known before the words of the status column can be counted."""

    table: Table
    status: Column | None
    columns: Columns


def skeleton(facts: Facts, answers: Answers, notes: Notes) -> Skeleton:
    """Choose the generations' table and its status column.

    Raises:
        CannotBind: as it says.
    """
    table = generations_table(facts, answers, notes)
    columns = Columns(table, answers, notes)
    status = columns.choose("status", names.STATUS, lambda each: each.is_text or each.is_enum)
    return Skeleton(table, status, columns)


def propose(facts: Facts, answers: Answers, bones: Skeleton, counted: Mapping[Word, int], notes: Notes) -> Binding:
    """Describe the binding.

    Args:
        facts: what the database holds.
        answers: what the operator has answered.
        bones: what ``skeleton`` chose.
        counted: the words of the status column with their rows.
        notes: gets the guesses and what is left out.

    Raises:
        CannotBind: as it says.
    """
    table, columns, zone = bones.table, bones.columns, answers.time_zone or "UTC"
    key = key_of(table, columns)
    owner = generations_owner(facts, table, columns, notes)
    sessions = find_sessions(facts, table, answers, columns, notes)
    says = _says(table, columns, answers, notes)
    homes = placed(answers.set, table, sessions.table)
    sessions = with_creation(facts, table, sessions, answers, homes["sessions"], zone, notes)
    words = _words(bones, answers, counted, notes)
    log = error_log(facts, table, key, answers, zone, notes)
    event, recovery_event = events(facts, answers, zone, notes)
    code, failure, over = error_columns(table, columns, zone, notes)
    success = _on_success(table, columns, sessions, homes["generations"], zone, notes, over)
    used = (table, sessions.table, log.insert.table if log else None)
    if answers.time_zone is None and any(_bare(each) for each in used):
        notes.guess("time_zone", zone)
    return Binding(
        table=table,
        id=key,
        owner=owner,
        status=bones.status,
        words=words,
        model=says.model,
        prompt=says.prompt,
        duration=says.duration,
        created=Instant(says.created, zone) if says.created else None,
        updated=Instant(says.updated, zone) if says.updated else None,
        hidden=_hidden(table, answers, _ended(bones, words, counted), notes),
        sessions=sessions,
        error_log=log,
        event=event,
        recovery_event=recovery_event,
        on_success=success,
        on_failure=failure,
        on_create=on_create(table, says.prompt, columns.taken, (*success, *failure)),
        error_code=code,
        grants=grants(facts, table, owner, sessions, log, event),
    )


@dataclass(frozen=True, slots=True)
class _Says:
    """What else a generation says."""

    created: Column | None
    updated: Column | None
    model: Column | None
    duration: Column | None
    prompt: tuple[Column, ...]


def _says(table: Table, columns: Columns, answers: Answers, notes: Notes) -> _Says:
    created = columns.choose("created_at", names.CREATED, lambda each: each.is_instant or each.kind == "date")
    updated = columns.choose("updated_at", names.UPDATED, lambda each: each.is_instant)
    model = columns.choose("model", names.MODEL, lambda each: each.is_text or each.is_enum)
    duration = columns.choose("duration_ms", names.DURATION, lambda each: each.is_number and not each.generated)
    columns.taken += [table.columns[each] for each in answers.set if each in table.columns]
    prompt = prompt_of(table, columns, answers, notes)
    if not prompt:
        notes.leave_out(
            "prompt_data: no column says what was asked, so that every retry needs a reader of your own "
            "(AI_RETRY_CONTEXT_FROM) that finds it elsewhere"
        )
    return _Says(created, updated, model, duration, prompt)


def _words(bones: Skeleton, answers: Answers, counted: Mapping[Word, int], notes: Notes) -> Words:
    status, table = bones.status, bones.table
    if status is None:
        return _NO_WORDS
    given: dict[str, tuple[Word, ...]] = {
        ours: tuple(None if word == "null" else word for word in words if word != NONE)
        for ours, words in answers.status.items()
    }
    silent = {ours for ours, words in answers.status.items() if NONE in words}
    firing = [each for each in table.triggers if each.acts and "update" in each.events and each.mentions(status.name)]
    if firing and "processing" not in answers.status:
        silent.add("processing")
    if "processing" in silent:
        silent.add("queued")
    allowed = table.allowed(status.name)
    words = bind([*counted, *table.mentioned(status.name)], allowed, given, silent=silent)
    known = {*counted, *allowed, *table.mentioned(status.name)}
    _note_words(words, answers, known, f"a status that changes fires {', '.join(each.name for each in firing)}", notes)
    if words.written["success"] is None or words.written["error"] is None:
        lacking = [ours for ours in ("success", "error") if words.written[ours] is None]
        raise CannotBind(
            f"{table.quoted}.{status.name} has no word for {' and '.join(lacking)}; it has "
            f"{', '.join(sorted(str(word) for word in {*allowed, *counted}))}",
            then=f"say it: ai-retry init {' '.join(f'--status {ours}=WORD' for ours in lacking)}",
            asks=f"status {lacking[0]}",
        )
    for word in words.unbound(dict.fromkeys([*counted, *allowed])):
        if answers.hidden is None and is_ended(word):
            continue  # such rows are hidden
        notes.leave_out(
            f"status: {counted.get(word, 0)} rows say {word!r}, which is bound to nothing: a retry of them is refused; "
            f"bind it with --status OURS={word}, where OURS is one of {', '.join(OURS)}"
            + (f"; as processing={NONE},{word} it is read, and not written" if words.quiet else "")
        )
    return words


def _note_words(words: Words, answers: Answers, known: Set[Word], quiet_because: str, notes: Notes) -> None:
    """Note the guessed words; those of processing begin with none where they are not written."""
    for ours in OURS:
        quiet = ours == "processing" and words.quiet
        guessed = [*([NONE] if quiet else []), *("null" if word is None else word for word in words.read[ours])]
        if ours not in answers.status and guessed:
            nowhere = not known & set(words.read[ours])
            why = "no row, check or default has it: is it your word?" if nowhere else ""
            notes.guess(f"status {ours}", ",".join(guessed), quiet_because if quiet else why)


def _bare(table: Table | None) -> bool:
    """Whether its instants have no zone."""
    return table is not None and any(each.kind == "timestamp" for each in table.columns.values())


def _ended(bones: Skeleton, words: Words, counted: Mapping[Word, int]) -> str | None:
    """The condition of rows that their user has cancelled, or that were taken down."""
    if bones.status is None:
        return None
    there = dict.fromkeys([*counted, *bones.table.allowed(bones.status.name)])
    ended = [literal(word) for word in words.unbound(there) if word is not None and is_ended(word)]
    return f"{bones.status.quoted} in ({', '.join(ended)})" if ended else None


def _hidden(table: Table, answers: Answers, ended: str | None, notes: Notes) -> str | None:
    if answers.hidden is not None:
        return None if answers.hidden == NONE else answers.hidden
    column = None
    if answers.soft_delete not in (None, NONE):
        column = table.columns.get(answers.soft_delete or "")
        if column is None:
            raise AnswerDoesNotFit(f"--soft-delete {answers.soft_delete}: {table.quoted} has no such column")
    elif answers.soft_delete is None:
        column = names.pick(table, names.DELETED, lambda each: each.is_instant or each.kind == "bool")
    deleted = f"{column.quoted} is {'true' if column.kind == 'bool' else 'not null'}" if column is not None else None
    if ended is not None:
        both = ended if deleted is None else f"{deleted} or {ended}"
        notes.guess("hidden", both, "neither found nor retried")
        return both
    if column is not None and answers.soft_delete is None:
        notes.guess("soft_delete", column.name)
    return deleted


def _on_success(
    table: Table,
    columns: Columns,
    sessions: Sessions,
    paths: Mapping[str, str],
    zone: str,
    notes: Notes,
    over: tuple[Value, ...],
) -> tuple[Value, ...]:
    """What a success fills: by answers, by guesses, and errors that are over, which it empties."""
    guessed = _guessed_paths(table, columns, sessions, paths)
    for name, path in guessed.items():
        notes.guess(f"set {name}", path)
    found = {**paths, **guessed}
    answer = {"output": "v_answer -> 'output'", "attempt": "v_answer -> 'attempt'"}
    values = [from_output(table.columns[name], path, zone=zone, at="p_at", **answer) for name, path in found.items()]
    values += [each for each in over if each.column.name not in found]
    return tuple({each.column.name: each for each in values}.values())


def _guessed_paths(table: Table, columns: Columns, sessions: Sessions, paths: Mapping[str, str]) -> dict[str, str]:
    """Guess the columns that hold the output, and when it was there."""
    found: dict[str, str] = {}
    taken = [*columns.taken, *(table.columns[each] for each in paths)]
    if sessions.link is not Link.SELF:
        fits = names.pick(
            table, names.RESPONSE, lambda each: (each.is_json or each.is_text) and not each.not_null, taken
        )
        output = fits if fits is not None and not table.allowed(fits.name) else None
    elif sessions.call is not None or any(each.startswith("output") for each in paths.values()):
        output = None
    else:
        output = guessed_output(table, taken)
        if output is None:
            required = [each for each in table.columns.values() if each.is_required]
            there = unclaimed(table, [*taken, *required]) or unclaimed(table, taken)
            raise CannotBind(
                f"there is no table of sessions, and no column of {table.quoted} is named like an output",
                [f"alter table {table.quoted} add column output jsonb;"],
                "then run ai-retry init --sessions none --set output=output"
                + (f"; without these lines: --set NAME=output{among(there)}" if there else ""),
            )
    if output is not None:
        found[output.name] = "output"
    finished = names.pick(table, names.FINISHED, lambda each: each.is_instant, taken)
    if finished is not None:
        found[finished.name] = "now"
    return found
