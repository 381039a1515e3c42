"""How a server is: not whether it runs, but whether it does what the others need it for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .layout import MASTER_NAME, Server
from .processes import Process
from .wire import Refusal, Wire, info

if TYPE_CHECKING:
    from .local import LocalServers

__all__ = ["Health", "inspect"]

_SLOTS: Final = "16384"


@dataclass(frozen=True)
class Health:
    """How one server is.

    Attributes:
        server: which one.
        pid: its process; None when it does not run.
        role: `master`, `replica` or `sentinel`; empty when it does not say.
        memory: bytes of memory it uses; None when it does not say.
        version: what runs, such as `valkey 9.1.2`.
        problem: what is wrong; empty when nothing is.
    """

    server: Server
    pid: int | None = None
    role: str = ""
    memory: int | None = None
    version: str = ""
    problem: str = ""


def inspect(servers: LocalServers, server: Server, process: Process | None) -> Health:
    """Return how a server is."""
    if process is None:
        return Health(server, problem="does not run")
    try:
        with servers.connect(server) as wire:
            said = wire.info()
            if server.part == "sentinel":
                role, problem = "sentinel", _of_sentinel(servers, wire)
            else:
                role = {"slave": "replica"}.get(said["role"], said["role"])
                problem = _of_data(servers, said) or (_of_node(servers, wire) if server.part == "node" else "")
    except Refusal as refusal:
        return Health(server, process.pid, problem=str(refusal))
    except (OSError, KeyError) as error:
        return Health(server, process.pid, problem=f"does not answer: {error}")
    product = "valkey" if "valkey_version" in said else "redis"
    memory = int(said["used_memory"]) if "used_memory" in said else None
    return Health(server, process.pid, role, memory, f"{product} {said.get(f'{product}_version', '?')}", problem)


def _of_data(servers: LocalServers, said: dict[str, str]) -> str:
    if said.get("loading") == "1":
        return "is loading its data"
    if said["role"] == "slave":
        return "" if said.get("master_link_status") == "up" else "has no link to its master"
    expected = len(servers.topology.data) - 1 if servers.topology.kind == "sentinel" else 0
    online = sum("state=online" in value for name, value in said.items() if name.startswith("slave"))
    return "" if online >= expected else f"has {online} of {expected} replicas"


def _of_node(servers: LocalServers, wire: Wire) -> str:
    said = info(wire.call("CLUSTER", "INFO"))
    known, expected = int(said.get("cluster_known_nodes", 0)), len(servers.topology.data)
    if known < expected:
        return f"knows {known} of {expected} nodes"
    if said.get("cluster_slots_assigned") != _SLOTS:
        return f"knows of {said.get('cluster_slots_assigned')} of {_SLOTS} slots"
    failed = int(said.get("cluster_slots_fail", 0)) + int(said.get("cluster_slots_pfail", 0))
    if failed:
        return f"misses the masters of {failed} slots"
    return "" if said.get("cluster_state") == "ok" else "says that the cluster is down"


def _of_sentinel(servers: LocalServers, wire: Wire) -> str:
    said = wire.call("SENTINEL", "MASTER", MASTER_NAME)
    facts = dict(zip(said[::2], said[1::2], strict=True))
    if facts["flags"] != "master":
        return f"sees the master as {facts['flags']}"
    others = len(servers.topology.sentinels) - 1
    if int(facts["num-other-sentinels"]) < others:
        return f"sees {facts['num-other-sentinels']} of {others} other sentinels"
    replicas = len(servers.topology.data) - 1
    if int(facts["num-slaves"]) < replicas:
        return f"sees {facts['num-slaves']} of {replicas} replicas"
    try:
        wire.call("SENTINEL", "CKQUORUM", MASTER_NAME)
    except Refusal as refusal:
        return str(refusal)
    return ""
