"""Restarting every server while the others go on, and giving the role of the master away before its server stops.

A master that is simply stopped takes with it what it has acknowledged and not sent yet, and leaves its clients without
anybody for as long as the others need to notice. So the role is handed over first: the master holds new writes back,
its replica catches up, and only then do they change places. Clients wait for a moment; nothing is lost.

A cluster does all that by itself when a replica asks. With sentinels the steps are taken here, because a failover that
they are asked for leaves the old master accepting writes, for seconds, that will be thrown away.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from .clustering import masters_and_replicas
from .layout import MASTER_NAME, Server
from .problems import StartFailed, WrongRequest
from .wire import Refusal, Wire

if TYPE_CHECKING:
    from .local import LocalServers

__all__ = ["hand_over", "rolling_restart"]

_HANDOVER: Final = 20.0  # seconds it may take
_PAUSE: Final = 3000  # milliseconds for which writes are held back, renewed meanwhile
_POLL: Final = 0.02


def rolling_restart(servers: LocalServers) -> None:
    """Restart every server, one after the other, without an interruption.

    Raises:
        WrongRequest: there is only one server.
        NotRunning: some servers do not run.
        StartFailed: a server did not come back; those not restarted yet run on as before.
    """
    if servers.topology.kind == "standalone":
        raise WrongRequest("one server cannot be restarted without an interruption; leave out --rolling")
    servers.require_all()
    servers.ready()
    if servers.topology.kind == "cluster":
        _cluster(servers)
    else:
        _sentinel(servers)


def _sentinel(servers: LocalServers) -> None:
    master = servers.master()
    if master is None:
        raise StartFailed("the sentinels name a master that is none of these servers; look at `status`")
    for replica in servers.topology.data:
        if replica != master:
            servers.restart(replica)
            servers.report(f"{replica.name} restarted")
    heir = hand_over(servers, master)
    servers.report(f"{heir.name} is the master in place of {master.name}")
    servers.restart(master)
    servers.report(f"{master.name} restarted")
    # One by one: the others keep their majority.
    for sentinel in servers.topology.sentinels:
        servers.restart(sentinel)
        servers.report(f"{sentinel.name} restarted")


def hand_over(servers: LocalServers, master: Server) -> Server:
    """Have the sentinels make a replica the master, without losing a write, and return it.

    Raises:
        StartFailed: they did not.
    """
    with servers.connect(master) as wire:
        try:
            _hold_back(wire)
            servers.wait(lambda: _caught_up(wire), "the replicas to catch up", patience=_HANDOVER)
            heir = _promoted(servers, master, wire)
            # The sentinels would tell the old master too, up to ten seconds later.
            wire.call("REPLICAOF", servers.topology.host, heir.port)
            # Clients that wait here find the new master when they connect again.
            wire.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        finally:
            with suppress(OSError, Refusal):
                wire.call("CLIENT", "UNPAUSE")
    servers.ready()
    return heir


def _promoted(servers: LocalServers, master: Server, wire: Wire) -> Server:
    """Ask for a failover until a new master is named by all sentinels."""
    deadline, asked = time.monotonic() + _HANDOVER, False
    while time.monotonic() < deadline:
        _hold_back(wire)
        if not asked:
            # A sentinel that has just lost sight of a replica has none to promote yet.
            with suppress(Refusal):
                servers.call(servers.topology.sentinels[0], "SENTINEL", "FAILOVER", MASTER_NAME)
                asked = True
        named = {_named(servers, sentinel) for sentinel in servers.topology.sentinels}
        if len(named) == 1 and (port := named.pop()) != master.port:
            heir = next((server for server in servers.topology.data if server.port == port), None)
            if heir is not None and servers.call(heir, "ROLE")[0] == "master":
                return heir
        time.sleep(_POLL)
    raise StartFailed(f"the sentinels did not replace {master.name} within {_HANDOVER:.0f} s; it is still the master")


def _hold_back(wire: Wire) -> None:
    wire.call("CLIENT", "PAUSE", _PAUSE, "WRITE")


def _caught_up(wire: Wire) -> bool:
    said = wire.info("replication")
    replicas = [value for name, value in said.items() if name.startswith("slave") and "offset=" in value]
    offset = f"offset={said['master_repl_offset']},"
    return bool(replicas) and all(offset in f"{value}," for value in replicas)


def _named(servers: LocalServers, sentinel: Server) -> int:
    return int(servers.call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)[1])


def _cluster(servers: LocalServers) -> None:
    shards = masters_and_replicas(servers)
    for replicas in shards.values():
        for replica in replicas:
            servers.restart(replica)
            servers.report(f"{replica.name} restarted")
    for master, replicas in shards.items():
        heir = replicas[0]
        servers.wait(partial(_taken_over, servers, heir), f"{heir.name} to take over", [heir])
        servers.report(f"{heir.name} is a master in place of {master.name}")
        servers.ready()
        servers.restart(master)
        servers.report(f"{master.name} restarted")


def _taken_over(servers: LocalServers, heir: Server) -> bool:
    if servers.call(heir, "ROLE")[0] == "master":
        return True
    with suppress(Refusal):  # its link to the master is not up yet
        servers.call(heir, "CLUSTER", "FAILOVER")
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if servers.call(heir, "ROLE")[0] == "master":
            return True
        time.sleep(_POLL)
    return False
