"""How every area measures: all contenders in one process, in turns, and ratios before nanoseconds.

A machine has neighbours. What they take changes from second to second, so two loops that run one after the other say
little about each other. Here each round gives every contender one short turn, the ratio to the reference is taken
within the round, and the median of these ratios is reported: whatever slows a whole round cancels out.

A contender proves at its start that it caches, and after the measurement that it did: a peer that cannot is reported as
failed, and no figure counts it as beaten.
"""

from __future__ import annotations

import gc
import math
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from statistics import median
from typing import Any, TypeVar

LIMIT = "limit"
OURS = "novacron_cache"

T = TypeVar("T")
Reading = float | Sequence[float]
"""What a turn measured: one number, or one for each case."""


class Effort(Enum):
    """How much is measured: everything, enough for a look, or just enough to show that it can be."""

    FULL = "full"
    QUICK = "quick"
    SMOKE = "smoke"

    def of(self, full: T, quick: T, smoke: T) -> T:
        """Return the one of three that fits."""
        return {Effort.FULL: full, Effort.QUICK: quick, Effort.SMOKE: smoke}[self]


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
    start: Callable[[], tuple[Callable[[], Reading], Callable[[], None]]]
    note: str = ""


@dataclass
class Row:
    """What came out for one contender: a quantity in the case's unit, and its ratio to the case's reference."""

    name: str
    value: float | None = None
    ratio: float | None = None
    ours: float | None = None
    """How many times as much as novacron_cache; the median over rounds, as every ratio."""
    note: str = ""
    failed: str | None = None


@dataclass
class Case:
    """One table: contenders that did the same.

    Attributes:
        name: what they did.
        rows: what came out.
        unit: `ns`, `bytes`, `/s`, or `share` of something.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    unit: str = "ns"

    def row(self, name: str) -> Row:
        """Return the row of a contender; an empty one where it took no part."""
        return next((row for row in self.rows if row.name == name), Row(name))


@dataclass
class Figure:
    """One promise and what was measured.

    Attributes:
        what: the quantity.
        measured: the number; None where a contender that it needs failed.
        least: what is promised at least; None where there is an aim alone.
        aim: what is aimed at; None where that is said of something else.
        at_most: whether smaller is better; else the promise is a lower bound.
        unit: what stands behind the numbers.
        floor: whether it is one of the design's own targets, which are far below the promises.
    """

    what: str
    measured: float | None
    least: float | None
    aim: float | None = None
    at_most: bool = True
    unit: str = "x"
    floor: bool = False

    def reaches(self, bound: float | None) -> bool | None:
        """Return whether a bound is kept; None when nothing was measured or there is no such bound."""
        if self.measured is None or bound is None:
            return None
        return self.measured <= bound if self.at_most else self.measured >= bound

    def as_json(self) -> dict[str, Any]:
        """Return the figure as JSON has it."""
        return asdict(self) | {"reached": self.reaches(self.least), "aim_reached": self.reaches(self.aim)}


@dataclass
class Area:
    """Everything one area of the benchmark has to say."""

    name: str
    cases: list[Case] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """The contenders that could not be measured, with the reason."""
        return [f"{case.name}: {row.name}: {row.failed}" for case in self.cases for row in case.rows if row.failed]

    def as_json(self) -> dict[str, Any]:
        """Return the area as JSON has it."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "cases": [asdict(case) for case in self.cases],
            "figures": [figure.as_json() for figure in self.figures],
            "failures": self.failures,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Area:
        """Return the area that `as_json` described."""
        return cls(
            data["name"],
            [
                Case(case["name"], [Row(**row) for row in case["rows"]], unit=case["unit"])
                for case in data["cases"]
            ],
            [
                Figure(**{key: value for key, value in figure.items() if key not in ("reached", "aim_reached")})
                for figure in data["figures"]
            ],
            data["seconds"],
        )  # fmt: skip


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


def compare(case: str, contenders: Sequence[Contender], *, rounds: int, passes: int = 3, unit: str = "ns") -> Case:
    """Measure contenders against the first one that is called `limit`, or else against the first that starts.

    Args:
        case: the name of the case.
        contenders: what to measure.
        rounds: how many turns each one gets.
        passes: how often a turn measures; the best pass counts, because nothing makes a loop faster than it is.
        unit: what the turns return.
    """
    return compare_each([case], contenders, rounds=rounds, passes=passes, unit=unit)[0]


def compare_each(
    cases: Sequence[str], contenders: Sequence[Contender], *, rounds: int, passes: int = 3, unit: str = "ns"
) -> list[Case]:
    """Do what `compare` does for turns that return several numbers, one for each case."""
    rows = [[Row(one.name, note=one.note) for one in contenders] for _ in cases]
    running: dict[int, tuple[Callable[[], Reading], Callable[[], None]]] = {}
    failed: dict[int, str] = {}
    for number, contender in enumerate(contenders):
        try:
            turn, check = contender.start()
            turn()
        except Exception as error:
            failed[number] = f"{type(error).__name__}: {error}"
        else:
            running[number] = turn, check
    measured: dict[int, list[tuple[float, ...]]] = {number: [] for number in running}
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(rounds):
            # The order turns around, so that nobody always runs behind the same neighbour.
            for number in list(running) if round_ % 2 else list(running)[::-1]:
                try:
                    measured[number].append(_best(running[number][0], passes))
                except Exception as error:
                    failed[number] = f"{type(error).__name__}: {error}"
                    del running[number]
    finally:
        if collecting:
            gc.enable()
    for number, (_, check) in running.items():
        try:
            check()
        except Exception as error:
            failed[number] = f"{type(error).__name__}: {error}"
    good = {number: turns for number, turns in measured.items() if number not in failed}
    names = [one.name for one in contenders]
    reference = next((n for n in good if names[n] == LIMIT), next(iter(good), None))
    ours = next((n for n in good if names[n] == OURS), None)
    for column, case_rows in enumerate(rows):
        for number, row in enumerate(case_rows):
            row.failed = failed.get(number)
            if number in good and reference is not None:
                turns = [reading[column] for reading in good[number]]
                row.value = median(turns)
                row.ratio = ratio(turns, [reading[column] for reading in good[reference]])
                if ours is not None:
                    row.ours = ratio(turns, [reading[column] for reading in good[ours]])
    return [Case(name, case_rows, unit) for name, case_rows in zip(cases, rows, strict=True)]


def _best(turn: Callable[[], Reading], passes: int) -> tuple[float, ...]:
    readings = [reading if isinstance(reading, Sequence) else (reading,) for reading in (turn() for _ in range(passes))]
    return tuple(min(column) for column in zip(*readings, strict=True))


def ratio(turns: Iterable[float], reference: Iterable[float]) -> float:
    """Return the median of the ratios within each round."""
    return median(one / other for one, other in zip(turns, reference, strict=True))


def inverse(value: float | None) -> float | None:
    """Return one divided by a number: how much of a peer's cost is ours, from how much of ours is the peer's."""
    return None if value is None else 1 / value


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of some values that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def same(wanted: Iterable[Any], got: Iterable[Any]) -> None:
    """Raise unless what was got is what was wanted, one by one."""
    for one, other in zip(wanted, got, strict=True):
        if one != other:
            raise AssertionError(f"wanted {one!r}, got {other!r}")
