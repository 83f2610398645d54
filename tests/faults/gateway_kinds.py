"""Faults of a gateway in front of the Data API, as data. No answer is paid for twice, and none is lost.

A gateway that answers nonsense to the settle and to the last resort for longer than both are repeated leaves the answer
in the spool; without one it is lost, and counted.
"""

from tests.faults.gateway import CUTS, REPLIES, Odd
from tests.faults.kinds import AMEND, BEGIN, KEEP, LOAD, SETTLE, Kind

_API = ("supabase",)
_ALWAYS = 999  # times
_AWHILE = 0.7  # seconds, less than a settle is repeated for
_EVERYTHING = (*REPLIES, *CUTS)
_ROW = "the generation's row"


def _kinds() -> list[Kind]:
    kinds = []
    for number, does in enumerate(_EVERYTHING):
        spools = number % 2 == 0
        beginning = Odd(functions=(BEGIN,), does=does, passes=number % 3 == 0, times=_ALWAYS if number % 4 == 0 else 2)
        kinds += [
            _kind("load", Odd(functions=(LOAD,), does=does, times=2)),
            _kind("begin", beginning),
            _kind("settle", Odd(functions=(SETTLE,), does=does), spools=spools),
            _kind("settle's reply", Odd(functions=(SETTLE,), does=does, passes=True), spools=not spools),
            _kind("settle", Odd(functions=(SETTLE,), does=does, times=_ALWAYS, seconds=_AWHILE), spools=not spools),
            _kind("settle", Odd(functions=(SETTLE,), does=does, times=_ALWAYS)),
            _kind("keep", Odd(functions=(KEEP,), does=does, passes=number % 3 == 0), spools=spools, locked=_ROW),
        ]
    kinds += [
        _kind("renewals", Odd(functions=(AMEND,), does=does, times=_ALWAYS), locked=_ROW)
        for does in ("429", "200 HTML", "cut")
    ]
    kinds += [
        _kind("keep", Odd(functions=(KEEP,), does=does, times=_ALWAYS), locked=_ROW)
        for does in ("429", "200 HTML", "cut")
    ]
    kinds += [
        _kind("closing settle", Odd(functions=(SETTLE,), does=does, passes=passes), provider=("error",))
        for does, passes in (("429", False), ("200 HTML", True), ("cut", True))
    ]
    kinds += [
        _kind(name, Odd(functions=(function,), does="late", delay=delay))
        for name, function in (("load", LOAD), ("begin", BEGIN), ("settle", SETTLE))
        for delay in (0.5, 2.0)  # the second one is longer than a request may take
    ]
    for does in ("429", "PGRST202", "403 HTML", "200 HTML", "cut"):
        nowhere = Odd(functions=(SETTLE, KEEP), does=does, times=_ALWAYS)
        kinds += [_kind("settle and keep", nowhere), _kind("settle and keep", nowhere, spools=False)]
    return kinds


def _kind(name: str, odd: Odd, *, spools: bool = True, **changes: object) -> Kind:
    is_lost = KEEP in odd.functions and SETTLE in odd.functions and not spools
    times = "always" if odd.times == _ALWAYS and odd.seconds > _AWHILE else f"for {odd.seconds:g} s"
    when = {1: "once", 2: "twice"}.get(odd.times, times)
    does = f"{odd.does} {odd.delay:g} s" if odd.delay else odd.does
    through = ", having got through" if odd.passes and not name.endswith("reply") else ""
    return Kind(
        name=f"{name}: {does} {when}{through}{'' if spools else ', no spool'}",
        odd=odd,
        spools=spools,
        may_lose_answer=is_lost,
        pays_once=not is_lost,
        transports=_API,
        **({"provider": ("locked answer",)} if "locked" in changes else {}) | changes,  # type: ignore[arg-type]
    )


GATEWAY_KINDS = tuple(_kinds())
