"""Each model can be stored, read, read in batches and loaded by its own methods, in both forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vm import fleet

from novacron_cache import Cache, DeclarationError
from novacron_cache.vm import NodeResources, VMCacheManager, VMState

# Name of one, name of several, and two values of different ids.
MODELS: list[tuple[str, str, Any, Any]] = [
    ("vm_state", "vm_states", fleet.state("a"), fleet.state("b")),
    ("vm_resources", "vms_resources", fleet.resources("a"), fleet.resources("b")),
    ("vm_migration", "vm_migrations", fleet.migration("a"), fleet.migration("b")),
    ("vm_metrics", "vms_metrics", fleet.metrics("a"), fleet.metrics("b")),
    ("vm_config", "vm_configs", fleet.config("a"), fleet.config("b")),
    ("node_resources", "nodes_resources", fleet.node("a"), fleet.node("b")),
]
each_model = pytest.mark.parametrize(("one", "many", "a", "b"), MODELS, ids=[model[0] for model in MODELS])


@pytest.fixture(params=["", "hv-1"], ids=["no scope", "scoped"])
def vms(request: pytest.FixtureRequest) -> Iterator[VMCacheManager]:
    with Cache() as cache:
        yield VMCacheManager(cache, scope=request.param)


@each_model
def test_what_is_stored_is_read(vms: VMCacheManager, one: str, many: str, a: Any, b: Any) -> None:
    get, get_many = getattr(vms, f"get_{one}"), getattr(vms, f"get_{many}")
    assert (get("a"), get_many(["a", "b"])) == (None, {})
    getattr(vms, f"set_{one}")(a)
    assert (get("a"), get("b")) == (a, None)
    assert get_many(["b", "a"]) == {"a": a}
    asked: list[Any] = []

    def load(ids: list[str]) -> dict[str, Any]:
        asked.append(ids)
        return {"b": b}

    assert list(get_many(["b", "a", "c"], load).items()) == [("b", b), ("a", a)]
    assert get_many(["a", "b", "c"], load) == {"a": a, "b": b}
    assert asked == [["b", "c"]]
    assert get("b") == b
    assert get("b", pytest.fail) == b
    assert get("c", pytest.fail) is None


@each_model
async def test_what_is_stored_is_awaited(vms: VMCacheManager, one: str, many: str, a: Any, b: Any) -> None:
    get, get_many = getattr(vms, f"aget_{one}"), getattr(vms, f"aget_{many}")
    assert (await get("a"), await get_many(["a", "b"])) == (None, {})
    await getattr(vms, f"aset_{one}")(a)
    assert (await get("a"), await get("b")) == (a, None)

    async def load_many(ids: list[str]) -> dict[str, Any]:
        assert ids == ["b"]
        return {"b": b}

    async def load(_id: str) -> Any:
        return None

    assert await get_many(["b", "a"], load_many) == {"b": b, "a": a}
    assert await get("c", load) is None
    assert getattr(vms, f"get_{one}")("b") == b


async def test_listings_are_kept_as_one_entry(vms: VMCacheManager) -> None:
    assert (vms.list_vms(), vms.list_vm_states("node-1")) == (None, None)
    assert (await vms.alist_vms(), await vms.alist_vm_states("node-1")) == (None, None)

    async def ids() -> list[str]:
        return ["a"]

    async def states(node_id: str) -> list[VMState]:
        return [fleet.state("a", node_id)]

    assert await vms.alist_vms(ids) == vms.list_vms() == ("a",)
    assert await vms.alist_vm_states("node-1", states) == vms.list_vm_states("node-1") == (fleet.state("a"),)
    assert vms.list_vm_states("node-2") is None


def test_values_of_the_wrong_kind_are_refused(vms: VMCacheManager) -> None:
    with pytest.raises(Exception, match="expected NodeResources"):
        vms.set_node_resources(fleet.state())  # type: ignore[arg-type]  # the mistake
    assert vms.get_node_resources("node-1") is None


def test_nothing_says_how_to_load_what_is_refreshed(vms: VMCacheManager) -> None:
    with pytest.raises(DeclarationError, match="pass `load`, or use CachedVMManager"):
        vms._states.one.refresh("a")


def test_a_node_s_own_entry_is_not_mixed_up_with_a_vm_s(vms: VMCacheManager) -> None:
    vms.set_vm_state(fleet.state("a"))
    vms.set_node_resources(fleet.node("a"))
    vms.invalidate_vm("a")
    assert isinstance(vms.get_node_resources("a"), NodeResources)
    assert vms.get_vm_state("a") is None


def test_what_is_read_counts_among_the_hits_and_misses_of_its_model(vms: VMCacheManager) -> None:
    vms.get_vm_state("a")
    vms.set_vm_state(fleet.state("a"))
    vms.get_vm_state("a")
    vms.get_vm_states(["a", "b"])
    stats = vms.cache.stats("VMState")
    assert (stats.hits, stats.misses) == ({"memory": 2}, {"cold": 2})


async def test_what_is_awaited_counts_too(vms: VMCacheManager) -> None:
    await vms.aget_vm_state("a")
    await vms.aset_vm_state(fleet.state("a"))
    await vms.aget_vm_states(["a", "b"])
    stats = vms.cache.stats("VMState")
    assert (stats.hits, stats.misses) == ({"memory": 1}, {"cold": 2})


@each_model
async def test_one_id_is_not_taken_for_the_ids_of_its_letters(
    vms: VMCacheManager, one: str, many: str, a: Any, b: Any
) -> None:
    asked: list[Any] = []
    with pytest.raises(DeclarationError, match=r"'vm-1' is one id where several are asked for; write \['vm-1'\]"):
        getattr(vms, f"get_{many}")("vm-1", asked.append)
    with pytest.raises(DeclarationError, match="'vm-1' is one id"):
        await getattr(vms, f"aget_{many}")("vm-1")
    assert asked == []
