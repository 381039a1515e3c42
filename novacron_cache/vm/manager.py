"""`VMCacheManager`: what is cached of VMs, and the lifecycle events that say what of it no longer holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from novacron_cache import Cache, DeclarationError, Receipt, default_cache

from .entries import VMEntries
from .models import VMStatus
from .naming import Affected, Names, status_of
from .settings import VMCacheSettings


class VMCacheManager(VMEntries):
    """What is cached of the VMs and nodes in one scope, and what each lifecycle event invalidates of it.

    Events may come for VMs that nobody has asked for, twice, and in any order: an invalidation of what is not there
    costs as little as any other. Tell which node an event concerns where you know it, and only that node's entries go;
    otherwise those of every node in the scope do. Each method has an `a`-prefixed twin.

    Args:
        cache: where to keep it; None takes the default cache.
        settings: how long; None takes the defaults.
        scope: tells this hypervisor from others that share the cache; empty where there is only one.

    Raises:
        DeclarationError: the scope is no text.

    Example:
        >>> from novacron_cache import Cache
        >>> from novacron_cache.vm import VMCacheManager, VMState
        >>> cache = Cache()
        >>> vms = VMCacheManager(cache)
        >>> vms.set_vm_state(VMState(vm_id="vm-1", node_id="node-1", status="running"))
        >>> vms.get_vm_state("vm-1").status.value
        'running'
        >>> vms.on_vm_state_change("vm-1", "running", "stopped", node_id="node-1").done
        True
        >>> vms.get_vm_state("vm-1") is None
        True
        >>> cache.close()
    """

    def __init__(self, cache: Cache | None = None, settings: VMCacheSettings | None = None, *, scope: str = "") -> None:
        super().__init__(
            cache if cache is not None else default_cache(),
            settings if settings is not None else VMCacheSettings(),
            Names(scope),
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.names.scope or '(no scope)'} over {self.cache!r}>"

    # -- events -----------------------------------------------------------------------------------------------------

    def on_vm_created(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Invalidate what was known of a VM, "there is none" included, the list of VMs, and its node's entries."""
        return self.invalidate(self.names.came_or_went(vm_id, node_id))

    async def aon_vm_created(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Do what `on_vm_created` does, asynchronously."""
        return await self.ainvalidate(self.names.came_or_went(vm_id, node_id))

    def on_vm_deleted(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Invalidate everything that was known of a VM, the list of VMs, and its node's entries."""
        return self.invalidate(self.names.came_or_went(vm_id, node_id))

    async def aon_vm_deleted(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Do what `on_vm_deleted` does, asynchronously."""
        return await self.ainvalidate(self.names.came_or_went(vm_id, node_id))

    def on_vm_state_change(
        self, vm_id: str, old: VMStatus | str, new: VMStatus | str, node_id: str | None = None
    ) -> Receipt:
        """Invalidate a VM's state and its node's listing; where it began or ceased to be active, what that changes.

        Raises:
            DeclarationError: there is no such status.
        """
        return self.invalidate(self.names.state_changed(vm_id, status_of(old), status_of(new), node_id))

    async def aon_vm_state_change(
        self, vm_id: str, old: VMStatus | str, new: VMStatus | str, node_id: str | None = None
    ) -> Receipt:
        """Do what `on_vm_state_change` does, asynchronously."""
        return await self.ainvalidate(self.names.state_changed(vm_id, status_of(old), status_of(new), node_id))

    def on_vm_resource_change(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Invalidate a VM's resources, configuration and metrics, and its node's resources."""
        return self.invalidate(self.names.resources_changed(vm_id, node_id))

    async def aon_vm_resource_change(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Do what `on_vm_resource_change` does, asynchronously."""
        return await self.ainvalidate(self.names.resources_changed(vm_id, node_id))

    def on_vm_migrated(self, vm_id: str, source: str | None, target: str | None) -> Receipt:
        """Invalidate everything that was known of a VM, and the entries of the nodes it left and came to."""
        return self.invalidate(self.names.migrated(vm_id, source, target))

    async def aon_vm_migrated(self, vm_id: str, source: str | None, target: str | None) -> Receipt:
        """Do what `on_vm_migrated` does, asynchronously."""
        return await self.ainvalidate(self.names.migrated(vm_id, source, target))

    def on_vm_migration_change(self, vm_id: str) -> Receipt:
        """Invalidate what is known of a VM's migration while it is under way."""
        return self.invalidate(self.names.migration_changed(vm_id))

    async def aon_vm_migration_change(self, vm_id: str) -> Receipt:
        """Do what `on_vm_migration_change` does, asynchronously."""
        return await self.ainvalidate(self.names.migration_changed(vm_id))

    def on_vm_rebooted(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Invalidate a VM's state and metrics, and its node's listing."""
        return self.invalidate(self.names.rebooted(vm_id, node_id))

    async def aon_vm_rebooted(self, vm_id: str, node_id: str | None = None) -> Receipt:
        """Do what `on_vm_rebooted` does, asynchronously."""
        return await self.ainvalidate(self.names.rebooted(vm_id, node_id))

    def on_vm_config_change(self, vm_id: str) -> Receipt:
        """Invalidate a VM's configuration."""
        return self.invalidate(self.names.config_changed(vm_id))

    async def aon_vm_config_change(self, vm_id: str) -> Receipt:
        """Do what `on_vm_config_change` does, asynchronously."""
        return await self.ainvalidate(self.names.config_changed(vm_id))

    # -- by hand ----------------------------------------------------------------------------------------------------

    def invalidate_vm(self, vm_id: str) -> Receipt:
        """Invalidate everything that is known of one VM."""
        return self.invalidate(self.names.whole_vm(vm_id))

    async def ainvalidate_vm(self, vm_id: str) -> Receipt:
        """Do what `invalidate_vm` does, asynchronously."""
        return await self.ainvalidate(self.names.whole_vm(vm_id))

    def invalidate_vm_pattern(self, pattern: str) -> Receipt:
        """Invalidate the entries of VMs whose keys match a glob, such as `vm:*` or `vm:prod-*:metrics`.

        Keys are those without a scope; only this scope's entries are meant. Lists of VMs and nodes are not. Without a
        scope `vm:*` costs one marker; any other pattern takes a place in the bounded log of patterns.

        Raises:
            DeclarationError: the pattern does not begin with `vm:`.
        """
        template, values = self._pattern(pattern)
        return self.cache.invalidate_pattern(template, **values)

    async def ainvalidate_vm_pattern(self, pattern: str) -> Receipt:
        """Do what `invalidate_vm_pattern` does, asynchronously."""
        template, values = self._pattern(pattern)
        return await self.cache.ainvalidate_pattern(template, **values)

    def _pattern(self, pattern: str) -> tuple[str, dict[str, Any]]:
        first, colon, rest = pattern.partition(":")
        if (first, colon) != ("vm", ":"):
            raise DeclarationError(
                f"{pattern!r} is no pattern of VMs: it begins with 'vm:', as 'vm:*' does; for others there is "
                f"Cache.invalidate_pattern"
            )
        if not self.names.scope:
            return pattern, {}
        return f"vm:<path:scope>/{self.names.literal(rest)}", {"scope": self.names.scope}

    def invalidate_node(self, node_id: str) -> Receipt:
        """Invalidate everything that depends on a node: its own entries and those of the VMs on it."""
        return self.invalidate(self.names.whole_node(node_id))

    async def ainvalidate_node(self, node_id: str) -> Receipt:
        """Do what `invalidate_node` does, asynchronously."""
        return await self.ainvalidate(self.names.whole_node(node_id))

    def invalidate_cluster(self) -> Receipt:
        """Invalidate everything in this scope."""
        return self.invalidate(self.names.everything())

    async def ainvalidate_cluster(self) -> Receipt:
        """Do what `invalidate_cluster` does, asynchronously."""
        return await self.ainvalidate(self.names.everything())

    # -- carrying it out --------------------------------------------------------------------------------------------

    def invalidate(self, affected: Affected) -> Receipt:
        """Invalidate several keys and tags in one step."""
        if not affected.tags:
            return self.cache.invalidate(*affected.keys)
        if not affected.keys:
            return self.cache.invalidate_tags(*affected.tags)
        with self.cache.deferred_invalidation() as together:
            self.cache.invalidate(*affected.keys)
            pending = self.cache.invalidate_tags(*affected.tags)
        return together.receipt or pending

    async def ainvalidate(self, affected: Affected) -> Receipt:
        """Do what `invalidate` does, asynchronously."""
        if not affected.tags:
            return await self.cache.ainvalidate(*affected.keys)
        if not affected.keys:
            return await self.cache.ainvalidate_tags(*affected.tags)
        async with self.cache.deferred_invalidation() as together:
            await self.cache.ainvalidate(*affected.keys)
            pending = await self.cache.ainvalidate_tags(*affected.tags)
        return together.receipt or pending

    @contextmanager
    def events(self) -> Iterator[None]:
        """Carry out the events of a block together when it ends; also when it raises, for they have happened."""
        failed: BaseException | None = None
        with self.cache.deferred_invalidation():
            try:
                yield
            except BaseException as error:
                failed = error
        if failed is not None:
            raise failed
