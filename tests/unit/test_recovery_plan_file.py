"""What a plan freezes is what its name says, and what its file gives back."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_retry.domain.model import GenerationStatus, QuotaRule, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.recovery import FINDABLE, Filter
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan import load_plan
from ai_retry.recovery.plan_file import Frozen, Terms, keep, read_file

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SELECTED = ((UUID(int=1), UUID(int=2)), (UUID(int=1), UUID(int=3)))

WORDS = st.none() | st.frozensets(st.text(min_size=1, max_size=8), min_size=1, max_size=3)
DURATIONS = st.timedeltas(timedelta(seconds=1), timedelta(days=30))
FILTERS = st.builds(
    Filter,
    until=st.datetimes(timezones=st.just(UTC)),
    since=st.none() | st.datetimes(timezones=st.just(UTC)),
    statuses=st.frozensets(st.sampled_from(sorted(FINDABLE)), min_size=1),
    codes=WORDS,
    models=WORDS,
    user_id=st.none() | st.uuids(),
)
TERMS = st.builds(
    Terms,
    policy=st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 99),
        backoff_base=st.timedeltas(timedelta(seconds=1), timedelta(minutes=5)),
        answer_max_age=st.none() | DURATIONS,
        quota=st.builds(QuotaRule, limit=st.integers(0, 99), window=DURATIONS, count_own_successes=st.booleans()),
    ),
    waive=st.frozensets(st.sampled_from(Waiver)),
    charge=st.booleans(),
    max_cost=st.none() | st.decimals(Decimal("0.01"), 1000, places=4),
    per_user=st.none() | st.integers(1, 99),
)


def frozen(wanted: Filter | None = None, terms: Terms | None = None, selected: Any = SELECTED) -> Frozen:
    """Freeze something."""
    return Frozen(wanted or Filter(until=NOW), terms or Terms(policy=RetryPolicy()), selected)


@given(wanted=FILTERS, terms=TERMS, selected=st.lists(st.tuples(st.uuids(), st.uuids()), max_size=5))
def test_file_gives_back_what_was_kept(
    tmp_path_factory: pytest.TempPathFactory, wanted: Filter, terms: Terms, selected: list[tuple[UUID, UUID]]
) -> None:
    """Filter, terms, selection and name survive the file, whatever they are."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    before = frozen(wanted, terms, tuple(selected))
    keep(path, before, counts=[["now", None, 2]], estimates={"calls": 2})

    after, document = read_file(path)

    assert after == before
    assert document["counts"] == [["now", None, 2]]


def test_name_is_of_filter_terms_and_selection() -> None:
    """Another filter, other terms or another selection is another plan; the same is the same."""
    base = frozen()
    others = [
        frozen(Filter(until=NOW + timedelta(microseconds=1))),
        frozen(Filter(until=NOW, statuses=frozenset({GenerationStatus.ERROR}))),
        frozen(terms=Terms(policy=RetryPolicy(max_attempts=5))),
        frozen(terms=Terms(policy=RetryPolicy(), waive=frozenset({Waiver.QUOTA}))),
        frozen(terms=Terms(policy=RetryPolicy(), charge=False)),
        frozen(selected=SELECTED[:1]),
    ]

    assert frozen().id == base.id
    assert len(base.id) == 32
    assert base.id not in {each.id for each in others}
    assert len({each.id for each in others}) == len(others)


def test_changed_file_is_refused(tmp_path: Path) -> None:
    """A generation that is added, or a limit that is lifted, in the file is another plan: it has another name."""
    path = tmp_path / "plan.json"
    keep(path, frozen(), counts=[], estimates={})
    for name, value in (
        ("selected", [[str(UUID(int=8)), str(UUID(int=9))]]),
        ("charge", False),
        ("policy", {}),
        ("id", "0" * 32),
        ("format", 2),
    ):
        changed = tmp_path / "changed.json"
        changed.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

        with pytest.raises(ValueError, match=r"changed\.json is not a plan, or was changed"):
            read_file(changed)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"filter": []}', "[" * 100_000])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    """A file that is no plan is one clear error."""
    path = tmp_path / "other.json"
    path.write_text(content)

    with pytest.raises(ValueError, match=r"other\.json is not a plan"):
        read_file(path)


@pytest.mark.parametrize(
    "rest",
    [
        {"counts": [], "estimates": {}},
        {"counts": [], "estimates": {"calls": 1, "tokens": 1, "cost": "much"}},
        {"counts": [["soon", None, 1]], "estimates": {"calls": 1, "tokens": None, "cost": None}},
    ],
)
def test_file_whose_counts_were_changed_is_refused(tmp_path: Path, rest: dict[str, Any]) -> None:
    """What the plan's id does not cover may be wrong, too: that is the same clear error."""
    path = tmp_path / "plan.json"
    keep(path, frozen(), **rest)

    with pytest.raises(ValueError, match=r"plan\.json is not a plan, or was changed"):
        load_plan(cast("Parts", None), path)


def test_file_is_its_owners(tmp_path: Path) -> None:
    """The file names users, and is readable only by its owner; nothing else is left beside it."""
    path = tmp_path / "plan.json"

    keep(path, frozen(), counts=[], estimates={})

    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_cost": Decimal(0)}, "max_cost must be positive"),
        ({"max_cost": Decimal("nan")}, "max_cost must be positive"),
        ({"per_user": 0}, "per_user must be at least 1"),
    ],
)
def test_wrong_terms_are_named(changes: dict[str, Any], problem: str) -> None:
    """A term that makes no sense is a ``ValueError`` that names it."""
    with pytest.raises(ValueError, match=problem):
        Terms(policy=RetryPolicy(), **changes)
