"""What happens when a master dies: killed on purpose, and timed until the others have taken over.

The servers themselves are asked, over connections of their own, so that what is measured is the topology and not the
patience of a client library.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from .clustering import masters_and_replicas
from .layout import MASTER_NAME, Server
from .problems import NotRunning, StartFailed, WrongRequest
from .processes import deliver
from .wire import Refusal, Wire

if TYPE_CHECKING:
    from .local import LocalServers

__all__ = ["Recovery", "crash"]

_PATIENCE: Final = 30.0


@dataclass(frozen=True)
class Recovery:
    """How long it took, in seconds since the master was killed.

    Attributes:
        victim: the server that was killed.
        heir: the one that took its place.
        promoted: when the heir called itself master.
        writable: when it accepted a write, and all others knew of it.
        whole: when the victim was back, as a replica, and every server did its work.
    """

    victim: str
    heir: str
    promoted: float
    writable: float
    whole: float


def crash(servers: LocalServers, meanwhile: Callable[[], object] = lambda: None) -> Recovery:
    """Kill the master, wait until another one has taken over, and start the victim again.

    Args:
        servers: all of which must run. In a cluster it is the first master.
        meanwhile: called again and again until there is a new master.

    Raises:
        WrongRequest: nobody would take over.
        NotRunning: some servers do not run.
        StartFailed: nobody took over.
    """
    if servers.topology.kind == "standalone":
        raise WrongRequest("--failover: nobody takes over from a single server; set up sentinel or cluster")
    servers.require_all()
    servers.ready()
    victim, heirs = _victim(servers)
    process = servers.process(victim)
    servers.report(f"killing {victim.name}, the master")
    began = time.monotonic()
    if process is None or not deliver(process, signal.SIGKILL):
        raise NotRunning(f"{victim.name} has ended by itself; run `novacron-cache start`")

    def first(condition: Callable[[], Server | None], what: str) -> tuple[Server, float]:
        while True:
            if (found := condition()) is not None:
                return found, time.monotonic() - began
            if time.monotonic() - began > _PATIENCE:
                raise StartFailed(f"waited {_PATIENCE:.0f} s in vain {what}")
            meanwhile()
            time.sleep(0.01)

    try:
        heir, promoted = first(partial(_promoted, servers, heirs), "for a new master")
        _, writable = first(partial(_writable, servers, heir), f"for {heir.name} to accept writes")
        servers.report(f"{heir.name} accepts writes after {writable:.1f} s")
    finally:
        servers.revive(victim)
    return Recovery(victim.name, heir.name, promoted, writable, time.monotonic() - began)


def _victim(servers: LocalServers) -> tuple[Server, list[Server]]:
    """Return the server to kill, and those that may take its place."""
    if servers.topology.kind == "cluster":
        return next(iter(masters_and_replicas(servers).items()))
    master = servers.master()
    if master is None:
        raise StartFailed("the sentinels name a master that is none of these servers; look at `status`")
    return master, [server for server in servers.topology.data if server != master]


def _promoted(servers: LocalServers, heirs: list[Server]) -> Server | None:
    for heir in heirs:
        with suppress(OSError, Refusal):
            if servers.call(heir, "ROLE")[0] == "master":
                return heir
    return None


def _writable(servers: LocalServers, heir: Server) -> Server | None:
    with suppress(OSError, Refusal), servers.connect(heir) as wire:
        if servers.topology.kind == "cluster":
            key = _key_of(wire)
        else:
            key = "nc:novacron-failover:probe"
            for sentinel in servers.topology.sentinels:
                if int(servers.call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)[1]) != heir.port:
                    return None
        wire.call("SET", key, "1", "PX", 1000)
        return heir
    return None


def _key_of(wire: Wire) -> str:
    """Return a key in a slot that this node serves."""
    me = wire.call("CLUSTER", "MYID")
    owned = [
        (int(first), int(last)) for first, last, (_, _, node, *_), *_ in wire.call("CLUSTER", "SLOTS") if node == me
    ]
    if not owned:
        raise Refusal("it serves no slot yet")
    number = 0
    while True:
        key = f"nc:novacron-failover:{number}"
        slot = wire.call("CLUSTER", "KEYSLOT", key)
        if any(first <= slot <= last for first, last in owned):
            return key
        number += 1
