"""Pictures of a recovery: integer axes, a legend beside the bars, colours by meaning; what is left out is counted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from ai_retry.recovery.pictures import failures_over_time, outcomes

NIGHT = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
GREEN, VERMILION, GREY = "#009e73", "#d55e00", "#7f7f7f"


@pytest.fixture(autouse=True)
def canvas(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw without a screen, and keep no figure."""
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    yield
    plt.close("all")


def colours(axes: Any) -> dict[str, str]:
    """The colour of each series, by its label."""
    handles, labels = axes.get_legend_handles_labels()
    return {label: to_hex(handle.patches[0].get_facecolor()) for handle, label in zip(handles, labels, strict=True)}


def drawn(axes: Any) -> Any:
    """Draw, and return the renderer."""
    axes.figure.canvas.draw()
    return axes.figure.canvas.get_renderer()


def spread(codes: list[str]) -> list[tuple[datetime | None, str]]:
    """A failure of each code, a minute after the other; the first codes are the most frequent."""
    return [
        (NIGHT + timedelta(minutes=place), code) for place, code in enumerate(codes) for _ in range(len(codes) - place)
    ]


def test_a_code_has_one_colour() -> None:
    """Whatever else failed, ours have colours of their own; the app's have others, all different, and none is green."""
    several = colours(failures_over_time(spread(["AppBroke", "AI_UNAVAILABLE", "OtherBroke", "AI_TIMEOUT"])))
    single = colours(failures_over_time(spread(["AI_UNAVAILABLE"])))

    assert several["AI_UNAVAILABLE"] == single["AI_UNAVAILABLE"] == VERMILION
    assert len(set(several.values())) == 4
    assert GREEN not in several.values()


def test_rare_codes_share_a_colour() -> None:
    """Of many codes the most frequent are named; the others are counted, together and in grey."""
    codes = [f"Broke{number}" for number in range(10)]
    axes = failures_over_time(spread(codes))
    heights = sum(patch.get_height() for bars in axes.containers for patch in cast("Any", bars))

    assert list(colours(axes)) == [*codes[:6], "4 other codes"]
    assert colours(axes)["4 other codes"] == GREY
    assert heights == len(spread(codes))


def test_axes_are_integers_and_legend_is_beside() -> None:
    """Counts have no fractions, and the legend covers no bar and is inside the picture."""
    axes = failures_over_time(spread(["AI_UNAVAILABLE", "AI_TIMEOUT"]))
    renderer = drawn(axes)
    legend = axes.get_legend()

    assert all(tick == int(tick) for tick in axes.get_yticks())
    assert legend is not None
    assert legend.get_window_extent(renderer).x0 >= axes.get_window_extent(renderer).x1
    assert legend.get_window_extent(renderer).x1 <= axes.figure.bbox.x1


def test_what_has_no_time_is_counted() -> None:
    """A failure without a time can't be drawn; the title counts it."""
    axes = failures_over_time([*spread(["AI_TIMEOUT"]), (None, "AI_TIMEOUT"), (None, "AI_TIMEOUT")])

    assert axes.get_title() == "Failed generations (2 without a time are left out)"


def test_nothing_is_drawn_as_nothing() -> None:
    """Without failures there is an empty picture that says so, and no year 1970."""
    over_time, ends = failures_over_time([]), outcomes({"succeeded": 0})
    drawn(over_time)
    drawn(ends)

    assert [text.get_text() for text in over_time.texts] == ["none"]
    assert list(over_time.get_xticks()) == []
    assert ends.get_xlim() == (0, 1)


def test_ends_have_the_colours_of_their_meaning() -> None:
    """Success is green, failure vermilion; what was not attempted or not selected is there, in grey."""
    axes = outcomes(
        {
            "succeeded": 4,
            "failed: AI_REJECTED": 2,
            "not attempted: interrupted": 1,
            "not selected: later: QUOTA_EXHAUSTED": 9,
        }
    )
    drawn(axes)
    found = {
        label.get_text(): to_hex(patch.get_facecolor())
        for label, patch in zip(axes.get_yticklabels(), axes.patches, strict=True)
    }

    assert found["succeeded"] == GREEN
    assert found["failed: AI_REJECTED"] == VERMILION
    assert len(set(found.values())) == 4
    assert all(tick == int(tick) for tick in axes.get_xticks())
    assert [text.get_text() for text in axes.texts] == ["9", "1", "2", "4"]
