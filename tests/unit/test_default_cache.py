"""The default cache: made when first needed, set by `configure`, never silently the old one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from novacron_cache import Cache, CacheClosedError, CacheModel, CacheSettings, cached, configure, default_cache
from novacron_cache.default import substituted
from novacron_cache.errors import SettingsError


class VMState(CacheModel, key="vm:<vm_id>"):
    vm_id: str


@pytest.fixture(autouse=True)
def fresh() -> Iterator[Cache]:
    yield (made := configure())
    default_cache().close()
    made.close()


def test_with_nothing_configured_there_is_process_memory_alone(fresh: Cache) -> None:
    fresh.close()
    cache = default_cache()
    assert cache is default_cache()
    assert not cache.closed
    assert repr(cache) == "<Cache (no namespace): memory>"


def test_configure_takes_settings_a_cache_or_options() -> None:
    assert configure(CacheSettings(default_ttl=7)).settings.default_ttl == 7
    assert configure(default_ttl="9s").settings.default_ttl == 9
    made = Cache()
    assert configure(made) is default_cache() is made
    assert configure(made) is made
    assert not made.closed
    with pytest.raises(TypeError, match="not several of them"):
        configure(made, default_ttl=7)
    with pytest.raises(SettingsError):
        configure(default_ttk=7)
    assert default_cache() is made


def test_a_new_default_is_used_by_functions_that_had_the_old_one(fresh: Cache) -> None:
    calls = []

    @cached(VMState)
    def get(vm_id: str) -> VMState:
        calls.append(vm_id)
        return VMState(vm_id=vm_id)

    get("a"), get("a")
    second = configure()
    assert fresh.closed
    get("a"), get("a")
    assert calls == ["a", "a"]
    assert second.stats().loads == 1
    assert VMState.entries.get("a") is get("a")


async def test_the_same_holds_for_async_functions_and_methods(fresh: Cache) -> None:
    calls = []

    class Plain:
        @cached(key="p:<x>", ignore=["self"])
        async def read(self, x: int) -> int:
            calls.append(x)
            return x

    one = Plain()
    await one.read(1)
    bound = one.read
    configure()
    await bound(1), await one.read(1)
    assert calls == [1, 1]


def test_a_closed_default_is_replaced(fresh: Cache) -> None:
    calls = []

    @cached(key="f:<x>")
    def f(x: int) -> int:
        calls.append(x)
        return x

    f(1), f(1)
    fresh.close()
    f(1), f(1)
    assert calls == [1, 1]
    assert default_cache() is not fresh


def test_a_cache_that_was_named_is_not_replaced() -> None:
    made = Cache()

    @cached(key="f:<x>", cache=made)
    def f(x: int) -> int:
        return x

    f(1), f(1)
    configure()
    assert f(1) == 1
    assert made.stats().hits == {"memory": 2}
    made.close()
    with pytest.raises(CacheClosedError, match="closed"):
        f(1)


def test_declaring_a_function_makes_no_cache(fresh: Cache) -> None:
    fresh.close()
    import novacron_cache.default as module

    @cached(key="f:<x>")
    def f(x: int) -> int:
        return x

    assert module._default is fresh
    f(1)
    assert module._default is not fresh


def test_a_default_may_be_put_in_the_place_of_another_for_a_while(fresh: Cache) -> None:
    calls: list[str] = []

    @cached(str, key="vm:<vm_id>")
    def get(vm_id: str) -> str:
        calls.append(vm_id)
        return vm_id

    get("a")
    with Cache() as other:
        with substituted(other) as given:
            assert default_cache() is given is other
            get("a"), get("a")
        assert default_cache() is fresh
        assert not fresh.closed
        assert not other.closed
        get("a")
        assert calls == ["a", "a"]
        with substituted(other):
            inner = configure()
            get("a")
        assert inner.closed, "nobody else would close it"
        assert default_cache() is fresh
    assert calls == ["a", "a", "a"]


def test_a_default_that_is_closed_while_a_function_chooses_it_is_not_kept(fresh: Cache) -> None:
    @cached(str, key="vm:<vm_id>")
    def get(vm_id: str) -> str:
        return vm_id

    controller = get.cache_controller  # type: ignore[attr-defined]  # not public
    original, left = type(controller)._bind, [1]

    def bind(self: Any) -> Cache:
        cache = original(self)
        if left[0]:
            left[0] -= 1
            cache.close()
            self.cache = cache  # closing came too late to take it away
        return cache

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(controller), "_bind", bind)
        assert get("a") == "a"
    assert fresh.closed
    assert default_cache() is not fresh
    assert default_cache().stats().loads == 1
