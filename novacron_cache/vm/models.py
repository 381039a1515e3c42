"""What is known of virtual machines and the nodes they run on, as cache models.

Each model holds what changes at one pace, so that its time to live fits all of it: a VM's state is old after seconds,
its configuration after minutes. Units stand in the names of fields. Tags say what a value depends on: its VM, the node
that the value itself names, and the cluster.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt

from novacron_cache import CacheModel

from .errors import TransitionError


class VMStatus(StrEnum):
    """Where a VM is in its life; `may_become` has the transitions."""

    CREATING = "creating"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    MIGRATING = "migrating"
    CRASHED = "crashed"
    DELETED = "deleted"
    UNKNOWN = "unknown"

    @property
    def active(self) -> bool:
        """Whether a VM in this status occupies CPU or memory of its node; of an unknown one, it has to be assumed."""
        return self not in _INACTIVE

    def may_become(self, other: VMStatus) -> bool:
        """Return whether a VM can go from this status to another, or stay in it."""
        return other is self or self is VMStatus.UNKNOWN or other is VMStatus.UNKNOWN or other in _NEXT[self]


_S = VMStatus
_INACTIVE = frozenset({_S.CREATING, _S.STOPPED, _S.CRASHED, _S.DELETED})
_NEXT: dict[VMStatus, frozenset[VMStatus]] = {
    _S.CREATING: frozenset({_S.STOPPED, _S.STARTING, _S.RUNNING, _S.CRASHED, _S.DELETED}),
    _S.STOPPED: frozenset({_S.STARTING, _S.RUNNING, _S.PAUSED, _S.MIGRATING, _S.DELETED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.PAUSED, _S.STOPPED, _S.CRASHED}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.SUSPENDED, _S.STOPPING, _S.STOPPED, _S.MIGRATING, _S.CRASHED}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.SUSPENDED, _S.STOPPING, _S.STOPPED, _S.MIGRATING, _S.CRASHED}),
    _S.SUSPENDED: frozenset({_S.STARTING, _S.RUNNING, _S.STOPPED, _S.CRASHED, _S.DELETED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.RUNNING, _S.CRASHED}),
    _S.MIGRATING: frozenset({_S.RUNNING, _S.PAUSED, _S.STOPPED, _S.CRASHED}),
    _S.CRASHED: frozenset({_S.STARTING, _S.RUNNING, _S.PAUSED, _S.STOPPED, _S.DELETED}),
    _S.DELETED: frozenset(),
}


class VMState(
    CacheModel,
    key="vm:<vm_id>",
    ttl="30s",
    tags=["vm:<vm_id>", "node:<node_id>", "cluster"],
):
    """What a VM is doing, and where.

    Attributes:
        reason: why it is in this status, in the hypervisor's words; may be empty.
        since: when it came into this status, where the hypervisor says so.
        agent_connected: whether the agent inside the VM answers; None where that is not known.
    """

    vm_id: str
    node_id: str
    status: VMStatus
    reason: str = ""
    since: datetime | None = None
    agent_connected: bool | None = None

    def to(self, status: VMStatus, *, reason: str = "", since: datetime | None = None) -> VMState:
        """Return the state of this VM after a transition.

        Raises:
            TransitionError: no VM goes from one to the other.
        """
        if not self.status.may_become(status):
            raise TransitionError(
                f"{self.vm_id} cannot go from {self.status} to {status}",
                vm_id=self.vm_id,
            )
        return self.model_copy(update={"status": status, "reason": reason, "since": since})


class DiskAllocation(BaseModel):
    """One disk of a VM.

    Attributes:
        device: its name inside the VM, such as `vda`.
        capacity_bytes: what the VM sees; None where that is not known.
        allocated_bytes: what it occupies on storage; None where that is not known.
        source: the file, volume or device behind it; may be empty.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    capacity_bytes: NonNegativeInt | None = None
    allocated_bytes: NonNegativeInt | None = None
    source: str = ""


class VMResources(
    CacheModel,
    key="vm:<vm_id>:resources",
    ttl="2m",
    tags=["vm:<vm_id>", "node:<node_id>", "cluster"],
):
    """What a VM has been given.

    Attributes:
        vcpus: virtual CPUs in use; `vcpus_max` is how many it can be given while it runs.
        memory_bytes: memory in use; `memory_max_bytes` is how far its balloon can grow.
    """

    vm_id: str
    node_id: str
    vcpus: NonNegativeInt
    vcpus_max: NonNegativeInt
    memory_bytes: NonNegativeInt
    memory_max_bytes: NonNegativeInt
    disks: tuple[DiskAllocation, ...] = ()

    @property
    def disk_bytes(self) -> int:
        """The capacity of all disks of which it is known."""
        return sum(disk.capacity_bytes or 0 for disk in self.disks)


class MigrationStatus(StrEnum):
    """How far a migration is."""

    PENDING = "pending"
    COPYING = "copying"
    SWITCHING = "switching"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (MigrationStatus.COMPLETED, MigrationStatus.FAILED, MigrationStatus.CANCELLED)


class VMMigration(
    CacheModel,
    key="vm:<vm_id>:migration",
    ttl="1m",
    tags=["vm:<vm_id>", "node:<source_node>", "node:<target_node>", "cluster"],
):
    """A VM's move from one node to another.

    Attributes:
        target_node: may be empty, for the node a VM leaves is not always told where it goes.
        total_bytes: memory and disks that have to be copied; pages written meanwhile are copied again, so
            `copied_bytes` may exceed it.
        downtime_milliseconds: for how long the VM stands still at the end, as far as that is known.
    """

    vm_id: str
    source_node: str
    target_node: str = ""
    status: MigrationStatus
    total_bytes: NonNegativeInt = 0
    copied_bytes: NonNegativeInt = 0
    remaining_bytes: NonNegativeInt = 0
    elapsed_seconds: NonNegativeFloat = 0.0
    downtime_milliseconds: NonNegativeInt | None = None

    @property
    def progress(self) -> float:
        """How much is done, from 0 to 1; what remains counts, not what was copied twice."""
        if self.status is MigrationStatus.COMPLETED:
            return 1.0
        if not self.total_bytes:
            return 0.0
        return min(1.0, max(0.0, 1.0 - self.remaining_bytes / self.total_bytes))

    @property
    def bytes_per_second(self) -> float:
        """The mean rate of copying; 0.0 before anything was measured."""
        return self.copied_bytes / self.elapsed_seconds if self.elapsed_seconds else 0.0


class VMMetrics(
    CacheModel,
    key="vm:<vm_id>:metrics",
    ttl="15s",
    tags=["vm:<vm_id>", "node:<node_id>", "cluster"],
):
    """A sample of what a VM uses. Counters run since the VM was started; two samples make a rate.

    Attributes:
        sampled_at: when, with a zone.
        cpu_seconds: CPU time of all its virtual CPUs together.
        memory_used_bytes: what the guest uses; None where it does not tell.
        memory_available_bytes: what the guest has; None where it does not tell.
    """

    vm_id: str
    node_id: str
    sampled_at: datetime
    vcpus: NonNegativeInt
    cpu_seconds: NonNegativeFloat
    memory_used_bytes: NonNegativeInt | None = None
    memory_available_bytes: NonNegativeInt | None = None
    disk_read_bytes: NonNegativeInt = 0
    disk_written_bytes: NonNegativeInt = 0
    network_received_bytes: NonNegativeInt = 0
    network_sent_bytes: NonNegativeInt = 0

    @property
    def memory_percent(self) -> float | None:
        """The share of its memory that the guest uses, from 0 to 100; None where it does not tell."""
        if self.memory_used_bytes is None or not self.memory_available_bytes:
            return None
        return 100 * self.memory_used_bytes / self.memory_available_bytes

    def cpu_percent_since(self, earlier: VMMetrics) -> float | None:
        """Return the share of its CPUs that the VM used since an earlier sample, from 0 to 100.

        None where the samples are not of one run of the VM in this order.
        """
        seconds = (self.sampled_at - earlier.sampled_at).total_seconds()
        used = self.cpu_seconds - earlier.cpu_seconds
        if self.vm_id != earlier.vm_id or seconds <= 0 or used < 0 or not self.vcpus:
            return None
        return min(100.0, 100 * used / (seconds * self.vcpus))


class VMConfig(
    CacheModel,
    key="vm:<vm_id>:config",
    ttl="15m",
    tags=["vm:<vm_id>", "node:<node_id>", "cluster"],
):
    """How a VM was defined.

    Attributes:
        hypervisor: what runs it, such as `kvm`.
        persistent: whether it outlives being stopped.
        autostart: whether it starts with its node.
        definition: the hypervisor's own description (for libvirt, the domain's XML); may be empty.
    """

    vm_id: str
    node_id: str
    uuid: str = ""
    hypervisor: str = ""
    architecture: str = ""
    machine: str = ""
    title: str = ""
    description: str = ""
    vcpus: NonNegativeInt
    memory_bytes: NonNegativeInt
    persistent: bool = True
    autostart: bool = False
    definition: str = ""


class NodeResources(
    CacheModel,
    key="node:<node_id>",
    ttl="30s",
    tags=["node:<node_id>", "nodes", "cluster"],
):
    """What a node has, and how much of it its active VMs were promised.

    Attributes:
        memory_free_bytes: what nobody uses now; None where that is not known.
        vcpus_allocated: virtual CPUs of all active VMs; more than `cpus` is overcommitment.
        memory_allocated_bytes: memory of all active VMs.
    """

    node_id: str
    cpus: NonNegativeInt
    cpu_mhz: NonNegativeInt = 0
    memory_bytes: NonNegativeInt
    memory_free_bytes: NonNegativeInt | None = None
    vcpus_allocated: NonNegativeInt = 0
    memory_allocated_bytes: NonNegativeInt = 0
    vms_active: NonNegativeInt = 0
    vms_defined: NonNegativeInt = 0

    @property
    def cpu_overcommit(self) -> float:
        """How many virtual CPUs each CPU carries; 0.0 for a node without CPUs."""
        return self.vcpus_allocated / self.cpus if self.cpus else 0.0

    @property
    def memory_overcommit(self) -> float:
        """How often the node's memory was promised; 0.0 for a node without memory."""
        return self.memory_allocated_bytes / self.memory_bytes if self.memory_bytes else 0.0

    def fits(
        self, vcpus: int, memory_bytes: int, *, cpu_overcommit: float = 1.0, memory_overcommit: float = 1.0
    ) -> bool:
        """Return whether another VM finds room.

        Args:
            vcpus: its virtual CPUs.
            memory_bytes: its memory.
            cpu_overcommit: how many virtual CPUs each CPU may carry.
            memory_overcommit: how often memory may be promised.
        """
        return (
            self.vcpus_allocated + vcpus <= self.cpus * cpu_overcommit
            and self.memory_allocated_bytes + memory_bytes <= self.memory_bytes * memory_overcommit
        )
