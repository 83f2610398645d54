"""Which status words of an app mean which of ours."""

import pytest

from ai_retry.cli.init.words import bind, meaning


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("pending", "queued"),
        ("In Progress", "processing"),
        ("in-progress", "processing"),
        ("COMPLETED", "success"),
        ("failed", "error"),
        ("timed out", "timeout"),
        (None, "queued"),
        ("cancelled", None),
        ("paused", None),
    ],
)
def test_well_known_words_are_guessed(word: str | None, ours: str | None) -> None:
    """Spelling does not matter; a word that could mean anything means nothing."""
    assert meaning(word) == ours


def test_what_is_lacking_is_written_as_the_nearest_word() -> None:
    """Two words for five statuses: a retry that runs is pending, one without an answer in time has failed."""
    words = bind([], ["pending", "done", "failed"], {})

    assert words.written == {
        "queued": "pending",
        "processing": "pending",
        "success": "done",
        "error": "failed",
        "timeout": "failed",
    }
    assert words.read["timeout"] == ()


def test_an_answer_goes_before_a_guess() -> None:
    """A word that an answer gives to one status is not guessed for another; null is never written."""
    words = bind(["pending", None], [], {"processing": ("pending",), "error": (None, "burnt")})

    assert words.read["queued"] == ()
    assert words.read["processing"] == ("pending",)
    assert words.read["error"] == (None, "burnt")
    assert words.written["error"] == "burnt"


def test_silent_statuses_are_read_and_not_written() -> None:
    """An app whose triggers fire on the status keeps it while a retry runs."""
    words = bind([], ["pending", "completed", "failed"], {}, silent=("queued", "processing"))

    assert words.quiet
    assert (words.written["queued"], words.written["error"]) == (None, "failed")
    assert words.read["queued"] == ("pending",)


def test_unknown_words_are_named() -> None:
    """What is bound to nothing is listed, and what any word may be gets ours."""
    words = bind(["done", "review"], [], {})

    assert words.unbound(["done", "review"]) == ["review"]
    assert words.read["error"] == ("error",)


def test_of_several_words_the_best_known_is_written() -> None:
    """The order in which rows say them decides nothing."""
    assert bind(["finished", "done", "completed"], [], {}).written["success"] == "completed"
