"""`CachedVMManager`: any manager of VMs, with its reads cached and its changes invalidating.

A change is announced before it begins and invalidated when it ends, however it ends: a manager that fails halfway may
have done half of it, and while it is under way nobody can tell what a read returns. So nothing that a change concerns
is kept meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from novacron_cache import Cache, CacheScopeWarning

from .calling import READS, aask, ask, blocking
from .manager import VMCacheManager
from .models import NodeResources, VMConfig, VMMetrics, VMMigration, VMResources, VMState, VMStatus
from .naming import Affected
from .protocol import AsyncVMManager, VMEventSource, VMManager
from .settings import VMCacheSettings

if TYPE_CHECKING:
    from .warming import Warmer


@dataclass(frozen=True, slots=True)
class VM:
    """What is known of one VM together."""

    config: VMConfig
    state: VMState | None
    resources: VMResources | None


_managers: WeakKeyDictionary[Cache, dict[str, ref[Any]]] = WeakKeyDictionary()


def _check_scope(cache: Cache, scope: str, manager: Any) -> None:
    """Warn when two managers that both exist share a scope, and with it their entries."""
    known = _managers.setdefault(cache, {})
    first = known.get(scope)
    other = None if first is None else first()
    if other is not None and other is not manager:
        warnings.warn(
            f"two managers share the entries of {f'scope {scope!r}' if scope else 'the cache'}: pass scope='...' with "
            f"a name for each hypervisor",
            CacheScopeWarning,
            stacklevel=3,
        )
        return
    with contextlib.suppress(TypeError):  # what cannot be referred to weakly cannot be told from a later one
        known[scope] = ref(manager)


class CachedVMManager:
    """A manager of VMs whose reads are cached and whose changes invalidate.

    It is used as the manager itself. Every method has an `a`-prefixed twin: a blocking manager is then called in a
    thread, an asynchronous one is awaited. What the manager raises is raised here, and nothing is cached of it.

    Args:
        manager: a `VMManager` or `AsyncVMManager`. One that is a `VMEventSource` too, such as `LibvirtVMManager`, is
            subscribed to, so that changes made by others are seen.
        cache: where to keep what it says; None takes the default cache.
        settings: how long, and what to keep warm.
        scope: tells this manager from others that share the cache; None takes its `cache_scope`, where it has one.
        events: whether to subscribe. What another process has kept is suspect to one that subscribes, for nobody may
            have listened meanwhile; a short-lived process beside others that listen had better not.

    Attributes:
        entries: the `VMCacheManager` that holds what is cached; tell it of events from elsewhere.
        warmer: what keeps VMs warm; `start_warming` starts it.

    Example:
        >>> from novacron_cache import Cache
        >>> from novacron_cache.vm import CachedVMManager, VMState
        >>> class Manager:
        ...     asked = 0
        ...     def get_vm_state(self, vm_id):
        ...         self.asked += 1
        ...         return VMState(vm_id=vm_id, node_id="node-1", status="running")
        ...     def stop_vm(self, vm_id, *, force=False): ...
        >>> manager = Manager()
        >>> with Cache() as cache, CachedVMManager(manager, cache, scope="hv-1") as vms:
        ...     _ = vms.get_vm_state("vm-1"), vms.get_vm_state("vm-1")
        ...     vms.stop_vm("vm-1")
        ...     _ = vms.get_vm_state("vm-1")
        >>> manager.asked
        2
    """

    def __init__(
        self,
        manager: VMManager | AsyncVMManager | Any,
        cache: Cache | None = None,
        settings: VMCacheSettings | None = None,
        *,
        scope: str | None = None,
        events: bool = True,
    ) -> None:
        from .warming import Warmer

        self.manager: Any = manager
        if scope is None:
            scope = str(getattr(manager, "cache_scope", ""))
        self.entries = VMCacheManager(cache, settings, scope=scope)
        self._names = self.entries.names
        self._ask = {name: partial(ask, manager, name) for name in READS}
        self._aask = {name: partial(aask, manager, name) for name in READS}
        _check_scope(self.entries.cache, scope, manager)
        self.warmer: Warmer = Warmer(self)
        self._unsubscribe: Callable[[], None] | None = None
        if events and isinstance(manager, VMEventSource):
            self._unsubscribe = manager.subscribe(self.entries)

    def __repr__(self) -> str:
        return f"<CachedVMManager {self.entries.names.scope or '(no scope)'} of {self.manager!r}>"

    # -- life -------------------------------------------------------------------------------------------------------

    def start_warming(self) -> None:
        """Start warming in a thread, where the settings enable it; it ends with this manager, or with the cache."""
        if self.entries.settings.enable_warmup:
            self.warmer.start()

    async def astart_warming(self) -> None:
        """Start warming in a task of the running loop."""
        if self.entries.settings.enable_warmup:
            await self.warmer.astart()

    def close(self) -> None:
        """Stop warming and listening; the manager and the cache stay open."""
        self.warmer.stop()
        self._end_subscription()

    async def aclose(self) -> None:
        """Do what `close` does, asynchronously."""
        await self.warmer.astop()
        self._end_subscription()

    def _end_subscription(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def __enter__(self) -> CachedVMManager:
        self.start_warming()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> CachedVMManager:
        await self.astart_warming()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # -- how the manager is called ----------------------------------------------------------------------------------

    def _change(self, affected: Affected, name: str, *args: Any, **kwargs: Any) -> None:
        """Have the manager change something, around which nothing that it concerns is kept."""
        method = blocking(self.manager, name)
        with self.entries.cache.invalidating(keys=affected.keys, tags=affected.tags):
            method(*args, **kwargs)

    async def _achange(self, affected: Affected, name: str, *args: Any, **kwargs: Any) -> None:
        """Do what `_change` does, asynchronously."""
        method: Callable[..., Any] = getattr(self.manager, name)
        if not inspect.iscoroutinefunction(method):
            # All of it in the thread: that goes on when its caller is cancelled, and the change comes all the same.
            await asyncio.to_thread(self._change, affected, name, *args, **kwargs)
            return
        async with self.entries.cache.invalidating(keys=affected.keys, tags=affected.tags):
            await method(*args, **kwargs)

    def _moving(self, vm_id: str, source: str | None, target: str) -> Affected:
        # A manager of one host no longer has the VM afterwards.
        return self._names.came_or_went(vm_id, source) | self._names.migrated(vm_id, source, target)

    # -- reads ------------------------------------------------------------------------------------------------------

    def get_vm_state(self, vm_id: str) -> VMState | None:
        """Return what a VM is doing, or None."""
        return self.entries.get_vm_state(vm_id, self._ask["get_vm_state"])

    async def aget_vm_state(self, vm_id: str) -> VMState | None:
        """Do what `get_vm_state` does, asynchronously."""
        return await self.entries.aget_vm_state(vm_id, self._aask["get_vm_state"])

    def get_vm_resources(self, vm_id: str) -> VMResources | None:
        """Return what a VM has been given, or None."""
        return self.entries.get_vm_resources(vm_id, self._ask["get_vm_resources"])

    async def aget_vm_resources(self, vm_id: str) -> VMResources | None:
        """Do what `get_vm_resources` does, asynchronously."""
        return await self.entries.aget_vm_resources(vm_id, self._aask["get_vm_resources"])

    def get_vm_migration(self, vm_id: str) -> VMMigration | None:
        """Return a VM's migration, or None."""
        return self.entries.get_vm_migration(vm_id, self._ask["get_vm_migration"])

    async def aget_vm_migration(self, vm_id: str) -> VMMigration | None:
        """Do what `get_vm_migration` does, asynchronously."""
        return await self.entries.aget_vm_migration(vm_id, self._aask["get_vm_migration"])

    def get_vm_metrics(self, vm_id: str) -> VMMetrics | None:
        """Return a sample of what a VM uses, or None."""
        return self.entries.get_vm_metrics(vm_id, self._ask["get_vm_metrics"])

    async def aget_vm_metrics(self, vm_id: str) -> VMMetrics | None:
        """Do what `get_vm_metrics` does, asynchronously."""
        return await self.entries.aget_vm_metrics(vm_id, self._aask["get_vm_metrics"])

    def get_vm_config(self, vm_id: str) -> VMConfig | None:
        """Return how a VM was defined, or None."""
        return self.entries.get_vm_config(vm_id, self._ask["get_vm_config"])

    async def aget_vm_config(self, vm_id: str) -> VMConfig | None:
        """Do what `get_vm_config` does, asynchronously."""
        return await self.entries.aget_vm_config(vm_id, self._aask["get_vm_config"])

    def get_node_resources(self, node_id: str) -> NodeResources | None:
        """Return what a node has and has promised, or None."""
        return self.entries.get_node_resources(node_id, self._ask["get_node_resources"])

    async def aget_node_resources(self, node_id: str) -> NodeResources | None:
        """Do what `get_node_resources` does, asynchronously."""
        return await self.entries.aget_node_resources(node_id, self._aask["get_node_resources"])

    def get_vm_states(self, vm_ids: Iterable[str]) -> dict[str, VMState]:
        """Return the states of several VMs by id, without those that do not exist; asks for the missing ones once."""
        return self.entries.get_vm_states(vm_ids, self._ask["get_vm_states"])

    async def aget_vm_states(self, vm_ids: Iterable[str]) -> dict[str, VMState]:
        """Do what `get_vm_states` does, asynchronously."""
        return await self.entries.aget_vm_states(vm_ids, self._aask["get_vm_states"])

    def get_vm(self, vm_id: str) -> VM | None:
        """Return what is known of a VM together, or None where it does not exist."""
        config = self.get_vm_config(vm_id)
        return None if config is None else VM(config, self.get_vm_state(vm_id), self.get_vm_resources(vm_id))

    async def aget_vm(self, vm_id: str) -> VM | None:
        """Do what `get_vm` does, asynchronously."""
        config, state, resources = await asyncio.gather(
            self.aget_vm_config(vm_id), self.aget_vm_state(vm_id), self.aget_vm_resources(vm_id)
        )
        return None if config is None else VM(config, state, resources)

    def list_vms(self) -> tuple[str, ...]:
        """Return the ids of all VMs."""
        return self.entries.list_vms(self._ask["list_vms"]) or ()

    async def alist_vms(self) -> tuple[str, ...]:
        """Do what `list_vms` does, asynchronously."""
        return await self.entries.alist_vms(self._aask["list_vms"]) or ()

    def list_vm_states(self, node_id: str) -> tuple[VMState, ...]:
        """Return the states of all VMs on a node: one entry and one call of the manager, however many there are."""
        return self.entries.list_vm_states(node_id, self._ask["list_vm_states"]) or ()

    async def alist_vm_states(self, node_id: str) -> tuple[VMState, ...]:
        """Do what `list_vm_states` does, asynchronously."""
        return await self.entries.alist_vm_states(node_id, self._aask["list_vm_states"]) or ()

    # -- changes ----------------------------------------------------------------------------------------------------
    #
    # `node_id` is no business of the manager: it says whose entries to invalidate. Without it every node's are.

    def create_vm(self, config: VMConfig) -> None:
        """Define a VM."""
        self._change(self._names.came_or_went(config.vm_id, config.node_id), "create_vm", config)

    async def acreate_vm(self, config: VMConfig) -> None:
        """Do what `create_vm` does, asynchronously."""
        await self._achange(self._names.came_or_went(config.vm_id, config.node_id), "create_vm", config)

    def delete_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Stop a VM and forget it."""
        self._change(self._names.came_or_went(vm_id, node_id), "delete_vm", vm_id)

    async def adelete_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Do what `delete_vm` does, asynchronously."""
        await self._achange(self._names.came_or_went(vm_id, node_id), "delete_vm", vm_id)

    def start_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Start a VM."""
        self._change(self._names.state_changed(vm_id, VMStatus.STOPPED, VMStatus.RUNNING, node_id), "start_vm", vm_id)

    async def astart_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Do what `start_vm` does, asynchronously."""
        await self._achange(
            self._names.state_changed(vm_id, VMStatus.STOPPED, VMStatus.RUNNING, node_id), "start_vm", vm_id
        )

    def stop_vm(self, vm_id: str, *, force: bool = False, node_id: str | None = None) -> None:
        """Ask a VM to shut down; with `force`, take its power away."""
        self._change(
            self._names.state_changed(vm_id, VMStatus.RUNNING, VMStatus.STOPPED, node_id),
            "stop_vm",
            vm_id,
            force=force,
        )

    async def astop_vm(self, vm_id: str, *, force: bool = False, node_id: str | None = None) -> None:
        """Do what `stop_vm` does, asynchronously."""
        await self._achange(
            self._names.state_changed(vm_id, VMStatus.RUNNING, VMStatus.STOPPED, node_id), "stop_vm", vm_id, force=force
        )

    def pause_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Stop a VM's CPUs."""
        self._change(self._names.state_changed(vm_id, VMStatus.RUNNING, VMStatus.PAUSED, node_id), "pause_vm", vm_id)

    async def apause_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Do what `pause_vm` does, asynchronously."""
        await self._achange(
            self._names.state_changed(vm_id, VMStatus.RUNNING, VMStatus.PAUSED, node_id), "pause_vm", vm_id
        )

    def resume_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Have a paused VM's CPUs go on."""
        self._change(self._names.state_changed(vm_id, VMStatus.PAUSED, VMStatus.RUNNING, node_id), "resume_vm", vm_id)

    async def aresume_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Do what `resume_vm` does, asynchronously."""
        await self._achange(
            self._names.state_changed(vm_id, VMStatus.PAUSED, VMStatus.RUNNING, node_id), "resume_vm", vm_id
        )

    def reboot_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Ask a VM to start again."""
        self._change(self._names.rebooted(vm_id, node_id), "reboot_vm", vm_id)

    async def areboot_vm(self, vm_id: str, *, node_id: str | None = None) -> None:
        """Do what `reboot_vm` does, asynchronously."""
        await self._achange(self._names.rebooted(vm_id, node_id), "reboot_vm", vm_id)

    def resize_vm(
        self, vm_id: str, *, vcpus: int | None = None, memory_bytes: int | None = None, node_id: str | None = None
    ) -> None:
        """Give a VM more or less."""
        self._change(
            self._names.resources_changed(vm_id, node_id),
            "resize_vm",
            vm_id,
            vcpus=vcpus,
            memory_bytes=memory_bytes,
        )

    async def aresize_vm(
        self, vm_id: str, *, vcpus: int | None = None, memory_bytes: int | None = None, node_id: str | None = None
    ) -> None:
        """Do what `resize_vm` does, asynchronously."""
        await self._achange(
            self._names.resources_changed(vm_id, node_id),
            "resize_vm",
            vm_id,
            vcpus=vcpus,
            memory_bytes=memory_bytes,
        )

    def migrate_vm(self, vm_id: str, target: str, *, node_id: str | None = None) -> None:
        """Move a VM to another node."""
        self._change(self._moving(vm_id, node_id, target), "migrate_vm", vm_id, target)

    async def amigrate_vm(self, vm_id: str, target: str, *, node_id: str | None = None) -> None:
        """Do what `migrate_vm` does, asynchronously."""
        await self._achange(self._moving(vm_id, node_id, target), "migrate_vm", vm_id, target)
