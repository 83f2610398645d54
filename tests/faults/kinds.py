"""Every kind of fault, as data: where a worker is killed or frozen, what its link, its provider or the stack does."""

from dataclasses import dataclass
from signal import SIGKILL, SIGSTOP

from tests.faults.proxy import Rule

CLAIM, SUCCEED, FAIL, LOAD = "ai_retry_claim", "ai_retry_succeed", "ai_retry_close", "ai_retry_load"
BOTH = ("postgres", "supabase")
DIRECT = ("postgres",)  # where Supabase Lite 0.10 would end itself: it bears no terminated back end


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault."""

    name: str
    point: str | None = None  # where the worker signals itself
    signal: int = SIGKILL
    rule: Rule | None = None  # what its link does
    held: str | None = None  # what becomes of a call that waits in the database: see ``Run._hold``
    provider: tuple[str, ...] = ()  # how it behaves before it answers
    provider_down: bool = False
    full_pool: str | None = None
    event: str | None = None  # what happens to the whole stack, to many runs at once
    event_after: tuple[float, float] = (0.0, 0.0)  # seconds, between which it happens
    spool_meanwhile: bool = False  # another process sends the spool again and again while the worker runs
    rival: str | None = None  # another worker: ``at once`` or ``after the lease``
    refused: bool = False  # the app refuses the session, until the worker has ended
    may_lose_answer: bool = False  # it is killed between the answer and the first settle
    may_call_late: bool = False  # it sleeps between looking at the clock and sending
    transports: tuple[str, ...] = BOTH
    broken: str | None = None


def _faults() -> list[Kind]:
    kinds = [Kind(name="nothing")]
    kinds += [
        Kind(name=f"killed {point}", point=point, may_lose_answer=point in ("after answer", "before settle"))
        for point in ("before claim", "after claim", "before send", "after answer", "before settle", "after settle")
    ]
    kinds += [
        Kind(name="killed before reply", point="before reply"),
        Kind(name="killed in the call", provider=("kill",)),
        Kind(name="killed with the claim on the wire", rule=Rule(CLAIM, "kill before")),
        Kind(name="killed after claim's commit", rule=Rule(CLAIM, "kill after")),
        Kind(name="killed with the settle on the wire", rule=Rule(SUCCEED, "kill before"), may_lose_answer=True),
        Kind(name="killed after settle's commit", rule=Rule(SUCCEED, "kill after")),
        Kind(name="killed before settle's commit", rule=Rule(SUCCEED, "hold"), held="kill"),
        Kind(
            name="killed before settle's rollback",
            rule=Rule(SUCCEED, "hold"),
            held="kill and terminate",
            may_lose_answer=True,
            transports=DIRECT,
        ),
        Kind(name="killed before claim's commit", rule=Rule(CLAIM, "hold"), held="kill"),
        Kind(name="killed with a spooled answer", rule=Rule(SUCCEED, "cut"), point="before second settle"),
        Kind(name="killed with a settled, spooled answer", rule=Rule(SUCCEED, "lose reply"), point="after settle"),
        Kind(name="killed before fail", provider=("error",), point="before fail"),
        Kind(name="killed after fail's commit", provider=("error",), rule=Rule(FAIL, "kill after")),
    ]
    return kinds


def _links() -> list[Kind]:
    kinds = [
        Kind(name=f"{function.removeprefix('ai_retry_')}: {do}", rule=Rule(function, do), provider=provider)
        for function, provider in ((LOAD, ()), (CLAIM, ()), (SUCCEED, ()), (FAIL, ("error",)))
        for do in ("cut", "lose reply")
    ]
    kinds += [
        Kind(name="settle: outage, mended", rule=Rule(SUCCEED, "outage", seconds=0.5)),
        Kind(name="settle: outage, longer than the patience", rule=Rule(SUCCEED, "outage", seconds=6)),
        Kind(name="claim: outage, longer than the patience", rule=Rule(CLAIM, "outage", seconds=6)),
        Kind(name="settle: replies lost, all of them", rule=Rule(SUCCEED, "lose reply", times=99)),
        Kind(name="fail: replies lost, all of them", rule=Rule(FAIL, "lose reply", times=99), provider=("error",)),
        Kind(name="settle: stalled past the lease", rule=Rule(SUCCEED, "stall", seconds=2.3), transports=DIRECT),
        Kind(
            name="settle: stalled, another takes over",
            rule=Rule(SUCCEED, "stall", seconds=3.0),
            rival="after the lease",
        ),
        Kind(name="claim: reply after half the lease", rule=Rule(CLAIM, "late reply", seconds=1.4)),
        Kind(name="claim: reply after the lease", rule=Rule(CLAIM, "late reply", seconds=2.2)),
        Kind(
            name="settle: replies lost, spool sent meanwhile",
            rule=Rule(SUCCEED, "lose reply", times=3),
            spool_meanwhile=True,
        ),
        Kind(
            name="settle: outage, spool sent meanwhile",
            rule=Rule(SUCCEED, "outage", seconds=0.6),
            spool_meanwhile=True,
        ),
        Kind(name="settle: back end terminated", rule=Rule(SUCCEED, "hold"), held="terminate", transports=DIRECT),
        Kind(name="claim: back end terminated", rule=Rule(CLAIM, "hold"), held="terminate", transports=DIRECT),
        Kind(name="claim: pool exhausted", full_pool="claim", transports=DIRECT),
        Kind(name="settle: pool exhausted", full_pool="succeed", transports=DIRECT),
    ]
    return kinds


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
        Kind(name="two at once, claim's reply lost", rival="at once", rule=Rule(CLAIM, "lose reply")),
        Kind(name="session refused", refused=True),
        Kind(name="session refused, reply lost", refused=True, rule=Rule(SUCCEED, "lose reply")),
        Kind(name="session refused, killed after commit", refused=True, rule=Rule(SUCCEED, "kill after")),
    ]
    kinds += [
        Kind(name=f"frozen {point}", point=point, signal=SIGSTOP, rival=rival, may_call_late=point == "before send")
        for point, rival in (
            ("before claim", None),
            ("after claim", None),
            ("before send", "after the lease"),
            ("after answer", None),
            ("before settle", "after the lease"),
        )
    ]
    return kinds


def _events() -> list[Kind]:
    waiting = Rule(SUCCEED, "hold")
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


KINDS = tuple(_faults() + _links() + _others() + _events())
BROKEN = (
    Kind(name="broken: calls twice", broken="calls twice", transports=DIRECT),
    Kind(
        name="broken: no fence",
        broken="no fence",
        point="before settle",
        signal=SIGSTOP,
        rival="after the lease",
        transports=DIRECT,
    ),
    Kind(
        name="broken: no spool",
        broken="no spool",
        rule=Rule(SUCCEED, "cut"),
        point="before second settle",
        transports=DIRECT,
    ),
)
