"""What the models say of VMs, how long they are kept, and that every one of them survives being stored."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from vm import fleet

from novacron_cache import Cache, CacheModel, CacheSettings
from novacron_cache.vm import (
    DiskAllocation,
    MigrationStatus,
    NodeResources,
    TransitionError,
    VMConfig,
    VMMetrics,
    VMMigration,
    VMResources,
    VMState,
    VMStatus,
)

S = VMStatus


@pytest.mark.parametrize(
    ("model", "seconds"),
    [(VMState, 30), (VMResources, 120), (VMMigration, 60), (VMMetrics, 15), (VMConfig, 900), (NodeResources, 30)],
)
def test_each_model_has_its_time_to_live(model: type[CacheModel], seconds: int) -> None:
    made: dict[type[CacheModel], Any] = {
        VMState: fleet.state(), VMResources: fleet.resources(), VMMigration: fleet.migration(),
        VMMetrics: fleet.metrics(), VMConfig: fleet.config(), NodeResources: fleet.node(),
    }  # fmt: skip
    with Cache(CacheSettings.model_validate({"memory": {"ttl": "1h"}})) as cache:
        model.entries.using(cache).set(made[model])
        key = "node:node-1" if model is NodeResources else "vm:vm-1"
        kind = {VMState: "", NodeResources: ""}.get(model, f":{model.__name__.removeprefix('VM').lower()}")
        left = cache.ttl(key + kind, model=model)
        assert left is not None
        assert seconds - 1 < left <= seconds


@pytest.mark.parametrize("serialization", ["json", "msgpack"])
def test_every_model_survives_the_disk(tmp_path: Any, serialization: str) -> None:
    values: list[Any] = [
        fleet.state().model_copy(update={"since": fleet.NOON, "agent_connected": True}),
        fleet.resources().model_copy(update={"disks": (DiskAllocation(device="vda", capacity_bytes=1),)}),
        fleet.migration(),
        fleet.metrics(),
        fleet.config(),
        fleet.node(),
    ]
    settings = CacheSettings.model_validate(
        {"namespace": "t", "disk": {"path": tmp_path}, "serialization": serialization}
    )
    with Cache(settings) as cache:
        for value in values:
            type(value).entries.using(cache).set(value)
    with Cache(settings) as cache:
        for value in values:
            entries = type(value).entries.using(cache)
            id_ = value.node_id if isinstance(value, NodeResources) else value.vm_id
            assert entries.get(id_) == value


def test_values_in_memory_are_shared_and_not_copied() -> None:
    with Cache() as cache:
        values: list[Any] = [fleet.state(), fleet.resources(), fleet.metrics(), fleet.config(), fleet.migration()]
        for value in values:
            entries = type(value).entries.using(cache)
            entries.set(value)
            assert entries.get("vm-1") is entries.get("vm-1")


def test_models_are_frozen_and_checked() -> None:
    with pytest.raises(ValidationError):
        fleet.state().status = S.STOPPED
    with pytest.raises(ValidationError):
        VMState.model_validate({"vm_id": "vm-1", "node_id": "n", "status": "runing"})
    with pytest.raises(ValidationError):
        NodeResources(node_id="n", cpus=-1, memory_bytes=0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (S.CREATING, S.STOPPED), (S.STOPPED, S.RUNNING), (S.RUNNING, S.MIGRATING), (S.MIGRATING, S.RUNNING),
        (S.RUNNING, S.RUNNING), (S.STOPPING, S.STOPPED), (S.CRASHED, S.STARTING), (S.UNKNOWN, S.CREATING),
        (S.DELETED, S.UNKNOWN),
    ],
)  # fmt: skip
def test_a_vm_may_go_on(old: VMStatus, new: VMStatus) -> None:
    assert old.may_become(new)
    assert fleet.state(status=old).to(new, reason="asked").status is new


@pytest.mark.parametrize(
    ("old", "new"),
    [(S.DELETED, S.RUNNING), (S.RUNNING, S.CREATING), (S.STOPPED, S.SUSPENDED), (S.RUNNING, S.DELETED)],
)
def test_a_vm_does_not_go_everywhere(old: VMStatus, new: VMStatus) -> None:
    assert not old.may_become(new)
    with pytest.raises(TransitionError, match=f"vm-1 cannot go from {old.value} to {new.value}") as caught:
        fleet.state(status=old).to(new)
    assert caught.value.vm_id == "vm-1"


def test_every_status_can_be_left_but_the_last() -> None:
    for one in S:
        onward = [other for other in S if other not in (one, S.UNKNOWN) and one.may_become(other)]
        assert bool(onward) == (one is not S.DELETED)


def test_active_is_what_occupies_a_node() -> None:
    assert {one for one in S if not one.active} == {S.CREATING, S.STOPPED, S.CRASHED, S.DELETED}


def test_the_progress_of_a_migration_is_what_does_not_remain() -> None:
    moving = fleet.migration().model_copy(
        update={"total_bytes": 1000, "copied_bytes": 1500, "remaining_bytes": 250, "elapsed_seconds": 3.0}
    )
    assert moving.progress == 0.75
    assert moving.bytes_per_second == 500
    assert moving.model_copy(update={"status": MigrationStatus.COMPLETED}).progress == 1.0
    assert moving.model_copy(update={"total_bytes": 0}).progress == 0.0
    assert [one for one in MigrationStatus if one.over] == ["completed", "failed", "cancelled"]


def test_two_samples_make_a_rate() -> None:
    first = fleet.metrics(cpu_seconds=10)
    later = fleet.metrics(cpu_seconds=13).model_copy(update={"sampled_at": fleet.NOON + timedelta(seconds=2)})
    assert later.cpu_percent_since(first) == 75
    assert first.cpu_percent_since(later) is None
    assert later.cpu_percent_since(fleet.metrics("vm-2")) is None
    restarted = later.model_copy(update={"cpu_seconds": 0.1})
    assert restarted.cpu_percent_since(first) is None


def test_memory_is_a_share_where_the_guest_tells() -> None:
    told = fleet.metrics().model_copy(update={"memory_used_bytes": 1, "memory_available_bytes": 4})
    assert (fleet.metrics().memory_percent, told.memory_percent) == (None, 25)


def test_a_node_knows_how_far_it_is_promised() -> None:
    node = NodeResources(
        node_id="n", cpus=8, memory_bytes=64 * fleet.GIB, vcpus_allocated=12, memory_allocated_bytes=48 * fleet.GIB
    )
    assert (node.cpu_overcommit, node.memory_overcommit) == (1.5, 0.75)
    assert not node.fits(2, fleet.GIB)
    assert node.fits(2, fleet.GIB, cpu_overcommit=2)
    assert not node.fits(2, 32 * fleet.GIB, cpu_overcommit=2)
    assert NodeResources(node_id="n", cpus=0, memory_bytes=0).cpu_overcommit == 0


def test_disks_of_unknown_size_count_as_nothing() -> None:
    disks = (DiskAllocation(device="vda", capacity_bytes=5), DiskAllocation(device="vdb"))
    assert fleet.resources().model_copy(update={"disks": disks}).disk_bytes == 5
