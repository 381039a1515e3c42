"""What the VM domain asks of whoever manages VMs: protocols, so that a manager needs no base class.

A manager implements what is used of it; one that never migrates VMs needs no `migrate_vm`. Its methods may all be
blocking (`VMManager`) or all coroutine functions (`AsyncVMManager`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .models import NodeResources, VMConfig, VMMetrics, VMMigration, VMResources, VMState

if TYPE_CHECKING:
    from .manager import VMCacheManager


class VMManager(Protocol):
    """Manages VMs with blocking calls. Reads return None, or leave out, what does not exist; changes raise."""

    def list_vms(self) -> Iterable[str]:
        """Return the ids of all VMs."""
        raise NotImplementedError

    def list_vm_states(self, node_id: str) -> Iterable[VMState]:
        """Return the states of all VMs on a node."""
        raise NotImplementedError

    def get_vm_states(self, vm_ids: Sequence[str]) -> Mapping[str, VMState]:
        """Return the states of several VMs, by id."""
        raise NotImplementedError

    def get_vm_state(self, vm_id: str) -> VMState | None:
        """Return what a VM is doing."""
        raise NotImplementedError

    def get_vm_resources(self, vm_id: str) -> VMResources | None:
        """Return what a VM has been given."""
        raise NotImplementedError

    def get_vm_migration(self, vm_id: str) -> VMMigration | None:
        """Return a VM's migration that is under way or was the last; None where there was none."""
        raise NotImplementedError

    def get_vm_metrics(self, vm_id: str) -> VMMetrics | None:
        """Return a sample of what a VM uses; None where it is not active."""
        raise NotImplementedError

    def get_vm_config(self, vm_id: str) -> VMConfig | None:
        """Return how a VM was defined."""
        raise NotImplementedError

    def get_node_resources(self, node_id: str) -> NodeResources | None:
        """Return what a node has and has promised."""
        raise NotImplementedError

    def create_vm(self, config: VMConfig) -> None:
        """Define a VM."""

    def delete_vm(self, vm_id: str) -> None:
        """Stop a VM and forget it."""

    def start_vm(self, vm_id: str) -> None:
        """Start a VM."""

    def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        """Ask a VM to shut down; with `force`, take its power away."""

    def pause_vm(self, vm_id: str) -> None:
        """Stop a VM's CPUs."""

    def resume_vm(self, vm_id: str) -> None:
        """Have a paused VM's CPUs go on."""

    def reboot_vm(self, vm_id: str) -> None:
        """Ask a VM to start again."""

    def resize_vm(self, vm_id: str, *, vcpus: int | None = None, memory_bytes: int | None = None) -> None:
        """Give a VM more or less."""

    def migrate_vm(self, vm_id: str, target: str) -> None:
        """Move a VM to another node."""


class AsyncVMManager(Protocol):
    """Manages VMs with coroutines; otherwise as `VMManager`."""

    async def list_vms(self) -> Iterable[str]:
        """Return the ids of all VMs."""
        raise NotImplementedError

    async def list_vm_states(self, node_id: str) -> Iterable[VMState]:
        """Return the states of all VMs on a node."""
        raise NotImplementedError

    async def get_vm_states(self, vm_ids: Sequence[str]) -> Mapping[str, VMState]:
        """Return the states of several VMs, by id."""
        raise NotImplementedError

    async def get_vm_state(self, vm_id: str) -> VMState | None:
        """Return what a VM is doing."""
        raise NotImplementedError

    async def get_vm_resources(self, vm_id: str) -> VMResources | None:
        """Return what a VM has been given."""
        raise NotImplementedError

    async def get_vm_migration(self, vm_id: str) -> VMMigration | None:
        """Return a VM's migration."""
        raise NotImplementedError

    async def get_vm_metrics(self, vm_id: str) -> VMMetrics | None:
        """Return a sample of what a VM uses."""
        raise NotImplementedError

    async def get_vm_config(self, vm_id: str) -> VMConfig | None:
        """Return how a VM was defined."""
        raise NotImplementedError

    async def get_node_resources(self, node_id: str) -> NodeResources | None:
        """Return what a node has and has promised."""
        raise NotImplementedError

    async def create_vm(self, config: VMConfig) -> None:
        """Define a VM."""

    async def delete_vm(self, vm_id: str) -> None:
        """Stop a VM and forget it."""

    async def start_vm(self, vm_id: str) -> None:
        """Start a VM."""

    async def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        """Ask a VM to shut down."""

    async def pause_vm(self, vm_id: str) -> None:
        """Stop a VM's CPUs."""

    async def resume_vm(self, vm_id: str) -> None:
        """Have a paused VM's CPUs go on."""

    async def reboot_vm(self, vm_id: str) -> None:
        """Ask a VM to start again."""

    async def resize_vm(self, vm_id: str, *, vcpus: int | None = None, memory_bytes: int | None = None) -> None:
        """Give a VM more or less."""

    async def migrate_vm(self, vm_id: str, target: str) -> None:
        """Move a VM to another node."""


@runtime_checkable
class VMEventSource(Protocol):
    """A manager that knows of changes by itself, whoever made them."""

    def subscribe(self, entries: VMCacheManager) -> Callable[[], None]:
        """Tell these entries of every event from now on; return a function that ends it."""
        raise NotImplementedError
