"""Every kind of fault, as data: a worker is killed or frozen; its link, its provider or its app misbehaves."""

from dataclasses import dataclass, replace
from signal import SIGKILL, SIGSTOP
from typing import Any

from tests.faults.gateway import Odd
from tests.faults.proxy import Rule

LOAD, BEGIN, SETTLE, AMEND, KEEP = (f"ai_retry_{verb}" for verb in ("load", "begin", "settle", "amend", "keep"))
BOTH = ("postgres", "supabase")
DIRECT = ("postgres",)  # where Supabase Lite 0.10 would end itself: it bears no terminated back end


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault."""

    name: str
    point: str | None = None  # where the worker signals itself
    signal: int = SIGKILL
    rule: Rule | None = None  # what its link does
    odd: Odd | None = None  # what a gateway in front of the Data API answers
    held: str | None = None  # what becomes of a call that waits in the database: see ``Run._hold``
    locked: str | None = None  # what the app locks during the call, longer than a settle is repeated: see ``LOCKS``
    provider: tuple[str, ...] = ()  # how it behaves before it answers
    provider_down: bool = False
    full_pool: str | None = None
    event: str | None = None  # what happens to the whole stack, to many runs at once
    event_after: tuple[float, float] = (0.0, 0.0)  # seconds, between which it happens
    spools: bool = True  # the worker has a spool directory
    spool_meanwhile: bool = False  # another process sends the spool again and again while the worker runs
    rival: str | None = None  # another worker: ``at once`` or ``after the lease``
    refused: bool = False  # the app refuses the session, until the worker has ended
    pays_once: bool = False  # whatever happens, no second answer is bought
    may_lose_answer: bool = False  # its answer has no place but the process yet
    may_call_late: bool = False  # it sleeps between looking at the clock and sending
    transports: tuple[str, ...] = BOTH
    first: bool = False  # the worker makes the generation's first call; a retry otherwise
    broken: str | None = None


LOCKS = {
    "the generation's row": "select from public.generations where id = %(generation_id)s for update",
    "the user's row": "select from auth.users where id = %(user_id)s for update",
    "the user's advisory lock": "select pg_advisory_xact_lock(hashtextextended('ai_retry:' || %(user_id)s::text, 0))",
    "the generations": "lock table public.generations in access exclusive mode",
    "the users": "lock table auth.users in access exclusive mode",
}
"""What an app, or its owner, may hold while we settle."""
OF_ALL = ("the generations", "the users")  # every run of the stage meets these


def _without_spool(kind: Kind, **changes: Any) -> Kind:
    return replace(kind, name=f"{kind.name}, no spool", spools=False, **changes)


def _faults() -> list[Kind]:
    kinds = [Kind(name="nothing"), Kind(name="nothing, no spool", spools=False)]
    kinds += [
        Kind(name=f"killed {point}", point=point, may_lose_answer=point == "after answer")
        for point in (
            *("before begin", "after begin", "before send", "after answer", "after the spool's write"),
            *("before settle", "after settle", "before reply"),
        )
    ]
    after_spool = [
        Kind(name="killed with the settle on the wire", rule=Rule(SETTLE, "kill before")),
        Kind(
            name="killed before settle's rollback",
            rule=Rule(SETTLE, "hold"),
            held="kill and terminate",
            transports=DIRECT,
        ),
    ]
    answered = [kind for kind in kinds if kind.point in ("after answer", "before settle")] + after_spool
    kinds += after_spool
    kinds += [_without_spool(kind, may_lose_answer=True) for kind in answered]
    kinds += [
        Kind(name="killed in the call", provider=("kill",)),
        Kind(name="killed with the begin on the wire", rule=Rule(BEGIN, "kill before")),
        Kind(name="killed after begin's commit", rule=Rule(BEGIN, "kill after")),
        Kind(name="killed after settle's commit", rule=Rule(SETTLE, "kill after")),
        Kind(name="killed before settle's commit", rule=Rule(SETTLE, "hold"), held="kill"),
        Kind(name="killed before begin's commit", rule=Rule(BEGIN, "hold"), held="kill"),
        Kind(name="killed with a spooled answer", rule=Rule(SETTLE, "cut"), point="before settle 2"),
        Kind(name="killed with a settled, spooled answer", rule=Rule(SETTLE, "lose reply"), point="after settle"),
        Kind(name="killed before a closing settle", provider=("error",), point="before closing"),
        Kind(name="killed after a closing settle", provider=("error",), point="after closing"),
        Kind(name="killed after a closing settle's commit", provider=("error",), rule=Rule(SETTLE, "kill after")),
    ]
    return kinds


def _locks() -> list[Kind]:
    """No paid answer depends on what the app has locked."""
    row = "the generation's row"
    kinds = [
        Kind(name=f"{name} is locked for a while", locked=name, provider=("locked answer",), pays_once=True)
        for name in LOCKS
        if name not in OF_ALL
    ]
    kinds += [_without_spool(kind) for kind in kinds]
    killed = [
        Kind(name=f"killed {point}", locked=row, provider=("locked answer",), point=point, pays_once=True)
        for point in ("before keep", "after keep")
    ]
    before, after = (_without_spool(kind) for kind in killed)
    kinds += [*killed, replace(before, pays_once=False, may_lose_answer=True), after]
    kinds += [
        Kind(name=f"keep: {do}", locked=row, provider=("locked answer",), rule=Rule(KEEP, do), pays_once=True)
        for do in ("cut", "lose reply")
    ]
    kinds += [
        Kind(
            name=f"{name} are locked, {spool}",
            event=name,
            provider=("slow answer",),
            spools=spool == "spool",
            pays_once=True,
        )
        for name in OF_ALL
        for spool in ("spool", "no spool")
    ]
    return kinds


def _links() -> list[Kind]:
    kinds = [
        Kind(name=f"{name}: {do}", rule=Rule(function, do), provider=provider)
        for name, function, provider in (
            ("load", LOAD, ()),
            ("begin", BEGIN, ()),
            ("settle", SETTLE, ()),
            ("closing settle", SETTLE, ("error",)),
        )
        for do in ("cut", "lose reply")
    ]
    kinds += [
        Kind(
            name=f"renewals: {rule.do}",
            locked="the generation's row",
            provider=("locked answer",),
            rule=rule,
            pays_once=True,
        )
        for rule in (Rule(AMEND, "cut"), Rule(AMEND, "lose reply"), Rule(AMEND, "outage", seconds=0.3))
    ]
    kinds += [
        Kind(name="settle: outage, over in time", rule=Rule(SETTLE, "outage", seconds=0.5)),
        Kind(name="settle: outage, longer than the patience", rule=Rule(SETTLE, "outage", seconds=6), pays_once=True),
        Kind(name="begin: outage, longer than the patience", rule=Rule(BEGIN, "outage", seconds=6)),
        Kind(name="settle: replies lost, all of them", rule=Rule(SETTLE, "lose reply", times=99)),
        Kind(
            name="closing settle: replies lost, all of them",
            rule=Rule(SETTLE, "lose reply", times=99),
            provider=("error",),
        ),
        Kind(name="settle: stalled past the lease", rule=Rule(SETTLE, "stall", seconds=2.3), transports=DIRECT),
        Kind(
            name="settle: stalled, another takes over",
            rule=Rule(SETTLE, "stall", seconds=3.0),
            rival="after the lease",
        ),
        Kind(name="begin: reply after half the lease", rule=Rule(BEGIN, "late reply", seconds=1.4)),
        Kind(name="begin: reply after the lease", rule=Rule(BEGIN, "late reply", seconds=2.2)),
        Kind(
            name="settle: replies lost, spool sent meanwhile",
            rule=Rule(SETTLE, "lose reply", times=3),
            spool_meanwhile=True,
        ),
        Kind(
            name="settle: outage, spool sent meanwhile",
            rule=Rule(SETTLE, "outage", seconds=0.6),
            spool_meanwhile=True,
        ),
        Kind(name="settle: back end terminated", rule=Rule(SETTLE, "hold"), held="terminate", transports=DIRECT),
        Kind(name="begin: back end terminated", rule=Rule(BEGIN, "hold"), held="terminate", transports=DIRECT),
        Kind(name="begin: pool exhausted", full_pool=BEGIN, transports=DIRECT),
        Kind(name="settle: pool exhausted", full_pool=SETTLE, transports=DIRECT),
    ]
    long = next(kind for kind in kinds if kind.name == "settle: outage, longer than the patience")
    return [*kinds, _without_spool(long, pays_once=False, may_lose_answer=True)]


def _others() -> list[Kind]:
    kinds = [
        Kind(name=f"provider: {name}", provider=provider)
        for name, provider in (
            ("silent", ("silent",)),
            ("slow", ("slow answer",)),
            ("failing", ("error", "error")),
            ("limiting", ("limited",)),
            ("resetting", ("reset",)),
            ("talking nonsense", ("garbage",)),
        )
    ]
    kinds += [
        Kind(name="provider: down", provider_down=True),
        Kind(name="two at once", rival="at once", provider=("slow answer",)),
        Kind(name="two at once, begin's reply lost", rival="at once", rule=Rule(BEGIN, "lose reply")),
        Kind(name="session refused", refused=True, pays_once=True),
        Kind(name="session refused, reply lost", refused=True, rule=Rule(SETTLE, "lose reply"), pays_once=True),
        Kind(
            name="session refused, killed after commit", refused=True, rule=Rule(SETTLE, "kill after"), pays_once=True
        ),
    ]
    kinds += [
        Kind(name=f"frozen {point}", point=point, signal=SIGSTOP, rival=rival, may_call_late=point == "before send")
        for point, rival in (
            ("before begin", None),
            ("after begin", None),
            ("before send", "after the lease"),
            ("after answer", None),
            ("before settle", "after the lease"),
        )
    ]
    return kinds


def _first_calls() -> list[Kind]:
    """A first call meets what a retry meets, and its begin is also what creates the generation."""
    met = [
        *_faults(),
        *(kind for kind in _links() if kind.name.startswith(("load", "begin"))),
        *(kind for kind in _others() if kind.name.startswith(("two at once", "session refused", "frozen"))),
    ]
    return [replace(kind, name=f"first call, {kind.name}", first=True) for kind in met]


def _events() -> list[Kind]:
    waiting = Rule(SETTLE, "hold")
    moments = (
        ("early", (0.0, 0.15), (), None),
        ("in the call", (0.15, 0.5), ("slow answer",), None),
        ("with the settle waiting", (0.4, 0.8), (), waiting),
    )
    return [
        Kind(
            name=f"{event}, {moment}",
            event=event,
            event_after=after,
            provider=provider,
            rule=rule,
            held="wait" if rule else None,
            transports=transports,
        )
        for event, transports in (
            ("postgres crashes", BOTH),
            ("postgres restarts", BOTH),
            ("data api restarts", ("supabase",)),
        )
        for moment, after, provider, rule in moments
    ]


KINDS = tuple(_faults() + _locks() + _links() + _others() + _events() + _first_calls())
BROKEN = (
    Kind(name="broken: calls twice", broken="calls twice", transports=DIRECT),
    Kind(
        name="broken: no fence",
        broken="no fence",
        spools=False,  # else its rival settles it before
        point="before settle",
        signal=SIGSTOP,
        rival="after the lease",
        transports=DIRECT,
    ),
    Kind(
        name="broken: no spool",
        broken="no spool",
        spools=False,
        rule=Rule(SETTLE, "cut"),
        point="before settle 2",
        transports=DIRECT,
    ),
)
