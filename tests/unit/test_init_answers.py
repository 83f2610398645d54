"""Answers: flags, the file, and what goes before what."""

from pathlib import Path

import pytest

from ai_retry.cli.init.answers import AnswerRefused, Answers, parse_pairs, read_file


def test_answers_survive_their_file(tmp_path: Path) -> None:
    """What is written is read again, whatever signs are in it."""
    answers = Answers(
        generations='studio."Order"',
        hidden="state = 'gone' and note <> E'\\n'",
        columns={"prompt_data": ("prompt", "tone"), "id": ("id",)},
        status={"error": ("failed", "null"), "timeout": ('said "late"',)},
        set={"body": "output.text", "odd name": "now"},
    )
    path = tmp_path / "ai-retry.toml"
    path.write_text(answers.written(), encoding="utf-8")

    assert read_file(path) == answers


def test_flags_go_before_the_file() -> None:
    """Each answer by itself, in tables too."""
    flags = Answers(sessions="none", columns={"id": ("key",)})
    file = Answers(sessions="public.decks", events="none", columns={"id": ("id",), "model": ("engine",)})

    merged = flags.over(file)

    assert (merged.sessions, merged.events) == ("none", "none")
    assert merged.columns == {"id": ("key",), "model": ("engine",)}


@pytest.mark.parametrize("given", ["id", "id=", "=x", "shoe=size"])
def test_a_pair_that_says_nothing_is_refused(given: str) -> None:
    """The option is named."""
    with pytest.raises(AnswerRefused, match="--column"):
        parse_pairs([given], "--column", ("id",))


@pytest.mark.parametrize("text", ["generations = ", "shoes = 3", "status = 3"])
def test_a_file_that_is_no_answer_is_refused(tmp_path: Path, text: str) -> None:
    """The file is named."""
    path = tmp_path / "ai-retry.toml"
    path.write_text(text)

    with pytest.raises(AnswerRefused, match=r"ai-retry\.toml"):
        read_file(path)


def test_a_repeated_option_adds_up() -> None:
    """As do words with commas between them."""
    assert parse_pairs(["error=failed,null", "error=broken"], "--status") == {"error": ("failed", "null", "broken")}
