"""`@invalidates`: after success only, from arguments and result."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from novacron_cache import Cache, CacheModel, DeclarationError, KeyValueError, TemplateError, configure, invalidates


class VMState(CacheModel, key="vm:<vm_id>", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str


@pytest.fixture
def cache() -> Iterator[Cache]:
    made = configure()
    for vm_id, node_id in (("1", "a"), ("2", "a"), ("3", "b")):
        made.set(f"vm:{vm_id}", VMState(vm_id=vm_id, node_id=node_id))
    yield made
    made.close()


def cached_ids(cache: Cache) -> str:
    return "".join(vm_id for vm_id in "123" if cache.exists(f"vm:{vm_id}", model=VMState))


def test_tags_of_the_arguments_are_invalidated_after_the_call(cache: Cache) -> None:
    seen = []

    @invalidates(tags=["vm:<vm_id>"])
    def stop(vm_id: str) -> str:
        """Stop it."""
        seen.append(cached_ids(cache))
        return f"stopped {vm_id}"

    assert stop("1") == "stopped 1"
    assert seen == ["123"]
    assert cached_ids(cache) == "23"
    assert (stop.__name__, stop.__doc__) == ("stop", "Stop it.")
    assert str(inspect.signature(stop)) == "(vm_id: 'str') -> 'str'"


def test_nothing_is_invalidated_when_the_call_fails(cache: Cache) -> None:
    @invalidates(tags=["vm:<vm_id>"], patterns=["vm:*"], models=[VMState], keys=["vm:1"])
    def stop(vm_id: str) -> None:
        raise LookupError(vm_id)

    with pytest.raises(LookupError):
        stop("1")
    assert cached_ids(cache) == "123"


def test_fields_of_the_result_fill_what_is_no_argument(cache: Cache) -> None:
    @invalidates(tags=["node:<node_id>"])
    def move(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="a")

    move("9")
    assert cached_ids(cache) == "3"


def test_a_mapping_s_items_and_an_attribute_s_attributes_fill_placeholders(cache: Cache) -> None:
    @invalidates(tags=["node:<node_id>"], keys=["vm:<vm.vm_id>"])
    def move(vm: VMState) -> dict[str, str]:
        return {"node_id": "b"}

    move(VMState(vm_id="1", node_id="x"))
    assert cached_ids(cache) == "2"


def test_a_field_that_the_result_turns_out_to_lack_is_an_error(cache: Cache) -> None:
    @invalidates(tags=["node:<node_id>"])
    def move(vm_id: str) -> Any:
        return object()

    with pytest.raises(KeyValueError, match="the result, a object, has no `node_id`"):
        move("1")


def test_a_name_that_only_an_unannotated_result_could_fill_is_refused_before_anything_is_written() -> None:
    with pytest.raises(TemplateError) as refused:

        @invalidates(tags=["vm:<vmid>"])
        def move(vm_id: str):  # type: ignore[no-untyped-def]  # what this is about
            raise AssertionError("declared, not called")

    assert "has no parameter `vmid`; did you mean `vm_id`?" in str(refused.value)
    assert "annotate it (`-> Any` if its type is not known)" in str(refused.value)


def test_a_result_whose_annotation_cannot_be_resolved_may_have_any_field(cache: Cache) -> None:
    class Local(CacheModel, key="local:<node_id>"):
        node_id: str

    @invalidates(tags=["node:<node_id>"])
    def move(vm_id: str) -> Local:  # a name that only type checkers can look up
        return Local(node_id="a")

    move("1")
    assert cached_ids(cache) == "3"


def test_a_result_that_is_none_leaves_out_what_only_it_could_fill_and_nothing_else(cache: Cache) -> None:
    @invalidates(tags=["node:<node_id>", "vm:<vm_id>"], patterns=["<node_id>:*"], keys=["<node_id>"])
    def rename(vm_id: str) -> VMState | None:
        return None

    assert rename("1") is None
    assert cached_ids(cache) == "23"

    @invalidates(tags=["node:<node_id>"])
    def find(vm_id: str) -> VMState | None:
        return None

    seen: list[Any] = []
    cache.on("invalidated", seen.append)
    assert find("1") is None
    assert not seen
    assert cached_ids(cache) == "23"


async def test_a_coroutine_that_returns_none_leaves_out_what_only_its_result_could_fill(cache: Cache) -> None:
    @invalidates(tags=["node:<node_id>", "vm:<vm_id>"])
    async def rename(vm_id: str) -> VMState | None:
        return None

    assert await rename("1") is None
    assert cached_ids(cache) == "23"


def test_a_none_that_the_function_says_it_never_returns_is_an_error(cache: Cache) -> None:
    @invalidates(tags=["node:<node_id>"])
    def move(vm_id: str) -> VMState:
        return None  # type: ignore[return-value]  # what this is about

    with pytest.raises(KeyValueError, match="the result, a NoneType, has no `node_id`"):
        move("1")


def test_a_function_without_a_return_annotation_needs_none_where_its_arguments_say_all(cache: Cache) -> None:
    @invalidates(tags=["vm:<vm_id>"])
    def stop(vm_id: str):  # type: ignore[no-untyped-def]  # what this is about
        pass

    stop("1")
    assert cached_ids(cache) == "23"


def test_keys_patterns_and_models_can_be_named(cache: Cache) -> None:
    cache.set("disk:1:a", 1)
    cache.set("disk:1:b", 1)
    cache.set("disk:2:a", 1)

    @invalidates(keys=["vm:<vm_id>"], patterns=["disk:<vm_id>:*"])
    def remove(vm_id: str) -> None: ...

    remove("1")
    assert cached_ids(cache) == "23"
    assert list(cache.get_many(["disk:1:a", "disk:1:b", "disk:2:a"])) == ["disk:2:a"]

    @invalidates(models=[VMState])
    def reset() -> None: ...

    reset()
    assert cached_ids(cache) == ""


@pytest.mark.parametrize("value", ["*", "?", "[1-3]", "a*b", "\\", "[!x]"])
def test_wildcards_in_values_are_literal(cache: Cache, value: str) -> None:
    @invalidates(patterns=["disk:<vm_id>:*"])
    def remove(vm_id: str) -> None: ...

    cache.set("disk:1:a", 1)
    cache.set(f"disk:{value}:a", 1)
    remove(value)
    assert cache.exists("disk:1:a")
    assert not cache.exists(f"disk:{value}:a")


async def test_a_coroutine_function_is_awaited_first(cache: Cache) -> None:
    seen = []

    @invalidates(tags=["vm:<vm_id>"])
    async def stop(vm_id: str) -> int:
        seen.append(cached_ids(cache))
        if vm_id == "2":
            raise LookupError
        return 7

    assert inspect.iscoroutinefunction(stop)
    assert await stop("1") == 7
    with pytest.raises(LookupError):
        await stop(vm_id="2")
    assert seen == ["123", "23"]
    assert cached_ids(cache) == "23"


class Stopping:
    async def __call__(self, vm_id: str) -> str:
        return vm_id


async def test_partials_and_objects_that_can_be_called_invalidate(cache: Cache) -> None:
    def stop(force: bool, vm_id: str) -> bool:
        return force

    assert invalidates(tags=["vm:<vm_id>"])(functools.partial(stop, True))("1") is True
    assert cached_ids(cache) == "23"
    assert await invalidates(tags=["vm:<vm_id>"])(Stopping())("2") == "2"
    assert cached_ids(cache) == "3"
    with pytest.raises(TemplateError, match=r"the result of `.*stop` have `vmid`; did you mean `vm_id`"):
        invalidates(tags=["vm:<vmid>"])(functools.partial(stop, True))


class Manager:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @invalidates(keys=["<self.prefix>:<vm_id>"])
    def stop(self, vm_id: str, *, force: bool = False) -> str:
        return f"{self.prefix} {vm_id} {force}"

    @invalidates(keys=["vm:<vm_id>"])
    async def astop(self, vm_id: str) -> None: ...

    @invalidates(keys=["vm:<vm_id>"])
    @classmethod
    def of_class(cls, vm_id: str) -> str:
        return cls.__name__

    @invalidates(keys=["vm:<vm_id>"])
    @staticmethod
    def static(vm_id: str) -> str:
        return vm_id


async def test_a_coroutine_that_a_plain_function_returns_is_awaited_first(cache: Cache) -> None:
    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    @invalidates(tags=["vm:<vm_id>"])
    @traced
    async def stop(vm_id: str, fails: bool = False) -> str:
        await asyncio.sleep(0)
        assert cached_ids(cache) == "123"
        if fails:
            raise LookupError(vm_id)
        return vm_id

    with pytest.raises(LookupError):
        await stop("1", True)
    assert cached_ids(cache) == "123"
    assert await stop("1") == "1"
    assert cached_ids(cache) == "23"


async def test_methods_of_every_kind_invalidate(cache: Cache) -> None:
    manager = Manager("vm")
    assert manager.stop("1", force=True) == "vm 1 True"
    assert cached_ids(cache) == "23"
    await manager.astop("2")
    assert cached_ids(cache) == "3"
    assert (Manager.of_class("3"), manager.of_class("3")) == ("Manager", "Manager")
    assert cached_ids(cache) == ""
    assert (Manager.static("3"), manager.static("3")) == ("3", "3")


def test_defaults_count_as_arguments(cache: Cache) -> None:
    @invalidates(keys=["vm:<vm_id>"])
    def stop(vm_id: str = "2") -> None: ...

    stop()
    assert cached_ids(cache) == "13"


def test_another_cache_may_be_named(cache: Cache) -> None:
    with Cache() as other:
        other.set("vm:1", 1)

        @invalidates(keys=["vm:1"], cache=other)
        def one() -> None: ...

        @other.invalidates(keys=["vm:2"])
        def two() -> None: ...

        other.set("vm:2", 1)
        one()
        assert not other.exists("vm:1")
        two()
        assert not other.exists("vm:2")
        assert cached_ids(cache) == "123"


def test_a_deferred_block_delays_it(cache: Cache) -> None:
    @invalidates(keys=["vm:<vm_id>"])
    def stop(vm_id: str) -> None: ...

    with cache.deferred_invalidation():
        stop("1")
        assert cached_ids(cache) == "123"
    assert cached_ids(cache) == "23"


def test_wrong_declarations_are_refused() -> None:
    def stop(vm_id: str) -> VMState:
        raise AssertionError

    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "names nothing to invalidate"),
        ({"tags": "vm:<vm_id>"}, "expected a list of templates"),
        ({"tags": ["vm:<vm_idd>"]}, "have `vm_idd`; did you mean `vm_id`"),
        ({"keys": ["node:<nod_id>"]}, "have `nod_id`; did you mean `node_id`"),
        ({"patterns": ["x:<vm_id"]}, "not closed"),
    ]
    for options, message in wrong:
        with pytest.raises(DeclarationError, match=message):
            invalidates(**options)(stop)
    with pytest.raises(TemplateError):
        invalidates(keys=["vm:<other>"])(stop)
    with pytest.raises(DeclarationError, match="generator"):
        invalidates(keys=["x"])(lambda: (yield))
    with pytest.raises(DeclarationError, match="3 is not a cache model"):
        invalidates(models=[3])
