"""Making one cluster of nodes that have never heard of each other.

Each master takes an equal share of the slots; the nodes are introduced; each replica is told its master as soon as it
knows it. Nothing of it is undone by doing it again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from .layout import Server
from .wire import Refusal, info

if TYPE_CHECKING:
    from .local import LocalServers

__all__ = ["form", "masters_and_replicas"]

SLOTS: Final = 16384


def form(servers: LocalServers) -> None:
    """Make a cluster of the nodes, which all run; does nothing when they are one.

    Raises:
        StartFailed: they did not find each other.
    """
    nodes = servers.topology.data
    if any(_facts(servers, node).get("cluster_slots_assigned") == str(SLOTS) for node in nodes):
        return
    masters, replicas = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]
    ids = {}
    for epoch, node in enumerate(nodes, start=1):
        with servers.connect(node) as wire:
            # What an earlier attempt left half done.
            wire.call("CLUSTER", "RESET", "HARD")
            # Nodes with the same epoch have to settle it first.
            wire.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            ids[node] = wire.call("CLUSTER", "MYID")
            if node in masters:
                share = masters.index(node)
                first, last = SLOTS * share // len(masters), SLOTS * (share + 1) // len(masters) - 1
                wire.call("CLUSTER", "ADDSLOTSRANGE", first, last)
    for node in nodes[1:]:
        servers.call(nodes[0], "CLUSTER", "MEET", servers.topology.host, node.port, node.bus_port)
    servers.wait(
        lambda: all(int(_facts(servers, node)["cluster_known_nodes"]) == len(nodes) for node in nodes),
        "the nodes to meet",
        nodes,
    )
    for master, replica in zip(masters, replicas, strict=True):
        servers.wait(partial(_follow, servers, replica, ids[master]), f"{replica.name} to follow {master.name}")


def masters_and_replicas(servers: LocalServers) -> dict[Server, list[Server]]:
    """Return the masters of a cluster as it is now, each with its replicas."""
    by_port = {node.port: node for node in servers.topology.data}
    found: dict[Server, list[Server]] = {}
    for node in servers.topology.data:
        role = servers.call(node, "ROLE")
        if role[0] == "master":
            found.setdefault(node, [])
        else:
            found.setdefault(by_port[int(role[2])], []).append(node)
    return found


def _facts(servers: LocalServers, node: Server) -> dict[str, str]:
    return info(servers.call(node, "CLUSTER", "INFO"))


def _follow(servers: LocalServers, replica: Server, master_id: str) -> bool:
    try:
        servers.call(replica, "CLUSTER", "REPLICATE", master_id)
    except Refusal:  # it has not heard of its master yet
        return False
    return True
