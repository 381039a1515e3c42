"""`CacheModel` and the manager `entries`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Optional, TypeVar
from uuid import UUID

import pytest
from pydantic import Field, SecretStr, ValidationError

from novacron_cache import (
    MISSING,
    Cache,
    CachedValueError,
    CacheError,
    CacheModel,
    CacheSettings,
    DeclarationError,
    SchemaError,
    TemplateError,
    cached,
    cached_many,
    configure,
)
from novacron_cache.testing import ManualClock

T = TypeVar("T")


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str = "node-1"


class Disk(CacheModel, key="disk:<vm_id>:<slot>"):
    vm_id: str
    slot: int


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    made = configure(Cache(clock=clock))
    yield made
    made.close()


# -- declaring ---------------------------------------------------------------------------------------------------------


def test_options_never_become_attributes_so_fields_may_have_their_names(cache: Cache) -> None:
    class Odd(CacheModel, key="odd:<key>", name="Odd!", ttl=5, tags=["<name>"], grace=1, jitter=0.1):
        key: str
        name: str
        ttl: int
        tags: list[str]
        grace: int = 0
        jitter: int = 0
        tiers: int = 0
        negative_ttl: int = 0
        refresh_ahead: int = 0

    one = Odd(key="k", name="n", ttl=1, tags=["t"])
    assert (one.key, one.name, one.ttl, one.tags) == ("k", "n", 1, ["t"])
    Odd.entries.set(one)
    assert Odd.entries.get("k") == one
    assert cache.invalidate_tags("n").local == 1
    for option in ("key", "ttl", "tags", "grace", "jitter", "tiers", "negative_ttl", "refresh_ahead"):
        assert not hasattr(VMState, option)
    assert set(VMState.model_fields) == {"vm_id", "node_id"}


def test_a_model_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        VMState(vm_id="a").vm_id = "b"  # type: ignore[misc]  # the point of the test


def test_a_subclass_starts_from_its_parent_s_options_but_has_its_own_name(cache: Cache) -> None:
    class Special(VMState, ttl="5s"):
        extra: int = 0

    Special.entries.set(Special(vm_id="a"))
    told = cache.explain("vm:a", model=Special)
    assert (told.name, told.remaining, told.tags) == ("Special", 5, ("vm:a", "node:node-1"))
    assert VMState.entries.get("a") is None
    Special.entries.invalidate("a")
    VMState.entries.set(VMState(vm_id="a"))
    assert cache.explain("vm:a", model=VMState).remaining == 30


def test_a_model_may_be_named(cache: Cache) -> None:
    class Renamed(CacheModel, key="r:<x>", name="shop.Renamed"):
        x: str

    Renamed.entries.set(Renamed(x="1"))
    assert cache.explain("r:1", model=Renamed).name == "shop.Renamed"
    assert cache.invalidate_model("shop.Renamed").local == 1


def test_generic_models_have_entries_for_each_parameter(cache: Cache) -> None:
    class Page(CacheModel, Generic[T], key="page:<number>", ttl=7):
        number: int
        items: tuple[T, ...]

    Page[str].entries.set(Page[str](number=1, items=("a",)))
    assert Page[str].entries.get(1) == Page[str](number=1, items=("a",))
    assert Page[int].entries.get(1) is None
    Page[int].entries.set(Page[int](number=1, items=(1, 2)))
    assert Page[int].entries.get(1) == Page[int](number=1, items=(1, 2))
    assert cache.explain("page:1", model=Page[int]).remaining == 7

    @cached(Page[int])
    def load(number: int) -> Page[int]:
        return Page[int](number=number, items=())

    assert load(1).items == (1, 2)


class Tree(CacheModel, key="tree:<name>"):
    name: str
    leaf: Optional["Leaf"] = None  # noqa: UP037, UP045 - a name that comes later


class Leaf(CacheModel, key="leaf:<colour>"):
    colour: str
    tree: Tree | None = None


def test_a_model_may_refer_to_one_that_is_declared_later(cache: Cache) -> None:
    one = Tree(name="oak", leaf=Leaf(colour="red"))
    Tree.entries.set(one)
    assert Tree.entries.get("oak") == one

    @cached(Tree)
    def load(name: str) -> Tree:
        return Tree(name=name)

    assert load("oak") is Tree.entries.get("oak")


def test_a_type_that_does_not_survive_its_round_trip_is_refused() -> None:
    with pytest.raises(SchemaError, match="password"):

        class Secret(CacheModel, key="s:<x>"):
            x: str
            password: SecretStr

    with pytest.raises(SchemaError, match="hidden"):

        class Hidden(CacheModel, key="h:<x>"):
            x: str
            hidden: str = Field(exclude=True)

    with pytest.raises(SchemaError, match="out"):

        class Lopsided(CacheModel, key="l:<x>"):
            x: str = Field(validation_alias="in", serialization_alias="out")


def test_models_may_be_forgotten() -> None:
    def declare() -> Any:
        class Passing(CacheModel, key="p:<x>"):
            x: str

        return Passing

    made = [declare() for _ in range(3)]
    assert len({id(one) for one in made}) == 3
    del made
    gc.collect()


# -- entries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [None, VMState, VMState | None], ids=["annotation", "model", "model or None"])
def test_a_function_is_of_the_model_that_it_names_or_says_it_returns(cache: Cache, told: Any) -> None:
    @cached(told, cache=cache)
    def state(vm_id: str) -> VMState | None:
        return None if vm_id == "none" else VMState(vm_id=vm_id)

    value = state("a")
    assert VMState.entries.get("a") is value
    found = state.explain("a")
    assert (found.key, found.name, found.tags) == ("vm:a", "VMState", ("vm:a", "node:node-1"))
    assert found.remaining == 30
    assert state("none") is None


def test_a_batch_function_may_name_its_model_with_none(cache: Cache) -> None:
    @cached_many(VMState | None, each="vm_ids", cache=cache)
    def states(vm_ids: list[str]) -> dict[str, VMState | None]:
        return {vm_id: None if vm_id == "none" else VMState(vm_id=vm_id) for vm_id in vm_ids}

    assert list(states(["a", "none"])) == ["a"]
    assert VMState.entries.get("a") is not None


def test_entries_get_set_and_invalidate(cache: Cache) -> None:
    one = VMState(vm_id="a", node_id="node-9")
    assert VMState.entries.get("a") is None
    assert VMState.entries.peek("a") is MISSING
    VMState.entries.set(one)
    assert VMState.entries.get("a") is VMState.entries.get(vm_id="a")
    assert VMState.entries.get("a") == one
    assert cache.explain("vm:a", model=VMState).tags == ("vm:a", "node:node-9")
    assert VMState.entries.invalidate("a").local == 1
    assert VMState.entries.get("a") is None
    VMState.entries.set(one)
    assert cache.invalidate_tags("node:node-9").local == 1


def test_entries_of_several_keys(cache: Cache) -> None:
    for vm_id in "ab":
        VMState.entries.set(VMState(vm_id=vm_id))
    assert list(VMState.entries.get_many(["b", "z", "a", "b"])) == ["b", "a"]
    Disk.entries.set(Disk(vm_id="a", slot=1))
    assert Disk.entries.get_many([("a", 1), ("a", 2)]) == {("a", 1): Disk(vm_id="a", slot=1)}
    assert Disk.entries.get("a", slot=1) == Disk(vm_id="a", slot=1)
    assert Disk.entries.get("a", "1") is None  # text is no number
    assert VMState.entries.clear().local == 2
    assert VMState.entries.get_many(["a", "b"]) == {}
    assert Disk.entries.get("a", 1) is not None


async def test_the_asynchronous_twins_do_the_same(cache: Cache) -> None:
    one = VMState(vm_id="a")
    await VMState.entries.aset(one)
    assert await VMState.entries.aget("a") == one
    assert await VMState.entries.apeek("a") == one
    assert await VMState.entries.apeek("b") is MISSING
    assert list(await VMState.entries.aget_many(["a", "b"])) == ["a"]
    assert (await VMState.entries.ainvalidate("a")).local == 1
    await VMState.entries.aset(one)
    assert (await VMState.entries.aclear()).local == 1
    assert await VMState.entries.aget("a") is None


def test_wrong_arguments_are_told_with_the_key(cache: Cache) -> None:
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((), {}, "also needs vm_id"),
        (("a", 1, 2), {}, "takes 2 values, got 3"),
        (("a",), {"vm_id": "b"}, "'vm_id' is given twice"),
        (("a",), {"slt": 1}, "'slt' is given twice or is not in the key"),
        (("a",), {}, "also needs slot"),
    ]
    for args, kwargs, message in wrong:
        with pytest.raises(TypeError, match=message):
            Disk.entries.get(*args, **kwargs)
    with pytest.raises(DeclarationError, match="takes a VMState, not Disk"):
        VMState.entries.set(Disk(vm_id="a", slot=1))  # type: ignore[arg-type]  # the point of the test

    class Keyless(CacheModel):
        x: str

    with pytest.raises(DeclarationError, match=r"Keyless has no key; declare it as `class Keyless\(CacheModel, key="):
        Keyless.entries.get("a")


def test_a_model_without_a_key_can_be_a_result(cache: Cache) -> None:
    class Keyless(CacheModel, ttl=3):
        x: str

    @cached(Keyless, key="k:<x>")
    def load(x: str) -> Keyless:
        return Keyless(x=x)

    assert load("a") is load("a")
    assert load.explain("a").remaining == 3


def test_a_registered_loader_loads_misses_once(cache: Cache) -> None:
    class Host(CacheModel, key="host:<host_id>"):
        host_id: str

    calls = []

    with pytest.raises(DeclarationError, match=r"Host has no loader; register one with @Host.entries.loader"):
        Host.entries.load("a")

    @Host.entries.loader
    def load(host_id: str) -> Host | None:
        calls.append(host_id)
        return Host(host_id=host_id) if host_id != "none" else None

    assert Host.entries.load("a") is Host.entries.load(host_id="a") is Host.entries.get("a")
    assert Host.entries.load("none") is Host.entries.load("none") is None
    assert Host.entries.peek("none") is None
    assert calls == ["a", "none"]
    assert load("b").host_id == "b"  # type: ignore[union-attr]  # the function stays what it was


async def test_a_loader_may_be_asynchronous(cache: Cache) -> None:
    class Host(CacheModel, key="host:<host_id>"):
        host_id: str

    @Host.entries.loader
    async def load(host_id: str) -> Host:
        return Host(host_id=host_id)

    assert await Host.entries.aload("a") is await Host.entries.aload("a")
    with pytest.raises(CacheError, match="asynchronous"):
        Host.entries.load("b")


def test_a_loader_has_the_parameters_of_the_key(cache: Cache) -> None:
    with pytest.raises(TemplateError, match="has no parameter `vm_id`"):
        VMState.entries.loader(lambda vm: VMState(vm_id=vm))
    with pytest.raises(TemplateError, match=r"`deep` .* is not in it"):
        VMState.entries.loader(lambda vm_id, deep: VMState(vm_id=vm_id))


def test_a_loader_s_wrong_result_is_refused(cache: Cache) -> None:
    class Host(CacheModel, key="host:<host_id>"):
        host_id: str

    Host.entries.loader(lambda host_id: VMState(vm_id=host_id))
    with pytest.raises(CachedValueError, match="`Host` for key 'host:a' returned VMState, expected Host"):
        Host.entries.load("a")


def test_entries_of_another_cache_are_reached_by_using(cache: Cache) -> None:
    with Cache() as other:
        VMState.entries.using(other).set(VMState(vm_id="a"))
        assert VMState.entries.get("a") is None
        assert VMState.entries.using(other).get("a") is not None


def test_typed_key_fields_are_the_same_entry_by_text(cache: Cache) -> None:
    class Run(CacheModel, key="run:<run_id>:<number>"):
        run_id: UUID
        number: int

    one = Run(run_id=UUID(int=1), number=3)
    Run.entries.set(one)
    text = f"run:{UUID(int=1)}:3"
    assert cache.get(text, model=Run) == one
    cache.set(text, one.model_copy(update={"number": 3}))
    assert Run.entries.get(UUID(int=1), 3) is cache.get(text, model=Run) is not one
    assert cache.get("run:no-uuid:3", model=Run) is None


# -- changed models ----------------------------------------------------------------------------------------------------


def old_and_new() -> tuple[Any, Any]:
    """Return a model before and after a change: the same name and key, another field."""

    def declare_old() -> Any:
        class Machine(CacheModel, key="machine:<x>"):
            x: str

        return Machine

    def declare_new() -> Any:
        class Machine(CacheModel, key="machine:<x>"):
            x: str
            cores: int

        return Machine

    return declare_old(), declare_new()


def test_an_entry_of_a_changed_model_is_a_miss(tmp_path: Path, clock: ManualClock) -> None:
    old, new = old_and_new()
    with Cache.connect(namespace="t", disk=tmp_path) as first:
        first.set("machine:1", old(x="1"))
    with Cache.connect(namespace="t", disk=tmp_path) as second:
        assert second.get("machine:1", model=new) is None
        assert second.explain("machine:1", model=new).reason == "schema"

        @cached(new, cache=second)
        def load(x: str) -> Any:
            return new(x=x, cores=2)

        assert load("1").cores == load("1").cores == 2
        assert second.stats("Machine").misses == {"schema": 2}  # of `get` and of the first load


def test_the_same_holds_in_one_process_and_one_cache(cache: Cache) -> None:
    old, new = old_and_new()
    old.entries.set(old(x="1"))
    assert new.entries.get("1") is None
    new.entries.set(new(x="1", cores=2))
    assert type(new.entries.get("1")) is new
    assert old.entries.get("1") is None  # a set invalidates whatever has the logical key
    old.entries.set(old(x="2")), cache.set("other", 1)
    assert cache.invalidate_model("Machine").local == 2


def test_a_model_that_is_declared_again_gives_instances_of_the_new_class(cache: Cache) -> None:
    def declare() -> Any:
        class Reloaded(CacheModel, key="reloaded:<x>"):
            x: str

        return Reloaded

    first, second = declare(), declare()
    first.entries.set(first(x="1"))
    found = second.entries.get("1")
    assert found is None or type(found) is second


def test_settings_override_a_model_by_its_name(clock: ManualClock) -> None:
    settings = CacheSettings(models={"vmstate": {"ttl": "7s", "tags": ["zone:<node_id>"]}})
    with Cache(settings, clock=clock) as cache:
        VMState.entries.using(cache).set(VMState(vm_id="a"))
        told = cache.explain("vm:a", model=VMState)
        assert (told.remaining, told.tags) == (7, ("zone:node-1",))
