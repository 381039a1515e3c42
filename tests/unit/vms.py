"""A model of virtual machines, and a source of them that counts its calls."""

from __future__ import annotations

from typing import Any

from novacron_cache import CacheModel


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str = "node-1"
    status: str = "running"


class Loader:
    """Counts its calls; stands for a slow source."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def vm(self, vm_id: str) -> VMState:
        self.calls.append(vm_id)
        return VMState(vm_id=vm_id, node_id="node-1")
