"""What one process of the simulated fleet changes, and how the cache is told of it.

Some changes are made through the wrapped manager, as an API makes them: announced before, invalidated after. Of the
others the process hears by events, as from a hypervisor. Each VM is changed by one process only, so that the changes of
one VM have an order.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from typing import Any

from fleet_world import NODE_KINDS, World

from novacron_cache import Receipt
from novacron_cache.vm import CachedVMManager, VMStatus

FLIPS = ("VMState", "VMResources", "VMMetrics", *NODE_KINDS)
EVERYTHING = ("VMState", "VMResources", "VMMigration", "VMMetrics", "VMConfig", *NODE_KINDS)
STEPS = 5
STEP_SECONDS = 4.0
"""A migration takes so many steps, each so many fleet seconds after the one before."""


class Writer:
    """Makes one change after the other: half of VMs that are looked at, half of any.

    Args:
        process: the number of the process.
        processes: how many there are.
        speed: fleet seconds that pass in a second.
        world: what is changed; its manager is that of `vms`.
        vms: what is told.
        rng: draws what happens.
        popular: draws a VM that is looked at.
        note: called with the name of each change, and whether its invalidation has been acknowledged.
    """

    def __init__(
        self,
        process: int,
        processes: int,
        speed: float,
        world: World,
        vms: CachedVMManager,
        rng: random.Random,
        *,
        popular: Callable[[], int],
        note: Callable[[str, bool], None],
    ) -> None:
        self._process, self._processes, self._speed = process, processes, speed
        self._world, self._vms, self._rng = world, vms, rng
        self._popular, self._note = popular, note
        self._mine = range(process, len(world.vm_ids), processes)
        self._moving: list[tuple[float, int, int, int]] = []

    def change(self) -> None:
        """Go on with migrations that are due, and make another change."""
        while self._moving and self._moving[0][0] <= time.monotonic():
            self._step(*heapq.heappop(self._moving)[1:])
        rng, world, entries = self._rng, self._world, self._vms.entries
        number = self._popular() if rng.random() < 0.5 else rng.randrange(len(world.vm_ids))
        number = self._mine[number // self._processes % len(self._mine)]
        vm_id, node_id, status = world.vm_ids[number], world.node_of(number), world.status(number)
        choice = rng.random()
        if status is VMStatus.MIGRATING:
            return  # it comes to its own end
        if status is VMStatus.DELETED:
            node = rng.randrange(len(world.node_ids))
            self._tell(
                "created", number, EVERYTHING, lambda: entries.on_vm_created(vm_id, world.node_ids[node]),
                status=VMStatus.RUNNING, node=node,
            )  # fmt: skip
        elif status is VMStatus.PAUSED or (status is VMStatus.RUNNING and choice < 0.25):
            new = VMStatus.RUNNING if status is VMStatus.PAUSED else VMStatus.PAUSED
            self._tell(
                "paused or resumed", number, ("VMState", "VMState.of_node"),
                lambda: entries.on_vm_state_change(vm_id, status, new, node_id), status=new,
            )  # fmt: skip
        elif status is VMStatus.STOPPED or choice < 0.45:
            (self._vms.start_vm if status is VMStatus.STOPPED else self._vms.stop_vm)(vm_id, node_id=node_id)
            self._world.tell(self._process, self._vms.manager.changed)
            self._note("started or stopped", True)
        elif choice < 0.65:
            self._tell(
                "stopped by itself", number, FLIPS,
                lambda: entries.on_vm_state_change(vm_id, status, "stopped", node_id), status=VMStatus.STOPPED,
            )  # fmt: skip
        elif choice < 0.75:
            self._tell(
                "resized", number, ("VMResources", "VMConfig", "VMMetrics", "NodeResources"),
                lambda: entries.on_vm_resource_change(vm_id, node_id),
            )  # fmt: skip
        elif choice < 0.85:
            self._tell("configured", number, ("VMConfig",), lambda: entries.on_vm_config_change(vm_id))
        elif choice < 0.95:
            self._step(number, rng.randrange(len(world.node_ids)), STEPS)
        else:
            self._tell(
                "deleted", number, EVERYTHING, lambda: entries.on_vm_deleted(vm_id, node_id), status=VMStatus.DELETED
            )

    def _step(self, number: int, target: int, left: int) -> None:
        """Begin a migration, go on with it, or end it."""
        world, entries = self._world, self._vms.entries
        vm_id, source = world.vm_ids[number], world.node_of(number)
        if not left:
            self._tell(
                "migrated", number, EVERYTHING,
                lambda: entries.on_vm_migrated(vm_id, source, world.node_ids[target]),
                status=VMStatus.RUNNING, node=target,
            )  # fmt: skip
            return
        if world.status(number) is not VMStatus.MIGRATING:
            self._tell(
                "migration begun", number, ("VMState", "VMMigration", "VMState.of_node"),
                lambda: self._begun(vm_id, source), status=VMStatus.MIGRATING,
            )  # fmt: skip
        else:
            self._tell("migration goes on", number, ("VMMigration",), lambda: entries.on_vm_migration_change(vm_id))
        heapq.heappush(self._moving, (time.monotonic() + STEP_SECONDS / self._speed, number, target, left - 1))

    def _begun(self, vm_id: str, node_id: str) -> Receipt:
        entries = self._vms.entries
        with entries.events():
            entries.on_vm_state_change(vm_id, VMStatus.RUNNING, VMStatus.MIGRATING, node_id)
            together = entries.on_vm_migration_change(vm_id)
        return together  # noqa: RET504 - it is done when the block has ended

    def _tell(
        self, what: str, number: int, kinds: tuple[str, ...], event: Callable[[], Receipt], **fields: Any
    ) -> None:
        changed = self._world.change(number, kinds, **fields)
        if done := event().done:
            self._world.tell(self._process, changed)
        self._note(what, done)
