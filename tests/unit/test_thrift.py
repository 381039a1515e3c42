"""Models that are kept share what pydantic notes of their fields, and nobody can tell."""

from __future__ import annotations

import pickle
import sys
from typing import Any, ClassVar, NamedTuple

import pytest
from pydantic import BaseModel

from novacron_cache import Cache, CacheModel
from novacron_cache.codecs import JSON, thrift
from novacron_cache.schema import Schema


class Disk(BaseModel, frozen=True):
    name: str
    size: int = 0


class Host(BaseModel, frozen=True):
    name: str
    disks: tuple[Disk, ...] = ()
    boot: Disk | None = None


class Wide(BaseModel, frozen=True):
    a: str
    b: int = 0
    c: int = 0
    d: int = 0
    e: int = 0
    f: int = 0
    g: int = 0
    h: int = 0
    i: int = 0
    j: int = 0
    k: int = 0
    l: int = 0  # noqa: E741 - the twelfth


class Tree(BaseModel, frozen=True):
    name: str
    parent: Tree | None = None


class Place(NamedTuple):
    row: int
    disk: Disk


class Slotted(BaseModel, frozen=True):
    __slots__ = ("note",)

    name: str


class Counted(BaseModel, frozen=True):
    gone: ClassVar[list[str]] = []

    name: str

    def __del__(self) -> None:
        self.gone.append(self.name)


class Guest(CacheModel, key="guest:<name>"):
    name: str
    cores: int = 1
    node: str = "n"


def names(model: BaseModel) -> set[str]:
    return model.__pydantic_fields_set__


def settled(tp: Any, value: Any) -> Any:
    schema: Schema[Any] = Schema.of(tp, codec=JSON)
    assert schema.is_exact(value)
    return schema.settle(value)


def test_models_with_the_same_fields_given_have_one_set() -> None:
    one, other, less = (
        settled(Disk, disk) for disk in (Disk(name="a", size=1), Disk(name="b", size=2), Disk(name="c"))
    )

    assert names(one) is names(other)
    assert names(one) == {"name", "size"}
    assert names(less) == {"name"}


def size(model: BaseModel) -> int:
    return sys.getsizeof(vars(model))


def test_a_model_that_is_kept_shares_the_names_of_its_fields_with_its_class() -> None:
    class Fresh(Wide, frozen=True):
        pass

    schema: Schema[Any] = Schema.of(Fresh, codec=JSON)
    kept = schema.settle(Fresh(a="a"))

    assert size(kept) < size(Fresh(a="a")) / 1.5
    assert kept == Fresh(a="a")
    assert kept.__pydantic_extra__ is kept.__pydantic_private__ is None


def test_a_class_with_many_instances_by_then_is_no_worse_for_it() -> None:
    class Early(Wide, frozen=True):
        pass

    many = [Early(a=str(number)) for number in range(100)]
    schema: Schema[Any] = Schema.of(Early, codec=JSON)

    assert [schema.settle(one) for one in many] == many
    assert size(schema.settle(many[0])) <= size(Early(a="a"))
    assert names(schema.settle(many[0])) is names(schema.settle(many[1]))


@pytest.mark.parametrize("kind", ["str", "Unknown"])
def test_a_cache_model_is_prepared_when_it_is_declared(kind: str) -> None:
    class Late(Wide, CacheModel, key="late:<a>"):  # type: ignore[misc]  # its configuration makes it frozen
        m: kind = ""  # type: ignore[valid-type]  # known to pydantic when this is run

    Late.model_rebuild(_types_namespace={"Unknown": str})
    many = [Late(a=str(number)) for number in range(100)]
    schema: Schema[Any] = Schema.of(Late, codec=JSON)

    assert size(schema.settle(many[0])) < size(many[0]) / 1.5


class Load(CacheModel, key="load:<name>"):
    name: str
    owner: str = ""
    share: float | int = 0.0


def test_a_value_that_many_models_have_is_kept_once() -> None:
    schema: Schema[Any] = Schema.of(Load, codec=JSON)
    owners = [f"team-{number % 3}" for number in range(9)]
    kept = [schema.settle(Load(name=f"n-{at}", owner=owner, share=float("0.3"))) for at, owner in enumerate(owners)]

    assert [one.owner for one in kept] == owners
    assert len({id(one.owner) for one in kept}) == 3
    assert len({id(one.share) for one in kept}) == 1


def test_values_that_are_equal_but_not_the_same_are_told_apart() -> None:
    schema: Schema[Any] = Schema.of(Load, codec=JSON)
    shares = [1, 1.0, 0.0, -0.0, 0, 2.0, 2]

    kept = [schema.settle(Load.model_construct(name="a", share=share)).share for share in shares]

    assert list(map(repr, kept)) == ["1", "1.0", "0.0", "-0.0", "0", "2.0", "2"]


def test_long_texts_and_fields_of_ever_new_values_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thrift, "MOST_VALUES", 4)
    schema: Schema[Any] = Schema.of(Load, codec=JSON)

    def owner(text: str, name: str = "a") -> str:
        return schema.settle(Load(name=name, owner="".join(text))).owner

    assert owner("x" * 65) is not owner("x" * 65)
    assert owner("xyz") is owner("xyz")
    for number in range(6):
        owner(f"o-{number}")
    assert owner("xyz") is not owner("xyz")


def test_models_in_named_tuples_and_sets_do_so_too() -> None:
    place = settled(Place, Place(3, Disk(name="a")))
    found = settled(frozenset[Disk], frozenset({Disk(name="a"), Disk(name="b")}))

    assert type(place) is Place
    assert place == (3, Disk(name="a"))
    assert found == {Disk(name="a"), Disk(name="b")}
    assert {id(names(disk)) for disk in found} == {id(names(place.disk))}


def test_a_class_whose_instances_hold_more_than_fields_keeps_its_instances() -> None:
    slotted, counted = Slotted(name="a"), Counted(name="b")

    assert settled(Slotted, slotted) is slotted
    assert settled(Counted, counted) is counted
    assert Counted.gone == []


def test_models_inside_of_models_and_tuples_share_too() -> None:
    host = settled(Host, Host(name="h", disks=(Disk(name="a", size=1),), boot=Disk(name="b", size=2)))
    pair = settled(tuple[Disk, Disk | None], (Disk(name="c", size=3), None))

    assert names(host.disks[0]) is names(host.boot) is names(pair[0])


def test_a_model_inside_itself_is_reached_all_the_way() -> None:
    tree = settled(Tree, Tree(name="a", parent=Tree(name="b", parent=Tree(name="c"))))

    assert names(tree) is names(tree.parent)
    assert names(tree.parent.parent) is names(settled(Tree, Tree(name="d")))


@pytest.mark.parametrize("value", [7, "text", None, (1, "two"), frozenset({1})])
def test_what_holds_no_model_is_left_alone(value: Any) -> None:
    kinds = {tuple: tuple[int, str], frozenset: frozenset[int], type(None): int | None}

    assert settled(kinds.get(type(value), type(value)), value) is value


def test_it_cannot_be_told_from_one_that_shares_nothing() -> None:
    own, shared = Disk(name="a"), settled(Disk, Disk(name="a"))

    assert shared == own
    assert hash(shared) == hash(own)
    assert shared.model_fields_set == own.model_fields_set
    assert shared.model_dump(exclude_unset=True) == {"name": "a"}
    assert pickle.loads(pickle.dumps(shared)) == own
    assert names(pickle.loads(pickle.dumps(shared))) == {"name"}


def test_a_copy_has_a_set_of_its_own() -> None:
    shared = settled(Disk, Disk(name="a"))

    changed = shared.model_copy(update={"size": 5})

    assert changed.model_fields_set == {"name", "size"}
    assert names(shared) == {"name"}


def test_ever_new_combinations_of_fields_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thrift, "_sets", {})
    monkeypatch.setattr(thrift, "MOST_SETS", 1)

    full, less = settled(Disk, Disk(name="a", size=1)), Disk(name="b")
    before = names(less)

    assert names(settled(Disk, less)) is before
    assert list(thrift._sets.values()) == [names(full)]


def test_cached_values_share_whether_they_were_loaded_stored_or_read_back() -> None:
    with Cache() as cache:

        @cache.cached(Guest, key="guest:<name>")
        def load(name: str) -> Guest:
            return Guest(name=name, cores=2, node="x")

        Guest.entries.using(cache).set(Guest(name="stored", cores=3, node="y"))
        stored = Guest.entries.using(cache).get("stored")
        loaded = load("loaded")

        assert stored is not None
        assert names(loaded) is names(stored)
        assert load("loaded") is loaded
