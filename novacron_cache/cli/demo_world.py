"""The world of the demo: what is slow to ask, what changes, and what is true at any moment.

Two sources are cached. One is real: this host's resources and processes, which psutil reads. The other is a small
manager of virtual machines that takes as long to answer as a hypervisor does, because a host has rarely one at hand.

Theory of the check. Every subject (one machine, the list of one node, this host) has a version that grows with each
change, and every value carries the version its source had. When the invalidation that follows a change has returned,
that version becomes a *floor*: a read that begins later in the same process must not return less. In another process
the same holds once the staleness bound has passed.
"""

from __future__ import annotations

import asyncio
import platform
import random
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeVar

import psutil

from .. import Cache, CacheModel, cached, cached_many, invalidates

T = TypeVar("T")
Status = Literal["running", "paused", "stopped"]
STATUSES: Final[tuple[Status, ...]] = ("running", "paused", "stopped")

NODES: Final = 8
MACHINES: Final = 240
STATE_SECONDS: Final = (0.002, 0.008)
LIST_SECONDS: Final = 0.020


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>"]):
    """What a virtual machine is doing, and where."""

    vm_id: str
    node_id: str
    status: Status
    version: int


class NodeVMs(CacheModel, key="node:<node_id>:vms", ttl="30s", tags=["node:<node_id>"]):
    """Which machines a node runs."""

    node_id: str
    vm_ids: tuple[str, ...]
    version: int


class HostResources(CacheModel, key="host:<host>:resources", ttl="5s", tags=["host:<host>"]):
    """How busy a real host is; `load` is its one-minute average, the rest is in bytes or percent."""

    host: str
    cores: int
    load: float
    memory_used: int
    memory_total: int
    disk_percent: float
    version: int


class Process(CacheModel):
    """One process of a real host; `memory` is its resident set in bytes."""

    pid: int
    name: str
    memory: int


class HostProcesses(CacheModel, key="host:<host>:processes", ttl="5s", tags=["host:<host>"]):
    """The processes of a real host, those with the most memory first."""

    host: str
    processes: tuple[Process, ...]
    version: int


Value = VMState | NodeVMs | HostResources | HostProcesses


class Migration(NamedTuple):
    """A machine has moved: the node it was on, and the new version of each subject."""

    source: str
    versions: dict[str, int]


class Timings:
    """How long calls took, by whatever they are grouped by; threads may add at the same time."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Any, array[float]] = defaultdict(lambda: array("d"))

    def add(self, group: Any, seconds: float) -> None:
        """Add one call."""
        self._seconds[group].append(seconds)

    def groups(self) -> list[Any]:
        """Return the groups that have calls."""
        return list(self._seconds)

    def sorted(self, group: Any) -> list[float]:
        """Return the seconds of a group's calls, shortest first."""
        return sorted(self._seconds.get(group, ()))


class VMManager:
    """Virtual machines on a few nodes; every question costs what a hypervisor's answer costs.

    Args:
        seed: of the machines' places and of the latencies.
        timings: where the time of every question is noted, under `VMState` and `NodeVMs`.
    """

    def __init__(self, seed: int, timings: Timings) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - latencies, not secrets
        self._timings = timings
        self._lock = threading.Lock()
        self.nodes = [f"node-{n}" for n in range(1, NODES + 1)]
        self.vm_ids = [f"vm-{n}" for n in range(1, MACHINES + 1)]
        self._machines: dict[str, tuple[str, Status]] = {
            one: (self._rng.choice(self.nodes), self._rng.choice(STATUSES)) for one in self.vm_ids
        }
        self._versions: defaultdict[str, int] = defaultdict(int)

    def state(self, vm_id: str) -> VMState:
        """Return the state of a machine."""
        return self._slowly(VMState, self._rng.uniform(*STATE_SECONDS), lambda: self._state(vm_id))

    async def astate(self, vm_id: str) -> VMState:
        """Do what `state` does, asynchronously."""
        started, half = time.perf_counter(), self._rng.uniform(*STATE_SECONDS) / 2
        await asyncio.sleep(half)
        answer = self._state(vm_id)
        await asyncio.sleep(half)
        self._timings.add(VMState, time.perf_counter() - started)
        return answer

    def states(self, vm_ids: list[str]) -> dict[str, VMState]:
        """Return the states of several machines, in one question."""
        return self._slowly("batch", LIST_SECONDS, lambda: {vm_id: self._state(vm_id) for vm_id in vm_ids})

    def machines_of(self, node_id: str) -> NodeVMs:
        """Return which machines a node runs."""
        return self._slowly(NodeVMs, LIST_SECONDS, lambda: self._machines_of(node_id))

    async def amachines_of(self, node_id: str) -> NodeVMs:
        """Do what `machines_of` does, asynchronously."""
        started = time.perf_counter()
        await asyncio.sleep(LIST_SECONDS / 2)
        answer = self._machines_of(node_id)
        await asyncio.sleep(LIST_SECONDS / 2)
        self._timings.add(NodeVMs, time.perf_counter() - started)
        return answer

    def set_status(self, vm_id: str, status: Status) -> VMState:
        """Start, pause or stop a machine; return its new state."""
        with self._lock:
            self._machines[vm_id] = (self._machines[vm_id][0], status)
            self._versions[f"vm:{vm_id}"] += 1
        return self._state(vm_id)

    def migrate(self, vm_id: str, target: str) -> Migration:
        """Move a machine to another node."""
        with self._lock:
            source, status = self._machines[vm_id]
            self._machines[vm_id] = (target, status)
            subjects = (f"vm:{vm_id}", f"node:{source}:vms", f"node:{target}:vms")
            for subject in dict.fromkeys(subjects):
                self._versions[subject] += 1
            return Migration(source, {subject: self._versions[subject] for subject in subjects})

    def _slowly(self, group: Any, seconds: float, answer: Callable[[], T]) -> T:
        # The answer is fixed halfway: what changes in the second half makes it old before it arrives.
        started = time.perf_counter()
        time.sleep(seconds / 2)
        result = answer()
        time.sleep(seconds / 2)
        self._timings.add(group, time.perf_counter() - started)
        return result

    def _state(self, vm_id: str) -> VMState:
        with self._lock:
            node_id, status = self._machines[vm_id]
            return VMState(vm_id=vm_id, node_id=node_id, status=status, version=self._versions[f"vm:{vm_id}"])

    def _machines_of(self, node_id: str) -> NodeVMs:
        with self._lock:
            vm_ids = tuple(vm_id for vm_id, (node, _) in self._machines.items() if node == node_id)
            return NodeVMs(node_id=node_id, vm_ids=vm_ids, version=self._versions[f"node:{node_id}:vms"])


class Host:
    """This host, as psutil sees it. Each `tick` is a change: what was read before is old.

    Args:
        timings: where the time of every reading is noted, under `HostResources` and `HostProcesses`.
    """

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._lock = threading.Lock()
        self._version = 0
        self.name = platform.node() or "localhost"

    def tick(self) -> int:
        """Begin a new version; return it."""
        with self._lock:
            self._version += 1
            return self._version

    def resources(self) -> HostResources:
        """Read how busy the host is."""
        started, version = time.perf_counter(), self._version
        memory = psutil.virtual_memory()
        reading = HostResources(
            host=self.name,
            cores=psutil.cpu_count() or 1,
            load=psutil.getloadavg()[0],
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
            disk_percent=psutil.disk_usage("/").percent,
            version=version,
        )
        self._timings.add(HostResources, time.perf_counter() - started)
        return reading

    def processes(self) -> HostProcesses:
        """Read the processes of the host."""
        started, version = time.perf_counter(), self._version
        found = [
            Process(pid=one.pid, name=one.info["name"] or "?", memory=one.info["memory_info"].rss)
            for one in psutil.process_iter(["name", "memory_info"])
            if one.info["memory_info"] is not None
        ]
        found.sort(key=lambda one: one.memory, reverse=True)
        self._timings.add(HostProcesses, time.perf_counter() - started)
        return HostProcesses(host=self.name, processes=tuple(found), version=version)


class _Floor(NamedTuple):
    since: float
    version: int
    process: str


class GroundTruth:
    """Which version a read must not fall short of.

    Args:
        bound: seconds after which an invalidation counts in the other process too.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self._floors: defaultdict[str, list[_Floor]] = defaultdict(list)

    def invalidated(self, process: str, versions: dict[str, int]) -> None:
        """Note that an invalidation of these subjects has just returned in a process."""
        now = time.perf_counter()
        for subject, version in versions.items():
            self._floors[subject].append(_Floor(now, version, process))

    def judge(self, process: str, subject: str, version: int, began: float) -> tuple[bool, float]:
        """Return whether a read was stale, and by how many seconds it was behind the other process.

        Args:
            process: the process that read.
            subject: what it read.
            version: the version it got.
            began: when the read began, on the clock of `time.perf_counter`.
        """
        behind = 0.0
        for floor in tuple(self._floors.get(subject, ())):
            if floor.version <= version or floor.since > began:
                continue
            if floor.process == process:
                return True, 0.0
            behind = max(behind, began - floor.since)
        return behind > self.bound, behind


class Application:
    """One process of an application: a cache, and the functions that read and write through it."""

    def __init__(self, name: str, cache: Cache, manager: VMManager, host: Host, truth: GroundTruth) -> None:
        self.name = name
        self.cache = cache

        @cached(VMState, key="vm:<vm_id>", cache=cache)
        def state(vm_id: str) -> VMState:
            return manager.state(vm_id)

        @cached(VMState, key="vm:<vm_id>", cache=cache)
        async def astate(vm_id: str) -> VMState:
            return await manager.astate(vm_id)

        @cached_many(VMState, key="vm:<vm_id>", each="vm_ids", cache=cache)
        def states(vm_ids: list[str]) -> dict[str, VMState]:
            return manager.states(vm_ids)

        @cached(NodeVMs, key="node:<node_id>:vms", cache=cache)
        def machines_of(node_id: str) -> NodeVMs:
            return manager.machines_of(node_id)

        @cached(NodeVMs, key="node:<node_id>:vms", cache=cache)
        async def amachines_of(node_id: str) -> NodeVMs:
            return await manager.amachines_of(node_id)

        @cached(HostResources, key="host:<host.name>:resources", tags=["host:<host.name>"], cache=cache)
        def resources(host: Host) -> HostResources:
            return host.resources()

        @cached(HostProcesses, key="host:<host.name>:processes", tags=["host:<host.name>"], cache=cache)
        def processes(host: Host) -> HostProcesses:
            return host.processes()

        @invalidates(tags=["vm:<vm_id>"], cache=cache)
        def set_status(vm_id: str, status: Status) -> VMState:
            return manager.set_status(vm_id, status)

        @invalidates(tags=["vm:<vm_id>", "node:<source>", "node:<target>"], cache=cache)
        def migrate(vm_id: str, target: str) -> Migration:
            return manager.migrate(vm_id, target)  # the tag of the node it was on is filled from the result

        self.state, self.astate, self.states = state, astate, states
        self.machines_of, self.amachines_of = machines_of, amachines_of
        self.resources, self.processes = resources, processes
        self._set_status, self._migrate = set_status, migrate
        self._manager, self._host, self._truth = manager, host, truth

    def change(self, rng: random.Random) -> None:
        """Change something, at random: mostly a machine's status, else its node, now and then this host."""
        choice, vm_id = rng.random(), rng.choice(self._manager.vm_ids)
        if choice < 0.6:
            state = self._set_status(vm_id, rng.choice(STATUSES))
            versions = {f"vm:{vm_id}": state.version}
        elif choice < 0.9:
            versions = self._migrate(vm_id, rng.choice(self._manager.nodes)).versions
        else:
            version = self._host.tick()
            self.cache.invalidate_tags("host:<host>", host=self._host.name)
            versions = dict.fromkeys(
                (f"host:{self._host.name}:resources", f"host:{self._host.name}:processes"), version
            )
        self._truth.invalidated(self.name, versions)
