"""Signed strings and origins of the console: which are taken, and which are not."""

import pytest

from ai_retry.flask.console.origin import refused_by
from ai_retry.flask.console.tokens import FORM_SECONDS, NOTE_SECONDS, Note, Tokens

OWN = {"https://app.example"}
NOW = 1_000_000.0


class Time:
    """Seconds that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """Return them."""
        return self.now


def test_token_is_good_for_its_operator_and_its_time() -> None:
    """Another operator, another key and a later hour refuse it."""
    time = Time()
    tokens = Tokens.of(["a key of this host"], time)
    token = tokens.form("ada")

    assert tokens.is_form(token, "ada")
    assert not tokens.is_form(token, "otto")
    assert not Tokens.of(["a key of another host"], time).is_form(token, "ada")
    time.now += FORM_SECONDS
    assert not tokens.is_form(token, "ada")


@pytest.mark.parametrize(
    "token", ["", ".", "..", "1.2.3", "9999999999..", "\N{SNOWMAN}", "x" * 5000, "nan..", "inf.." + "0" * 64]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    """Whatever a form carries, it is compared, not trusted."""
    assert not Tokens.of(["a key of this host"], Time()).is_form(token, "ada")


def test_every_part_of_a_token_counts() -> None:
    """A token with one character changed is refused."""
    tokens = Tokens.of(["a key of this host"], Time())
    token = tokens.form("ada")

    for place, character in enumerate(token):
        other = "1" if character != "1" else "2"
        assert not tokens.is_form(token[:place] + other + token[place + 1 :], "ada")


def test_note_is_no_token_and_a_token_no_note() -> None:
    """What was signed for one purpose is not taken for another one."""
    time = Time()
    tokens = Tokens.of(["a key of this host"], time)
    note = tokens.note("ada", Note("Done. \N{SNOWMAN}", is_good=True))

    assert tokens.noted(note, "ada") == Note("Done. \N{SNOWMAN}", is_good=True)
    assert not tokens.is_form(note, "ada")
    assert tokens.noted(tokens.form("ada"), "ada") is None
    assert tokens.noted(note, "otto") is None
    time.now += NOTE_SECONDS
    assert tokens.noted(note, "ada") is None


def test_older_keys_check_and_do_not_sign() -> None:
    """After a change of keys what the old one signed is good for as long as it is listed."""
    old, both, new = (Tokens.of(keys, Time()) for keys in (["old key"], ["new key", "old key"], ["new key"]))

    assert both.is_form(old.form("ada"), "ada")
    assert new.is_form(both.form("ada"), "ada")
    assert not old.is_form(both.form("ada"), "ada")


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Origin": "https://app.example"}, None),
        ({"Referer": "https://app.example/ai-retry/"}, None),
        ({"Sec-Fetch-Site": "same-origin"}, None),
        ({"Origin": "https://app.example", "Referer": "https://app.example/"}, None),
        ({}, "Origin"),
        ({"Origin": "null"}, "Origin"),
        ({"Origin": "http://app.example"}, "Origin"),
        ({"Origin": "https://app.example:444"}, "Origin"),
        ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site"),
        ({"Origin": "https://app.example", "Referer": "https://evil.example/"}, "Referer"),
        ({"Referer": "https://app.example.evil.example/"}, "Referer"),
        ({"Referer": "https://[broken/"}, "Referer"),
        ({"Sec-Fetch-Site": "none"}, "Sec-Fetch-Site"),
    ],
)
def test_origins_of_forms(headers: dict[str, str], refused: str | None) -> None:
    """A form needs a header that says it comes from the console, and none that says otherwise."""
    assert refused_by(headers, own=OWN, changes=True) == refused
