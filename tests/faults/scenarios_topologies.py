"""Masters die, are replaced, come back as if nothing had happened, and hand over their slots."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from servers import ClusterTopology, SentinelTopology, ServerProcess, cluster_topology, sentinel_topology, wait_until

from novacron_cache.markers import NAMESPACE, RULES, key_dep, tag_dep
from novacron_cache.tiers.redis_routing import slot_of

from .fleet import Fleet, fleet
from .recording import LATE, Totals
from .report import ANY, Outcome
from .scenario import Stage, scenario

WAITED = 500_000_000


def by_sentinel(topology: SentinelTopology) -> dict[str, Any]:
    return {"redis": {"mode": "sentinel", "addresses": topology.addresses, "sentinel_master": "mymaster"}}


def sentinels(stage: Stage) -> AbstractContextManager[SentinelTopology]:
    down_after = stage.milliseconds(500, 1000)
    return sentinel_topology(stage.binary, replicas=int(stage.seconds(1, 2)), down_after_ms=down_after)


def recovered(processes: Fleet, since: int, until: int = 1 << 62) -> float:
    """Return the seconds until every worker's link was up again and what was written until then was delivered."""
    ups = [Totals([report]).events("link_up", since=since) for report in processes.reports]
    delayed = [one for report in processes.reports for one in report["delayed"] if since <= one[0] < until]
    if not all(ups):
        return float("inf")
    ends: list[int] = [times[0] for times in ups] + [at + waited for at, waited, _ in delayed]
    return (max(ends) - since) / 1e9


def noticed(processes: Fleet, since: int) -> int:
    """Return how many workers met another history than before."""
    return sum(bool(Totals([report]).events("generation_changed", since=since)) for report in processes.reports)


@scenario(4, "failover", "a master that the replicas have lost sight of acknowledges, and is killed; nobody writes")
def failover(stage: Stage, outcome: Outcome) -> None:
    with (
        sentinel_topology(
            stage.binary, replicas=int(stage.seconds(1, 2)), down_after_ms=stage.milliseconds(500, 1000)
        ) as topology,
        fleet([by_sentinel(topology)] * stage.workers, bound=stage.bound, slow=0.0) as processes,
    ):
        processes.traffic(stage.seconds(0.5, 10))
        master = topology.master()
        replicas = [server for server in topology.servers if server is not master]
        for replica in replicas:
            replica.pause()
        # What is acknowledged from here on is lost with the master: nothing waits in the replicas' sockets either.
        master.command("CLIENT", "KILL", "TYPE", "replica")
        assert master.command("SET", "lost", "").startswith(b"+OK")
        time.sleep(0.4)
        processes.database.writing = False
        master.kill()
        killed = time.monotonic_ns()
        for replica in replicas:
            replica.resume()
        processes.traffic(0, phase=2)
        processes.database.writing = False
        time.sleep(stage.seconds(4, 10))
        processes.settle()
        totals = processes.outcome(outcome)
        outcome.figures["recovery_s"] = recovered(processes, killed)
        lost = topology.master().command("EXISTS", "lost") == b":0\r\n"
    outcome.expect("the new master lacks what was acknowledged", lost, at_least=1)
    outcome.expect("processes that noticed the new history", noticed(processes, killed), at_least=stage.workers)
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=1.0, slack=3)
    outcome.expect("seconds until everybody has the new master", outcome.figures["recovery_s"], at_most=10)
    outcome.expect("stale strong reads after the failover", _strong(totals, killed + 10**10), at_most=0)


@scenario(5, "zombie", "a master stops for 6 s, is replaced, and goes on")
def zombie(stage: Stage, outcome: Outcome) -> None:
    with (
        sentinel_topology(
            stage.binary, replicas=int(stage.seconds(1, 2)), down_after_ms=stage.milliseconds(500, 1000)
        ) as topology,
        fleet([by_sentinel(topology)] * stage.workers, bound=stage.bound, slow=0.0) as processes,
    ):
        processes.traffic(stage.seconds(0.5, 10))
        master = topology.master()
        master.pause()
        stopped = time.monotonic_ns()
        processes.traffic(stage.seconds(3, 6), phase=2)
        master.resume()
        processes.traffic(stage.seconds(1, 20), phase=3)
        processes.settle()
        processes.outcome(outcome)
        outcome.figures["recovery_s"] = recovered(processes, stopped)
        wait_until(lambda: topology.master() is not master, what="a failover")
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)
    outcome.expect("seconds until everybody has the new master", outcome.figures["recovery_s"], at_most=10)


@scenario(6, "cluster", "a cluster's master is killed, and slots move")
def cluster(stage: Stage, outcome: Outcome) -> None:
    with cluster_topology(stage.binary, replicas=1, node_timeout_ms=stage.milliseconds(1000, 2000)) as topology:
        settings = {"redis": {"mode": "cluster", "addresses": topology.addresses}}
        with fleet([settings] * stage.workers, bound=stage.bound, slow=0.0) as processes:
            processes.traffic(stage.seconds(0.5, 10))
            victim = _victim(topology)
            slots = {slot for slot in range(16_384) if _serves(topology, slot, victim)}
            victim.kill()
            killed = time.monotonic_ns()
            processes.traffic(stage.seconds(4, 15), phase=2)
            moving = time.monotonic_ns()
            moved = _move(topology, int(stage.seconds(20, 100)))
            processes.traffic(stage.seconds(0.5, 10), phase=3)
            processes.settle()
            processes.outcome(outcome)
    delayed = [one for report in processes.reports for one in report["delayed"] if one[0] >= killed]
    dead = [one for one in delayed if one[0] < moving]
    elsewhere = [one for one in dead if not slots & {slot_of(_marker(dep)) for dep in one[2]}]
    outcome.notes += [
        f"{(at - killed) / 1e9:.2f} s after the kill, for {waited / 1e6:.0f} ms: {named}"
        for at, waited, named in sorted(elsewhere)[:10]
    ]
    waited = sum(one[1] > WAITED for one in elsewhere)
    outcome.figures["recovery_s"] = max((at + waited - killed for at, waited, _ in dead), default=0) / 1e9
    outcome.figures["delayed_while_slots_move"] = len(delayed) - len(dead)
    longest = max((waited for at, waited, _ in delayed if at >= moving), default=0)
    outcome.figures["longest_delay_while_slots_move_ms"] = longest / 1e6
    outcome.figures["slots_moved"] = moved
    outcome.figures["delayed_on_the_shard"] = len(dead) - len(elsewhere)
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)
    outcome.figures["delayed_elsewhere"] = len(elsewhere)
    outcome.expect("invalidations on other shards that waited for 0.5 s", waited, at_most=0, slack=ANY)
    outcome.expect("slots moved", moved, at_least=1)
    outcome.expect("seconds until nothing is pending", outcome.figures["recovery_s"], at_most=8, slack=2)


def _marker(dep: str) -> str:
    return f"nc:faults:m:{{{dep}}}"


def _victim(topology: ClusterTopology) -> ServerProcess:
    """A master without the markers that every value depends on, so that the other shards can be looked at apart."""
    shared = {topology.owner(slot_of(_marker(dep))).port for dep in (NAMESPACE, RULES)}
    return next(server for server in topology.masters if server.port not in shared)


def _serves(topology: ClusterTopology, slot: int, server: ServerProcess) -> bool:
    place = topology.masters.index(server)
    bounds = [round(16_384 * number / len(topology.masters)) for number in range(len(topology.masters) + 1)]
    return bounds[place] <= slot < bounds[place + 1]


def _move(topology: ClusterTopology, count: int) -> int:
    """Move slots to one master under traffic, first those that hold something; return how many.

    In one direction: where two nodes take slots from each other faster than they hear of each other's epochs, both may
    end up believing that the other one has a slot, and nobody can write there.
    """
    target = next(server for server in topology.masters if server.process is not None)
    names = [f"{'late' if n % 2 else 'row'}:{n}" for n in range(60)]
    deps = [NAMESPACE, RULES, *map(key_dep, names), *map(tag_dep, names)]
    slots = dict.fromkeys([*(slot_of(_marker(dep)) for dep in deps), *range(0, 16_384, 97)])
    moved = 0
    for slot in slots:
        if moved < count and topology.owner(slot) is not target:
            topology.move(slot, target)
            moved += 1
    return moved


def _strong(totals: Totals, since: int) -> int:
    return sum(age > LATE for _, age in totals.stale(since=since, strong=True))
