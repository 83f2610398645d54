"""Pictures for a notebook. A colour means the same in all of them; colour-blind people can distinguish them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ai_retry.recovery.parts import notebook_library

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS: Final = 120  # at most, over the time that a picture shows
_WIDTHS: Final = (1, 2, 5, 10, 15, 30, 60, 360, 1440, 10080)  # minutes
_MINUTE: Final = timedelta(minutes=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN: Final = 7  # codes, the most frequent ones; the others are one colour
(
    _GREEN,
    _VERMILION,
    _ORANGE,
    _YELLOW,
    _PURPLE,
    _SKY,
    _BLUE,
    _BLACK,
    _GREY,
    _LIGHT,
) = (  # of Okabe and Ito, but for the greys
    *("#009E73", "#D55E00", "#E69F00", "#F0E442", "#CC79A7", "#56B4E9", "#0072B2", "#000000"),
    *("#7F7F7F", "#C8C8C8"),
)
_ENDS: Final = {
    "succeeded": _GREEN,
    "failed": _VERMILION,
    "not finished": _BLUE,
    "not attempted": _GREY,
    "not selected": _LIGHT,
}
_CODES: Final = {
    "AI_UNAVAILABLE": _VERMILION,
    "AI_TIMEOUT": _ORANGE,
    "AI_RATE_LIMITED": _YELLOW,
    "AI_REJECTED": _PURPLE,
    "AI_INVALID_OUTPUT": _SKY,
    "AI_INCOMPLETE": _BLUE,
    "unknown": _LIGHT,
}
_SPARE: Final = (_BLUE, _SKY, _PURPLE, _BLACK, _YELLOW, _ORANGE, _VERMILION)  # for codes of the app's own


def failures_over_time(failures: Iterable[tuple[datetime | None, str]], ax: "Axes | None" = None) -> "Axes":
    """Draw stacked bars: when it failed, and with which code. Memory grows only with minutes and codes."""
    minutes, undated = _counted(failures)
    span = max(m for m, _ in minutes) - min(m for m, _ in minutes) + 1 if minutes else 1
    width = next((each for each in _WIDTHS if span <= each * _BINS), _WIDTHS[-1])
    frequent, rare = _frequent(minutes)
    binned = Counter[tuple[int, str]]()
    for (minute, code), count in minutes.items():
        binned[minute // width, code if code in frequent else rare] += count
    axes = _axes(ax)
    _draw(axes, binned, width, {**_colours(frequent), **({rare: _GREY} if rare else {})})
    axes.set_title(f"Failed generations{f' ({undated} without a time are left out)' if undated else ''}")
    axes.set_ylabel(f"per {_name(width)}")
    axes.set_xlabel("UTC")
    if minutes:
        dates = notebook_library("matplotlib.dates")
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    else:
        _say_none(axes)
    axes.yaxis.set_major_locator(notebook_library("matplotlib.ticker").MaxNLocator(integer=True))
    return _finished(axes, legend=bool(binned))


def outcomes(counts: Mapping[str, int], ax: "Axes | None" = None) -> "Axes":
    """Draw horizontal bars: how generations ended, each with its reason after a colon; and how many were left out."""
    axes = _axes(ax, height=1 + 0.4 * len(counts))
    ends = list(counts)[::-1]
    colours = [_ENDS[end.partition(":")[0]] for end in ends]
    bars = axes.barh(ends, [counts[end] for end in ends], height=0.6, color=colours)
    axes.bar_label(bars, padding=3)
    axes.set_title("How the generations ended")
    axes.set_xlabel("generations")
    axes.margins(x=0.15)
    if not any(counts.values()):
        axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(notebook_library("matplotlib.ticker").MaxNLocator(integer=True))
    return _finished(axes, legend=False)


def _counted(failures: Iterable[tuple[datetime | None, str]]) -> tuple[Counter[tuple[int, str]], int]:
    """Count by minute and code, and those without a time."""
    minutes, undated = Counter[tuple[int, str]](), 0
    for at, code in failures:
        if at is None:
            undated += 1
        else:
            minutes[(at - _EPOCH) // _MINUTE, code] += 1
    return minutes, undated


def _frequent(minutes: Counter[tuple[int, str]]) -> tuple[list[str], str]:
    """List the codes that get bars of their own, the most frequent first; and name what the others share, if any."""
    totals = Counter[str]()
    for (_, code), count in minutes.items():
        totals[code] += count
    ordered = [code for code, _ in totals.most_common()]
    if len(ordered) <= _SHOWN:
        return ordered, ""
    return ordered[: _SHOWN - 1], f"{len(ordered) - _SHOWN + 1} other codes"


def _colours(codes: Sequence[str]) -> dict[str, str]:
    """Give each code a colour of its own; ours have always the same."""
    taken = {_CODES.get(code) for code in codes}
    spare = iter([colour for colour in _SPARE if colour not in taken])
    return {code: _CODES[code] if code in _CODES else next(spare) for code in codes}


def _draw(axes: Any, binned: Counter[tuple[int, str]], width: int, colours: Mapping[str, str]) -> None:
    below = Counter[int]()
    for name, colour in colours.items():
        bins = sorted(each for each, its_name in binned if its_name == name)
        axes.bar(
            [_EPOCH + each * width * _MINUTE for each in bins],
            [binned[each, name] for each in bins],
            width=timedelta(minutes=width * 0.9),
            bottom=[below[each] for each in bins],
            align="edge",
            label=name,
            color=colour,
        )
        below.update({each: binned[each, name] for each in bins})


def _say_none(axes: Any) -> None:
    axes.set(xticks=[], xlabel="", ylim=(0, 1))
    axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=_GREY)


def _axes(ax: "Axes | None", *, height: float = 3.5) -> Any:
    if ax is not None:
        return ax
    return notebook_library("matplotlib.pyplot").subplots(figsize=(9, height), layout="constrained")[1]


def _finished(ax: Any, *, legend: bool) -> "Axes":
    if legend:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="x", labelrotation=0)
    finished: Axes = ax
    return finished


def _name(minutes: int) -> str:
    for size, name in ((1440, "day"), (60, "hour")):
        if minutes % size == 0:
            return name if minutes == size else f"{minutes // size} {name}s"
    return "minute" if minutes == 1 else f"{minutes} minutes"
