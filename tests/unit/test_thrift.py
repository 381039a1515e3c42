"""Models that are kept share the sets in which pydantic notes their fields, and nobody can tell."""

from __future__ import annotations

import pickle
from typing import Any

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


class Tree(BaseModel, frozen=True):
    name: str
    parent: Tree | None = None


class Guest(CacheModel, key="guest:<name>"):
    name: str
    cores: int = 1
    node: str = "n"


def names(model: BaseModel) -> set[str]:
    return model.__pydantic_fields_set__


def settled(tp: Any, value: Any) -> Any:
    schema: Schema[Any] = Schema.of(tp, codec=JSON)
    assert schema.is_exact(value)
    schema.settle(value)
    return value


def test_models_with_the_same_fields_given_have_one_set() -> None:
    one, other, less = (
        settled(Disk, disk) for disk in (Disk(name="a", size=1), Disk(name="b", size=2), Disk(name="c"))
    )

    assert names(one) is names(other)
    assert names(one) == {"name", "size"}
    assert names(less) == {"name"}


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
