"""The cache object, in both forms: what an invalidation reaches, when it is applied, and what interrupts it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from unit.forms import Call
from unit.vms import VMState

from novacron_cache import Cache, CacheItem, DeclarationError, TemplateError, cached
from novacron_cache.flows.invalidating import Invalidation

# -- invalidating ------------------------------------------------------------------------------------------------------


async def test_invalidate_reaches_every_model_under_a_key(call: Call, cache: Cache) -> None:
    await call("set", "vm:a", VMState(vm_id="a"))
    await call("set", "vm:a", 3)
    await call("set", "vm:b", 3)

    @cached(key="vm:<x>", cache=cache)
    def f(x: str) -> str:
        return x

    f("b")
    receipt = await call("invalidate", "vm:b", "vm:nothing")
    assert (receipt.done, receipt.pending, receipt.what, receipt.local) == (True, False, "key", 2)
    assert receipt.values == ("vm:b", "vm:nothing")
    assert await call("get", "vm:a") == 3
    assert (await call("delete", "vm:a")).local == 1


async def test_a_set_replaces_whatever_has_the_key(call: Call) -> None:
    await call("set", "vm:a", VMState(vm_id="a"))
    await call("set", "vm:a", 3)
    assert await call("get", "vm:a", model=VMState) is None


async def test_tags_match_any_or_all(call: Call) -> None:
    async def fill() -> None:
        await call("set_many", {"a": CacheItem(1, tags=["x"]), "b": CacheItem(2, tags=["x", "y"]), "c": 3}, tags=["z"])

    await fill()
    assert (await call("invalidate_tags", "x", "y", match="all")).local == 1
    assert await call("get_many", ["a", "b", "c"]) == {"a": 1, "c": 3}
    await fill()
    assert (await call("invalidate_tags", "x", "nothing")).local == 2
    await fill()
    assert (await call("invalidate_tags", "z", match="all")).local == 3
    with pytest.raises(DeclarationError, match="match='some'"):
        await call("invalidate_tags", "x", match="some")


async def test_templates_and_values_name_what_is_invalidated(call: Call) -> None:
    async def fill() -> None:
        await call("set", "vm:1:x", 1, tags=["node:1"])

    await fill()
    assert (await call("invalidate_tags", "node:<n>", n=1)).local == 1
    await fill()
    assert (await call("invalidate", "vm:<n>:<x>", n=1, x="x")).local == 1
    await fill()
    assert (await call("invalidate_pattern", "vm:<n>:*", n=1)).local == 1
    await fill()
    assert (await call("invalidate_pattern", "vm:<n>:*", n="*")).local == 0
    with pytest.raises(TemplateError, match="no value for `<n>`"):
        await call("invalidate", "a:<n>:<m>", m=1)
    with pytest.raises(TemplateError, match="m= has no place in 'node:1'"):
        await call("invalidate_tags", "node:1", m=1)
    with pytest.raises(TemplateError, match=r"node_idd= has no place .*did you mean 'node_id'"):
        await call("invalidate_pattern", "node:<node_id>:*", node_id=1, node_idd=2)
    assert (await call("invalidate", "vm:<n>")).values == ("vm:<n>",)  # without values it is plain text


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("vm:*", ["disk:1"]), ("vm:1*", ["vm:2", "disk:1"]), ("*", []), ("*:1", ["vm:2"]),
        ("vm:?", ["disk:1"]), ("vm:[12]", ["disk:1"]), ("vm:1", ["vm:2", "disk:1"]), ("x*", ["vm:1", "vm:2", "disk:1"]),
    ],
)  # fmt: skip
async def test_patterns_are_globs_over_logical_keys(call: Call, pattern: str, left: list[str]) -> None:
    keys = ["vm:1", "vm:2", "disk:1"]
    await call("set_many", dict.fromkeys(keys, 1))
    assert (await call("invalidate_pattern", pattern)).local == 3 - len(left)
    assert list(await call("get_many", keys)) == left


async def test_a_model_a_function_or_a_name_can_be_invalidated(call: Call, cache: Cache) -> None:
    @cached(key="f:<x>", cache=cache)
    def f(x: int) -> int:
        return x

    f(1), f(2)
    await call("set", "vm:a", VMState(vm_id="a"))
    await call("set", "other", 1)
    assert (await call("invalidate_model", f)).local == 2
    assert (await call("invalidate_model", "VMState")).local == 1
    await call("set", "vm:a", VMState(vm_id="a"))
    assert (await call("invalidate_model", VMState)).local == 1
    assert await call("get", "other") == 1
    with pytest.raises(DeclarationError, match="is not a cache model"):
        await call("invalidate_model", int)


async def test_clear_forgets_everything(call: Call) -> None:
    await call("set_many", {"a": 1, "b": 2})
    assert (await call("clear")).local == 2
    await call("set", "a", 1)
    assert (await call("clear", purge=True, wait=True)).done
    assert await call("get", "a") is None


async def test_wrong_input_is_refused(call: Call) -> None:
    wrong: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
        ("get", (3,), {}, "a key is text, not int"),
        ("set", (b"k", 1), {}, "a key is text, not bytes"),
        ("get_many", ("abc",), {}, "expected a list of keys"),
        ("get_many", ([1],), {}, "a key is text"),
        ("set", ("k", 1), {"tags": "abc"}, "expected a list of tags"),
        ("set", ("k", 1), {"tags": [3]}, "a tag is text, not int"),
        ("set_many", ({"k": 1},), {"tags": "abc"}, "expected a list of tags"),
        ("set_many", ({"k": CacheItem(1, tags="abc")},), {}, "expected a list of tags"),
        ("warm", ({"k": lambda: 1},), {"tags": "abc"}, "expected a list of tags"),
        ("get_or_load", ("k", lambda: 1), {"tags": "abc"}, "expected a list of tags"),
        ("invalidate", (3,), {}, "named by text, not by int"),
        ("invalidate", (["a"],), {}, "named by text, not by list"),
        ("invalidate_tags", (None,), {}, "named by text, not by NoneType"),
        ("invalidate_pattern", (3,), {}, "named by text, not by int"),
    ]
    for name, args, kwargs, message in wrong:
        with pytest.raises(TypeError, match=message):
            await call(name, *args, **kwargs)
    for pattern in ("", "[", "x" * 600, "?" * 9):
        with pytest.raises(TemplateError):
            await call("invalidate_pattern", pattern)
    assert (await call("invalidate")).done


def test_more_than_can_be_remembered_one_by_one_does_not_stay_pending(tmp_path: Path) -> None:
    with Cache.connect(namespace="many", disk=tmp_path) as cache:
        cache.engine.pending._most = 10
        receipt = cache.invalidate(*(f"k{number}" for number in range(20)))
        deadline = time.monotonic() + 10
        while cache.engine.pending and time.monotonic() < deadline:
            time.sleep(0.01)
        assert receipt.done
        cache.set("a", 1)
        assert cache.get("a", consistency="strong") == 1


async def test_an_invalidation_takes_a_durability_that_there_is(call: Call) -> None:
    await call("set", "k", 1)
    with pytest.raises(DeclarationError, match="'acknowledged' or 'replicated'"):
        await call("invalidate", "k", durability="certain")
    assert await call("get", "k") == 1
    assert (await call("invalidate", "k", durability="replicated")).done
    assert await call("get", "k") is None


async def test_a_block_may_name_a_model(cache: Cache) -> None:
    cache.set("vm:a", VMState(vm_id="a"))
    with cache.invalidating(model=VMState):
        pass
    assert cache.get("vm:a", model=VMState) is None


def test_what_is_interrupted_while_it_invalidates_is_retried(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    retried: list[bool] = []

    def interrupted(flow: Any) -> Any:
        flow.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_run", interrupted)
    monkeypatch.setattr(cache, "undelivered", lambda: retried.append(True))
    with pytest.raises(KeyboardInterrupt):
        cache.invalidate("k")
    assert retried == [True]


# -- deferring ---------------------------------------------------------------------------------------------------------


def test_deferred_invalidation_is_applied_on_a_clean_exit(cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2}, tags=["t"])
    with cache.deferred_invalidation() as deferred:
        receipt = cache.invalidate("a")
        cache.invalidate_tags("t")
        assert (receipt.done, receipt.pending, cache.get("a")) == (False, True, 1)
    assert receipt.done
    assert deferred.receipt is not None
    assert deferred.receipt.local == 2
    assert cache.get_many(["a", "b"]) == {}


def test_deferred_invalidation_is_dropped_on_an_exception(cache: Cache) -> None:
    cache.set("a", 1)
    receipts = []

    def change() -> None:
        with cache.deferred_invalidation():
            receipts.append(cache.invalidate("a"))
            raise LookupError

    with pytest.raises(LookupError):
        change()
    assert cache.get("a") == 1
    assert not receipts[0].done


async def test_deferred_blocks_nest_and_are_local_to_their_task(cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2})
    async with cache.deferred_invalidation():
        async with cache.deferred_invalidation():
            await cache.ainvalidate("a")
        assert cache.get("a") == 1

        async def other() -> None:
            await cache.aset("c", 1)

        await asyncio.gather(other())
    assert cache.get_many(["a", "b", "c"]) == {"b": 2, "c": 1}


def test_a_deferred_block_of_one_cache_leaves_another_alone(cache: Cache) -> None:
    with Cache() as other:
        other.set("a", 1)
        with cache.deferred_invalidation():
            other.invalidate("a")
            assert other.get("a") is None


def test_what_is_invalidated_as_its_block_ends_is_applied_at_once(cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2})
    block = cache.deferred_invalidation()
    with block:
        cache.invalidate("a")
        assert cache.get("a") == 1
    # A task that outlives the block may have found it open a moment ago.
    assert block.collect(Invalidation.keys(["b"])) is None
    assert cache.get("a") is None
    block.__exit__(None, None, None)  # left once more, as by a generator that is closed
    cache.invalidate("b")
    assert cache.get("b") is None
