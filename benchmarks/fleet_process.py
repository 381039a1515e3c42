"""One API process of the fleet that `fleet.py` simulates: what it reads and changes, and what it saw.

Readers and writers keep to a timetable (exponential distances): whoever is late does not wait, and by how much the
latest was late says whether the machine, and not the cache, set the pace.
"""

from __future__ import annotations

import bisect
import itertools
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fleet_world import NODE_KINDS, Hypervisors, World, version_of
from fleet_writing import Writer

from novacron_cache import Cache, CacheSettings, Stats
from novacron_cache.vm import CachedVMManager, VMCacheSettings, VMStatus

SHARES = {"dashboards": 0.70, "schedulers": 0.15, "pollers": 0.15}
"""Who makes which share of the reads."""

BATCH = 20
CANDIDATES = 10
PAGE_READS = 0.75 * 4 + 0.15 * 2 + 0.10 * BATCH
"""What a dashboard reads for a page, on average: a VM, a node, or the VMs of a user."""

LIFETIMES = {
    "vm_state_ttl": 30, "vm_resources_ttl": 120, "vm_migration_ttl": 60, "vm_metrics_ttl": 15, "vm_config_ttl": 900,
    "node_resources_ttl": 30, "listing_ttl": 30, "not_found_ttl": 5,
}  # fmt: skip
"""Seconds, as the design has them."""


@dataclass(frozen=True)
class Plan:
    """What a run is made of; rates and durations are those of the fleet as a whole and as the fleet's clock has them.

    Attributes:
        vms, nodes, processes: how many.
        reads: entries read each second by all processes together.
        churn: changes each second.
        zipf: the exponent of popularity.
        speed: fleet seconds that pass in a second: rates are multiplied by it and times to live divided.
        warmup, seconds: fleet seconds before and of the measurement.
        bound: the staleness bound, in real seconds.
        l1_items: entries that a process keeps in memory.
        seed: of everything that is drawn.
    """

    vms: int
    nodes: int
    processes: int
    reads: float
    churn: float
    zipf: float
    speed: float
    warmup: float
    seconds: float
    bound: float
    l1_items: int
    seed: int


@dataclass
class Seen:
    """What one process has to tell."""

    stats: dict[str, Stats] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    behind: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    oldest: float = 0.0
    metrics_age: float = 0.0
    changes: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    late: float = 0.0
    late_sum: float = 0.0
    begun: int = 0
    cpu_seconds: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


class Process:
    """A cache, and threads that read and change through it.

    Args:
        number: which one it is.
        plan: what the run is made of.
        world: what all processes share.
        url: of the server.
        namespace: of the cache.
    """

    def __init__(self, number: int, plan: Plan, world: World, url: str, namespace: str) -> None:
        self.number, self.plan, self.world = number, plan, world
        self.seen = Seen()
        self._measuring = False
        self._over = threading.Event()
        self._counting = threading.Lock()
        self._hypervisors = Hypervisors(world)
        # The longest times to live are those of the settings, so the caps of the tiers stretch with the clock too. The
        # patience with the server is that of a small machine on which two dozen processes take turns.
        self._settings = CacheSettings(
            namespace=namespace,
            staleness_bound=plan.bound,
            memory={"max_items": plan.l1_items, "ttl": 300 / plan.speed},
            redis={"url": url, "ttl": 900 / plan.speed, "socket_timeout": 2.0, "connect_timeout": 2.0},
        )
        self._ttls = VMCacheSettings(**{name: ttl / plan.speed for name, ttl in LIFETIMES.items()})
        drawing = random.Random(plan.seed)  # noqa: S311 - the same VMs are popular in all processes
        self._vms = drawing.sample(range(plan.vms), plan.vms)
        self._nodes = drawing.sample(range(plan.nodes), plan.nodes)
        self._vm_weights = _zipf(plan.vms, plan.zipf)
        self._node_weights = _zipf(plan.nodes, plan.zipf)

    def run(self, started: Callable[[], float]) -> Seen:
        """Work until the end of the plan, and return what was seen of it.

        Args:
            started: called when this process is ready; returns when all are, with the start on the monotonic clock.
        """
        plan, seen = self.plan, self.seen
        mine = plan.reads * plan.speed / plan.processes
        with Cache(self._settings) as cache, CachedVMManager(self._hypervisors, cache, self._ttls) as vms:
            for event in ("tier_failed", "tier_down", "link_lost", "load_failed"):
                cache.on(event, partial(self._note_event, event))
            self._fill(vms)
            start = started()
            measured, over = start + plan.warmup / plan.speed, start + (plan.warmup + plan.seconds) / plan.speed
            crew = [
                self._thread("dashboard", start, mine * SHARES["dashboards"] / PAGE_READS / 2, self._pages(vms, "a")),
                self._thread("dashboard", start, mine * SHARES["dashboards"] / PAGE_READS / 2, self._pages(vms, "b")),
                self._thread("scheduler", start, mine * SHARES["schedulers"] / (CANDIDATES + 1), self._decisions(vms)),
                self._thread("poller", start, mine * SHARES["pollers"] / 2, self._polls(vms)),
                self._thread("writer", start, plan.churn * plan.speed / plan.processes, self._writer(vms).change),
            ]
            _sleep_until(measured)
            before, asked, cpu = cache.stats_by_name(), self._hypervisors.asked.copy(), _cpu_seconds()
            self._measuring = True
            _sleep_until(over)
            self._measuring = False
            after = cache.stats_by_name()
            seen.cpu_seconds = _cpu_seconds() - cpu
            seen.asked = self._hypervisors.asked - asked
            seen.stats = {name: _minus(stats, before.get(name)) for name, stats in after.items()}
            self._over.set()
            for thread in crew:
                thread.join(30)
        return seen

    def _thread(self, name: str, start: float, rate: float, act: Callable[[], None]) -> threading.Thread:
        rng = self._rng(f"{name} timetable")

        def work() -> None:
            due = start
            try:
                while rate and not self._over.is_set():
                    due += rng.expovariate(rate)
                    while (left := due - time.monotonic()) > 0:
                        if self._over.wait(left):
                            return
                    if self._measuring:
                        self._note_late(-left)
                    act()
            except Exception as error:
                self.seen.errors.append(f"{name} of process {self.number}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def _note_event(self, name: str, _event: Any) -> None:
        with self._counting:
            self.seen.events[name] += 1

    def _note_late(self, seconds: float) -> None:
        with self._counting:
            self.seen.late = max(self.seen.late, seconds)
            self.seen.late_sum += seconds
            self.seen.begun += 1

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.plan.seed} {self.number} {name}")  # noqa: S311

    def _fill(self, vms: CachedVMManager) -> None:
        """Load what lives longest, for a share of the VMs: a fleet that has run for a while has it in the server."""
        mine = self.world.vm_ids[self.number :: self.plan.processes]
        for some in (mine[at : at + BATCH] for at in range(0, len(mine), BATCH)):
            vms.entries.get_vm_configs(some, self._hypervisors.get_vm_configs)
            vms.entries.get_vms_resources(some, self._hypervisors.get_vms_resources)

    def _writer(self, vms: CachedVMManager) -> Writer:
        rng = self._rng("writer")
        return Writer(
            self.number, self.plan.processes, self.plan.speed, self.world, vms, rng,
            popular=partial(self._popular_vm, rng), note=self._note_change,
        )  # fmt: skip

    def _note_change(self, what: str, done: bool) -> None:
        if self._measuring:
            self.seen.changes[what] += 1
            self.seen.pending += not done

    # -- reading ----------------------------------------------------------------------------------------------------

    def _popular_vm(self, rng: random.Random) -> int:
        return self._vms[bisect.bisect(self._vm_weights, rng.random())]

    def _popular_node(self, rng: random.Random) -> int:
        return self._nodes[bisect.bisect(self._node_weights, rng.random())]

    def _read(self, kind: str, number: int, ask: Callable[[str], Any]) -> Any:
        ids = self.world.node_ids if kind in NODE_KINDS else self.world.vm_ids
        began = time.monotonic_ns()
        value = ask(ids[number])
        self._judge(kind, number, value, began)
        return value

    def _judge(self, kind: str, number: int, value: Any, began: int) -> None:
        if not self._measuring:
            return
        subject = self.world.subject(kind, number)
        if kind == "VMState.of_node":
            if not value:
                return  # the listing of an empty node carries no version
            version = version_of(value[0])
        else:
            version = self.world.gone[subject] if value is None else version_of(value)
        seconds, own = self.world.behind(self.number, subject, version, began)
        with self._counting:
            seen = self.seen
            seen.compared[kind] += 1
            if kind == "VMMetrics" and value is not None:
                seen.metrics_age = max(seen.metrics_age, (datetime.now(UTC) - value.sampled_at).total_seconds())
            if seconds:
                seen.behind[kind] += 1
                seen.oldest = max(seen.oldest, seconds)
                seen.stale[kind] += own or seconds > self.plan.bound

    def _pages(self, vms: CachedVMManager, which: str) -> Callable[[], None]:
        rng = self._rng(f"dashboard {which}")

        def page() -> None:
            choice = rng.random()
            if choice < 0.75:
                number = self._popular_vm(rng)
                state = self._read("VMState", number, vms.get_vm_state)
                self._read("VMResources", number, vms.get_vm_resources)
                self._read("VMMetrics", number, vms.get_vm_metrics)
                self._read("VMConfig", number, vms.get_vm_config)
                if state is not None and state.status is VMStatus.MIGRATING:
                    self._read("VMMigration", number, vms.get_vm_migration)
            elif choice < 0.9:
                node = self._popular_node(rng)
                self._read("VMState.of_node", node, vms.list_vm_states)
                self._read("NodeResources", node, vms.get_node_resources)
            else:
                numbers = {self._popular_vm(rng) for _ in range(BATCH)}
                began = time.monotonic_ns()
                found = vms.get_vm_states([self.world.vm_ids[number] for number in numbers])
                for number in numbers:
                    self._judge("VMState", number, found.get(self.world.vm_ids[number]), began)

        return page

    def _decisions(self, vms: CachedVMManager) -> Callable[[], None]:
        rng = self._rng("scheduler")

        def decide() -> None:
            for node in rng.sample(range(self.plan.nodes), min(CANDIDATES, self.plan.nodes)):
                self._read("NodeResources", node, vms.get_node_resources)
            self._read("VMState", self._popular_vm(rng), vms.get_vm_state)

        return decide

    def _polls(self, vms: CachedVMManager) -> Callable[[], None]:
        rng = self._rng("poller")
        nodes = itertools.cycle(rng.sample(range(self.plan.nodes), self.plan.nodes))
        watched: list[int] = []

        def poll() -> None:
            node = next(nodes)
            listing = self._read("VMState.of_node", node, vms.list_vm_states)
            self._read("NodeResources", node, vms.get_node_resources)
            # Whoever sees a migration under way looks at it every now and then.
            watched.extend(
                self.world.vm_numbers[state.vm_id] for state in listing if state.status is VMStatus.MIGRATING
            )
            del watched[:-3]
            if watched and rng.random() < 0.1:
                self._read("VMMigration", rng.choice(watched), vms.get_vm_migration)

        return poll


def _zipf(count: int, exponent: float) -> list[float]:
    weights = list(itertools.accumulate(1 / (rank + 1) ** exponent for rank in range(count)))
    return [weight / weights[-1] for weight in weights[:-1]]


def _sleep_until(moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _minus(after: Stats, before: Stats | None) -> Stats:
    """Return what has been counted between two snapshots."""
    if before is None:
        return after
    return Stats(
        hits={tier: count - before.hits.get(tier, 0) for tier, count in after.hits.items()},
        misses={reason: count - before.misses.get(reason, 0) for reason, count in after.misses.items()},
        loads=after.loads - before.loads,
        load_errors=after.load_errors - before.load_errors,
        load_seconds=after.load_seconds - before.load_seconds,
        stale=after.stale - before.stale,
        joined=after.joined - before.joined,
        waited=after.waited - before.waited,
    )
