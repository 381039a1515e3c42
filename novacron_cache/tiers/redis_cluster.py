"""The shared tier spread over the masters of a cluster.

The commands of one batch travel together: one pipeline for each node, all of them written before any is read. A node
that fails costs one time-out and is then left alone for a while; it takes nothing from the others: a read of several
keys counts those of a failed node as missing, and any other operation fails as a *partial* failure, which says nothing
about the tier as a whole.

Where keys live is read from the nodes themselves (see `redis_cluster_watch`) and corrected by what they answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, ClassVar

from ..effects import Delete, Fetch, Operation
from ..errors import TierError, TierUnavailableError
from ..guards import Breaker
from ..markers import NAMESPACE
from .redis_cluster_watch import ClusterConnections, ClusterWatch
from .redis_commands import Batch, Commands, fetched
from .redis_connections import tier_error
from .redis_exchange import POOL_EMPTY
from .redis_routing import Routing, Sent, key_of, slot_of
from .redis_watched import WatchedTier, named_already

__all__ = ["ClusterCommands", "ClusterConnections", "ClusterWatch", "RedisClusterTier"]


class _At(Batch):
    """A batch that goes to one node, whatever its keys are."""

    address = ""


class ClusterCommands(Commands):
    """Turns operations into commands none of which needs more than one slot.

    Args:
        namespace: keeps applications apart.
        masters: returns the addresses of all masters.
    """

    in_order: ClassVar[bool] = False

    def __init__(self, namespace: str, masters: Callable[[], Collection[str]]) -> None:
        super().__init__(namespace)
        self._masters = masters

    def plan(self, operation: Operation) -> list[Batch]:
        """Return the round trips of an operation, as for one server, but with one command for each key."""
        match operation:
            case Fetch(keys, deps):
                names = [*map(self.value_key, keys), *map(self.marker_key, deps)]
                # Not `GET`: that is an error where a marker is held, and this has nothing there.
                return [Batch([("MGET", name) for name in names])] if names else []
            case Delete(keys):
                return [Batch([("UNLINK", self.value_key(key)) for key in keys])] if keys else []
            case _:
                return super().plan(operation)

    def parse(self, operation: Operation, plan: Sequence[Batch], replies: Sequence[Any]) -> Any:
        """Return the result of an operation; what a node did not answer counts as missing."""
        if isinstance(operation, Fetch):
            found = [reply[0] if isinstance(reply, list) else None for reply in replies]
            whole = all(isinstance(reply, list) for reply in replies)
            return fetched(operation, found, whole=whole)
        return super().parse(operation, plan, replies)

    def at(self, server: str, command: tuple[Any, ...]) -> Batch:
        """Return what asks one node something."""
        there = _At([command])
        there.address = server
        return there

    def published(self, processes: Sequence[bytes]) -> Batch | None:
        """Return the commands that read the figures of the processes with these names, or None."""
        together = super().published(processes)
        return together and Batch([("MGET", name) for name in together.commands[0][1:]])

    def _purge(self) -> Generator[Batch, list[Any], bool]:
        for address in sorted(self._masters()):
            steps = super()._purge()
            try:
                batch = next(steps)
                while True:
                    if batch.commands[0][0] == "SCAN":
                        there = _At(batch.commands)
                        there.address = address
                        replies = yield there
                    else:
                        (command,) = batch.commands
                        replies = yield Batch([("UNLINK", key) for key in command[1:]])
                    batch = steps.send(replies)
            except StopIteration:
                continue
        return True


class RedisClusterTier(WatchedTier):
    """Keeps payloads and markers in the masters of a cluster.

    Args:
        connections: how to reach its nodes.
        namespace: the prefix under which this application's keys live.
        more: what any redis tier takes.
    """

    watch: ClusterWatch

    def __init__(self, connections: ClusterConnections, namespace: str, **more: Any) -> None:
        super().__init__(connections, namespace, watch=connections.watch, **more)
        self.commands = ClusterCommands(namespace, lambda: connections.watch.serving)
        self._met: Collection[str] = ()
        self._breakers: dict[str, Breaker] = {}
        self._home = slot_of(self.commands.marker_key(NAMESPACE))
        connections.enter, connections.aenter = self._enter, self._aenter

    def connect(self, address: str = "") -> Any:
        """Return a connection of its own, which has spoken RESP3 and logged in; not one of a pool.

        Args:
            address: where it leads; by default to the master that keeps the namespace's marker.
        """
        self.watch.require()
        nodes = self._client or self._connect()
        return nodes.connect(address or self.watch.owner(self._home))

    def servers(self) -> list[str]:
        """Return the addresses of the masters that serve slots."""
        self.watch.require()
        return sorted(self.watch.serving)

    def _execute(self, batch: Batch) -> list[Any]:
        self._check_open()
        self.watch.require()
        nodes = self._client or self._connect()
        self._keep(nodes)
        if unmet := self._unmet():
            nodes.exchange(unmet)
        routing = self._routing(batch)
        while groups := routing.groups():
            admitted = self._admitted(routing, groups)
            if admitted:
                self._settle(routing, admitted, nodes.exchange(_wires(routing, admitted)))
            if routing.pause:
                time.sleep(routing.pause)
        return self._judged(batch, routing)

    async def _aexecute(self, batch: Batch) -> list[Any]:
        self._check_open()
        await self.watch.arequire()
        nodes = await self._aclients.current()
        self._keep(nodes)
        if unmet := self._unmet():
            await nodes.exchange(unmet)
        routing = self._routing(batch)
        while groups := routing.groups():
            admitted = self._admitted(routing, groups)
            if admitted:
                self._settle(routing, admitted, await nodes.exchange(_wires(routing, admitted)))
            if routing.pause:
                await asyncio.sleep(routing.pause)
        return self._judged(batch, routing)

    def _keep(self, nodes: Any) -> None:
        """Let go of what was kept for nodes that are masters no longer."""
        wanted = self.watch.wanted
        if nodes.keep(wanted):
            self._breakers = {address: one for address, one in self._breakers.items() if address in wanted}

    def _unmet(self) -> dict[str, list[tuple[str]]]:
        """Return something to say to the masters that are new, for a connection to each finds out which history it has.

        One that is new to the namespace invalidates it. Met one by one, as their first keys are used, the masters of a
        new cluster would do so again and again.
        """
        serving = self.watch.serving
        if serving == self._met:
            return {}
        known, self._met = self._met, serving
        return {address: [("PING",)] for address in sorted(serving) if address not in known}

    def _routing(self, batch: Batch) -> Routing:
        if isinstance(batch, _At):
            address = batch.address
            return Routing(batch.commands, lambda _: address, self.watch.moved)
        return Routing(batch.commands, self._place, self.watch.moved)

    def _place(self, command: Sequence[Any]) -> str:
        key = key_of(command)
        return self.watch.owner(self._home if key is None else slot_of(key))

    def _enter(self, command: Sequence[Any]) -> Any:
        return self._execute(Batch([tuple(command)]))[0]

    async def _aenter(self, command: Sequence[Any]) -> Any:
        return (await self._aexecute(Batch([tuple(command)])))[0]

    def _after_fork(self) -> None:
        super()._after_fork()
        self._breakers = {}
        if self._client is not None:
            self._client.after_fork()

    # -- nodes that fail ----------------------------------------------------------------------------------------------

    def _admitted(self, routing: Routing, groups: dict[str, list[Sent]]) -> dict[str, list[Sent]]:
        """Return the groups whose nodes may be asked; the others fail at once."""
        admitted: dict[str, list[Sent]] = {}
        for address, sent in groups.items():
            if not address:
                routing.failed(address, sent, TierUnavailableError("redis: no master serves this slot", tier=self.name))
            elif not self._breaker(address).allows():
                problem = f"redis at {address}: did not answer and is left alone for a while"
                routing.failed(address, sent, TierUnavailableError(problem, tier=self.name))
            else:
                admitted[address] = sent
        return admitted

    def _settle(self, routing: Routing, groups: dict[str, list[Sent]], outcomes: dict[str, Any]) -> None:
        for address, sent in groups.items():
            outcome = outcomes[address]
            if isinstance(outcome, Exception):
                if str(outcome) != POOL_EMPTY:  # which says nothing about the node
                    self._breaker(address).failed()
                routing.failed(address, sent, self._named_at(address, outcome))
                self.watch.refresh()
            else:
                self._breaker(address).succeeded()
                routing.answered(address, sent, outcome)

    def _breaker(self, address: str) -> Breaker:
        found = self._breakers.get(address)
        if found is None:
            found = self._breakers.setdefault(address, Breaker(self.watch.monotonic, threshold=1, longest=2.0))
        return found

    def _judged(self, batch: Batch, routing: Routing) -> list[Any]:
        replies = routing.replies
        failures = [reply for reply in replies if isinstance(reply, Exception)]
        if not failures:
            return replies
        reads = all(command[0] == "MGET" for command in batch.commands)
        if reads and len(failures) < len(replies):
            return replies
        try:
            return self._checked(replies, batch)
        except TierError as error:
            # Others answer, so this says nothing about the tier as a whole.
            error.partial = len(failures) < len(replies) or bool(
                routing.lost and self.watch.others_answer(routing.lost)
            )
            raise

    def _named_at(self, address: str, error: Exception) -> Exception:
        if (known := named_already(error)) is not None:
            return known
        return tier_error(error, where=address, secrets=self._connections.secrets)


def _wires(routing: Routing, groups: dict[str, list[Sent]]) -> dict[str, list[Sequence[Any]]]:
    return {address: routing.wire(sent) for address, sent in groups.items()}
