"""The tiers behind one interface.

A tier carries out the operations of `effects`: it keeps payloads under stored keys and, when it is the nearest *shared*
tier, the markers of dependencies too. It knows nothing of models, codecs or policies, and its only failure is a
`TierError`. Whatever implements `Tier` and passes `novacron_cache.testing.TierSuite` can be used as one.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, ClassVar

from ..effects import (
    Capture,
    Delete,
    Fetch,
    Fetched,
    Hold,
    KeepLeases,
    Operation,
    Purge,
    ReadRules,
    Release,
    Renew,
    ReturnLease,
    Store,
    TakeLease,
    Taken,
    Together,
)

__all__ = ["BlockingTier", "Tier", "names"]


class Tier(ABC):
    """One layer of storage.

    Attributes:
        name: short and stable, such as `"redis"`; it becomes a label of metrics and events.
        has_clock: whether it answers `ReadClock`, so that processes whose own clocks differ agree on expiry.
        has_leases: whether it answers `TakeLease` and what goes with it, so that one process loads for all.
        ttl: seconds that a value stays in it at most, where it is given to a cache; settings say it of the package's.
    """

    name: ClassVar[str]
    has_clock: ClassVar[bool] = False
    has_leases: ClassVar[bool] = False
    ttl: float = 900.0

    @abstractmethod
    def perform(self, operation: Operation) -> Any:
        """Carry out an operation and return the result its class documents.

        Raises:
            TierError: the tier could not do it; nothing else is ever raised.
        """

    @abstractmethod
    async def aperform(self, operation: Operation) -> Any:
        """Do what `perform` does without blocking the running loop."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and files; a second call does nothing. The stored data stays."""

    def renew_connections(self) -> None:  # noqa: B027 - most tiers have none
        """Have every connection opened anew before it is next used: what it leads to may have been replaced."""

    def encounters(self) -> int:
        """Return how many servers behind this tier were met for the first time after another one."""
        return 0

    def confirmed_at(self) -> float:
        """Return when it was last confirmed, in monotonic seconds, that this leads to what counts; infinite: always."""
        return math.inf

    async def aclose(self) -> None:
        """Do what `close` does without blocking the running loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)


class BlockingTier(Tier):
    """A tier whose operations are plain blocking methods; in a loop they run in an executor.

    Subclasses implement one method for each operation; those about leases only where they say `has_leases`.
    """

    executor: Executor | None = None

    @abstractmethod
    def fetch(self, operation: Fetch) -> Fetched:
        """Carry out `effects.Fetch`."""

    @abstractmethod
    def capture(self, operation: Capture) -> list[bytes | None]:
        """Carry out `effects.Capture`."""

    @abstractmethod
    def store(self, operation: Store) -> bool:
        """Carry out `effects.Store`."""

    @abstractmethod
    def renew(self, operation: Renew) -> bool:
        """Carry out `effects.Renew`."""

    @abstractmethod
    def hold(self, operation: Hold) -> list[bool]:
        """Carry out `effects.Hold`."""

    @abstractmethod
    def release(self, operation: Release) -> bool:
        """Carry out `effects.Release`."""

    @abstractmethod
    def read_rules(self, operation: ReadRules) -> list[tuple[bytes, bytes]]:
        """Carry out `effects.ReadRules`."""

    @abstractmethod
    def delete(self, operation: Delete) -> bool:
        """Carry out `effects.Delete`."""

    @abstractmethod
    def purge(self, operation: Purge) -> bool:
        """Carry out `effects.Purge`."""

    def take_lease(self, operation: TakeLease) -> Taken | None:
        """Carry out `effects.TakeLease`."""
        raise NotImplementedError(f"the {self.name} tier has no leases")

    def keep_leases(self, operation: KeepLeases) -> list[bool]:
        """Carry out `effects.KeepLeases`."""
        raise NotImplementedError(f"the {self.name} tier has no leases")

    def return_lease(self, operation: ReturnLease) -> bool:
        """Carry out `effects.ReturnLease`."""
        raise NotImplementedError(f"the {self.name} tier has no leases")

    def together(self, operation: Together) -> tuple[Any, Any]:
        """Carry out `effects.Together`."""
        return self.perform(operation.first), self.perform(operation.then)

    def perform(self, operation: Operation) -> Any:
        """Call the method of this operation."""
        handler: Callable[[Any], Any] = getattr(self, _METHODS[type(operation)])
        return handler(operation)

    async def aperform(self, operation: Operation) -> Any:
        """Call the method of this operation in the executor."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, self.perform, operation)


def names() -> frozenset[str]:
    """Return the names of all kinds of tiers whose classes there are in this process."""
    found, kinds = set(), [Tier]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if isinstance(name := vars(kind).get("name"), str):
            found.add(name)
    return frozenset(found)


_METHODS: dict[type, str] = {
    Fetch: "fetch",
    Capture: "capture",
    Store: "store",
    Renew: "renew",
    Hold: "hold",
    Release: "release",
    ReadRules: "read_rules",
    Delete: "delete",
    Purge: "purge",
    TakeLease: "take_lease",
    KeepLeases: "keep_leases",
    ReturnLease: "return_lease",
    Together: "together",
}
