"""What all figures share: axes, lines, bands, error bars and labels at the ends of lines.

Nothing here knows a shade: colours are names (`@task`, `@task/0.15`). Text that users chose goes through `plain`, since
Plotly reads a little HTML in labels.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlsys.report.arms import Arm
from rlsys.report.theme import symbol

HEIGHT = 280
_LABEL_PIXELS = 15
_LABEL_MARGINS = (60, 150)
_CHAR_PIXELS = 6.3
_TOP, _BOTTOM = 8, 44

Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One panel: Plotly's data and layout under a title, with a caption that says what to see.

    `alt` is for those who cannot see it: what is drawn, and its end points in numbers.
    """

    id: str
    title: str
    caption: str
    alt: str
    data: list[Trace]
    layout: dict[str, Any]

    def plain_data(self) -> dict[str, Any]:
        """What the page draws."""
        return {"data": self.data, "layout": self.layout}


@dataclass(frozen=True, slots=True)
class EndLabel:
    """A name beside the end of a line: where, in data coordinates, and in whose colour."""

    text: str
    y: float
    colour: str
    group: str


def end_of(points: Sequence[tuple[float, float]]) -> float:
    """Where a group of lines ends: the mean of the y whose x is the largest, so that unfinished ones do not count."""
    last = max(x for x, _ in points)
    values = [y for x, y in points if x == last]
    return math.fsum(values) / len(values)


def plain(text: str) -> str:
    """Text that Plotly shows as it is."""
    return html.escape(text, quote=False).replace("%{", "%\u200b{").replace("$", "\uff04")


def rounded(values: Sequence[float]) -> list[float]:
    """Five telling digits: half the bytes, and no pixel moves."""
    return [float(f"{value:.5g}") for value in values]


def line(arm: Arm, name: str, xs: Sequence[float], ys: Sequence[float], hover: str, **more: Any) -> Trace:
    """One run's line, in its arm's colour and dash."""
    style = {"color": f"@{arm.colour}", "width": 2, "dash": arm.dash} | more.pop("line", {})
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "legendgroup": arm.id,
        "x": list(xs),
        "y": rounded(ys),
        "line": style,
        "marker": {"color": f"@{arm.colour}", "symbol": symbol(arm.regime), "size": 7},
        "hovertemplate": f"<b>%{{fullData.name}}</b><br>{hover}<extra></extra>",
        **more,
    }


def band(colour: str, group: str, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> Trace:
    """The area between two curves, without a hover of its own."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*xs, *reversed(xs)],
        "y": rounded([*highs, *reversed(lows)]),
        "fill": "toself",
        "fillcolor": f"@{colour}/0.14",
        "line": {"width": 0, "color": f"@{colour}/0"},
        "hoverinfo": "skip",
        "legendgroup": group,
        "showlegend": False,
    }


def layout(
    x: str, y: str, *, height: int = HEIGHT, x_axis: Mapping[str, Any] = {}, y_axis: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Axes with titles, faint grid, no frame."""
    return {
        "height": height,
        "margin": {"l": 52, "r": 14, "t": _TOP, "b": _BOTTOM},
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": "zoom",
        "paper_bgcolor": "@paper/0",
        "plot_bgcolor": "@paper/0",
        "font": {"color": "@ink", "size": 12},
        "hoverlabel": {"bgcolor": "@raised", "bordercolor": "@rule", "font": {"color": "@ink", "size": 12}},
        "xaxis": {**_axis(x), **x_axis},
        "yaxis": {**_axis(y), **y_axis},
    }


def with_end_labels(figure: dict[str, Any], labels: Sequence[EndLabel], low: float, high: float) -> dict[str, Any]:
    """Fix the y range and write each name at the right margin, moved apart where they would overlap.

    `low` and `high` are in the axis's own units: logarithms for a logarithmic axis.
    """
    height = figure["height"] - _TOP - _BOTTOM
    pixels = [(high - label.y) / (high - low) * height for label in labels]
    shifts = [moved - wanted for moved, wanted in zip(spread_apart(pixels, _LABEL_PIXELS, height), pixels, strict=True)]
    annotations = [
        {
            "text": plain(label.text),
            "x": 1,
            "xref": "paper",
            "xanchor": "left",
            "xshift": 6,
            "y": label.y,
            "yref": "y",
            "yshift": -round(shift, 1),
            "showarrow": False,
            "font": {"color": f"@{label.colour}", "size": 11.5},
            "name": label.group,
        }
        for label, shift in zip(labels, shifts, strict=True)
    ]
    wanted = 14 + _CHAR_PIXELS * max((len(label.text) for label in labels), default=0)
    margin = {**figure["margin"], "r": round(min(max(wanted, _LABEL_MARGINS[0]), _LABEL_MARGINS[1]))}
    return {**figure, "margin": margin, "annotations": annotations, "yaxis": {**figure["yaxis"], "range": [low, high]}}


def spread_apart(positions: Sequence[float], gap: float, height: float) -> list[float]:
    """Positions moved as little as a simple sweep does, so that neighbours are `gap` apart and all within `height`."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = list(positions)
    for before, index in itertools.pairwise(order):
        moved[index] = max(moved[index], moved[before] + gap)
    limit = height
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def span(values: Sequence[float], *, floor: float | None = None, ceiling: float | None = None) -> tuple[float, float]:
    """A range around values with a little room, kept within bounds that a quantity cannot cross."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = low - room, high + room
    return (low if floor is None else max(low, floor)), (high if ceiling is None else min(high, ceiling))


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Means over `window` neighbours (fewer at the ends)."""
    half = window // 2
    return [
        math.fsum(part) / len(part)
        for index in range(len(values))
        if (part := values[max(0, index - half) : index + half + 1])
    ]


def _axis(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 12, "color": "@muted"}},
        "gridcolor": "@rule",
        "gridwidth": 1,
        "zeroline": False,
        "linecolor": "@rule",
        "tickfont": {"size": 11, "color": "@muted"},
        "automargin": False,
        "nticks": 6,
    }
