"""What a cluster says about itself: which master serves which slot, and whether a majority agrees."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Literal

from ..errors import SettingsError
from .redis_cluster_nodes import AsyncNodes, Nodes
from .redis_connections import RedisConnections, preload, tier_error
from .redis_nodes import ClusterMap, host_port, joined, located
from .redis_routing import key_of, slot_of
from .redis_watch import NEVER, Node, Topology, Watch, confirmed

__all__ = ["ClusterConnections", "ClusterWatch"]

_MANY = 256
"""How many successors are remembered of masters that may come back."""


class ClusterWatch(Watch):
    """Knows which master serves which slot.

    The masters are their own witnesses: those that a majority of them sees as masters are confirmed.

    Args:
        seeds: addresses that are asked first, and whenever nobody else answers.
        dial: opens a connection to a node.
        named: whether nodes go by the names they announce.
        replicas: addresses of replicas that are known beforehand, for the view.
        bound: the staleness bound, seconds.
        patience: seconds to wait for an answer.
        monotonic: the clock.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        dial: Callable[[str], Any],
        *,
        named: bool = False,
        replicas: Sequence[str] = (),
        bound: float,
        patience: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seeds = tuple(dict.fromkeys(seeds))
        self._dial = dial
        self._named = named
        self._configured_replicas = tuple(replicas)
        self._said: dict[str, tuple[ClusterMap, float]] = {}
        self._map = ClusterMap(())
        self._owners: list[str] = []
        self._wanted: frozenset[str] = frozenset()
        self._lineage: dict[str, str] = {}
        self._confirmed_at = NEVER
        super().__init__([("CLUSTER", "NODES")], bound=bound, patience=patience, monotonic=monotonic)

    def witnesses(self) -> Collection[str]:
        """Return the masters with slots; and the seeds while those do not confirm each other."""
        return [*self._map.serving, *(() if self.trusted else self.seeds)]

    def dial(self, name: str) -> Any:
        """Open a connection to a node."""
        return self._dial(name)

    def heard(self, name: str, replies: list[Any], asked: float) -> bool:
        """Take in the map that a node has; return whether the masters are others than before."""
        (reply,) = replies
        if isinstance(reply, Exception):
            self._said.pop(name, None)
            self.problems[name] = self._problem(name, str(reply))
            return False
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
        told = ClusterMap.parse(text, name, named=self._named)
        if not told.serving:
            self.problems[name] = f"{name} knows no master with slots; the cluster has not been created yet"
            return False
        self._said[name] = (told, asked)
        return self._judge(asked)

    def _judge(self, asked: float) -> bool:
        old = self._map
        # The claim with the highest epoch wins, as it does among the nodes; of equal ones the latest.
        best = max(
            (one for one in self._said.values() if one[1] > asked - self.bound), key=lambda one: (one[0].epoch, one[1])
        )[0]
        if best.routes != old.routes:
            self._owners = best.owners()
            if old.serving:
                successors = best.successors(old)
                self.replaced += successors
                self._lineage |= {new: self._lineage.get(was, was) for _, was, new in successors}
                if len(self._lineage) > _MANY:
                    self._lineage = {new: was for new, was in self._lineage.items() if new in best.masters}
        self._map = best
        self._wanted = best.serving.union(best.masters)
        self._said = {name: one for name, one in self._said.items() if name in best.serving or name in self.seeds}
        agreeing = [
            when for name, (one, when) in self._said.items() if name in best.serving and one.serving == best.serving
        ]
        self._confirmed_at = confirmed(agreeing, len(best.serving) // 2 + 1)
        return old.masters != best.masters

    def moved(self, slot: int, address: str) -> None:
        """Note what a node said of a slot; the others are asked for the rest."""
        with self._lock:
            if self._owners:
                self._owners[slot] = address
        self.refresh()

    def others_answer(self, lost: Collection[str]) -> bool:
        """Return whether a master besides these has answered when it was last asked."""
        return any(name in self._said and name not in self.problems for name in self._map.serving if name not in lost)

    def place(self, address: str) -> str:
        """Return a name for a shard that it keeps when another node becomes its master."""
        return self._lineage.get(address, address)

    def owner(self, slot: int) -> str:
        """Return the address of the master that serves a slot; empty where none does."""
        owners = self._owners
        return owners[slot] if owners else ""

    def masters(self) -> Collection[str]:
        """Return the masters as far as they are known, those without slots included."""
        return self._map.masters

    @property
    def serving(self) -> Collection[str]:
        """The masters with slots."""
        return self._map.serving

    @property
    def wanted(self) -> Collection[str]:
        """The masters, those without slots included, as a set that is another one only where they are others."""
        return self._wanted

    def confirmed_at(self) -> float:
        """Return when the last of a majority had been asked that agrees about who is a master."""
        return self._confirmed_at

    def doubt(self) -> str:
        """Return in one line why the masters are not known, or not confirmed."""
        problems = [self.problems[name] for name in (*self._map.serving, *self.seeds) if name in self.problems]
        why = f" ({problems[0]})" if problems else ""
        if not self._map.serving:
            return f"no node in redis.addresses says where the keys of the cluster are{why}"
        return f"no majority of the cluster's {len(self._map.serving)} masters answers and agrees who they are{why}"

    def topology(self) -> Topology:
        """Return the nodes as they were last seen."""
        with self._lock:
            by_id = {member.id: member.address for member in self._map.members}
            nodes: dict[str, Node] = {}
            for member in self._map.members:
                if "noaddr" not in member.flags and "handshake" not in member.flags:
                    silent = member.address in self._map.serving and member.address in self.problems
                    ok = not silent and not member.flags & {"fail", "fail?"}
                    role: Literal["master", "replica"] = "master" if "master" in member.flags else "replica"
                    nodes[member.address] = Node(member.address, role, ok, by_id.get(member.master, ""), member.slots)
            for address in self._configured_replicas:
                nodes.setdefault(address, Node(address, "replica", False))
            age = self.monotonic() - self._confirmed_at
            return Topology("cluster", tuple(nodes.values()), tuple(sorted(self._map.serving)), self.trusted, age)

    def _problem(self, name: str, text: str) -> str:
        if "cluster support disabled" in text:
            return f"{name} is not a node of a cluster; set redis.mode to 'standalone' and redis.url"
        if "unknown command" in text:
            return f"{name} is a sentinel; set redis.mode to 'sentinel'"
        return f"{name}: {text[:100]}"


class ClusterConnections(RedisConnections):
    """Builds clients for each node of a cluster.

    Args:
        options: the settings; `nodes`, or the address in `url`, are asked first.
        bound: the staleness bound, seconds.
        monotonic: the clock.

    Raises:
        SettingsError: the URL names a database, or is malformed.
    """

    def __init__(self, options: Any, *, bound: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.enter: Callable[[Sequence[Any]], Any]
        """Has a command carried out where its key lives, for a connection that leads elsewhere; the tier sets it."""
        self.aenter: Callable[[Sequence[Any]], Any]
        """Does what `enter` does without blocking the running loop."""
        preload()  # or the first answer would have to wait for it
        url = options.url
        super().__init__(options if url else located(options, "redis://cluster:0"))
        seeds = [joined(host, port) for host, port in options.nodes]
        if url:
            if self._endpoint.kwargs["db"]:
                raise SettingsError("redis.url: a cluster has no database but 0", variable="redis.url")
            seeds.append(joined(self._endpoint.kwargs["host"], self._endpoint.kwargs["port"]))
        self.watch = ClusterWatch(
            seeds,
            self._dial,
            named=self._endpoint.tls or bool(options.tls_on),
            replicas=tuple(options.replica_addresses),
            bound=bound,
            patience=options.connect_timeout,
            monotonic=monotonic,
        )

    @property
    def where(self) -> str:
        """The addresses that are asked first."""
        return f"the cluster at {', '.join(self.watch.seeds)}"

    def client(self) -> Any:
        """Return a new set of blocking clients, one for each node that is used."""
        return Nodes(super().client, self._greet)

    def aclient(self) -> Any:
        """Return a new set of asynchronous clients, one for each node that is used."""
        return AsyncNodes(super().aclient, self._agreet)

    def _greet(self, address: str, connection: Any) -> None:
        connection.on_connect()
        steps = self._steps(address)
        try:
            command = next(steps)
            while True:
                if self._elsewhere(command, address):
                    reply = self.enter(command)
                else:
                    connection.send_command(*command, check_health=False)
                    reply = connection.read_response()
                command = steps.send(reply)
        except StopIteration:
            return
        except BaseException:
            # Also when it was cancelled: a connection that was not checked must not be found open.
            connection.disconnect()
            raise

    async def _agreet(self, address: str, connection: Any) -> None:
        await connection.on_connect()
        steps = self._steps(address)
        try:
            command = next(steps)
            while True:
                if self._elsewhere(command, address):
                    reply = await self.aenter(command)
                else:
                    await connection.send_command(*command, check_health=False)
                    reply = await connection.read_response()
                command = steps.send(reply)
        except StopIteration:
            return
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    def _steps(self, address: str) -> Generator[Any, Any, None]:
        if self.generations is not None:
            yield from self.generations.greet(self.watch.place(address))

    def _elsewhere(self, command: Sequence[Any], address: str) -> bool:
        key = key_of(command)
        return key is not None and self.watch.owner(slot_of(key)) != address

    def _dial(self, name: str) -> Any:
        host, port = host_port(name)
        pool = super().client().connection_pool
        kwargs = {**pool.connection_kwargs, "host": host, "port": port}
        kwargs.pop("redis_connect_func", None)  # what is asked of masters
        connection = pool.connection_class(**kwargs)
        try:
            connection.connect()
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, Exception):
                raise tier_error(error, where=name, secrets=self.secrets) from error
            raise
        return connection
