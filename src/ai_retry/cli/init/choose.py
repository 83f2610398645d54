"""Chooses tables and columns: by an answer, else by a guess, which is noted."""

from collections.abc import Callable, Sequence
from typing import Final

from ai_retry.cli.init import names
from ai_retry.cli.init.answers import NONE, Answers
from ai_retry.cli.init.binding import Owner
from ai_retry.cli.init.facts import Column, Facts, Table
from ai_retry.cli.init.notes import AnswerDoesNotFit, CannotBind, Notes
from ai_retry.cli.init.values import among, unclaimed

_LIKELY: Final = 6


def is_empty(facts: Facts, answers: Answers) -> bool:
    """Whether the four tables of the seed are to be created, or were, and nothing is to be asked."""
    if answers.generations is not None:
        return answers.generations == NONE
    own = [facts.table(f"public.{each}") for each in ("generations", "sessions")]
    if all(each is not None and each.comment.startswith("Created by ai-retry:") for each in own):
        return True
    return not facts.tables


def candidates(facts: Facts) -> list[Table]:
    """List the tables that may hold generations, the likeliest first."""
    likely = [each for each in facts.tables.values() if names.generation_score(each) >= _LIKELY]
    return sorted(likely, key=lambda each: (-names.generation_score(each), each.quoted))


def generations_table(facts: Facts, answers: Answers, notes: Notes) -> Table:
    """Choose the table that holds generations.

    Raises:
        CannotBind: there is none, or no such one.
    """
    if answers.generations is not None:
        return named_table(facts, answers.generations, "--generations")
    likely = candidates(facts)
    if not likely:
        there = ", ".join(sorted(facts.tables)) or "none"
        raise CannotBind(
            f"no table looks like one of generations; tables: {there}",
            then="say which one it is: ai-retry init --generations TABLE; with none for TABLE, "
            "ai-retry creates its own four tables",
            asks="generations",
        )
    notes.guess("generations", likely[0].quoted)
    return likely[0]


def named_table(facts: Facts, name: str, option: str) -> Table:
    """Find the table that an answer names.

    Raises:
        CannotBind: there is none.
    """
    table = facts.table(name)
    if table is None:
        there = ", ".join(sorted(facts.tables)) or "none"
        raise AnswerDoesNotFit(f"{option} {name}: there is no such table; tables: {there}")
    return table


class Columns:
    """Chooses columns of the generations' table, each at most once."""

    def __init__(self, table: Table, answers: Answers, notes: Notes) -> None:
        self._table = table
        self._answers = answers
        self._notes = notes
        self.taken: list[Column] = []

    def answered(self, name: str) -> tuple[Column, ...] | None:
        """The columns that an answer names; none at all: the answer is ``none``; None: there is no answer.

        Raises:
            CannotBind: it names no column of the table.
        """
        given = self._answers.columns.get(name)
        if given is None:
            return None
        if given == (NONE,):
            return ()
        return tuple(self._named(name, each) for each in given)

    def choose(self, name: str, guesses: Sequence[str], fits: Callable[[Column], bool]) -> Column | None:
        """Choose one, or none."""
        answered = self.answered(name)
        if answered is not None:
            column = answered[0] if answered else None
        else:
            column = names.pick(self._table, guesses, fits, self.taken)
            self._notes.guess(f"column {name}", column.name if column else NONE)
        if column is not None:
            self.taken.append(column)
        return column

    def _named(self, name: str, column: str) -> Column:
        found = self._table.columns.get(column.strip('"'))
        if found is None:
            there = ", ".join(self._table.columns)
            raise AnswerDoesNotFit(f"--column {name}={column}: {self._table.quoted} has no such column; it has {there}")
        return found


def key_of(table: Table, columns: Columns) -> Column:
    """Choose the generations' id.

    Raises:
        CannotBind: no unique uuid is there; the lines add one.
    """
    answered = columns.answered("id")
    wanted = [each.name for each in answered] if answered else [*table.key, "id", "uuid", "public_id", "retry_id"]
    fitting = [table.columns[each] for each in wanted if each in table.columns and table.columns[each].kind == "uuid"]
    key = next((each for each in fitting if table.names_rows(each.name)), None)
    if key is None:
        raise CannotBind(
            f"{table.quoted} has no unique column of type uuid"
            f"{f' named {wanted[0]}' if answered else ''}, by which ai-retry could name generations",
            [
                f"alter table {table.quoted} add column retry_id uuid not null default gen_random_uuid();",
                f"alter table {table.quoted} add unique (retry_id);",
            ],
            "then run ai-retry init --column id=retry_id",
        )
    columns.taken.append(key)
    return key


def owner_of(facts: Facts, table: Table, column: Column | None = None) -> Owner | None:
    """Say whose the rows of a table are, by one of its columns or by a guess; None: they say nothing of it."""
    if column is None:
        pointing = [each for each in table.columns.values() if _is_users(facts, table.target(each.name))]
        named = names.pick(table, names.USERS, lambda each: each.kind == "uuid")
        column = named or (pointing[0] if pointing else None)
    if column is None or column.kind != "uuid":
        return None
    profiles = facts.tables.get(table.target(column.name) or "")
    referenced = table.referenced(column.name)
    if profiles is None or referenced is None or profiles.target(referenced) == "auth.users":
        return Owner(column)
    user = next(
        (each for each in profiles.columns.values() if profiles.target(each.name) == "auth.users"),
        names.pick(profiles, ("user_id", "auth_user_id", "auth_id"), lambda each: each.kind == "uuid"),
    )
    if user is None or user.name == referenced:
        return Owner(column)
    return Owner(column, profiles, profiles.columns[referenced], user)


def _is_users(facts: Facts, name: str | None) -> bool:
    """Whether a table is Auth's, or one of profiles, whose key is a user's id."""
    if name is None or name == "auth.users":
        return name is not None
    profiles = facts.tables.get(name)
    return profiles is not None and len(profiles.key) == 1 and profiles.target(profiles.key[0]) == "auth.users"


def generations_owner(facts: Facts, table: Table, columns: Columns, notes: Notes) -> Owner:
    """Choose the column that says whose a generation is.

    Raises:
        CannotBind: there is none of type uuid.
    """
    answered = columns.answered("user_id")
    owner = owner_of(facts, table, answered[0] if answered else None)
    if owner is None:
        named = answered[0] if answered else names.pick(table, names.USERS, lambda each: each.is_text)
        if named is not None:
            line = f"alter table {table.quoted} alter column {named.quoted} type uuid using {named.quoted}::uuid;"
        else:
            line = f"alter table {table.quoted} add column user_id uuid references auth.users (id) on delete cascade;"
        raise CannotBind(
            f"{table.quoted} has no column of type uuid that says whose a generation is",
            [line],
            "then run ai-retry init again"
            if named is not None
            else "fill it for the rows that are there, let the app write it, and run ai-retry init again",
            asks="" if answered else "column user_id",
        )
    if answered is None:
        notes.guess("column user_id", owner.column.name)
    columns.taken.append(owner.column)
    return owner


def prompt_of(table: Table, columns: Columns, answers: Answers, notes: Notes) -> tuple[Column, ...]:
    """Choose the columns that say what is asked.

    Raises:
        CannotBind: no column looks like it.
    """
    answered = columns.answered("prompt_data")
    if answered is None:
        whole = names.pick(table, names.PROMPT_JSON, lambda each: each.is_json, columns.taken)
        text = names.pick(table, names.PROMPT_TEXT, lambda each: each.is_text, columns.taken)
        if whole is not None and (text is None or whole.name in names.PROMPT_JSON[:6]):
            answered = (whole,)
        elif text is not None:
            kept = {*answers.set, *(each.name for each in columns.taken)}
            options = [
                table.columns[each] for each in names.PROMPT_OPTIONS if each in table.columns and each not in kept
            ]
            answered = tuple(dict.fromkeys((text, *options)))
        else:
            raise CannotBind(
                f"no column of {table.quoted} is named like a prompt, and what was asked has to be known",
                then="say what is asked: ai-retry init --column prompt_data=NAME[,NAME]"
                f"{among(unclaimed(table, columns.taken))}; none, if a reader of yours finds it elsewhere",
                asks="column prompt_data",
            )
        notes.guess("column prompt_data", ",".join(each.name for each in answered))
    columns.taken.extend(answered)
    return answered
