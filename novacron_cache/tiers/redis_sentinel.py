"""The shared tier where sentinels say which server is the master.

Each new connection asks the sentinels, all at once, and goes where a majority of them points; a sentinel that is dead
costs nothing while the others answer. Replicas are never read: what they have may have been invalidated.

The sentinels are also asked all the time (see `redis_watch`). When they name another master, every connection is opened
anew; when a majority of them cannot be heard for as long as the staleness bound, the tier refuses, because the server
it talks to may have been replaced without a word.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import cache, cached_property
from typing import Any

from .redis_commands import Batch
from .redis_connections import RedisConnections, preload, tier_error
from .redis_nodes import host_port, joined, located
from .redis_watch import NEVER, Node, Topology, Watch, confirmed
from .redis_watched import WatchedTier

__all__ = ["SentinelConnections", "SentinelTier", "SentinelWatch"]


class SentinelWatch(Watch):
    """Knows which address the sentinels name.

    Args:
        service: the name by which they know the master.
        sentinels: their addresses; a majority of these counts, whether they can be reached or not.
        dial: opens a connection to one of them.
        replicas: addresses of replicas that are known beforehand, for the view.
        bound: the staleness bound, seconds.
        patience: seconds to wait for an answer.
        monotonic: the clock.
    """

    def __init__(
        self,
        service: str,
        sentinels: Sequence[str],
        dial: Callable[[str], Any],
        *,
        replicas: Sequence[str] = (),
        bound: float,
        patience: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.sentinels = tuple(dict.fromkeys(sentinels))
        self.needed = len(self.sentinels) // 2 + 1
        self._dial = dial
        self._named: dict[str, tuple[str, float]] = {}
        self._replicas: dict[str, bool] = dict.fromkeys(replicas, True)
        self._configured_replicas = tuple(replicas)
        self._master = ""
        self._confirmed_at = NEVER
        questions = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service), ("SENTINEL", "REPLICAS", service)]
        super().__init__(questions, bound=bound, patience=patience, monotonic=monotonic)

    def witnesses(self) -> Collection[str]:
        """Return the sentinels that are configured."""
        return self.sentinels

    def dial(self, name: str) -> Any:
        """Open a connection to a sentinel."""
        return self._dial(name)

    def heard(self, name: str, replies: list[Any], asked: float) -> bool:
        """Note the address that a sentinel named; return whether a majority now names another one than before."""
        named, replicas = replies
        if isinstance(named, Exception) or not named:
            self._named.pop(name, None)
            self.problems[name] = self._problem(name, named)
            return False
        self._named[name] = (joined(named[0].decode(), int(named[1])), asked)
        if isinstance(replicas, list):
            self._replicas = dict.fromkeys(self._configured_replicas, False) | dict(map(_replica, replicas))
        votes: defaultdict[str, list[float]] = defaultdict(list)
        for address, when in self._named.values():
            votes[address].append(when)
        since, best = max((confirmed(times, self.needed), address) for address, times in votes.items())
        if since == NEVER:
            return False
        old, self._master, self._confirmed_at = self._master, best, since
        if old not in ("", best):
            self.replaced.append((self.service, old, best))
        return old != best

    def masters(self) -> Collection[str]:
        """Return the master, once it is known."""
        return (self._master,) if self._master else ()

    def confirmed_at(self) -> float:
        """Return when the last of a majority had been asked that named this master."""
        return self._confirmed_at

    def doubt(self) -> str:
        """Return in one line why the master is not confirmed."""
        problems = [self.problems[name] for name in self.sentinels if name in self.problems]
        why = f" ({problems[0]})" if problems else ""
        return (
            f"fewer than {self.needed} of the {len(self.sentinels)} sentinels in redis.addresses confirm "
            f"the master {self.service!r}{why}"
        )

    def topology(self) -> Topology:
        """Return the sentinels, the master and the replicas as they were last seen."""
        with self._lock:
            nodes = [
                Node(name, "sentinel", name in self._named and name not in self.problems) for name in self.sentinels
            ]
            if self._master:
                nodes.append(Node(self._master, "master", self.trusted))
            nodes += [
                Node(address, "replica", ok, self._master)
                for address, ok in self._replicas.items()
                if address != self._master
            ]
            age = self.monotonic() - self._confirmed_at
            return Topology("sentinel", tuple(nodes), tuple(self.masters()), self.trusted, age)

    def _problem(self, name: str, reply: Any) -> str:
        if reply is None:
            return f"{name} knows no master {self.service!r}; check redis.sentinel_master"
        text = str(reply)
        if "unknown command" in text:
            return f"{name} is not a sentinel; redis.addresses has to name the sentinels"
        return f"{name}: {text[:100]}"


def _replica(fields: Any) -> tuple[str, bool]:
    pairs = list(fields.items()) if isinstance(fields, dict) else list(zip(fields[::2], fields[1::2], strict=False))
    found = {bytes(key).decode(): bytes(value).decode("utf-8", "replace") for key, value in pairs}
    down = {"s_down", "o_down", "disconnected"} & set(found.get("flags", "").split(","))
    return joined(found.get("ip", ""), int(found.get("port", 0))), not down


class SentinelConnections(RedisConnections):
    """Builds clients whose connections ask the sentinels where to go.

    Args:
        options: the settings; `nodes` are the sentinels.
        bound: the staleness bound, seconds.
        monotonic: the clock.
    """

    def __init__(self, options: Any, *, bound: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        preload()  # or the first answer would have to wait for it
        super().__init__(located(options, "redis://sentinel:0"))
        self._sentinels = {joined(host, port): (host, port) for host, port in options.nodes}
        self.watch = SentinelWatch(
            options.sentinel_master or "",
            tuple(self._sentinels),
            self._dial,
            replicas=tuple(options.replica_addresses),
            bound=bound,
            patience=options.connect_timeout,
            monotonic=monotonic,
        )

    @property
    def where(self) -> str:
        """The master's address as far as it is known, and who said so."""
        master = "".join(self.watch.masters()) or "an unknown address"
        return f"{master} (the master {self.watch.service!r} of {', '.join(self._sentinels)})"

    def client(self) -> Any:
        """Return a new blocking client of the master, whichever that is."""
        return self._seeking(super().client(), _blocking_kind)

    def aclient(self) -> Any:
        """Return a new asynchronous client of the master, whichever that is."""
        return self._seeking(super().aclient(), _async_kind)

    def find(self) -> tuple[str, int]:
        """Ask the sentinels for the master's address, blocking.

        Raises:
            TierUnavailableError: a majority has not named one within the staleness bound.
        """
        watch, now = self.watch, self.watch.monotonic()
        watch.ensure()
        if watch.wait(lambda: watch.confirmed_at() >= now, watch.patience) or watch.trusted:
            return host_port("".join(watch.masters()))
        raise watch.refusal()

    async def afind(self) -> tuple[str, int]:
        """Do what `find` does without blocking the running loop."""
        watch, now = self.watch, self.watch.monotonic()
        watch.ensure()
        if await watch.await_(lambda: watch.confirmed_at() >= now, watch.patience) or watch.trusted:
            return host_port("".join(watch.masters()))
        raise watch.refusal()

    def _seeking(self, client: Any, kind: Callable[[type], type]) -> Any:
        pool = client.connection_pool
        pool.connection_class = kind(pool.connection_class)
        pool.connection_kwargs["find"] = self.find if kind is _blocking_kind else self.afind
        return client

    @cached_property
    def _template(self) -> Any:
        return super().client().connection_pool

    def _dial(self, name: str) -> Any:
        from redis.exceptions import AuthenticationError

        host, port = self._sentinels[name]
        try:
            try:
                return self._sentinel(host, port, {})
            except AuthenticationError:
                if not self._password:
                    raise
            # Only a sentinel that wants a password is told one.
            return self._sentinel(host, port, {"username": self._username, "password": self._password})
        except Exception as error:
            raise tier_error(error, where=name, secrets=self.secrets) from error

    def _sentinel(self, host: str, port: int, credentials: dict[str, Any]) -> Any:
        from redis.exceptions import ResponseError

        pool = self._template
        kwargs = {**pool.connection_kwargs, "username": None, "password": None, **credentials}
        kwargs |= {"host": host, "port": port, "protocol": 2, "client_name": None}
        kwargs.pop("redis_connect_func", None)  # what is asked of masters
        connection = pool.connection_class(**kwargs)
        try:
            connection.connect()
            connection.send_command("PING")
            connection.read_response()
        except ResponseError:
            return connection  # a refusal shows when it is asked
        except BaseException:  # that it wants a password, too
            connection.disconnect()
            raise
        return connection


def _judge(connection: Any, error: Exception) -> None:
    """Do not use a connection again that has said that it does not lead to a working master."""
    from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError

    if isinstance(error, BusyLoadingError | MasterDownError | ReadOnlyError):
        connection.mark_for_reconnect()


@cache
def _blocking_kind(base: Any) -> Any:
    class Seeking(base):  # type: ignore[misc]  # the base is one of redis-py's, chosen by the settings
        def __init__(self, *, find: Callable[[], tuple[str, int]], **kwargs: Any) -> None:
            self._find = find
            super().__init__(**kwargs)

        def _connect(self) -> Any:
            self.host, self.port = self._find()
            return super()._connect()

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().read_response(*args, **kwargs)
            except Exception as error:
                _judge(self, error)
                raise

    return Seeking


@cache
def _async_kind(base: Any) -> Any:
    class Seeking(base):  # type: ignore[misc]  # as above
        def __init__(self, *, find: Callable[[], Any], **kwargs: Any) -> None:
            self._find = find
            super().__init__(**kwargs)

        async def _connect(self) -> None:
            self.host, self.port = await self._find()
            await super()._connect()

        async def read_response(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().read_response(*args, **kwargs)
            except Exception as error:
                _judge(self, error)
                raise

    return Seeking


class SentinelTier(WatchedTier):
    """Keeps payloads and markers in the server that the sentinels call the master.

    Args:
        connections: how to reach it.
        namespace: the prefix under which this application's keys live.
        more: what any redis tier takes.
    """

    def __init__(self, connections: SentinelConnections, namespace: str, **more: Any) -> None:
        super().__init__(connections, namespace, watch=connections.watch, **more)

    def connect(self, address: str = "") -> Any:
        """Return a connection of its own, which has spoken RESP3 and logged in; not one of the pool.

        Args:
            address: where it leads; the master's by default.
        """
        client = self._client or self._connect()
        pool = client.connection_pool
        find = {"find": lambda: host_port(address)} if address else {}
        connection = pool.connection_class(**{**pool.connection_kwargs, **find})
        connection.connect()
        return connection

    def _execute(self, batch: Batch) -> list[Any]:
        self.watch.require()
        return super()._execute(batch)

    async def _aexecute(self, batch: Batch) -> list[Any]:
        await self.watch.arequire()
        return await super()._aexecute(batch)
