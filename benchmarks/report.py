"""What a run says: as text for whoever waits for it, and as the table in the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from measuring import OURS, Area, Case, Figure, Row

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_VERDICT = {True: "reached", False: "not reached", None: "-"}


def text(area: Area) -> Iterator[str]:
    """Yield the lines about one area."""
    yield f"\n{area.name} ({area.seconds:.0f} s)"
    for case in area.cases:
        yield f"\n  {case.name:46} {_unit(case):>12} {'/ reference':>12} {'/ ' + OURS:>18}"
        for row in case.rows:
            if row.failed:
                yield f"    {row.name:44} failed: {row.failed}"
                continue
            yield (
                f"    {row.name:44} {quantity(row.value, case.unit):>12} {_ratio(row.ratio):>12} "
                f"{_ratio(row.ours):>18}  {row.note}"
            )


def verdicts(areas: Iterable[Area]) -> Iterator[str]:
    """Yield a line for each promise: what was measured, and whether it keeps within what is promised and aimed at."""
    figures = [figure for area in areas for figure in area.figures]
    if not figures:
        return
    width = max(len(figure.what) for figure in figures)
    yield f"\n{'promise':{width}} {'measured':>12}   {'at least':>26}   {'the aim':>26}"
    for figure in figures:
        yield (
            f"{figure.what:{width}} {measured(figure):>12}   "
            f"{_judged(figure, figure.least):>26}   {_judged(figure, figure.aim):>26}"
            + ("   floor of the design" if figure.floor else "")
        )


def markdown(setting: dict[str, Any], areas: Sequence[Area], load: Sequence[float], effort: str) -> str:
    """Return the part of the page that is measured."""
    machine = f"{setting['cpu']}, {setting['cpus']} virtual processors, {setting['system'].split('-')[0]}"
    lines = [
        f"Measured on {machine}, {setting['python']}, {setting['server']}. The load of the machine was {load[0]:g}",
        f"at the beginning and {load[1]:g} at the end; the run was `{effort}`.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in setting["packages"].items()) + ".",
        "",
        "### The promises",
        "",
        "| what | measured | at least | | the aim | |",
        "|---|---:|---:|---|---:|---|",
    ]
    figures = [figure for area in areas for figure in area.figures]
    lines += [_figure(figure) for figure in figures if not figure.floor]
    lines += ["", "### The design's own floors", "", "| what | measured | floor | |", "|---|---:|---:|---|"]
    lines += [
        f"| {figure.what} | {measured(figure)} | {_bound(figure, figure.least)} | "
        f"{_VERDICT[figure.reaches(figure.least)]} |"
        for figure in figures
        if figure.floor
    ]
    lines += ["", "### Beside the others", ""]
    lines.append(f"The last column says how many times as much as {OURS} it is; for hit ratios, more is better.")
    for area in areas:
        for case in area.cases:
            lines += ["", *_table(case)]
    return "\n".join(lines) + "\n"


def placed(page: str, part: str) -> str:
    """Return a page with what is between its marks replaced.

    Raises:
        ValueError: the page has no such marks.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise ValueError(f"the page needs one line {BEGIN} and, below it, one line {END}")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{part}\n{END}{tail}"


def _figure(figure: Figure) -> str:
    cells = [figure.what, measured(figure)]
    for bound in (figure.least, figure.aim):
        cells += ["", ""] if bound is None else [_bound(figure, bound), _VERDICT[figure.reaches(bound)]]
    return "| " + " | ".join(cells) + " |"


def _table(case: Case) -> Iterator[str]:
    yield f"| {case.name} | {_unit(case)} | / first | / ours | |"
    yield "|---|---:|---:|---:|---|"
    for row in case.rows:
        if row.failed:
            yield f"| {row.name} | failed | | | {row.failed.splitlines()[0].replace('|', '/')[:120]} |"
            continue
        name = f"**{row.name}**" if row.name == OURS else row.name
        yield f"| {name} | {quantity(row.value, case.unit)} | {_ratio(row.ratio)} | {_ratio(row.ours)} | {_note(row)} |"


def _note(row: Row) -> str:
    return row.note.replace("|", "/")


def measured(figure: Figure) -> str:
    """Return what was measured, with its unit."""
    return "not measured" if figure.measured is None else f"{_short(figure.measured)}{figure.unit}"


def _bound(figure: Figure, bound: float | None) -> str:
    return "-" if bound is None else f"{'≤' if figure.at_most else '≥'} {bound:,g}{figure.unit}"


def _judged(figure: Figure, bound: float | None) -> str:
    return "" if bound is None else f"{_bound(figure, bound)} {_VERDICT[figure.reaches(bound)]}"


def _unit(case: Case) -> str:
    return {"ns": "time", "share": "hit ratio"}.get(case.unit, case.unit)


def quantity(value: float | None, unit: str) -> str:
    """Return a number with the unit that reads best."""
    if value is None:
        return "-"
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "bytes":
        return f"{value:,.0f}"
    for size, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if value >= 10 * size or (value >= size and name != "µs"):
            return f"{_short(value / size)} {name}"
    return f"{value:,.0f} ns"


def _ratio(value: float | None) -> str:
    return "" if value is None else _short(value)


def _short(value: float) -> str:
    """Return three digits that mean something, and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.6f}".rstrip("0")
