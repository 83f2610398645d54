"""What a plan freezes: its hash, and the file that keeps it."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from ai_retry.domain.model import GenerationStatus, QuotaRule, Waiver
from ai_retry.domain.names import lifting
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.recovery import Filter

_FORMAT = 1
_ID_LENGTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which terms a plan retries. A wrong one is a ``ValueError`` that names it."""

    policy: RetryPolicy
    waive: frozenset[Waiver] = frozenset()
    charge: bool = True
    max_cost: Decimal | None = None
    per_user: int | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and not (self.max_cost.is_finite() and self.max_cost > 0):
            raise ValueError("max_cost must be positive")
        if self.per_user is not None and self.per_user < 1:
            raise ValueError("per_user must be at least 1")

    def lifted(self, usual: RetryPolicy) -> Iterator[tuple[str, object]]:
        """List what differs from the usual terms."""
        for name in self._other_numbers(usual):
            yield name, getattr(self.policy, name)
        if self.waive:
            yield "waived", ", ".join(sorted(self.waive))
        if not self.charge:
            yield "charged", "no: users get their sessions without paying"
        if self.max_cost is not None:
            yield "cost, at most", self.max_cost
        if self.per_user is not None:
            yield "of one user, at most", self.per_user

    def lifting(self, usual: RetryPolicy) -> list[str]:
        """Name what lifts a limit, and so wants an operator's name: a waiver, no charge, other numbers than usual."""
        return [*lifting(waive=self.waive, charge=self.charge), *self._other_numbers(usual)]

    def _other_numbers(self, usual: RetryPolicy) -> list[str]:
        names = (each.name for each in fields(RetryPolicy))
        return [name for name in names if getattr(self.policy, name) != getattr(usual, name)]


@dataclass(frozen=True)
class Frozen:
    """Filter, terms and selection, which the id is a hash of."""

    filter: Filter
    terms: Terms
    selected: tuple[tuple[UUID, UUID], ...]  # user and id of each generation

    @cached_property
    def id(self) -> str:
        """The plan's name: 32 hexadecimal digits."""
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]

    def terms_document(self) -> dict[str, Any]:
        """Return filter and terms as JSON."""
        wanted, terms = self.filter, self.terms
        return {
            "filter": {
                "since": wanted.since.isoformat() if wanted.since else None,
                "until": wanted.until.isoformat(),
                "statuses": sorted(wanted.statuses),
                "codes": None if wanted.codes is None else sorted(wanted.codes),
                "models": None if wanted.models is None else sorted(wanted.models),
                "user_id": str(wanted.user_id) if wanted.user_id else None,
            },
            "policy": _plain(asdict(terms.policy)),
            "waive": sorted(terms.waive),
            "charge": terms.charge,
            "max_cost": None if terms.max_cost is None else str(terms.max_cost),
            "per_user": terms.per_user,
        }

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        selected = [[str(user_id), str(generation_id)] for user_id, generation_id in self.selected]
        return {**self.terms_document(), "selected": selected}


def keep(path: Path, frozen: Frozen, *, counts: Sequence[Any], estimates: Mapping[str, Any]) -> None:
    """Write a plan's file, readable only by its owner; an older file stays until the new one is complete."""
    document = {
        "format": _FORMAT,
        "id": frozen.id,
        **frozen.document(),
        "counts": counts,
        "estimates": estimates,
    }
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_file(path: Path) -> tuple[Frozen, dict[str, Any]]:
    """Read a plan's file.

    Raises:
        ValueError: it is no plan of ours, or was changed.
        OSError: it can't be read.
    """
    with intact(path):
        document = json.loads(path.read_text())
        frozen = Frozen(_filter(document["filter"]), _terms(document), _selected(document["selected"]))
        if document["format"] != _FORMAT or frozen.id != document["id"]:
            raise ValueError("its id is another one's")
        return frozen, document


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Read a plan's file in this block: whatever fails there for its content is one clear error.

    Raises:
        ValueError: it is no plan of ours, or was changed.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise ValueError(f"{path} is not a plan, or was changed since it was saved: make a new one") from None


def _filter(row: Mapping[str, Any]) -> Filter:
    return Filter(
        since=datetime.fromisoformat(row["since"]) if row["since"] else None,
        until=datetime.fromisoformat(row["until"]),
        statuses=frozenset(GenerationStatus(each) for each in row["statuses"]),
        codes=None if row["codes"] is None else frozenset(row["codes"]),
        models=None if row["models"] is None else frozenset(row["models"]),
        user_id=UUID(row["user_id"]) if row["user_id"] else None,
    )


def _terms(row: Mapping[str, Any]) -> Terms:
    policy = dict(row["policy"])
    return Terms(
        policy=RetryPolicy(**{**_read(policy, RetryPolicy), "quota": _quota(policy["quota"])}),
        waive=frozenset(Waiver(each) for each in row["waive"]),
        charge=row["charge"],
        max_cost=None if row["max_cost"] is None else Decimal(row["max_cost"]),
        per_user=row["per_user"],
    )


def _quota(row: Mapping[str, Any]) -> QuotaRule:
    return QuotaRule(**_read(row, QuotaRule))


def _read(row: Mapping[str, Any], kind: type[RetryPolicy | QuotaRule]) -> dict[str, Any]:
    durations = {each.name for each in fields(kind) if "timedelta" in str(each.type)}
    return {
        name: timedelta(seconds=value) if name in durations and value is not None else value
        for name, value in row.items()
    }


def _selected(rows: Sequence[Any]) -> tuple[tuple[UUID, UUID], ...]:
    return tuple((UUID(user_id), UUID(generation_id)) for user_id, generation_id in rows)


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
