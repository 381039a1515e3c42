"""The charts, as options of ECharts made from the board; nothing here draws or knows of a browser.

Colours that depend on light and dark are read from the page's style sheet where the chart is drawn (`_style`), with
every update, so that a chart follows when the page changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..observe.curves import Curve
from ..observe.histogram import BOUNDS, Histogram
from .board import COLUMN, COLUMNS, SERIES, Rates
from .words import percent, seconds

__all__ = ["COLOURS", "NAMES", "curve", "heatmap", "hit_rates", "latencies", "ordered", "sparkline"]

NAMES: Final = {"memory": "Memory", "redis": "Redis", "disk": "Disk", "loader": "Loader"}
COLOURS: Final = {"memory": "--memory", "redis": "--redis", "disk": "--disk", "loader": "--loader"}

LABELS: Final = (*(f"≤ {seconds(bound)}" for bound in BOUNDS), f"> {seconds(BOUNDS[-1])}")
"""What each bucket of a histogram holds."""

_SHORT: Final = (*(seconds(bound) for bound in BOUNDS), "more")


def ordered(tiers: Mapping[str, Any]) -> list[str]:
    """Return names of tiers, the nearest first."""
    known = [name for name in NAMES if name in tiers]
    return known + sorted(name for name in tiers if name not in NAMES)


def _style(name: str) -> str:
    return f"getComputedStyle(document.body).getPropertyValue({json.dumps(name)}).trim()"


def _text(size: int = 11) -> dict[str, Any]:
    return {":color": _style("--muted"), "fontSize": size, "fontFamily": "inherit"}


def _axis(**more: Any) -> dict[str, Any]:
    return {
        "axisLabel": {**_text(), **more.pop("axisLabel", {})},
        "axisLine": {"show": False},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {":color": _style("--line")}},
        "nameTextStyle": _text(),
        **more,
    }


def _tooltip(**more: Any) -> dict[str, Any]:
    return {
        ":backgroundColor": _style("--panel"),
        ":borderColor": _style("--line"),
        "textStyle": {":color": _style("--text"), "fontSize": 12},
        "confine": True,
        **more,
    }


def _base(**more: Any) -> dict[str, Any]:
    return {
        "animation": False,
        "textStyle": {"fontFamily": "inherit"},
        "grid": {"left": 8, "right": 12, "top": 12, "bottom": 4, "containLabel": True},
        **more,
    }


_PERCENT: Final = "(value) => Math.round(value * 100) + ' %'"
_TENTH: Final = "(value) => value == null ? '–' : (value * 100).toFixed(1) + ' %'"


_OF_A_CELL: Final = (
    "(cell) => cell.name + ': ' + cell.marker + ' ' + Math.round(cell.value[2] ** 2 * 100) + ' % of the busiest'"
)
_OF_A_SIZE: Final = (
    "(points) => points[0].value[0].toLocaleString() + ' entries: ' + (points[0].value[1] * 100).toFixed(1) + ' %'"
)


def hit_rates(series: Sequence[Rates]) -> dict[str, Any]:
    """Return the chart of the share of calls that each tier answered, over time."""
    tiers = ordered({tier: None for rates in series for tier in rates.share} or {"memory": None})
    end = series[-1].at if series else 0.0
    return _base(
        tooltip=_tooltip(trigger="axis", **{":valueFormatter": _TENTH}),
        xAxis=_axis(
            type="time",
            **{":min": str((end - SERIES) * 1000), ":max": str(end * 1000)},
            axisLabel={"hideOverlap": True, ":formatter": "(value) => new Date(value).toTimeString().slice(0, 8)"},
            splitLine={"show": False},
        ),
        yAxis=_axis(type="value", min=0, max=1, interval=0.25, axisLabel={":formatter": _PERCENT}),
        series=[
            {
                "name": NAMES.get(tier, tier),
                "type": "line",
                "stack": "share",
                "symbol": "none",
                "lineStyle": {"width": 1.5, ":color": _style(COLOURS.get(tier, "--muted"))},
                "itemStyle": {":color": _style(COLOURS.get(tier, "--muted"))},
                "areaStyle": {"opacity": 0.55, ":color": _style(COLOURS.get(tier, "--muted"))},
                "data": [[round(one.at * 1000), round(one.share.get(tier, 0.0), 4)] for one in series if one.calls],
            }
            for tier in tiers
        ],
    )


def sparkline(series: Sequence[Rates]) -> dict[str, Any]:
    """Return the little chart of calls a second."""
    return {
        "animation": False,
        "grid": {"left": 0, "right": 0, "top": 2, "bottom": 0},
        "xAxis": {"type": "category", "show": False, "boundaryGap": False, "data": list(range(len(series)))},
        "yAxis": {"type": "value", "show": False, "min": 0},
        "series": [
            {
                "type": "line",
                "symbol": "none",
                "data": [round(one.calls, 1) for one in series],
                "lineStyle": {"width": 1.5, ":color": _style("--accent")},
                "areaStyle": {"opacity": 0.15, ":color": _style("--accent")},
            }
        ],
    }


def shown_buckets(times: Mapping[str, Histogram]) -> range:
    """Return the buckets that hold anything, with one more on each side."""
    used = [place for one in times.values() for place, held in enumerate(one.counts) if held]
    if not used:
        return range(2, 10)
    return range(max(0, min(used) - 1), min(len(LABELS), max(max(used) + 2, min(used) + 6)))


def latencies(times: Mapping[str, Histogram]) -> dict[str, Any]:
    """Return the histograms of how long answers took, by who gave them."""
    places = shown_buckets(times)
    return _base(
        tooltip=_tooltip(trigger="axis", axisPointer={"type": "shadow"}, **{":valueFormatter": _TENTH}),
        xAxis=_axis(
            type="category",
            data=[_SHORT[place] for place in places],
            splitLine={"show": False},
            axisLabel={"interval": 0, "rotate": 40, "fontSize": 10},
        ),
        yAxis=_axis(type="value", min=0, axisLabel={":formatter": _PERCENT}),
        series=[
            {
                "name": NAMES.get(tier, tier),
                "type": "bar",
                "barGap": "8%",
                "barCategoryGap": "22%",
                "itemStyle": {":color": _style(COLOURS.get(tier, "--muted")), "borderRadius": [3, 3, 0, 0]},
                "data": [
                    round(one.counts[place] / one.count, 4) if (one := times[tier]).count else 0 for place in places
                ],
            }
            for tier in ordered(times)
        ],
    )


def _past(ago: int) -> str:
    if not ago:
        return "now"
    return f"{ago // 60} min ago" if ago % 60 == 0 else f"{ago // 60}:{ago % 60:02} min ago"


def heatmap(heat: Sequence[tuple[float, Sequence[int]]]) -> dict[str, Any]:
    """Return the chart of answers by how long they took, over time; the strongest cell of a column has the most."""
    used = [place for _, counts in heat for place, held in enumerate(counts) if held]
    places = range(min(used), max(used) + 1) if used else range(3, 9)
    cells: list[list[float]] = []
    first = COLUMNS - len(heat)
    for column, (_, counts) in enumerate(heat, first):
        # By the root, so that the few slow ones are seen beside the many fast ones.
        most = max(max(counts), 1) ** 0.5
        cells += [
            [column, row, round(counts[place] ** 0.5 / most, 3)] for row, place in enumerate(places) if counts[place]
        ]
    names = [_past((COLUMNS - 1 - column) * COLUMN) for column in range(COLUMNS)]
    minute = 60 // COLUMN
    return _base(
        tooltip=_tooltip(**{":formatter": _OF_A_CELL}),
        xAxis=_axis(
            type="category",
            data=names,
            splitLine={"show": False},
            axisLabel={":interval": f"(place) => place % {minute} === {minute - 1}"},
        ),
        yAxis=_axis(type="category", data=[_SHORT[place] for place in places], splitLine={"show": False}),
        visualMap={
            "show": False,
            "min": 0,
            "max": 1,
            "inRange": {
                ":color": f"[{_style('--heat-0')}, {_style('--heat-1')}, {_style('--heat-2')}, {_style('--heat-3')}]"
            },
        },
        series=[{"type": "heatmap", "data": cells, "itemStyle": {"borderWidth": 1, ":borderColor": _style("--panel")}}],
    )


def curve(found: Curve | None) -> dict[str, Any]:
    """Return the chart of the hit rate of process memory by its size."""
    points = found.points if found is not None else ()
    lowest = min((rate for _, _, rate in points), default=0.0)
    marks: list[dict[str, Any]] = []
    if found is not None:
        marks.append({"yAxis": 0.95, "label": {"formatter": "95 %", "position": "insideStartTop"}})
        marks.append({"xAxis": found.items, "label": {"formatter": "now", "position": "end"}})
    return _base(
        grid={"left": 8, "right": 16, "top": 22, "bottom": 4, "containLabel": True},
        tooltip=_tooltip(
            trigger="axis",
            **{":formatter": _OF_A_SIZE},
        ),
        xAxis=_axis(
            type="log",
            logBase=2,
            min=points[0][1] if points else 1,
            max=points[-1][1] if points else 16,
            splitLine={"show": False},
            axisLabel={
                "hideOverlap": True,
                ":formatter": "(value) => value >= 1e6 ? +(value / 1e6).toFixed(1) + ' M'"
                " : value >= 1000 ? +(value / 1000).toFixed(1) + ' k' : value",
            },
        ),
        yAxis=_axis(type="value", min=max(0.0, int(lowest * 10 - 0.5) / 10), max=1, axisLabel={":formatter": _PERCENT}),
        series=[
            {
                "type": "line",
                "smooth": 0.25,
                "smoothMonotone": "x",
                "symbol": "circle",
                "symbolSize": 7,
                "lineStyle": {"width": 2.5, ":color": _style("--memory")},
                "itemStyle": {":color": _style("--memory")},
                "areaStyle": {"opacity": 0.12, ":color": _style("--memory")},
                "data": [[items, round(rate, 4)] for _, items, rate in points],
                "markLine": {
                    "silent": True,
                    "symbol": "none",
                    "animation": False,
                    "lineStyle": {"type": "dashed", "width": 1, ":color": _style("--muted")},
                    "label": {**_text(11)},
                    "data": marks,
                },
            }
        ],
    )


def described(found: Curve | None) -> str:
    """Return what the curve says, in words."""
    if found is None:
        return "Nothing has been measured yet."
    size = found.size_for()
    if size is None:
        return (
            f"No size up to {found.points[-1][1]:,} entries reaches 95 %; the best is {percent(found.best)}. What "
            f"expires or is invalidated is a miss at any size."
        )
    if size <= found.items:
        return f"{size:,} entries would already reach 95 %; there is room for {found.items:,}."
    return f"95 % would take about {size:,} entries, {size / found.items:.1f} times what there is."
