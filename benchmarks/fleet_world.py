"""The fleet that `fleet.py` simulates: hypervisors that all processes ask and change, and what is true at any moment.

Theory of the audit. Every *subject* (the state of one VM, the resources of one node...) has a version, which a change
makes larger by one and every answer of the hypervisors carries. When the invalidation that tells of a change has been
acknowledged, the change is *told*: its version gets the time, and the process that told it. A read is behind by as long
as a larger version than the one it got had been told when it began, and stale where that is longer than the bound, or
where its own process had told it.

All of it lives in memory that the processes share. A word of eight bytes is written and read in one piece; the lock
keeps changes from one another and is never taken to read.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from novacron_cache.vm import (
    DiskAllocation,
    MigrationStatus,
    NodeResources,
    VMConfig,
    VMMetrics,
    VMMigration,
    VMResources,
    VMState,
    VMStatus,
)

GIB = 1 << 30
VM_KINDS = ("VMState", "VMResources", "VMMigration", "VMMetrics", "VMConfig")
NODE_KINDS = ("NodeResources", "VMState.of_node")
STATUSES = tuple(VMStatus)
DELETED = STATUSES.index(VMStatus.DELETED)
REMEMBERED = 6
"""Of so many versions of a subject it is known when they were told."""

SECONDS = {
    "VMState": 0.003, "VMResources": 0.005, "VMMigration": 0.003, "VMMetrics": 0.008, "VMConfig": 0.005,
    "NodeResources": 0.005, "VMState.of_node": 0.02, "several VMState": 0.02,
}  # fmt: skip
"""How long a hypervisor takes to answer, by question; real seconds, whatever the speed."""


class World:
    """VMs on nodes, their versions, and when each version was told.

    Args:
        vms: how many there are.
        nodes: on how many nodes.
        seed: of their places and statuses.
    """

    def __init__(self, vms: int, nodes: int, seed: int) -> None:
        self.vm_ids = [f"vm-{number:05}" for number in range(vms)]
        self.node_ids = [f"node-{number:03}" for number in range(nodes)]
        self.vm_numbers = {one: number for number, one in enumerate(self.vm_ids)}
        self.node_numbers = {one: number for number, one in enumerate(self.node_ids)}
        self._offsets = {kind: place * vms for place, kind in enumerate(VM_KINDS)}
        self._offsets |= {kind: len(VM_KINDS) * vms + place * nodes for place, kind in enumerate(NODE_KINDS)}
        subjects = len(VM_KINDS) * vms + len(NODE_KINDS) * nodes
        words = 2 * vms + 2 * subjects + 3 * REMEMBERED * subjects
        view = memoryview(mmap.mmap(-1, 8 * words)).cast("q")
        self.places, view = view[:vms], view[vms:]
        self.statuses, view = view[:vms], view[vms:]
        self.versions, view = view[:subjects], view[subjects:]
        self.gone, self._told = view[:subjects], view[subjects:]
        """`gone` has the version with which a subject last ceased to exist: what an answer of None carries."""
        self.changing = multiprocessing.get_context("fork").Lock()
        rng = random.Random(seed)  # noqa: S311 - a workload, not secrets
        for number in range(vms):
            self.places[number] = rng.randrange(nodes)
            self.statuses[number] = STATUSES.index(VMStatus.STOPPED if rng.random() < 0.1 else VMStatus.RUNNING)

    def subject(self, kind: str, number: int) -> int:
        """Return the place of one subject, by the name of its entries and the number of its VM or node."""
        return self._offsets[kind] + number

    def status(self, number: int) -> VMStatus:
        """Return the status of a VM."""
        return STATUSES[self.statuses[number]]

    def node_of(self, number: int) -> str:
        """Return where a VM is."""
        return self.node_ids[self.places[number]]

    def change(
        self, number: int, kinds: Iterable[str], *, status: VMStatus | None = None, node: int | None = None
    ) -> dict[int, int]:
        """Change a VM, and return the new versions by subject; of a VM that moves, also those of both nodes."""
        with self.changing:
            nodes = set() if self.statuses[number] == DELETED else {self.places[number]}
            if node is not None:
                nodes.add(node)
                self.places[number] = node
            if status is not None:
                self.statuses[number] = STATUSES.index(status)
            changed = [self.subject(kind, number) for kind in kinds if kind in VM_KINDS]
            changed += [self.subject(kind, one) for kind in kinds if kind in NODE_KINDS for one in sorted(nodes)]
            for subject in changed:
                if status is VMStatus.DELETED:
                    self.gone[subject] = self.versions[subject] + 1
                self.versions[subject] += 1
            return {subject: self.versions[subject] for subject in changed}

    # -- the audit --------------------------------------------------------------------------------------------------

    def tell(self, process: int, changed: Mapping[int, int]) -> None:
        """Note that the invalidation of these versions, by subject, has just been acknowledged in a process."""
        now = time.monotonic_ns()
        for subject, version in changed.items():
            at = 3 * (REMEMBERED * subject + version % REMEMBERED)
            self._told[at] = -1  # whoever reads meanwhile takes nothing from here
            self._told[at + 1], self._told[at + 2] = now, process
            self._told[at] = version

    def behind(self, process: int, subject: int, version: int, began: int) -> tuple[float, bool]:
        """Return how far a read was behind, and whether its own process should have known.

        Args:
            process: the process that read.
            subject: what it read.
            version: the version it got.
            began: when the read began, nanoseconds of the monotonic clock.
        """
        seconds, own = 0.0, False
        if self.versions[subject] == version:
            return seconds, own
        for at in range(3 * REMEMBERED * subject, 3 * REMEMBERED * (subject + 1), 3):
            told = self._told[at]
            when, who = self._told[at + 1], self._told[at + 2]
            if told > version and self._told[at] == told and when < began:
                seconds = max(seconds, (began - when) / 1e9)
                own = own or who == process
        return seconds, own


class Hypervisors:
    """Everything that the processes ask, as one `VMManager`; it counts what it is asked, in the process it is used in.

    Each answer is fixed halfway: what changes in the second half makes it old before it arrives.

    Args:
        world: what is true.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: Counter[str] = Counter()
        self.changed: dict[int, int] = {}

    @contextlib.contextmanager
    def _answering(self, kind: str, question: str | None = None) -> Iterator[None]:
        self.asked[question or kind] += 1
        half = SECONDS[question or kind] / 2
        time.sleep(half)
        yield
        time.sleep(half)

    def _version(self, kind: str, number: int) -> int:
        return self.world.versions[self.world.subject(kind, number)]

    # The version is read first: an answer may be newer than it says, and never older. It goes into a field that nobody
    # else needs here.

    def _state(self, number: int, version: int) -> VMState | None:
        status = self.world.status(number)
        if status is VMStatus.DELETED:
            return None
        world = self.world
        return VMState(
            vm_id=world.vm_ids[number], node_id=world.node_of(number), status=status, reason=str(version),
            since=datetime(2026, 1, 1, tzinfo=UTC), agent_connected=True,
        )  # fmt: skip

    def get_vm_state(self, vm_id: str) -> VMState | None:
        with self._answering("VMState"):
            number = self.world.vm_numbers[vm_id]
            return self._state(number, self._version("VMState", number))

    def get_vm_states(self, vm_ids: Sequence[str]) -> Mapping[str, VMState]:
        with self._answering("VMState", "several VMState"):
            numbers = [self.world.vm_numbers[vm_id] for vm_id in vm_ids]
            found = [self._state(number, self._version("VMState", number)) for number in numbers]
        return {state.vm_id: state for state in found if state is not None}

    def list_vm_states(self, node_id: str) -> Iterable[VMState]:
        with self._answering("VMState.of_node"):
            node = self.world.node_numbers[node_id]
            version = self._version("VMState.of_node", node)
            here = [number for number, place in enumerate(self.world.places.tolist()) if place == node]
            found = [self._state(number, version) for number in here]
        return [state for state in found if state is not None]

    def get_vm_resources(self, vm_id: str) -> VMResources | None:
        with self._answering("VMResources"):
            return self._resources(vm_id)

    def _resources(self, vm_id: str) -> VMResources | None:
        number = self.world.vm_numbers[vm_id]
        version = self._version("VMResources", number)
        found = VMResources(
            vm_id=vm_id, node_id=self.world.node_of(number), vcpus=4, vcpus_max=8,
            memory_bytes=8 * GIB, memory_max_bytes=16 * GIB + version,
            disks=(DiskAllocation(device="vda", capacity_bytes=100 * GIB, allocated_bytes=30 * GIB, source=vm_id),),
        )  # fmt: skip
        return None if self.world.status(number) is VMStatus.DELETED else found

    def get_vms_resources(self, vm_ids: Sequence[str]) -> Mapping[str, VMResources]:
        return {vm_id: found for vm_id in vm_ids if (found := self._resources(vm_id)) is not None}

    def get_vm_migration(self, vm_id: str) -> VMMigration | None:
        with self._answering("VMMigration"):
            number = self.world.vm_numbers[vm_id]
            version = self._version("VMMigration", number)
            moving = self.world.status(number) is VMStatus.MIGRATING
            found = VMMigration(
                vm_id=vm_id, source_node=self.world.node_of(number), total_bytes=8 * GIB, copied_bytes=version,
                status=MigrationStatus.COPYING if moving else MigrationStatus.COMPLETED,
            )  # fmt: skip
        return found if version else None

    def get_vm_metrics(self, vm_id: str) -> VMMetrics | None:
        with self._answering("VMMetrics"):
            number = self.world.vm_numbers[vm_id]
            found = VMMetrics(
                vm_id=vm_id, node_id=self.world.node_of(number), sampled_at=datetime.now(UTC), vcpus=4,
                cpu_seconds=self._version("VMMetrics", number), memory_used_bytes=6 * GIB,
                memory_available_bytes=8 * GIB, disk_read_bytes=10 * GIB, disk_written_bytes=20 * GIB,
                network_received_bytes=5 * GIB, network_sent_bytes=3 * GIB,
            )  # fmt: skip
            gone = self.world.status(number) is VMStatus.DELETED
        return None if gone else found

    def get_vm_config(self, vm_id: str) -> VMConfig | None:
        with self._answering("VMConfig"):
            return self._config(vm_id)

    def get_vm_configs(self, vm_ids: Sequence[str]) -> Mapping[str, VMConfig]:
        return {vm_id: found for vm_id in vm_ids if (found := self._config(vm_id)) is not None}

    def _config(self, vm_id: str) -> VMConfig | None:
        number = self.world.vm_numbers[vm_id]
        version = self._version("VMConfig", number)
        found = VMConfig(
            vm_id=vm_id, node_id=self.world.node_of(number), title=str(version), vcpus=4, memory_bytes=8 * GIB,
            hypervisor="kvm", architecture="x86_64", machine="q35", definition="<domain/>" * 100,
        )  # fmt: skip
        return None if self.world.status(number) is VMStatus.DELETED else found

    def get_node_resources(self, node_id: str) -> NodeResources | None:
        with self._answering("NodeResources"):
            version = self._version("NodeResources", self.world.node_numbers[node_id])
        return NodeResources(
            node_id=node_id, cpus=128, cpu_mhz=2400, memory_bytes=1024 * GIB, memory_free_bytes=version,
            vcpus_allocated=80, memory_allocated_bytes=160 * GIB, vms_active=20, vms_defined=20,
        )  # fmt: skip

    # -- changes ----------------------------------------------------------------------------------------------------

    def _change(self, vm_id: str, status: VMStatus, *kinds: str) -> None:
        self.asked["changes"] += 1
        self.changed = self.world.change(self.world.vm_numbers[vm_id], kinds, status=status)

    def start_vm(self, vm_id: str) -> None:
        self._change(vm_id, VMStatus.RUNNING, "VMState", "VMResources", "VMMetrics", *NODE_KINDS)

    def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        self._change(vm_id, VMStatus.STOPPED, "VMState", "VMResources", "VMMetrics", *NODE_KINDS)


def version_of(value: Any) -> int:
    """Return the version that an answer carries."""
    match value:
        case VMState():
            return int(value.reason)
        case VMResources():
            return value.memory_max_bytes - 16 * GIB
        case VMMigration():
            return value.copied_bytes
        case VMMetrics():
            return int(value.cpu_seconds)
        case VMConfig():
            return int(value.title)
        case NodeResources():
            return value.memory_free_bytes or 0
    raise TypeError(f"{value!r} carries no version")
