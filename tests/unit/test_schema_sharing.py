"""Schemas: a value is shared where nobody can change it, and only there."""

import dataclasses
import functools
import ipaddress
import pathlib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, RootModel, model_validator
from pydantic import dataclasses as pydantic_dataclasses
from unit.kinds import (
    MACHINES,
    Bigger,
    Disk,
    Frozen,
    Hidden,
    Level,
    Options,
    Page,
    Point,
    Slotted,
    Status,
    Tree,
    Zone,
    hidden,
    machines,
)

from novacron_cache.codecs import JSON
from novacron_cache.errors import CachedValueError
from novacron_cache.schema import Schema


class Thawed(BaseModel):
    a: int = 1


class FrozenFields(BaseModel):
    a: int = Field(1, frozen=True)


class FrozenWithList(Frozen):
    a: list[int] = Field(default_factory=list)


class FrozenWithExtra(Frozen):
    model_config = ConfigDict(extra="allow")


class FrozenLazy(Frozen):
    a: int = 1

    @functools.cached_property
    def parts(self) -> list[int]:
        return [self.a]


class FrozenNested(Frozen):
    disk: Disk
    points: frozenset[Point] = frozenset()
    zone: Zone | None = None


@dataclasses.dataclass
class Thing:
    a: int


@pydantic_dataclasses.dataclass(frozen=True)
class Checked:
    a: int


@dataclasses.dataclass(frozen=True)
class HoldsList:
    a: list[int]


class ZoneOfLists(NamedTuple):
    items: list[int]


class Validated(Frozen):
    a: int

    @model_validator(mode="after")
    def _fine(self) -> "Validated":
        return self


IMMUTABLE: list[tuple[Any, Any]] = [
    (str, "x"), (int, 1), (float, 1.5), (bool, True), (None, None), (bytes, b"x"), (complex, 1j), (Decimal, Decimal(1)),
    (UUID, UUID(int=1)), (date, date(2026, 1, 1)), (datetime, datetime(2026, 1, 1, tzinfo=UTC)), (time, time(1)),
    (datetime, datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))), (timedelta, timedelta(1)),
    (Status, Status.RUNNING), (Level, Level.LOW), (Literal["a", 1], "a"), (tuple[int, ...], (1, 2)), (tuple[()], ()),
    (tuple[int, str], (1, "a")), (frozenset[str], frozenset("a")), (int | str, "x"), (Disk | None, None),
    (Disk, Disk(name="a", size=1)), (Point, Point(1.0, 2.0)), (Slotted, Slotted("a")), (Zone, Zone("a")),
    (FrozenFields, FrozenFields()), (Checked, Checked(1)), (Validated, Validated(a=1)), (tuple[Disk, ...], ()),
    (FrozenNested, FrozenNested(disk=Disk(name="a", size=1), points=frozenset({Point(1.0, 2.0)}), zone=Zone("a"))),
    (Tree, Tree(name="a", children=(Tree(name="b"),))), (Page[int], Page[int](items=(1,))),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")), (pathlib.Path, pathlib.PosixPath("/")),
    (HttpUrl, HttpUrl("http://example.org")), (Annotated[str, AfterValidator(str.strip)], "x"),
    (Disk | Point, Point(1.0, 2.0)),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), IMMUTABLE)
def test_deeply_immutable_values_are_shared(declared, value):
    schema = Schema.of(declared, codec=JSON)
    assert schema.immutable
    assert schema.is_exact(value)


MUTABLE: list[tuple[Any, Any]] = [
    (list[int], [1]), (dict[str, int], {}), (set[int], set()), (tuple[list[int], ...], ()), (Any, 1), (object, 1),
    (Thawed, Thawed()), (FrozenWithList, FrozenWithList()), (FrozenWithExtra, FrozenWithExtra()), (Hidden, hidden()),
    (FrozenLazy, FrozenLazy()), (Thing, Thing(1)), (HoldsList, HoldsList([])), (ZoneOfLists, ZoneOfLists([])),
    (Options, {}), (int | list[int], 1), (tuple[Thawed, ...], ()), (tuple[Any, ...], (1,)), (tuple, ()),
    (RootModel[list[int]], RootModel[list[int]]([])), (Sequence[int], (1,)), (Mapping[str, int], {}),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), MUTABLE)
def test_anything_a_caller_could_change_is_not_shared(declared, value):
    schema = Schema.of(declared, codec=JSON)
    assert not schema.immutable
    assert not schema.is_exact(value)


class Weird(str):
    __slots__ = ("list",)


INEXACT: list[tuple[Any, Any]] = [
    (Disk, Bigger(name="a", size=1)),
    (Disk, Disk.model_construct(name=["a"], size=1)),
    (Disk, Disk.model_construct(name="a")),
    (tuple[Disk, ...], (Bigger(name="a", size=1),)),
    (tuple[int, ...], [1]),
    (tuple[int, str], (1, "a", [])),
    (tuple[int, str], (1,)),
    (str, Weird("a")),
    (int, True),
    (float, 1),
    (Point, Point([], {})),  # type: ignore[arg-type] # dataclasses do not check
    (Zone, Zone([], {})),  # type: ignore[arg-type] # named tuples do not check
    (frozenset[str], frozenset({1})),
    (Literal["a"], Weird("a")),
    (Disk, None),
    (Disk, {"name": "a", "size": 1, "used": 1.0}),
    (FrozenNested, FrozenNested.model_construct(disk=Disk(name="a", size=1), points=frozenset(), zone=[])),
]


@pytest.mark.parametrize(("declared", "value"), INEXACT)
def test_an_immutable_declaration_does_not_excuse_a_value_that_is_something_else(declared, value):
    schema = Schema.of(declared, codec=JSON)
    assert schema.immutable
    assert not schema.is_exact(value)


@given(machines())
def test_machines_with_mutable_parts_are_never_shared(machine):
    assert not MACHINES["json"].is_exact(machine)


def test_a_value_already_known_to_be_exact_is_written_without_asking_again():
    schema, value = Schema.of(Slotted, codec=JSON), Slotted("a", datetime(2026, 1, 1, tzinfo=UTC))
    assert schema.encode(value, exact=True) == schema.encode(value)
    odd = Slotted("a", datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))
    assert schema.is_exact(odd)
    with pytest.raises(CachedValueError):
        schema.encode(odd, exact=True)
