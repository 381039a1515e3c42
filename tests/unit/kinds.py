"""Types that a value may be of: those that come back whole, those that lose something, and how values are drawn."""

import dataclasses
import enum
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import pytest
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr, create_model, field_serializer, field_validator
from typing_extensions import TypedDict

from novacron_cache.codecs import JSON, MSGPACK, PICKLE
from novacron_cache.schema import Schema

CODECS = [JSON, MSGPACK, PICKLE]
both = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
every = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


class Status(enum.Enum):
    RUNNING = "running"
    STOPPED = "stopped"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Disk(Frozen):
    name: str
    size: int
    used: float = 0.0


class Zone(NamedTuple):
    name: str
    level: int = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    at: datetime | None = None


class Options(TypedDict, total=False):
    name: str
    sizes: list[int]


class Machine(Frozen):
    none: None
    flag: bool
    count: int
    ratio: float
    name: str
    raw: bytes
    day: date
    clock: time
    moment: datetime
    span: timedelta
    price: Decimal
    uid: UUID
    status: Status
    level: Level
    kind: Literal["vm", "container"]
    disk: Disk
    spare: Disk | None
    disks: tuple[Disk, ...]
    pair: tuple[int, str]
    labels: frozenset[str]
    point: Point
    slot: Slotted
    either: int | float | str | bool | None
    by_name: dict[str, int]
    by_number: dict[int, Disk]
    by_status: dict[Status, list[datetime]]
    options: Options
    numbers: set[int]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
WHOLE = st.one_of(st.none(), st.integers(-1000, 1000).map(lambda minutes: timezone(timedelta(minutes=minutes))))
FLOATS = st.floats()
DISKS = st.builds(Disk, name=TEXT, size=st.integers(), used=FLOATS)
MOMENTS = st.datetimes(timezones=WHOLE)


@st.composite
def machines(draw):
    return Machine(
        none=None, flag=draw(st.booleans()), count=draw(st.integers()), ratio=draw(FLOATS), name=draw(TEXT),
        raw=draw(st.binary(max_size=10)), day=draw(st.dates()), clock=draw(st.times(timezones=WHOLE)),
        moment=draw(MOMENTS), span=draw(st.timedeltas()), uid=draw(st.uuids()),
        price=draw(st.decimals(allow_nan=False, allow_infinity=False)), status=draw(st.sampled_from(Status)),
        level=draw(st.sampled_from(Level)), kind=draw(st.sampled_from(["vm", "container"])), disk=draw(DISKS),
        spare=draw(st.none() | DISKS), disks=tuple(draw(st.lists(DISKS, max_size=2))),
        pair=(draw(st.integers()), draw(TEXT)), labels=draw(st.frozensets(TEXT, max_size=3)),
        point=Point(draw(FLOATS), draw(FLOATS)), slot=Slotted(draw(TEXT), draw(st.none() | MOMENTS)),
        either=draw(st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, TEXT)),
        by_name=draw(st.dictionaries(TEXT, st.integers(), max_size=2)),
        by_number=draw(st.dictionaries(st.integers(), DISKS, max_size=2)),
        by_status=draw(st.dictionaries(st.sampled_from(Status), st.lists(MOMENTS, max_size=2), max_size=2)),
        options=draw(st.sampled_from([{}, {"name": "x"}, {"name": "", "sizes": [1]}])),
        numbers=draw(st.sets(st.integers(), max_size=3)),
    )  # fmt: skip


MACHINES = {codec.name: Schema.of(Machine, codec=codec) for codec in CODECS}


class Tree(Frozen):
    name: str
    children: tuple["Tree", ...] = ()


T = TypeVar("T")


class Page(Frozen, Generic[T]):
    items: tuple[T, ...]


class Loose(Frozen):
    value: Any


class Bigger(Disk):
    extra: int = 1


class Hidden(Frozen):
    name: str
    _secret: int = PrivateAttr(default=1)


class Halved(Frozen):
    n: int

    @field_serializer("n")
    def _half(self, n: int) -> int:
        return n // 2


class Upper(Frozen):
    name: str

    @field_validator("name")
    @classmethod
    def _upper(cls, name: str) -> str:
        return name.upper() + "!"


def hidden() -> Hidden:
    value = Hidden(name="a")
    value._secret = 2
    return value


def model(**fields: Any) -> type[BaseModel]:
    return create_model("Vm", **fields)
