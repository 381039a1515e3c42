"""`@cached` on methods, classmethods and staticmethods, and how instances share entries or do not."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import sys
import types
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from novacron_cache import MISSING, Cache, CacheModel, CacheScopeWarning, DeclarationError, cached, configure


class VMState(CacheModel, key="vm:<vm_id>", tags=["vm:<vm_id>"]):
    vm_id: str
    seen_by: str


@pytest.fixture
def cache() -> Iterator[Cache]:
    # Methods of module-level classes use the default cache; each test has its own.
    yield (made := configure())
    made.close()


class Hypervisor:
    """Instances are told apart by their uri."""

    def __init__(self, uri: str = "qemu:///a") -> None:
        self.uri = uri
        self.calls = 0

    @cached(VMState, key="vm:<self.uri>:<vm_id>")
    def state(self, vm_id: str) -> VMState:
        """Return the state."""
        self.calls += 1
        return VMState(vm_id=vm_id, seen_by=self.uri)

    @cached(VMState, key="vm:<self.uri>:<vm_id>")
    async def fetch(self, vm_id: str) -> VMState:
        """Fetch the state."""
        self.calls += 1
        return VMState(vm_id=vm_id, seen_by=self.uri)


class Scoped:
    """Instances are told apart by their `cache_scope`."""

    def __init__(self, scope: Any) -> None:
        self.cache_scope = scope
        self.calls = 0

    @cached(VMState, key="vm:<vm_id>")
    def state(self, vm_id: str) -> VMState:
        self.calls += 1
        return VMState(vm_id=vm_id, seen_by=str(self.cache_scope))


def unscoped() -> type[Any]:
    """Return a new class whose instances nothing tells apart."""

    class Plain:
        def __init__(self, name: str = "plain") -> None:
            self.name = name

        @cached(key="plain:<x>")
        def read(self, x: str) -> str:
            return self.name

        @cached(key="plain:<x>", name="async")
        async def aread(self, x: str) -> str:
            return self.name

    return Plain


# -- binding -----------------------------------------------------------------------------------------------------------


def test_a_method_is_called_once_for_the_same_arguments(cache: Cache) -> None:
    one, other = Hypervisor("a"), Hypervisor("b")
    assert [one.state("vm-1").seen_by, one.state(vm_id="vm-1").seen_by, other.state("vm-1").seen_by] == ["a", "a", "b"]
    assert (one.calls, other.calls) == (1, 1)
    assert Hypervisor("a").state("vm-1") is one.state("vm-1")


async def test_an_async_method_is_awaited_once_for_the_same_arguments(cache: Cache) -> None:
    one = Hypervisor("a")
    first, second = await asyncio.gather(one.fetch("vm-1"), one.fetch("vm-1"))
    assert first is second is await one.fetch("vm-1")
    assert one.calls == 1


def test_a_bound_method_looks_like_the_method(cache: Cache) -> None:
    one = Hypervisor()
    for bound, doc, is_coroutine in ((one.state, "Return the state.", False), (one.fetch, "Fetch the state.", True)):
        assert bound.__doc__ == doc
        assert bound.__module__ == __name__
        assert str(inspect.signature(bound)) == "(vm_id: 'str') -> 'VMState'"
        assert inspect.iscoroutinefunction(bound) is is_coroutine
        assert asyncio.iscoroutinefunction(bound) is is_coroutine
        assert bound.__self__ is one  # type: ignore[attr-defined]  # as every bound method has
    assert one.state.__name__ == "state"
    assert one.state.__qualname__ == "Hypervisor.state"
    assert one.state.__wrapped__("x").vm_id == "x"
    assert one.state == one.state
    assert one.state != Hypervisor().state
    assert hash(one.state) == hash(one.state)
    assert "Hypervisor.state" in repr(one.state)


def test_the_method_in_its_class_looks_like_the_function() -> None:
    assert Hypervisor.state.__name__ == "state"
    assert Hypervisor.state.__doc__ == "Return the state."
    assert str(inspect.signature(Hypervisor.state)) == "(self, vm_id: 'str') -> 'VMState'"
    assert inspect.iscoroutinefunction(Hypervisor.fetch)


def test_a_bound_method_has_the_attributes_of_a_cached_function(cache: Cache) -> None:
    one, other = Hypervisor("a"), Hypervisor("b")
    assert one.state.peek("vm-1") is MISSING
    value = one.state("vm-1")
    assert one.state.peek("vm-1") is value
    assert other.state.peek("vm-1") is MISSING
    assert one.state.key("vm-1") == "vm:a:vm-1"
    assert one.state.tags("vm-1") == ("vm:vm-1",)
    assert one.state.explain("vm-1").tier == "memory"
    one.state.set(VMState(vm_id="vm-1", seen_by="set"), "vm-1")
    assert one.state("vm-1").seen_by == "set"
    assert one.state.refresh("vm-1").seen_by == "a"
    assert [state.vm_id for state in one.state.many(["vm-2", "vm-1"])] == ["vm-2", "vm-1"]
    assert one.state.warm(["vm-1", "vm-3"]).loaded == 1
    other.state("vm-1")
    assert one.state.invalidate("vm-1").local == 1
    assert one.state.peek("vm-1") is MISSING
    assert other.state.peek("vm-1") is not MISSING
    assert one.state.stats().loads == 5


async def test_a_bound_async_method_has_them_too(cache: Cache) -> None:
    one = Hypervisor("a")
    assert await one.fetch.peek("vm-1") is MISSING
    value = await one.fetch("vm-1")
    assert await one.fetch.peek("vm-1") is value
    assert (await one.fetch.refresh("vm-1")).seen_by == "a"
    assert [state.vm_id for state in await one.fetch.many(["vm-2", "vm-1"])] == ["vm-2", "vm-1"]
    assert (await one.fetch.invalidate("vm-1")).local == 1
    assert one.fetch.key("vm-1") == "vm:a:vm-1"


def test_through_the_class_the_instance_is_the_first_argument(cache: Cache) -> None:
    one = Hypervisor("a")
    value = Hypervisor.state(one, "vm-1")
    assert one.state("vm-1") is value
    assert Hypervisor.state.key(one, "vm-1") == "vm:a:vm-1"
    assert Hypervisor.state.peek(one, "vm-1") is value
    assert Hypervisor.state.invalidate(one, "vm-1").local == 1
    assert Hypervisor.state.stats().loads == 1
    with pytest.raises(TypeError, match="missing 2 required positional arguments: 'self' and 'vm_id'"):
        Hypervisor.state()  # type: ignore[call-arg]  # the point of the test


def test_wrong_arguments_give_the_method_s_own_error(cache: Cache) -> None:
    one = Hypervisor()
    for args, kwargs in (((), {}), (("a", "b"), {}), (("a",), {"deep": 1})):
        with pytest.raises(TypeError) as natural:
            one.state.__wrapped__(*args, **kwargs)
        for call in (one.state, one.state.key):
            with pytest.raises(TypeError) as ours:
                call(*args, **kwargs)  # type: ignore[call-arg]  # the point of the test
            assert str(ours.value) == str(natural.value)


def test_a_bound_method_is_pickled_as_its_instance_and_name(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(__name__)
    module.Hypervisor = Hypervisor  # type: ignore[attr-defined]  # what an import would have put there
    monkeypatch.setitem(sys.modules, __name__, module)
    bound = pickle.loads(pickle.dumps(Hypervisor("z").state))
    assert bound("vm-1").seen_by == "z"


def test_a_method_of_a_class_is_pickled_by_its_name_and_copied_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(__name__)
    module.Hypervisor = Hypervisor  # type: ignore[attr-defined]  # what an import would have put there
    monkeypatch.setitem(sys.modules, __name__, module)
    assert pickle.loads(pickle.dumps(Hypervisor.state)) is Hypervisor.state
    assert copy.copy(Hypervisor.state) is copy.deepcopy(Hypervisor.state) is Hypervisor.state


def test_a_bound_method_names_what_is_invalidated_as_the_method_does(cache: Cache) -> None:
    one = Hypervisor("a")
    for method in (one.state, Hypervisor.state):
        one.state("vm-1")
        assert cache.invalidate_model(method).local == 1


def test_an_overriding_method_may_call_the_one_it_overrides(cache: Cache) -> None:
    class Derived(Hypervisor):
        @cached(VMState, key="vm:<self.uri>:<vm_id>")
        def state(self, vm_id: str) -> VMState:
            return super().state(vm_id)

    one = Derived("a")
    assert one.state("vm-1").seen_by == "a"
    assert one.calls == 1


def test_a_method_s_parameters_may_be_called_like_builtins(cache: Cache) -> None:
    class Plain:
        @cached(key="x:<id>:<getattr>")
        def read(self, id: str, getattr: int = 0) -> str:  # noqa: A002
            return id

    one = Plain()
    assert one.read("a") == one.read("a") == "a"


def test_a_property_may_stand_on_top(cache: Cache) -> None:
    class Plain:
        calls = 0

        @property
        @cached(key="p", ignore=["self"])
        def value(self) -> int:
            Plain.calls += 1
            return 7

    assert (Plain().value, Plain().value, Plain.calls) == (7, 7, 1)


# -- classmethods and staticmethods ------------------------------------------------------------------------------------


class Both:
    calls: list[str] = []  # noqa: RUF012 - shared by all, which is the point

    @cached(key="outer-class:<x>")
    @classmethod
    def outer_class(cls, x: str) -> str:
        cls.calls.append(x)
        return f"{cls.__name__} {x}"

    @classmethod
    @cached(key="inner-class:<x>")
    def inner_class(cls, x: str) -> str:
        cls.calls.append(x)
        return f"{cls.__name__} {x}"

    @cached(key="outer-static:<x>")
    @staticmethod
    def outer_static(x: str) -> str:
        Both.calls.append(x)
        return x

    @staticmethod
    @cached(key="inner-static:<x>")
    def inner_static(x: str) -> str:
        Both.calls.append(x)
        return x

    @cached(key="async-class:<x>")
    @classmethod
    async def async_class(cls, x: str) -> str:
        cls.calls.append(x)
        return f"{cls.__name__} {x}"

    @cached(key="async-static:<x>")
    @staticmethod
    async def async_static(x: str) -> str:
        Both.calls.append(x)
        return x


@pytest.mark.parametrize("name", ["outer_class", "inner_class", "outer_static", "inner_static"])
def test_classmethods_and_staticmethods_are_cached_in_either_order(cache: Cache, name: str) -> None:
    Both.calls.clear()
    wanted = "Both x" if "class" in name else "x"
    assert [getattr(Both, name)("x"), getattr(Both(), name)("x"), getattr(Both, name)(x="x")] == [wanted] * 3
    assert Both.calls == ["x"]
    if name == "inner_class" and sys.version_info >= (3, 13):
        with pytest.raises(DeclarationError, match="write @cached above @classmethod"):
            Both.inner_class.peek("x")
        return
    for owner in (Both, Both()):
        function = getattr(owner, name)
        assert function.peek("x") == wanted
        assert function.key("x").endswith(":x")
        assert function.__name__ == name
        assert str(inspect.signature(function)) == "(x: 'str') -> 'str'"
    assert getattr(Both, name).invalidate("x").local == 1


@pytest.mark.parametrize("name", ["async_class", "async_static"])
async def test_so_are_async_ones(cache: Cache, name: str) -> None:
    Both.calls.clear()
    wanted = "Both x" if "class" in name else "x"
    assert [await getattr(Both, name)("x"), await getattr(Both(), name)("x")] == [wanted] * 2
    assert Both.calls == ["x"]
    assert inspect.iscoroutinefunction(getattr(Both, name))
    assert await getattr(Both, name).peek("x") == wanted


def test_classes_that_share_a_classmethod_s_entries_are_told_of(cache: Cache) -> None:
    class Base:
        @cached(key="c:<x>")
        @classmethod
        def read(cls, x: str) -> str:
            return cls.__name__

    class One(Base):
        pass

    assert Base.read("a") == "Base"
    with pytest.warns(CacheScopeWarning, match="One and another class share"):
        One.read("a")


# -- instances that share ----------------------------------------------------------------------------------------------


def test_a_second_instance_that_nothing_tells_apart_warns_once(cache: Cache) -> None:
    plain = unscoped()
    one, two, three = plain("1"), plain("2"), plain("3")
    assert one.read("a") == "1"
    one.read("b"), one.read.key("c")
    with pytest.warns(CacheScopeWarning, match=r"two instances of Plain share the entries of `.*Plain.read`") as told:
        assert two.read("a") == "1"
    assert told[0].filename == __file__
    for message in ("<self.x>", "cache_scope", "ignore=['self']"):
        assert message in str(told[0].message)
    assert [two.read("a"), three.read("a"), one.read("a")] == ["1"] * 3


async def test_the_warning_names_the_line_that_awaited_a_method(cache: Cache) -> None:
    class Plain:
        @cached(key="a:<x>")
        async def read(self, x: str) -> str:
            return x

    one, two = Plain(), Plain()
    await one.read("a")
    with pytest.warns(CacheScopeWarning) as told:
        await two.read.peek("a")
    assert told[0].filename == __file__


async def test_so_does_a_second_instance_of_an_async_method(cache: Cache) -> None:
    plain = unscoped()
    one, two = plain("1"), plain("2")
    await one.aread("a")
    with pytest.warns(CacheScopeWarning):
        await two.aread("a")
    await two.aread("a")


def test_a_second_instance_is_noticed_where_the_first_one_stood_in_memory(cache: Cache) -> None:
    plain = unscoped()
    plain("1").read("a")
    gc.collect()
    with pytest.warns(CacheScopeWarning):
        plain("2").read("a")


def test_a_warning_made_an_error_is_raised_once(cache: Cache) -> None:
    plain = unscoped()
    one, two = plain("1"), plain("2")
    one.read("a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CacheScopeWarning):
            two.read("a")
        assert two.read("a") == "1"


def test_nothing_is_warned_of_where_the_key_names_the_instance_or_sharing_was_said(cache: Cache) -> None:
    class Plain:
        def __init__(self, name: str) -> None:
            self.name = name

        @cached(key="named:<self.name>:<x>")
        def named(self, x: str) -> str:
            return self.name

        @cached(key="said:<x>", ignore=["self"])
        def said(self, x: str) -> str:
            return self.name

    one, two = Plain("1"), Plain("2")
    assert [one.named("a"), two.named("a"), one.named("a")] == ["1", "2", "1"]
    assert [one.said("a"), two.said("a"), one.said("a")] == ["1", "1", "1"]


def test_instances_without_weak_references_can_have_cached_methods(cache: Cache) -> None:
    class Slotted:
        __slots__ = ("name",)

        def __init__(self, name: str) -> None:
            self.name = name

        @cached(key="s:<x>")
        def read(self, x: str) -> str:
            return self.name

    assert [Slotted("1").read("a"), Slotted("2").read("a")] == ["1", "1"]


def test_a_cached_method_keeps_no_instance_alive(cache: Cache) -> None:
    one = unscoped()("1")
    one.read("a"), one.read("a")
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_instances_made_for_each_request_do_not_grow_memory(cache: Cache) -> None:
    class Service:
        @cached(key="s:<x>", ignore=["self"])
        def shared(self, x: str) -> str:
            return x

        @cached(key="w:<x>")
        def warned(self, x: str) -> str:
            return x

        @cached(key="v:<x>", ignore=["session", "self"])
        def varying(self, session: int, x: str) -> str:
            return x

    keep = [Service() for _ in range(200)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheScopeWarning)
        for number, service in enumerate(keep):
            service.shared("a"), service.warned("a"), service.varying(number, "a")
    for bound in (keep[0].shared, keep[0].warned, keep[0].varying):
        assert len(bound.controller.front) <= 8  # type: ignore[attr-defined]  # what stands behind a bound method
    assert len(cache.engine.memory or ()) == 3


# -- cache_scope -------------------------------------------------------------------------------------------------------


def test_a_cache_scope_separates_entries_on_the_fast_path_too(cache: Cache) -> None:
    one, two, like_one = Scoped("a"), Scoped("b"), Scoped("a")
    for _ in range(3):
        assert [one.state("x").seen_by, two.state("x").seen_by, like_one.state("x").seen_by] == ["a", "b", "a"]
    assert (one.calls, two.calls, like_one.calls) == (1, 1, 0)
    assert one.state.key("x") == two.state.key("x") == "vm:x"
    assert one.state.invalidate("x").local == 2


@pytest.mark.parametrize("scopes", [(1, True, "1", None), (None, "None", "", 0), (("a", 1), ("a", True), "a", b"a")])
def test_scopes_of_different_types_never_mix(cache: Cache, scopes: tuple[Any, ...]) -> None:
    class Any_(Scoped):  # noqa: N801
        @cached(key="any:<x>")
        def read(self, x: str) -> str:
            return repr(self.cache_scope)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheScopeWarning)
        for _ in range(3):
            for scope in scopes:
                assert Any_(scope).read("x") == repr(scope)


def test_a_scope_that_changes_is_followed(cache: Cache) -> None:
    one = Scoped("a")
    for scope in ("a", "b", "a", None, "c", None):
        one.cache_scope = scope
        assert [one.state("x").seen_by, one.state("x").seen_by] == [str(scope)] * 2
    assert one.calls == 4


def test_methods_without_parameters_are_told_apart_too(cache: Cache) -> None:
    class Plain:
        def __init__(self, scope: str | None = None) -> None:
            self.cache_scope = scope

        @cached(key="everything")
        def read(self) -> str:
            return str(self.cache_scope)

    one, two, three = Plain(), Plain("2"), Plain("3")
    for _ in range(3):
        assert [one.read(), two.read(), three.read()] == ["None", "2", "3"]
    with pytest.warns(CacheScopeWarning):
        Plain().read()


def test_a_subclass_may_have_the_scope_that_its_base_lacks(cache: Cache) -> None:
    plain = unscoped()

    class Tenant(plain):  # type: ignore[misc,valid-type]  # made for this test
        cache_scope = "tenant"

    base, tenant = plain("base"), Tenant("tenant")
    for _ in range(3):
        assert [base.read("a"), tenant.read("a")] == ["base", "tenant"]
    with pytest.warns(CacheScopeWarning):
        assert plain("another").read("a") == "base"
    for _ in range(3):
        assert [base.read("a"), tenant.read("a"), plain("third").read("a")] == ["base", "tenant", "base"]


async def test_a_scope_separates_async_methods(cache: Cache) -> None:
    plain = unscoped()
    one, two = plain("1"), plain("2")
    one.cache_scope, two.cache_scope = "1", "2"
    for _ in range(3):
        assert [await one.aread("a"), await two.aread("a")] == ["1", "2"]


def test_hits_are_counted_across_the_discovery_of_a_scope(cache: Cache) -> None:
    plain = unscoped()
    one = plain("1")
    one.read("a"), one.read("a"), one.read("a")
    scoped = plain("2")
    scoped.cache_scope = "2"
    scoped.read("a"), scoped.read("a")
    told = one.read.stats()
    assert (told.hits, told.loads) == ({"memory": 3}, 2)
