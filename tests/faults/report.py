"""What a scenario found, beside what is promised, and how that is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

ANY = float("inf")


@dataclass
class Bound:
    """One figure with its limit.

    Attributes:
        what: what was measured.
        got: what came out.
        limit: what was promised.
        reached: whether it was kept.
        kept: the same with the slack that a test grants, for a busy machine alone can break some figures.
        common: whether every scenario promises it.
    """

    what: str
    got: float
    limit: str
    reached: bool
    kept: bool
    common: bool = False

    def __str__(self) -> str:
        got = f"{self.got:.3g}" if isinstance(self.got, float) else str(self.got)
        return f"{self.what}: {got} ({self.limit})"


@dataclass
class Outcome:
    """What one scenario found.

    Attributes:
        number: its row in the table of fault tests.
        name: by which it is chosen.
        title: what happens in it.
        server: which server it ran on.
        figures: what was counted and measured; times end in `_ms` or `_s`.
        bounds: the figures that are promised.
        notes: what else there is to say.
    """

    number: int
    name: str
    title: str
    server: str
    figures: dict[str, float] = field(default_factory=dict)
    bounds: list[Bound] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def expect(
        self,
        what: str,
        got: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        slack: float = 1.0,
        common: bool = False,
    ) -> None:
        """Compare a figure with what was promised.

        Args:
            what: what was measured.
            got: what came out.
            at_most: the promise, or
            at_least: the promise.
            slack: the factor by which a test lets it be missed; infinite where a test cannot hold it to anything.
            common: whether every scenario promises it.
        """
        if at_most is not None:
            limit, reached, kept = f"at most {at_most:g}", got <= at_most, got <= at_most * slack or slack == ANY
        else:
            assert at_least is not None
            limit, reached, kept = f"at least {at_least:g}", got >= at_least, slack == ANY or got * slack >= at_least
        self.bounds.append(Bound(what, got, limit, reached, kept, common))

    @property
    def reached(self) -> bool:
        return all(bound.reached for bound in self.bounds)

    @property
    def broken(self) -> list[str]:
        """The promises that were not kept even with the slack that a test grants."""
        return [str(bound) for bound in self.bounds if not bound.kept]


COLUMNS = {
    "reads": "reads", "writes": "writes", "loads": "loads", "stale": "stale", "oldest_ms": "oldest ms",
    "stale_strong": "strong", "call_ms": "call ms", "errors": "errors", "lost": "lost", "recovery_s": "recovery s",
}  # fmt: skip


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def as_text(outcomes: Sequence[Outcome]) -> str:
    """Return a table of what every scenario counts, and below it each promise with what came out."""
    head = ["#", "scenario", "server", *COLUMNS.values(), "promises"]
    rows = [
        [
            str(one.number), one.name, one.server, *(_number(one.figures.get(name)) for name in COLUMNS),
            "reached" if one.reached else "NOT reached",
        ]
        for one in outcomes
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    for one in outcomes:
        lines += ["", f"{one.number} {one.name} ({one.server}): {one.title}"]
        lines += [f"  {'reached    ' if bound.reached else 'NOT reached'}  {bound}" for bound in one.bounds]
        lines += [f"  {name} = {_number(value)}" for name, value in one.figures.items() if name not in COLUMNS]
        lines += [f"  note: {note}" for note in one.notes]
    return "\n".join(line.rstrip() for line in lines)


def as_json(outcomes: Sequence[Outcome]) -> str:
    """Return everything, for other programs."""
    return json.dumps([{**asdict(one), "reached": one.reached} for one in outcomes], indent=2)


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the two tables of the documentation: what every scenario counts, and what each one promises besides."""
    counting = [one for one in outcomes if "reads" in one.figures]
    names = [name for name in COLUMNS if name not in {"writes", "loads"}]
    lines = ["| scenario | server | " + " | ".join(COLUMNS[name] for name in names) + " |"]
    lines.append("|---" * (len(names) + 2) + "|")
    lines += [
        f"| {one.name} | {one.server} | " + " | ".join(_number(one.figures.get(name)) for name in names) + " |"
        for one in counting
    ]
    servers = list(dict.fromkeys(one.server for one in outcomes if one.server != "none"))
    rows: dict[tuple[str, str, str], dict[str, Bound]] = {}
    for one in outcomes:
        for bound in one.bounds:
            if not bound.common:
                rows.setdefault((one.name, bound.what, bound.limit), {})[one.server] = bound
    lines += ["", "| scenario | promise | | " + " | ".join(servers) + " |", "|---" * (len(servers) + 3) + "|"]
    for (name, what, limit), found in rows.items():
        measured = [_measured(found.get(server) or found.get("none")) for server in servers]
        lines.append(f"| {name} | {what} | {limit} | " + " | ".join(measured) + " |")
    return "\n".join(lines)


def _measured(bound: Bound | None) -> str:
    if bound is None:
        return ""
    got = f"{bound.got:.3g}" if isinstance(bound.got, float) else f"{bound.got:,}"
    return got if bound.reached else f"**{got}**"
