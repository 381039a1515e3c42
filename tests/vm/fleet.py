"""Managers of simulated VMs, which note what they were asked."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from novacron_cache.vm import (
    NodeResources,
    UnknownVMError,
    VMConfig,
    VMMetrics,
    VMMigration,
    VMResources,
    VMState,
    VMStatus,
)

GIB = 1 << 30
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def state(vm_id: str = "vm-1", node_id: str = "node-1", status: str = "running") -> VMState:
    return VMState(vm_id=vm_id, node_id=node_id, status=VMStatus(status))


def resources(vm_id: str = "vm-1", node_id: str = "node-1", vcpus: int = 2) -> VMResources:
    return VMResources(
        vm_id=vm_id, node_id=node_id, vcpus=vcpus, vcpus_max=8, memory_bytes=GIB, memory_max_bytes=2 * GIB
    )


def migration(vm_id: str = "vm-1", source: str = "node-1", target: str = "node-2") -> VMMigration:
    return VMMigration.model_validate(
        {"vm_id": vm_id, "source_node": source, "target_node": target, "status": "copying", "total_bytes": GIB}
    )


def metrics(vm_id: str = "vm-1", node_id: str = "node-1", cpu_seconds: float = 1.0) -> VMMetrics:
    return VMMetrics(vm_id=vm_id, node_id=node_id, sampled_at=NOON, vcpus=2, cpu_seconds=cpu_seconds)


def config(vm_id: str = "vm-1", node_id: str = "node-1") -> VMConfig:
    return VMConfig(vm_id=vm_id, node_id=node_id, vcpus=2, memory_bytes=GIB)


def node(node_id: str = "node-1", allocated: int = 4) -> NodeResources:
    return NodeResources(node_id=node_id, cpus=8, memory_bytes=64 * GIB, vcpus_allocated=allocated)


class Fleet:
    """A blocking manager. `asked` has its calls in order; `fails` is raised by changes after half of their work."""

    def __init__(self, vms: Mapping[str, str] | None = None) -> None:
        self.vms = {vm_id: state(vm_id, node_id) for vm_id, node_id in (vms or {}).items()}
        self.asked: list[tuple[Any, ...]] = []
        self.fails: Exception | None = None
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    def _read(self, *call: Any) -> None:
        with self.lock:
            self.asked.append(call)

    def list_vms(self) -> Iterable[str]:
        self._read("list_vms")
        return list(self.vms)

    def list_vm_states(self, node_id: str) -> Iterable[VMState]:
        self._read("list_vm_states", node_id)
        return [one for one in self.vms.values() if one.node_id == node_id]

    def get_vm_states(self, vm_ids: Sequence[str]) -> Mapping[str, VMState]:
        self._read("get_vm_states", *vm_ids)
        return {vm_id: self.vms[vm_id] for vm_id in vm_ids if vm_id in self.vms}

    def get_vm_state(self, vm_id: str) -> VMState | None:
        self._read("get_vm_state", vm_id)
        return self.vms.get(vm_id)

    def get_vm_resources(self, vm_id: str) -> VMResources | None:
        self._read("get_vm_resources", vm_id)
        return resources(vm_id, self.vms[vm_id].node_id) if vm_id in self.vms else None

    def get_vm_migration(self, vm_id: str) -> VMMigration | None:
        self._read("get_vm_migration", vm_id)
        return None

    def get_vm_metrics(self, vm_id: str) -> VMMetrics | None:
        self._read("get_vm_metrics", vm_id)
        return metrics(vm_id, self.vms[vm_id].node_id) if vm_id in self.vms else None

    def get_vm_config(self, vm_id: str) -> VMConfig | None:
        self._read("get_vm_config", vm_id)
        return config(vm_id, self.vms[vm_id].node_id) if vm_id in self.vms else None

    def get_node_resources(self, node_id: str) -> NodeResources | None:
        self._read("get_node_resources", node_id)
        return node(node_id, 2 * sum(one.node_id == node_id for one in self.vms.values()))

    def _change(self, vm_id: str, **fields: Any) -> None:
        if vm_id not in self.vms:
            raise UnknownVMError(f"there is no VM {vm_id!r}", vm_id=vm_id)
        self.vms[vm_id] = self.vms[vm_id].model_copy(update=fields)
        if self.fails is not None:
            raise self.fails

    def create_vm(self, config: VMConfig) -> None:
        self.vms[config.vm_id] = state(config.vm_id, config.node_id, "stopped")

    def delete_vm(self, vm_id: str) -> None:
        self._change(vm_id)
        del self.vms[vm_id]

    def start_vm(self, vm_id: str) -> None:
        self._change(vm_id, status=VMStatus.RUNNING)

    def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        self._change(vm_id, status=VMStatus.STOPPED)

    def pause_vm(self, vm_id: str) -> None:
        self._change(vm_id, status=VMStatus.PAUSED)

    def resume_vm(self, vm_id: str) -> None:
        self._change(vm_id, status=VMStatus.RUNNING)

    def reboot_vm(self, vm_id: str) -> None:
        self._change(vm_id)

    def resize_vm(self, vm_id: str, *, vcpus: int | None = None, memory_bytes: int | None = None) -> None:
        self._change(vm_id)

    def migrate_vm(self, vm_id: str, target: str) -> None:
        self._change(vm_id, node_id=target)


class AsyncFleet:
    """The same, awaited."""

    def __init__(self, vms: Mapping[str, str] | None = None) -> None:
        self.fleet = Fleet(vms)

    async def list_vms(self) -> Iterable[str]:
        return self.fleet.list_vms()

    async def list_vm_states(self, node_id: str) -> Iterable[VMState]:
        return self.fleet.list_vm_states(node_id)

    async def get_vm_states(self, vm_ids: Sequence[str]) -> Mapping[str, VMState]:
        return self.fleet.get_vm_states(vm_ids)

    async def get_vm_state(self, vm_id: str) -> VMState | None:
        return self.fleet.get_vm_state(vm_id)

    async def get_vm_config(self, vm_id: str) -> VMConfig | None:
        return self.fleet.get_vm_config(vm_id)

    async def get_vm_resources(self, vm_id: str) -> VMResources | None:
        return self.fleet.get_vm_resources(vm_id)

    async def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        self.fleet.stop_vm(vm_id, force=force)
