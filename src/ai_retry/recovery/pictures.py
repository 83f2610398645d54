"""Pictures for a notebook."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ai_retry.recovery.parts import notebook_library

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 120  # at most, over the time that a picture shows
_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 360, 1440, 10080)  # minutes
_COLOURS = {"succeeded": "tab:green", "failed": "tab:red", "left": "tab:gray"}
_MINUTE = timedelta(minutes=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def failures_over_time(failures: Iterable[tuple[datetime, str]], ax: "Axes | None" = None) -> "Axes":
    """Draw stacked bars: when it failed, and with which code. Memory grows only with minutes and codes."""
    minutes = Counter(((at - _EPOCH) // _MINUTE, code) for at, code in failures)
    span = max(m for m, _ in minutes) - min(m for m, _ in minutes) + 1 if minutes else 1
    width = next((each for each in _WIDTHS if span <= each * _BINS), _WIDTHS[-1])
    binned = Counter[tuple[int, str]]()
    for (minute, code), count in minutes.items():
        binned[minute // width, code] += count
    axes = _axes(ax)
    below = Counter[int]()
    for code, _ in _totals(binned).most_common():
        bins = sorted(each for each, its_code in binned if its_code == code)
        axes.bar(
            [_EPOCH + each * width * _MINUTE for each in bins],
            [binned[each, code] for each in bins],
            width=timedelta(minutes=width * 0.9),
            bottom=[below[each] for each in bins],
            align="edge",
            label=code,
        )
        below.update({each: binned[each, code] for each in bins})
    axes.set_title("Failed generations")
    axes.set_ylabel(f"per {_name(width)}")
    axes.set_xlabel("UTC")
    axes.yaxis.set_major_locator(notebook_library("matplotlib.ticker").MaxNLocator(integer=True))
    dates = notebook_library("matplotlib.dates")
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    return _finished(axes, legend=bool(binned))


def outcomes(counts: Mapping[str, int], ax: "Axes | None" = None) -> "Axes":
    """Draw horizontal bars: how generations ended."""
    axes = _axes(ax, height=1 + 0.4 * len(counts))
    names = list(counts)[::-1]
    colours = [_COLOURS[name.partition(":")[0]] for name in names]
    bars = axes.barh(names, [counts[name] for name in names], height=0.6, color=colours)
    axes.bar_label(bars, padding=3)
    axes.set_title("How the selected generations ended")
    axes.set_xlabel("generations")
    axes.xaxis.set_major_locator(notebook_library("matplotlib.ticker").MaxNLocator(integer=True))
    axes.margins(x=0.15)
    return _finished(axes, legend=False)


def _totals(binned: Mapping[tuple[int, str], int]) -> Counter[str]:
    totals = Counter[str]()
    for (_, code), count in binned.items():
        totals[code] += count
    return totals


def _axes(ax: "Axes | None", *, height: float = 3.5) -> Any:
    return ax if ax is not None else notebook_library("matplotlib.pyplot").subplots(figsize=(9, height))[1]


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
