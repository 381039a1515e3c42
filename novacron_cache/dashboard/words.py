"""Figures as people read them, and tables as screen readers do."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["ago", "clock", "count", "escaped", "percent", "rate", "seconds", "table"]

_DASH: Final = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share from 0 to 1 as a percentage; what is not quite everything never reads as all of it."""
    if share is None:
        return _DASH
    shown = round(share * 100, digits)
    if shown >= 100 and share < 1:
        shown = 100 - 10**-digits
    return f"{shown:.{digits}f} %"


def count(number: float) -> str:
    """Return a number in three figures: `982`, `4.1 k`, `12.7 M`."""
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, " k"), (1e9, 1e6, " M")):
        if abs(number) < limit * 0.9995:
            scaled = number / divisor
            if unit == "" and scaled == round(scaled):
                return f"{scaled:.0f}"
            return f"{scaled:.{0 if scaled >= 100 else 1}f}{unit}"
    return f"{number / 1e9:.1f} G"


def rate(number: float, per: str = "s") -> str:
    """Return a rate, such as `4.1 k/s`."""
    return f"{count(number)}/{per}"


def seconds(duration: float | None) -> str:
    """Return a duration in its own unit: `250 µs`, `1.2 ms`, `3.4 s`."""
    if duration is None or not math.isfinite(duration):
        return _DASH
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if duration < limit:
            scaled = duration * factor
            return f"{scaled:.{0 if scaled >= 100 or scaled == round(scaled) else 1}f} {unit}"
    return f"{duration:.1f} s" if duration < 100 else f"{duration / 60:.0f} min"


def ago(duration: float | None) -> str:
    """Return how long ago something was."""
    if duration is None:
        return "never"
    if duration < 60:
        return f"{max(0, round(duration))} s ago"
    if duration < 5400:
        return f"{round(duration / 60)} min ago"
    return f"{duration / 3600:.1f} h ago"


def clock(epoch: float) -> str:
    """Return the time of day, by this machine's clock."""
    return time.strftime("%H:%M:%S", time.localtime(epoch))


def escaped(text: str) -> str:
    """Return text as it may stand in HTML."""
    return html.escape(text, quote=True)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, hidden: bool = True) -> str:
    """Return an HTML table.

    Args:
        caption: what it is a table of.
        heads: the columns' names; the first column names the row.
        rows: cells of text.
        hidden: whether the caption is for screen readers alone.
    """
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escaped(first)}</th>' + "".join(f"<td>{escaped(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    mark = ' class="only-read"' if hidden else ""
    return (
        f"<table><caption{mark}>{escaped(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
