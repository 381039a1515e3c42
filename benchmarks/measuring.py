"""How every area measures: all contenders in one process, in turns, and ratios before nanoseconds.

A machine has neighbours. What they take changes from second to second, so two loops that run one after the other say
little about each other. Here each round gives every contender one short turn, the ratio to the reference is taken
within the round, and the median of these ratios is reported: whatever slows a whole round cancels out.

A contender proves at its start that it caches, and after the measurement that it did: a peer that cannot is reported as
failed, and no figure counts it as beaten.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

LIMIT = "limit"
OURS = "novacron_cache"


@dataclass(frozen=True)
class Contender:
    """Something that is measured.

    Attributes:
        name: what the table calls it.
        start: returns the turn, which measures once and returns nanoseconds for each operation, and a check that raises
            when what was measured was not what it seemed.
        note: what has to be known to read its numbers.
    """

    name: str
    start: Callable[[], tuple[Callable[[], float], Callable[[], None]]]
    note: str = ""


@dataclass
class Row:
    """What came out for one contender: nanoseconds for each operation, and the ratio to the case's reference."""

    name: str
    ns: float | None = None
    ratio: float | None = None
    ours: float | None = None
    """How many times slower than novacron_cache; the median over rounds, as every ratio."""
    note: str = ""
    failed: str | None = None


@dataclass
class Case:
    """One table: contenders that did the same."""

    name: str
    rows: list[Row] = field(default_factory=list)

    def row(self, name: str) -> Row:
        """Return the row of a contender."""
        return next(row for row in self.rows if row.name == name)


@dataclass
class Figure:
    """One promise and what was measured.

    Attributes:
        what: the quantity.
        column: which set of promises it belongs to.
        bound: the promised number.
        at_most: whether smaller is better; else the promise is a lower bound.
        measured: the number; None where a contender that it needs failed.
        unit: what stands behind the numbers.
    """

    what: str
    column: str
    bound: float
    at_most: bool
    measured: float | None
    unit: str = "x"

    @property
    def reached(self) -> bool | None:
        """Whether the promise is kept; None when it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound


@dataclass
class Area:
    """Everything one area of the benchmark has to say."""

    name: str
    cases: list[Case] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """The contenders that could not be measured, with the reason."""
        return [f"{case.name}: {row.name}: {row.failed}" for case in self.cases for row in case.rows if row.failed]

    def as_json(self) -> dict[str, Any]:
        """Return the area as JSON has it."""
        return {
            "name": self.name,
            "cases": [asdict(case) for case in self.cases],
            "figures": [asdict(figure) | {"reached": figure.reached} for figure in self.figures],
            "failures": self.failures,
        }


def own(function: Any) -> Any:
    """Return a copy of a function with code of its own.

    The interpreter specialises the instructions of a loop for what it meets there; contenders must not share a loop, or
    the first one decides how the others run.
    """
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def compare(case: str, contenders: Sequence[Contender], *, rounds: int, passes: int = 3) -> Case:
    """Measure contenders against the first one that is called `limit`, or else against the first that starts.

    Args:
        case: the name of the case.
        contenders: what to measure.
        rounds: how many turns each one gets.
        passes: how often a turn measures; the best pass counts, because nothing makes a loop faster than it is.
    """
    result = Case(case, [Row(one.name, note=one.note) for one in contenders])
    running: list[tuple[Row, Callable[[], float], Callable[[], None]]] = []
    for contender, row in zip(contenders, result.rows, strict=True):
        try:
            turn, check = contender.start()
            turn()
        except Exception as error:
            row.failed = f"{type(error).__name__}: {error}"
        else:
            running.append((row, turn, check))
    measured: dict[str, list[float]] = {row.name: [] for row, _, _ in running}
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            # The order turns around, so that nobody always runs behind the same neighbour.
            for row, turn, _ in running if number % 2 else running[::-1]:
                measured[row.name].append(min(turn() for _ in range(passes)))
    finally:
        if collecting:
            gc.enable()
    for row, _, check in running:
        try:
            check()
        except Exception as error:
            row.failed = f"{type(error).__name__}: {error}"
            del measured[row.name]
    reference = measured.get(LIMIT) or next(iter(measured.values()), [])
    for row in result.rows:
        if (turns := measured.get(row.name)) is not None:
            row.ns = median(turns)
            row.ratio = ratio(turns, reference)
            row.ours = ratio(turns, measured[OURS]) if OURS in measured else None
    return result


def ratio(turns: Iterable[float], reference: Iterable[float]) -> float:
    """Return the median of the ratios within each round."""
    return median(one / other for one, other in zip(turns, reference, strict=True))
