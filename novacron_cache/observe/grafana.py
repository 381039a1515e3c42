"""The Grafana dashboard: the panels of `panels`, as the JSON that Grafana reads.

A dashboard is thousands of lines that differ in a few words each. Those words are in `panels`; the file in `compose/`
is written from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from .panels import ROWS, Panel
from .snapshot import PREFIX

_WIDTH: Final = 24
_HEIGHTS: Final[dict[str, int]] = {"stat": 4, "timeseries": 8, "heatmap": 8}
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_FIRING: Final = 'ALERTS{alertname=~"Cache.+", alertstate="firing", cache=~"$cache"}'


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    return {
        "uid": "novacron-cache",
        "title": "novacron_cache",
        "description": "Hits, misses, latency, tiers and coherence of novacron_cache, by namespace and model.",
        "tags": ["cache", "novacron_cache"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": [_alerts()]},
        "panels": list(_placed()),
    }


def _variables() -> list[dict[str, Any]]:
    def chosen(name: str, label: str, query: str) -> dict[str, Any]:
        return {
            "name": name, "label": label, "type": "query", "datasource": _SOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "includeAll": True, "multi": True,
            "allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }  # fmt: skip

    return [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        chosen("cache", "Namespace", f"label_values({PREFIX}processes, cache)"),
        chosen("model", "Model", f'label_values({PREFIX}hits_total{{cache=~"$cache"}}, model)'),
    ]


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts", "enable": True, "iconColor": "red", "datasource": _SOURCE,
        "expr": _FIRING, "titleFormat": "{{alertname}}",
    }  # fmt: skip


def _placed() -> Iterator[dict[str, Any]]:
    number = y = 0
    for row in ROWS:
        number += 1
        yield {
            "id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
        }  # fmt: skip
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y, height = 0, y + height, 0
            number += 1
            place = {"x": x, "y": y, "w": panel.width, "h": _HEIGHTS[panel.kind]}
            yield {"id": number, "gridPos": place, **_drawn(panel)}
            x, height = x + panel.width, max(height, place["h"])
        y += height


def _drawn(panel: Panel) -> dict[str, Any]:
    timed = panel.unit == "s" and panel.kind == "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend or "__auto",
            "format": "heatmap" if panel.kind == "heatmap" else "time_series", "exemplar": timed, "range": True,
        }
        for place, (query, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "noValue": "none"}
    if panel.top is not None:
        defaults["max"] = panel.top
    if panel.kind == "stat":
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel.steps)}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 25 if panel.stacked else 5, "showPoints": "never", "lineWidth": 1,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }  # fmt: skip
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if panel.kind == "heatmap":
        return {
            "calculate": False, "yAxis": {"unit": panel.unit}, "cellGap": 1, "tooltip": {"mode": "single"},
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64}, "legend": {"show": True},
        }  # fmt: skip
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _steps(steps: tuple[Any, ...]) -> list[dict[str, Any]]:
    bounds = [None, *steps[1::2]]
    return [{"color": color, "value": bound} for color, bound in zip(steps[::2], bounds, strict=True)]


def written() -> str:
    """Return the dashboard as the text of its file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(written())
