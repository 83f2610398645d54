"""The rates as bars, drawn as SVG by hand: no library for five groups of three."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from benchmarks.sampling import short

_WIDTH, _LEFT, _BAR, _GAP, _TOP = 760, 210, 16, 14, 46
_SHADES = ("#93c5fd", "#3b82f6", "#1e3a8a")


def svg(data: Mapping[str, Any]) -> str:
    """Draw the section's medians: engines from top to bottom, one bar per number of workers."""
    medians: Mapping[str, Mapping[int, float]] = data["medians"]
    workers = list(next(iter(medians.values())))
    height = _TOP + len(medians) * (len(workers) * _BAR + _GAP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif"'
            ' font-size="12">',
            "<title>Durable attempts per second</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *_legend(workers),
            *_bars(medians, data["names"]),
            "</svg>",
            "",
        ]
    )


def _legend(workers: list[int]) -> Iterator[str]:
    yield '<text x="10" y="24" font-weight="bold">Durable attempts per second</text>'
    for index, count in enumerate(workers):
        x = _LEFT + 80 + index * 110
        yield f'<rect x="{x}" y="14" width="12" height="12" fill="{_SHADES[index % len(_SHADES)]}"/>'
        yield f'<text x="{x + 18}" y="24">{count} at once</text>'


def _bars(medians: Mapping[str, Mapping[int, float]], names: Mapping[str, str]) -> Iterator[str]:
    most = max(rate for rates in medians.values() for rate in rates.values())
    y = _TOP
    for key, rates in medians.items():
        middle = y + len(rates) * _BAR / 2 + 4
        yield f'<text x="{_LEFT - 10}" y="{middle:g}" text-anchor="end">{escape(names[key])}</text>'
        for index, rate in enumerate(rates.values()):
            width = max(1, (_WIDTH - _LEFT - 70) * rate / most)
            shade = _SHADES[index % len(_SHADES)]
            yield f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_BAR - 2}" fill="{shade}"/>'
            yield f'<text x="{_LEFT + width + 6:.0f}" y="{y + 11}">{escape(short(round(rate)))}</text>'
            y += _BAR
        y += _GAP
