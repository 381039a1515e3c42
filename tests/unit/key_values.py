"""Values that may be part of a key, and how they are drawn."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st


class Colour(enum.Enum):
    RED = 1
    BLUE = "1"


class Power(enum.StrEnum):
    ON = "on"


class Level(enum.IntEnum):
    LOW = 1


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclass(frozen=True)
class Node:
    id: str


@dataclass(frozen=True)
class VM:
    id: str
    node: Node


class VMName(str):
    """A mere renaming of str."""

    __slots__ = ()


class Loud(str):
    """A str with a text of its own."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


class Odd(int):
    """An int with an equality of its own."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


UUID_1 = UUID("123e4567-e89b-12d3-a456-426614174000")


# Text that is likely to break an encoding: its own delimiters, escapes and the words that tags stand for.
tricky = st.text(st.sampled_from("a1:%<>~*?[]{}\\ ,;().ihnt\n\x00é\ud800"), max_size=6)
texts = st.one_of(tricky, st.text(max_size=8), st.sampled_from(["None", "True", "1", "1.0", "~n", "~i1", "nan", ""]))
scalars = st.one_of(
    texts,
    st.integers(-3, 3),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0]),
    st.binary(max_size=4),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=st.one_of(st.none(), st.sampled_from([UTC, ZoneInfo("Europe/Paris")]))),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.sampled_from([Colour.RED, Colour.BLUE, Power.ON, Level.LOW]),
    texts.map(VMName),
)
hashable = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
values = st.one_of(
    hashable,
    st.lists(scalars, max_size=3),
    st.frozensets(scalars, max_size=3),
    st.sets(scalars, max_size=3),
)
names = st.one_of(st.sampled_from(["", "a", "a:b", "VMState", "pkg.f.<locals>.g"]), tricky)


def identity(value: Any) -> Any:
    """What tells two values apart, built without the code under test."""
    kind = type(value)
    if kind in (tuple, list):
        return kind, tuple(map(identity, value))
    if kind in (set, frozenset):
        return kind, sorted(repr(identity(item)) for item in value)
    if kind is datetime:
        return kind, value.isoformat(), value.fold, repr(value.tzinfo)
    if kind in (float, Decimal, time):
        return kind, repr(value)
    return kind, value
