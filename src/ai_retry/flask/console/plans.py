"""The console's plans on disk: each with who made it and how its run goes, so that any process of the app shows it."""

import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from ai_retry.client import Client
from ai_retry.domain.errors import NotConfigured
from ai_retry.problems import Problem, Refused
from ai_retry.recovery.plan import Plan

State: TypeAlias = Literal["planned", "running", "paused", "stopped", "done"]

KEPT: Final = 50  # plans; the oldest that do not run are removed
_PAUSED: Final = ("PAUSED", "INTERRUPTED")  # by an operator, or by the end of its process
_SEEN: Final = timedelta(seconds=10)  # after which a run that shows no progress has lost its process
_UNREADABLE: Final = Problem(
    code="PLAN_UNREADABLE",
    http_status=409,
    message="This plan's file is gone, or was changed. Nothing was changed by this. Make another plan.",
)
_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How far a plan's last run came."""

    operator: str
    began_at: datetime
    seen_at: datetime
    total: int
    done: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    at_once: int = 0
    unavailable: bool = False  # the provider takes no requests
    ended: str | None = None  # DONE, or why it stopped; None: it runs, or its process has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A plan that was kept, without its selection."""

    id: str
    made_at: datetime
    made_by: str
    search: Sequence[tuple[str, str]]
    selected: int
    is_complete: bool  # False: more was found than one plan takes
    run: Run | None = None
    is_pausing: bool = False

    @property
    def state(self) -> State:
        """Whether it runs, can go on, or is done."""
        run = self.run
        if run is None:
            return "planned"
        if run.ended is None:
            return "running" if datetime.now(UTC) - run.seen_at < _SEEN else "paused"
        if run.ended == "DONE":
            return "done"
        return "paused" if run.ended in _PAUSED else "stopped"


class Plans:
    """Files in a directory: ``ID.json`` is a plan, ``ID.about`` says who made it, ``ID.run`` how it goes."""

    def __init__(self, directory: Path | None) -> None:
        self._is_private = directory is None
        self._directory = directory or _private("default")

    def use_default(self, name: str) -> None:
        """Keep plans in a directory of this machine's user that has this name, unless one was given."""
        if self._is_private:
            self._directory = _private(name)

    def keep(self, plan: Plan, *, made_by: str, search: Sequence[tuple[str, str]], is_complete: bool) -> None:
        """Write a new plan; one that is there already, with its run, stays."""
        self._ready()
        if self._file(plan.id, "about").exists():
            return
        plan.save(self._file(plan.id, "json"))
        about = {
            "made_at": datetime.now(UTC).isoformat(),
            "made_by": made_by,
            "search": search,
            "selected": len(plan.selected),
            "is_complete": is_complete,
        }
        self._write(self._file(plan.id, "about"), about)
        for old in [each for each in self.all() if each.state != "running"][KEPT:]:
            self.remove(old.id)

    def all(self) -> list[Kept]:
        """List them, newest first."""
        self._check_owner()
        kept = [self.get(path.stem) for path in self._directory.glob("*.about")]
        return sorted((each for each in kept if each is not None), key=lambda each: each.made_at, reverse=True)

    def get(self, plan_id: str) -> Kept | None:
        """Return what is known of a plan; None: there is none."""
        if _ID.fullmatch(plan_id) is None:
            return None
        self._check_owner()
        about = self._read(self._file(plan_id, "about"))
        if about is None:
            return None
        run = self._read(self._file(plan_id, "run"))
        return Kept(
            id=plan_id,
            made_at=datetime.fromisoformat(about["made_at"]),
            made_by=about["made_by"],
            search=[(name, value) for name, value in about["search"]],
            selected=about["selected"],
            is_complete=about["is_complete"],
            run=None if run is None else _run(run),
            is_pausing=self.is_pausing(plan_id),
        )

    def load(self, plan_id: str, client: Client) -> Plan:
        """Read the plan itself, and how much of it is done.

        Raises:
            Refused: its file is gone, or was changed.
            StorageFailure: safe to repeat.
        """
        try:
            return client.load_plan(self._file(plan_id, "json"))
        except (OSError, ValueError):
            raise Refused(_UNREADABLE) from None

    def note(self, plan_id: str, run: Run) -> None:
        """Write how far its run is."""
        document = asdict(run) | {"began_at": run.began_at.isoformat(), "seen_at": run.seen_at.isoformat()}
        self._write(self._file(plan_id, "run"), document)

    def pause(self, plan_id: str, *, wanted: bool) -> None:
        """Ask the process that runs it to pause, or take that back."""
        if wanted:
            self._file(plan_id, "pause").touch(mode=0o600)
        else:
            self._file(plan_id, "pause").unlink(missing_ok=True)

    def is_pausing(self, plan_id: str) -> bool:
        """Whether it is to pause."""
        return self._file(plan_id, "pause").exists()

    def remove(self, plan_id: str) -> None:
        """Remove its files."""
        for kind in ("about", "json", "run", "pause"):
            self._file(plan_id, kind).unlink(missing_ok=True)

    def _file(self, plan_id: str, kind: str) -> Path:
        return self._directory / f"{plan_id}.{kind}"

    def _ready(self) -> None:
        """Make the directory."""
        self._directory.mkdir(mode=0o700, parents=not self._is_private, exist_ok=True)
        self._check_owner()

    def _check_owner(self) -> None:
        """Use no private directory that others may write to: they could put a plan of theirs there.

        Raises:
            NotConfigured: names the argument.
        """
        if not self._is_private:
            return
        try:
            state = self._directory.lstat()
        except FileNotFoundError:
            return
        mine = getattr(os, "getuid", lambda: state.st_uid)() == state.st_uid
        if stat.S_ISLNK(state.st_mode) or not mine or state.st_mode & 0o077:
            raise NotConfigured("the console's own directory for plans belongs to others: pass plans=")

    def _write(self, path: Path, document: Mapping[str, Any]) -> None:
        new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")  # processes of two machines may have one id
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return document


def _private(name: str) -> Path:
    user = getattr(os, "getuid", lambda: "user")()
    return Path(tempfile.gettempdir()) / f"ai-retry-console-{user}-{name}"


def _run(document: Mapping[str, Any]) -> Run:
    instants = {name: datetime.fromisoformat(document[name]) for name in ("began_at", "seen_at")}
    return Run(**{**document, **instants})
