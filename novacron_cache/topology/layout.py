"""What a local topology consists of: which servers, on which ports, and what each of them is at first.

Who is the master is not part of it: that changes while the servers run, and only they know.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from .problems import NotSetUp, WrongRequest

__all__ = ["KINDS", "MASTER_NAME", "PORTS", "Kind", "Server", "Topology", "plan"]

Kind = Literal["standalone", "sentinel", "cluster"]
Part = Literal["server", "node", "sentinel"]

KINDS: Final[tuple[str, ...]] = get_args(Kind)
MASTER_NAME: Final = "mymaster"
"""The name by which the sentinels know the master."""
APPLICATION: Final = "cache"
"""The user that applications log in as: the keys of the cache, and no administration."""

PORTS: Final = {"standalone": 6379, "sentinel": 6379, "cluster": 7001}
"""The first port of each kind; the others follow it."""
SENTINEL_PORT: Final = 26379
BUS: Final = 10_000
"""How far the port for talk between the nodes of a cluster is from a node's own."""

_SERVERS: Final = {"standalone": 1, "sentinel": 3, "cluster": 6}
_SENTINELS: Final = 3
_QUORUM: Final = 2
_FORMAT: Final = 1


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        name: its name, also that of its directory.
        part: what it is: a data server, a node of a cluster, or a sentinel.
        port: where clients reach it.
        bus_port: where the nodes of a cluster reach it; zero elsewhere.
    """

    name: str
    part: Part
    port: int
    bus_port: int = 0

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports it listens on."""
        return (self.port, self.bus_port) if self.bus_port else (self.port,)


@dataclass(frozen=True)
class Topology:
    """All servers, and what they have in common.

    Attributes:
        kind: how they are arranged.
        host: the address they listen on and tell each other.
        binary: the server to run.
        servers: all of them; the first data server is the first master.
    """

    kind: Kind
    host: str
    binary: str
    servers: tuple[Server, ...]

    @property
    def data(self) -> tuple[Server, ...]:
        """The servers that hold data."""
        return tuple(server for server in self.servers if server.part != "sentinel")

    @property
    def sentinels(self) -> tuple[Server, ...]:
        """The sentinels; none but with Sentinel."""
        return tuple(server for server in self.servers if server.part == "sentinel")

    @property
    def quorum(self) -> int:
        """How many sentinels must agree that the master is gone."""
        return _QUORUM

    @property
    def redis_settings(self) -> dict[str, str]:
        """The settings of section `redis` with which applications reach it, but for the password."""
        wanted = self.sentinels or self.data
        host = f"[{self.host}]" if ":" in self.host else self.host
        addresses = [f"{host}:{server.port}" for server in wanted]
        if self.kind == "standalone":
            return {"url": f"redis://{addresses[0]}", "username": APPLICATION}
        settings = {"mode": self.kind, "addresses": ",".join(addresses), "username": APPLICATION}
        return settings | ({"sentinel_master": MASTER_NAME} if self.sentinels else {})

    def find(self, name: str) -> Server:
        """Return the server with a name or a port.

        Raises:
            WrongRequest: there is none.
        """
        for server in self.servers:
            if name in {server.name, str(server.port)}:
                return server
        names = ", ".join(server.name for server in self.servers)
        raise WrongRequest(f"there is no server {name!r}; there are {names}")

    def write(self, path: Path) -> None:
        """Write the topology to a file."""
        path.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Topology:
        """Read the topology from a file.

        Raises:
            NotSetUp: there is no such file, or it is of another version.
        """
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            raise NotSetUp(f"{path.parent} holds no servers; run `novacron-cache setup` first") from None
        except (OSError, ValueError) as error:
            raise NotSetUp(f"{path} cannot be read ({error}); run `novacron-cache setup --replace`") from error
        if not isinstance(found, dict) or found.pop("format", None) != _FORMAT:
            raise NotSetUp(f"{path} was written by another version; run `novacron-cache setup --replace`")
        try:
            return cls(**{**found, "servers": tuple(Server(**server) for server in found["servers"])})
        except (KeyError, TypeError) as error:
            raise NotSetUp(f"{path} is damaged ({error}); run `novacron-cache setup --replace`") from error


def plan(
    kind: Kind,
    *,
    binary: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    sentinel_port: int | None = None,
    bus_port: int | None = None,
) -> Topology:
    """Return the topology of a kind.

    Args:
        kind: how the servers are arranged.
        binary: the server to run.
        host: the address to listen on, which must be one of this machine's.
        port: the first port of the data servers; None takes the usual one.
        sentinel_port: the first port of the sentinels.
        bus_port: the first port for talk between the nodes of a cluster; None takes what the servers would choose.

    Raises:
        WrongRequest: a port is out of range or used twice, or the address does not fit.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise WrongRequest(f"--host {host!r} is not an address") from None
    if address.is_unspecified:
        raise WrongRequest(
            f"--host {host} stands for every address; name one of this machine, for the servers tell it each other"
        )
    if sentinel_port is not None and kind != "sentinel":
        raise WrongRequest(f"--sentinel-port: {kind} has no sentinels")
    if bus_port is not None and kind != "cluster":
        raise WrongRequest(f"--bus-port: {kind} has no cluster bus")
    first = PORTS[kind] if port is None else port
    bus = (first + BUS if bus_port is None else bus_port) if kind == "cluster" else 0
    part: Part = "node" if kind == "cluster" else "server"
    servers = [Server(f"{part}-{n + 1}", part, first + n, bus + n if bus else 0) for n in range(_SERVERS[kind])]
    if kind == "sentinel":
        first_sentinel = SENTINEL_PORT if sentinel_port is None else sentinel_port
        servers += [Server(f"sentinel-{n + 1}", "sentinel", first_sentinel + n) for n in range(_SENTINELS)]
    ports = [port for server in servers for port in server.ports]
    if wrong := [port for port in ports if not 0 < port < 65536]:
        hint = "; name a lower one with --bus-port" if kind == "cluster" and bus_port is None else ""
        raise WrongRequest(f"port {wrong[0]} is out of range{hint}")
    if twice := [port for port in ports if ports.count(port) > 1]:
        raise WrongRequest(f"port {twice[0]} is used twice; move the ports apart")
    return Topology(kind, host, str(binary), tuple(servers))
