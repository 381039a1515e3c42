"""Reading and writing what is known of VMs and nodes, by name: the part of `VMCacheManager` that has no rules.

Each method here is one line, so that editors and type checkers see what there is; what it does is in `kinds`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from novacron_cache import Cache

from .kinds import Kind
from .models import NodeResources, VMConfig, VMMetrics, VMMigration, VMResources, VMState
from .naming import NODE_KEYS, VM_KEYS, Names
from .settings import VMCacheSettings

M = TypeVar("M")
Load: TypeAlias = Callable[[str], M | None] | None
AsyncLoad: TypeAlias = Callable[[str], Awaitable[M | None]] | None
LoadMany: TypeAlias = Callable[[list[str]], Mapping[str, M]] | None
AsyncLoadMany: TypeAlias = Callable[[list[str]], Awaitable[Mapping[str, M]]] | None


class VMEntries:
    """What is cached of VMs and nodes in one scope.

    `get_...` returns what is cached, or None. With `load`, a function of the id that returns the value or None, a miss
    is loaded, once however many callers wait, and "there is none" is remembered for `not_found_ttl`. The batch forms
    return what there is by id, in the order asked for; their `load` is called with the missing ids only, once, and
    returns a dict. `set_...` stores a value under the id it names, overruling loads that are still running.

    Each has an `a`-prefixed twin, whose `load` returns an awaitable.
    """

    def __init__(self, cache: Cache, settings: VMCacheSettings, names: Names) -> None:
        self.cache = cache
        self.settings = settings
        self.names = names
        vm, node = "vm:{}<id_>", "node:{}<node_id>"
        self._states = self._kind(VMState, VM_KEYS["state"], (vm, node), settings.vm_state_ttl)
        self._resources = self._kind(VMResources, VM_KEYS["resources"], (vm, node), settings.vm_resources_ttl)
        self._migrations = self._kind(
            VMMigration,
            VM_KEYS["migration"],
            (vm, "node:{}<source_node>", "node:{}<target_node>"),
            settings.vm_migration_ttl,
        )
        self._metrics = self._kind(VMMetrics, VM_KEYS["metrics"], (vm, node), settings.vm_metrics_ttl)
        self._configs = self._kind(VMConfig, VM_KEYS["config"], (vm, node), settings.vm_config_ttl)
        self._nodes = self._kind(
            NodeResources,
            NODE_KEYS["resources"],
            ("node:{}<id_>", names.literal(names.nodes)),
            settings.node_resources_ttl,
        )
        self._listings: Kind[tuple[VMState, ...]] = self._kind(
            tuple[VMState, ...],
            NODE_KEYS["vms"],
            ("node:{}<id_>", names.literal(names.nodes)),
            settings.listing_ttl,
            name="VMState.of_node",
        )
        self._ids: Kind[tuple[str, ...]] = self._kind(
            tuple[str, ...], names.literal(names.listing), (), settings.listing_ttl, name="VMState.ids"
        )

    def _kind(self, type_: Any, key: str, tags: tuple[str, ...], ttl: float, *, name: str | None = None) -> Kind[Any]:
        return Kind(
            self.cache,
            type_,
            key=self.names.template(key),
            tags=tuple(self.names.template(tag) for tag in (*tags, self.names.literal(self.names.cluster))),
            ttl=ttl,
            negative_ttl=self.settings.not_found_ttl,
            name=name,
        )

    # -- the state of a VM -------------------------------------------------------------------------------------------

    def get_vm_state(self, vm_id: str, load: Load[VMState] = None) -> VMState | None:
        """Return the state of a VM, or None."""
        return self._states.get(vm_id, load)

    async def aget_vm_state(self, vm_id: str, load: AsyncLoad[VMState] = None) -> VMState | None:
        """Do what `get_vm_state` does, asynchronously."""
        return await self._states.aget(vm_id, load)

    def get_vm_states(self, vm_ids: Iterable[str], load: LoadMany[VMState] = None) -> dict[str, VMState]:
        """Return the same of several VMs, by id, without those of which there is none."""
        return self._states.get_many(vm_ids, load)

    async def aget_vm_states(self, vm_ids: Iterable[str], load: AsyncLoadMany[VMState] = None) -> dict[str, VMState]:
        """Do what `get_vm_states` does, asynchronously."""
        return await self._states.aget_many(vm_ids, load)

    def set_vm_state(self, state: VMState) -> None:
        """Store it under the id that it names."""
        self._states.one.set(state, state.vm_id)

    async def aset_vm_state(self, state: VMState) -> None:
        """Do what `set_vm_state` does, asynchronously."""
        await self._states.aone.set(state, state.vm_id)

    # -- what a VM has been given ------------------------------------------------------------------------------------

    def get_vm_resources(self, vm_id: str, load: Load[VMResources] = None) -> VMResources | None:
        """Return what a VM has been given, or None."""
        return self._resources.get(vm_id, load)

    async def aget_vm_resources(self, vm_id: str, load: AsyncLoad[VMResources] = None) -> VMResources | None:
        """Do what `get_vm_resources` does, asynchronously."""
        return await self._resources.aget(vm_id, load)

    def get_vms_resources(self, vm_ids: Iterable[str], load: LoadMany[VMResources] = None) -> dict[str, VMResources]:
        """Return the same of several VMs, by id, without those of which there is none."""
        return self._resources.get_many(vm_ids, load)

    async def aget_vms_resources(
        self, vm_ids: Iterable[str], load: AsyncLoadMany[VMResources] = None
    ) -> dict[str, VMResources]:
        """Do what `get_vms_resources` does, asynchronously."""
        return await self._resources.aget_many(vm_ids, load)

    def set_vm_resources(self, resources: VMResources) -> None:
        """Store it under the id that it names."""
        self._resources.one.set(resources, resources.vm_id)

    async def aset_vm_resources(self, resources: VMResources) -> None:
        """Do what `set_vm_resources` does, asynchronously."""
        await self._resources.aone.set(resources, resources.vm_id)

    # -- the migration of a VM ---------------------------------------------------------------------------------------

    def get_vm_migration(self, vm_id: str, load: Load[VMMigration] = None) -> VMMigration | None:
        """Return the migration of a VM, or None."""
        return self._migrations.get(vm_id, load)

    async def aget_vm_migration(self, vm_id: str, load: AsyncLoad[VMMigration] = None) -> VMMigration | None:
        """Do what `get_vm_migration` does, asynchronously."""
        return await self._migrations.aget(vm_id, load)

    def get_vm_migrations(self, vm_ids: Iterable[str], load: LoadMany[VMMigration] = None) -> dict[str, VMMigration]:
        """Return the same of several VMs, by id, without those of which there is none."""
        return self._migrations.get_many(vm_ids, load)

    async def aget_vm_migrations(
        self, vm_ids: Iterable[str], load: AsyncLoadMany[VMMigration] = None
    ) -> dict[str, VMMigration]:
        """Do what `get_vm_migrations` does, asynchronously."""
        return await self._migrations.aget_many(vm_ids, load)

    def set_vm_migration(self, migration: VMMigration) -> None:
        """Store it under the id that it names."""
        self._migrations.one.set(migration, migration.vm_id)

    async def aset_vm_migration(self, migration: VMMigration) -> None:
        """Do what `set_vm_migration` does, asynchronously."""
        await self._migrations.aone.set(migration, migration.vm_id)

    # -- a sample of what a VM uses ----------------------------------------------------------------------------------

    def get_vm_metrics(self, vm_id: str, load: Load[VMMetrics] = None) -> VMMetrics | None:
        """Return a sample of what a VM uses, or None."""
        return self._metrics.get(vm_id, load)

    async def aget_vm_metrics(self, vm_id: str, load: AsyncLoad[VMMetrics] = None) -> VMMetrics | None:
        """Do what `get_vm_metrics` does, asynchronously."""
        return await self._metrics.aget(vm_id, load)

    def get_vms_metrics(self, vm_ids: Iterable[str], load: LoadMany[VMMetrics] = None) -> dict[str, VMMetrics]:
        """Return the same of several VMs, by id, without those of which there is none."""
        return self._metrics.get_many(vm_ids, load)

    async def aget_vms_metrics(
        self, vm_ids: Iterable[str], load: AsyncLoadMany[VMMetrics] = None
    ) -> dict[str, VMMetrics]:
        """Do what `get_vms_metrics` does, asynchronously."""
        return await self._metrics.aget_many(vm_ids, load)

    def set_vm_metrics(self, metrics: VMMetrics) -> None:
        """Store it under the id that it names."""
        self._metrics.one.set(metrics, metrics.vm_id)

    async def aset_vm_metrics(self, metrics: VMMetrics) -> None:
        """Do what `set_vm_metrics` does, asynchronously."""
        await self._metrics.aone.set(metrics, metrics.vm_id)

    # -- how a VM was defined ----------------------------------------------------------------------------------------

    def get_vm_config(self, vm_id: str, load: Load[VMConfig] = None) -> VMConfig | None:
        """Return how a VM was defined, or None."""
        return self._configs.get(vm_id, load)

    async def aget_vm_config(self, vm_id: str, load: AsyncLoad[VMConfig] = None) -> VMConfig | None:
        """Do what `get_vm_config` does, asynchronously."""
        return await self._configs.aget(vm_id, load)

    def get_vm_configs(self, vm_ids: Iterable[str], load: LoadMany[VMConfig] = None) -> dict[str, VMConfig]:
        """Return the same of several VMs, by id, without those of which there is none."""
        return self._configs.get_many(vm_ids, load)

    async def aget_vm_configs(self, vm_ids: Iterable[str], load: AsyncLoadMany[VMConfig] = None) -> dict[str, VMConfig]:
        """Do what `get_vm_configs` does, asynchronously."""
        return await self._configs.aget_many(vm_ids, load)

    def set_vm_config(self, config: VMConfig) -> None:
        """Store it under the id that it names."""
        self._configs.one.set(config, config.vm_id)

    async def aset_vm_config(self, config: VMConfig) -> None:
        """Do what `set_vm_config` does, asynchronously."""
        await self._configs.aone.set(config, config.vm_id)

    # -- what a node has and has promised ----------------------------------------------------------------------------

    def get_node_resources(self, node_id: str, load: Load[NodeResources] = None) -> NodeResources | None:
        """Return what a node has and has promised, or None."""
        return self._nodes.get(node_id, load)

    async def aget_node_resources(self, node_id: str, load: AsyncLoad[NodeResources] = None) -> NodeResources | None:
        """Do what `get_node_resources` does, asynchronously."""
        return await self._nodes.aget(node_id, load)

    def get_nodes_resources(
        self, node_ids: Iterable[str], load: LoadMany[NodeResources] = None
    ) -> dict[str, NodeResources]:
        """Return the same of several nodes, by id, without those of which there is none."""
        return self._nodes.get_many(node_ids, load)

    async def aget_nodes_resources(
        self, node_ids: Iterable[str], load: AsyncLoadMany[NodeResources] = None
    ) -> dict[str, NodeResources]:
        """Do what `get_nodes_resources` does, asynchronously."""
        return await self._nodes.aget_many(node_ids, load)

    def set_node_resources(self, resources: NodeResources) -> None:
        """Store it under the id that it names."""
        self._nodes.one.set(resources, resources.node_id)

    async def aset_node_resources(self, resources: NodeResources) -> None:
        """Do what `set_node_resources` does, asynchronously."""
        await self._nodes.aone.set(resources, resources.node_id)

    # -- listings ---------------------------------------------------------------------------------------------------

    def list_vms(self, load: Callable[[], Iterable[str]] | None = None) -> tuple[str, ...] | None:
        """Return the ids of all VMs in this scope, or None where they are not cached."""
        return self._ids.get("", None if load is None else lambda _: tuple(load()))

    async def alist_vms(self, load: Callable[[], Awaitable[Iterable[str]]] | None = None) -> tuple[str, ...] | None:
        """Do what `list_vms` does, asynchronously."""
        if load is None:
            return await self._ids.aget("", None)

        async def ids(_: str) -> tuple[str, ...]:
            """Return the ids that the backend lists."""
            return tuple(await load())

        return await self._ids.aget("", ids)

    def list_vm_states(
        self, node_id: str, load: Callable[[str], Iterable[VMState]] | None = None
    ) -> tuple[VMState, ...] | None:
        """Return the states of all VMs of a node, or None where they are not cached: one entry, however many VMs."""
        return self._listings.get(node_id, None if load is None else lambda id_: tuple(load(id_)))

    async def alist_vm_states(
        self, node_id: str, load: Callable[[str], Awaitable[Iterable[VMState]]] | None = None
    ) -> tuple[VMState, ...] | None:
        """Do what `list_vm_states` does, asynchronously."""
        if load is None:
            return await self._listings.aget(node_id, None)

        async def states(id_: str) -> tuple[VMState, ...]:
            """Return the states that the backend has."""
            return tuple(await load(id_))

        return await self._listings.aget(node_id, states)
