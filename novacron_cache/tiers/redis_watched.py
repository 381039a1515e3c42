"""What a tier does whose masters may change: it watches who they are, and says when one was replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import TierUnavailableError
from ..events import Event, FailedOver, logger
from .redis import RedisTier
from .redis_commands import Batch
from .redis_watch import Topology, Watch

__all__ = ["WatchedTier", "named_already"]


def _nobody(event: Event) -> None:
    """Stand in until there is somebody to tell."""


def named_already(error: BaseException) -> TierUnavailableError | None:
    """Return the error of this package in an exception, or under it: clients wrap what comes up while they connect."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TierUnavailableError):
        cause = cause.__cause__
    return cause


class WatchedTier(RedisTier):
    """A redis tier whose masters are found, confirmed and followed.

    Args:
        connections: how to reach them.
        namespace: the prefix under which this application's keys live.
        watch: knows who they are.
        more: what any redis tier takes.

    Attributes:
        watch: knows who they are.
        emit: told when a master was replaced, by the thread of the poll.
    """

    def __init__(self, connections: Any, namespace: str, *, watch: Watch, **more: Any) -> None:
        super().__init__(connections, namespace, **more)
        self.watch = watch
        self.emit: Callable[[Event], None] = _nobody
        watch.on_change.append(self._masters_changed)

    def confirmed_at(self) -> float:
        """Return when the masters were last confirmed, monotonic seconds."""
        return self.watch.confirmed_at()

    def topology(self) -> Topology:
        """Return the servers as they were last seen, without asking anyone."""
        self.watch.ensure()
        return self.watch.topology()

    def close(self) -> None:
        """Close all connections; those of a loop that runs in another thread are closed by that loop."""
        super().close()
        self.watch.close()

    def _ask_one(self, key: str) -> Any:
        # Not the short way: who the master is has to be asked first.
        (reply,) = self._execute(Batch([("MGET", self.commands.value_key(key))]))
        return reply

    def _masters_changed(self) -> None:
        replaced, self.watch.replaced = self.watch.replaced, []
        if replaced:
            # What leads to a master that was replaced stays open and would answer as before.
            self.renew_connections()
        for shard, old, new in replaced:
            logger.warning("the master %s at %s was replaced by %s", shard, old, new)
            self.emit(FailedOver(self.name, shard, old, new))

    def _named(self, error: Exception) -> Exception:
        return named_already(error) or super()._named(error)
