"""What `ai-retry init` proposes for a schema: tables, columns, words; and what it can't bind."""

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from ai_retry.cli.doctor.shipped import BINDING, shipped
from ai_retry.cli.init.answers import Answers
from ai_retry.cli.init.binding import Binding, Link
from ai_retry.cli.init.choose import is_empty
from ai_retry.cli.init.facts import Constraint, Facts, Table, Trigger
from ai_retry.cli.init.moves import moves
from ai_retry.cli.init.notes import CannotBind, Notes, Obstacle
from ai_retry.cli.init.propose import propose, skeleton
from ai_retry.cli.init.report import obstacle
from ai_retry.cli.init.words import Word
from ai_retry.cli.init.write import binding_sql
from tests.helpers.schemas import GENERATION, facts, table

SESSION = {"user_id": "uuid not null", "content": "jsonb not null"}
WORDS = ("pending", "completed", "failed")
REFUND = Trigger(
    name="refund",
    definition="create trigger refund after update of status on public.ai_generations",
    events=("update",),
    columns=("status",),
    is_after=True,
    function="public.refund",
    source="",
)


def proposed(
    known: Facts, answers: Answers | None = None, counted: Mapping[Word, int] | None = None
) -> tuple[Binding, Notes]:
    """Propose, as the command does."""
    answers, notes = answers or Answers(), Notes()
    bones = skeleton(known, answers, notes)
    return propose(known, answers, bones, counted or {}, notes), notes


def generations(**more: str) -> Table:
    """A table of generations, with more columns."""
    return table("public.ai_generations", GENERATION | more, words=WORDS)


def test_likely_names_are_found() -> None:
    """Generations, what they create, their errors and events, by names and foreign keys."""
    known = facts(
        table(
            "public.ai_generations",
            GENERATION | {"deck_id": "uuid"},
            references={"user_id": "auth.users", "deck_id": "public.decks"},
            words=WORDS,
        ),
        table("public.decks", SESSION),
        table(
            "public.failures",
            {"generation_id": "uuid not null", "error_code": "text", "message": "text"},
            references={"generation_id": "public.ai_generations"},
        ),
        table("public.events", {"user_id": "uuid not null", "name": "text not null", "data": "jsonb"}),
    )

    binding, notes = proposed(known)

    assert (binding.table.name, binding.owner.column.name, [each.name for each in binding.prompt]) == (
        "ai_generations",
        "user_id",
        ["prompt"],
    )
    assert (binding.sessions.link, binding.sessions.pointer and binding.sessions.pointer.name) == (
        Link.FORWARD,
        "deck_id",
    )
    assert binding.error_log is not None
    assert binding.error_log.code is not None
    assert (binding.error_log.insert.table.name, binding.error_log.code.name) == ("failures", "error_code")
    assert binding.event is not None
    assert {each.what for each in notes.guesses} >= {"generations", "sessions", "error_logs", "events", "status error"}


def test_a_calendar_is_no_log_of_events() -> None:
    """A table named events that has required columns of its own is left alone, and so are log-ins named sessions."""
    known = facts(
        generations(result="jsonb"),
        table(
            "public.events", {"user_id": "uuid not null", "title": "text not null", "starts_at": "timestamptz not null"}
        ),
        table("public.sessions", {"user_id": "uuid not null", "device": "text not null"}),
    )

    binding, _ = proposed(known)

    assert (binding.event, binding.sessions.link) == (None, Link.SELF)
    assert [each.column.name for each in binding.on_success] == ["result"]


def test_required_columns_that_mean_nothing_leave_the_log_out() -> None:
    """They are named; the retry is none the worse."""
    known = facts(
        generations(result="text"),
        table(
            "public.generation_errors",
            {"generation_id": "uuid not null", "error_code": "text", "severity": "text not null"},
            references={"generation_id": "public.ai_generations"},
        ),
    )

    binding, notes = proposed(known)

    assert binding.error_log is None
    assert ["severity" in each for each in notes.left_out] == [True]


def test_a_trigger_that_fires_on_the_status_keeps_it_quiet() -> None:
    """A retry that waits or runs writes no status, or each failed one would be refunded; an answer lifts it."""
    known = facts(table("public.ai_generations", GENERATION | {"result": "text"}, words=WORDS, triggers=[REFUND]))

    quiet, notes = proposed(known)
    loud, _ = proposed(known, Answers(status={"processing": ("pending",)}))

    assert quiet.words.quiet
    assert not loud.words.quiet
    assert [each.why for each in notes.guesses if each.what == "status processing"] == [
        "a status that changes fires refund"
    ]
    listed = dict(moves(quiet))["Triggers that fire when ai-retry writes:"]
    assert listed == [
        "public.ai_generations: refund (update of status) runs public.refund; "
        "no status is written while a retry waits or runs"
    ]


@pytest.mark.parametrize("words", [WORDS, (*WORDS, "processing")])
def test_answers_about_other_words_leave_the_status_quiet(words: tuple[str, ...]) -> None:
    """A word that is bound, or answers that an earlier run kept, bring no second refund; processing's word may."""
    known = facts(table("public.ai_generations", GENERATION | {"result": "text"}, words=words, triggers=[REFUND]))

    first, notes = proposed(known)
    kept = Answers()
    for each in notes.guesses:
        kept = kept.with_answer(each.what, each.which)
    again, _ = proposed(known, kept)
    bound, _ = proposed(known, Answers(status={"timeout": ("failed",)}))

    assert {"queued", "processing"}.isdisjoint(_written(first) | _written(again) | _written(bound))
    assert binding_sql(again) == binding_sql(first)


def _written(binding: Binding) -> set[str]:
    return {ours for ours, word in binding.words.written.items() if word is not None}


@pytest.mark.parametrize(
    ("source", "quiet"),
    [
        ("begin if new.status = 'failed' then update public.wallets set credits = credits + 1; end if; end", True),
        ("begin if new.status = 'failed' then insert into public.refunds values (new.id); end if; end", True),
        ("begin if new.status = 'failed' then perform net.http_post(url := 'x'); end if; end", True),
        ("begin if new.status = 'failed' then new.failed_at := now(); end if; return new; end", False),
        ("begin perform new.status from public.locks for update of locks; return new; end", False),
    ],
)
def test_a_trigger_that_fires_before_the_change_keeps_the_status_quiet_if_it_writes(source: str, quiet: bool) -> None:
    """One that refunds each failure is as much in the way as if it fired afterwards; one that fills the row is not."""
    fires = Trigger(
        name="fires",
        definition="create trigger fires before update on public.ai_generations",
        events=("update",),
        columns=(),
        is_after=False,
        function="public.fires",
        source=source,
    )
    known = facts(table("public.ai_generations", GENERATION | {"result": "text"}, words=WORDS, triggers=[fires]))

    binding, _ = proposed(known)

    assert binding.words.quiet is quiet


def test_what_is_not_bound_is_named_with_the_columns_that_would_do() -> None:
    """A prompt or an output under an unusual name: the answer is printed with the columns that are free for it."""
    words = {"user_id": "uuid not null", "status": "text not null", "error_message": "text", "recap": "text"}
    known = facts(table("public.ai_generations", words | {"transcript": "text not null"}, words=WORDS))

    with pytest.raises(CannotBind) as lacking:
        proposed(known, Answers(columns={"prompt_data": ("transcript",)}))
    with pytest.raises(CannotBind) as unasked:
        proposed(known, Answers(sessions="none", set={"recap": "output"}))

    assert lacking.value.obstacle.then.endswith("; without these lines: --set NAME=output, where NAME is one of recap")
    assert unasked.value.obstacle.then.startswith(
        "say what is asked: ai-retry init --column prompt_data=NAME[,NAME], where NAME is one of transcript; none, if"
    )


def test_a_prompt_may_be_elsewhere() -> None:
    """Who says that no column holds the prompt gets a binding, and is reported what a retry needs then."""
    columns = {"user_id": "uuid not null", "status": "text not null", "output": "jsonb"}
    known = facts(table("public.ai_jobs", columns, words=WORDS))

    _, notes = proposed(known, Answers(columns={"prompt_data": ("none",)}))

    assert any("AI_RETRY_CONTEXT_FROM" in each for each in notes.left_out)


@pytest.mark.parametrize(
    ("columns", "guesses", "written"),
    [
        (
            {"error_code": "text", "error_message": "text"},
            {"column error_code": "error_code", "column error_message": "error_message"},
            ["p_code", "p_message"],
        ),
        ({"failure": "text"}, {"column error_code": "none", "column error_message": "failure"}, ["p_message"]),
        (
            {"error": "jsonb"},
            {"column error_code": "none", "column error_message": "error"},
            ["pg_catalog.jsonb_build_object('code', p_code, 'message', p_message)::jsonb"],
        ),
        ({"failed": "text"}, {"column error_code": "none", "column error_message": "none"}, []),
    ],
    ids=["both", "failure", "JSON", "neither"],
)
def test_error_columns_are_guesses_and_emptied(
    columns: dict[str, str], guesses: dict[str, str], written: list[str]
) -> None:
    """What a failure writes into the generation is among the guesses; a success empties it."""
    binding, notes = proposed(
        facts(table("public.ai_jobs", GENERATION | {"prompt": "text", "output": "jsonb"} | columns, words=WORDS))
    )

    assert {each.what: each.which for each in notes.guesses if each.what.startswith("column error")} == guesses
    assert [each.sql for each in binding.on_failure] == written
    emptied = {each.column.name for each in binding.on_success if each.sql == "null"}
    assert emptied == {each.column.name for each in binding.on_failure}


def test_the_command_that_follows_repeats_the_flags_of_this_run() -> None:
    """It can be run as it is printed, since no file keeps the flags of a run that wrote none; a new answer replaces."""
    what = Obstacle("no", (), "then run ai-retry init --column id=retry_id")
    flags = Answers(generations="studio.jobs", hidden="a and b", columns={"id": ("id",), "model": ("llm",)})

    assert obstacle(what, None, flags)[-1] == (
        "  then run ai-retry init --generations studio.jobs --hidden 'a and b' --column model=llm --column id=retry_id"
    )


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (table("public.generations", {"id": "bigint not null", **GENERATION}), "add column retry_id uuid"),
        (table("public.generations", GENERATION | {"user_id": "text not null"}), "alter column user_id type uuid"),
        (
            table("public.generations", {"status": "text", "model": "text", "prompt": "text"}),
            "add column user_id uuid references auth.users",
        ),
        (generations(), "add column output jsonb"),
    ],
    ids=["a serial id", "a user's id as text", "no user", "nowhere for the output"],
)
def test_what_cannot_be_bound_has_lines(broken: Table, line: str) -> None:
    """Each obstacle comes with statements that remove it."""
    with pytest.raises(CannotBind) as caught:
        proposed(facts(broken))

    assert line in " ".join(caught.value.obstacle.lines)


def test_a_word_for_success_has_to_be_known() -> None:
    """An enum of words that mean nothing to us is asked about, and says how to answer."""
    known = facts(table("public.generations", GENERATION | {"result": "text"}, labels=["raw", "served", "burnt"]))

    with pytest.raises(CannotBind, match="no word for success and error") as caught:
        proposed(known)
    binding, _ = proposed(known, Answers(status={"success": ("served",), "error": ("burnt",)}))

    assert caught.value.asks == "status success"
    assert binding.words.written["success"] == "served"


def test_unbound_words_are_counted() -> None:
    """A word with rows that is bound to nothing is named, with how many say it."""
    _, notes = proposed(facts(generations(result="text")), counted={"paused": 7, "failed": 1})

    assert [each for each in notes.left_out if "7 rows say 'paused'" in each]


def test_a_profile_is_bound_as_its_user() -> None:
    """A generation that belongs to a profile with an id of its own is its user's."""
    known = facts(
        table(
            "public.ai_generations",
            {**GENERATION, "profile_id": "uuid not null", "result": "jsonb"},
            references={"profile_id": "public.profiles"},
            words=WORDS,
        ),
        table("public.profiles", {"auth_id": "uuid not null"}, references={"auth_id": "auth.users"}),
    )

    binding, _ = proposed(known, Answers(columns={"user_id": ("profile_id",)}))

    assert binding.owner.read("g") == "(select o.auth_id from public.profiles o where o.id = g.profile_id)"
    assert "g.profile_id = (select o.id from public.profiles o where o.auth_id = p_user_id" in binding_sql(binding)


def test_several_rows_are_one_session() -> None:
    """Rows that point at a generation, several of them, are created from a list, and are its session together."""
    known = facts(
        generations(),
        table(
            "public.flashcards",
            {"generation_id": "uuid not null", "user_id": "uuid not null", "front": "text not null"},
            references={"generation_id": "public.ai_generations"},
        ),
    )

    binding, _ = proposed(known, Answers(sessions="public.flashcards"))

    assert binding.sessions.link is Link.ROWS
    assert "r.item ->> 'front'" in binding_sql(binding)
    assert "p_output -> 'flashcards'" in binding_sql(binding)


def test_only_a_project_without_tables_gets_the_seeds() -> None:
    """Tables that are not understood are no empty project; an answer may say that ai-retry's own shall be created."""
    assert is_empty(facts(), Answers())
    assert not is_empty(facts(table("public.notes", {"body": "text"})), Answers())
    assert is_empty(facts(table("public.notes", {"body": "text"})), Answers(generations="none"))
    with pytest.raises(CannotBind, match="no table looks like one of generations"):
        proposed(facts(table("public.notes", {"body": "text"})))


def test_the_binding_has_every_function_of_the_default_one() -> None:
    """What is generated is whole: a function that the default binding gets, this one gets too, in its form."""
    text = binding_sql(proposed(facts(generations(result="text")))[0])

    written = re.findall(r"create or replace function (ai_retry\.app_\w+)", text)
    expected = [name for name in shipped().functions if name.startswith(BINDING)]
    assert expected
    assert [name for name in expected if name not in written] == []


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        (Answers(generations="public.nothing"), "--generations public.nothing"),
        (Answers(columns={"model": ("engine",)}), "--column model=engine"),
        (Answers(set={"shape": "output"}), "--set shape=output"),
        (Answers(set={"result": "input.text"}), "--set result=input.text"),
        (Answers(session_function="public.make"), "--session-function public.make"),
        (Answers(soft_delete="gone"), "--soft-delete gone"),
    ],
)
def test_an_answer_that_names_nothing_is_named(answers: Answers, named: str) -> None:
    """It is a mistake of whoever answered, not of the tables."""
    with pytest.raises(CannotBind) as caught:
        proposed(facts(generations(result="text")), answers)

    assert named in str(caught.value)


def test_what_is_not_wanted_any_more_is_hidden() -> None:
    """A word such as cancelled is neither a failure nor unbound: its rows are not found, as those that are deleted."""
    words = (*WORDS, "cancelled", "draft")
    known = facts(
        table(
            "public.ai_jobs",
            GENERATION | {"prompt": "text", "output": "jsonb", "deleted_at": "timestamptz"},
            words=words,
        )
    )

    binding, notes = proposed(known)
    shown, others = proposed(known, Answers(hidden="none"))

    assert binding.hidden == "deleted_at is not null or status in ('cancelled', 'draft')"
    assert [each.which for each in notes.guesses if each.what == "hidden"] == [binding.hidden]
    assert not [each for each in notes.left_out if each.startswith("status")]
    assert shown.hidden is None
    assert len([each for each in others.left_out if each.startswith("status")]) == 2


def test_required_columns_that_are_filled_later_are_empty_at_first() -> None:
    """As Django has it, no text is null: a first call gives an empty one, and a success empties the error's."""
    columns = GENERATION | {"prompt": "text", "summary": "text not null", "error_message": "text not null"}
    binding, _ = proposed(
        facts(table("public.studio_summaryrequest", columns, words=("PENDING", "SUCCESS", "FAILURE")))
    )

    created = {each.column.name: each.sql for each in binding.on_create}
    assert (created["summary"], created["error_message"]) == ("''", "''")
    assert {each.column.name: each.sql for each in binding.on_success}["error_message"] == "''"


def test_a_failure_that_has_to_have_a_reason_has_one_at_once() -> None:
    """Where a check demands it, the status and a reason are written together; the report says more afterwards."""
    columns = GENERATION | {"prompt": "text", "output": "jsonb", "failure": "text", "failed_at": "timestamptz"}
    plain = table("public.ai_jobs", columns, words=WORDS)
    demands = Constraint("reason", ("status", "failure"), "((status <> 'failed'::text) OR (failure IS NOT NULL))")
    binding, _ = proposed(facts(replace(plain, checks=[*plain.checks, demands])))

    reason = (
        "failure = case when p_status in ('error', 'timeout') then coalesce(g.failure, p_status) else g.failure end"
    )
    assert reason in binding_sql(binding)
    assert reason not in binding_sql(proposed(facts(plain))[0])
    assert {each.column.name: each.sql for each in binding.on_failure} == {"failure": "p_message", "failed_at": "p_at"}


def test_words_of_a_pattern_are_read() -> None:
    """A check may say them as a regular expression."""
    plain = table("public.ai_jobs", GENERATION | {"prompt": "text", "output": "jsonb"})
    pattern = Constraint("known", ("status",), "(status ~ '^(pending|running|finished|crashed)$'::text)")
    binding, _ = proposed(facts(replace(plain, checks=[pattern])))

    assert [binding.words.read[ours] for ours in ("queued", "processing", "success", "error")] == [
        *(("pending",), ("running",), ("finished",), ("crashed",))
    ]


def test_a_word_that_is_nowhere_is_said_to_be() -> None:
    """Where nothing says which word the app has for a success, the guess asks for a look."""
    _, notes = proposed(
        facts(table("public.ai_jobs", GENERATION | {"prompt": "text", "output": "jsonb"})), None, {"failed": 3}
    )

    why = {each.what: each.why for each in notes.guesses}
    assert (why["status success"], why["status error"]) == ("no row, check or default has it: is it your word?", "")
