"""How the suites carry out operations on a tier: by `perform`, or by `aperform` on an event loop."""

# ruff: noqa: S101 - what has to be true before a test can go on is asserted

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..effects import Fetch, Fetched, Item, Operation, Store
from ..tiers import Tier
from .clock import ManualClock

__all__ = ["LIFE", "Drive", "eventually"]

LIFE = 60.0
"""Seconds that nothing in a test outlasts."""


def eventually(condition: Callable[[], bool], *, within: float = 5.0) -> bool:
    """Return True as soon as a condition holds.

    Args:
        condition: asked again and again.
        within: seconds after which this gives up and returns False.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Drive:
    """Carries out operations on a tier, in one of the two ways.

    Args:
        tier: the tier.
        runner: the event loop that awaits `aperform`; None to call `perform`.
        clock: the clock of the tier, when it is one that is moved by hand.
    """

    def __init__(self, tier: Tier, runner: asyncio.Runner | None, clock: ManualClock | None) -> None:
        self.tier = tier
        self._runner = runner
        self._clock = clock

    def __call__(self, operation: Operation) -> Any:
        """Carry out one operation."""
        return self.on(self.tier, operation)

    def on(self, tier: Tier, operation: Operation) -> Any:
        """Carry out one operation on another tier."""
        if self._runner is None:
            return tier.perform(operation)
        return self._runner.run(tier.aperform(operation))

    def at_once(self, operations: list[Operation]) -> list[Any]:
        """Carry out operations concurrently: in threads, or as tasks."""
        if self._runner is None:
            start = threading.Barrier(len(operations))

            def one(operation: Operation) -> Any:
                start.wait(10)
                return self.tier.perform(operation)

            with ThreadPoolExecutor(len(operations)) as pool:
                return list(pool.map(one, operations))

        async def gather() -> list[Any]:
            """Wait for all of them."""
            return list(await asyncio.gather(*map(self.tier.aperform, operations)))

        return self._runner.run(gather())

    def close(self) -> None:
        """Close the tier."""
        if self._runner is None:
            self.tier.close()
        else:
            self._runner.run(self.tier.aclose())

    def payload(self, key: str) -> bytes | None:
        """Return the payload of one key."""
        fetched: Fetched = self(Fetch([key]))
        return fetched.payloads[0]

    def id(self, dep: str) -> bytes | None:
        """Return the id of one dependency."""
        fetched: Fetched = self(Fetch([], [dep]))
        return fetched.ids[0]

    def let_pass(self, seconds: float) -> None:
        """Let time pass for the tier: by its clock, or until a payload stored for so long has gone."""
        if self._clock is not None:
            self._clock.advance(seconds)
            return
        self(Store([Item("suite:hourglass", b"sand", seconds)]))
        assert eventually(lambda: self.payload("suite:hourglass") is None)
