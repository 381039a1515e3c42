"""How many connections a redis tier has, and how many of them are lent out.

Each event loop has a pool of its own beside that of blocking callers, and a cluster has one for each node; what an
operator wants to know is their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["PoolUse", "use_of"]


class PoolUse(NamedTuple):
    """How many connections are lent out, how many wait to be, and how many there may be.

    Attributes:
        limit: the bound of one pool times the pools there are; 0 before the first connection.
    """

    in_use: int
    idle: int
    limit: int


def use_of(client: Any, others: Iterable[Any]) -> PoolUse:
    """Return the sum over a client's pools and those of others; either may be missing."""
    in_use = idle = limit = 0
    for pool in _pools([*([] if client is None else [client]), *others]):
        (waiting, _), (lent, _) = pool.get_connection_count()
        in_use, idle, limit = in_use + lent, idle + waiting, limit + pool.max_connections
    return PoolUse(in_use, idle, limit)


def _pools(clients: Iterable[Any]) -> Iterator[Any]:
    for client in clients:
        pool = client.connection_pool
        nodes = getattr(pool, "pools", None)
        yield from (pool,) if nodes is None else nodes()
