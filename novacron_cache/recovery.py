"""Finding out that a tier answers again, without a call that waits for it.

A breaker alone would let one call in every pause try, and have it wait out the time-out of a server that still hangs.
While a breaker is open, a thread asks instead, now and then, and only that thread pays. Where it cannot run (no more
threads, a forked child), calls try as the breaker lets them. A fleet that lost its server together does not come back
together: the pauses are random, and what is asked is one marker.
"""

from __future__ import annotations

import weakref
from typing import Final

from .delivery import Delivery
from .drivers import probe
from .engine import Engine

__all__ = ["Recovery"]

SHORTEST: Final = 0.1
LONGEST: Final = 2.0
"""Seconds between two questions; they double from the one to the other."""


class Recovery:
    """Asks the tiers of an engine whose breakers are open, until none is.

    Args:
        engine: the engine; held weakly, for nobody may be interested in its tiers any more.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self._asking = Delivery(self._ask, self._any_down, shortest=SHORTEST, longest=LONGEST)
        for breaker in engine.breakers.values():
            breaker.elsewhere = self._is_asking
        engine.on_down = self._asking.ensure

    def reset(self) -> None:
        """Start afresh in a forked child: the thread is the parent's."""
        self._asking.reset()
        if self._any_down():
            self._asking.ensure()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._asking.stop()

    def _is_asking(self) -> bool:
        return self._asking.running

    def _any_down(self) -> bool:
        engine = self._engine()
        return engine is not None and any(breaker.is_open for breaker in engine.breakers.values())

    def _ask(self) -> bool:
        engine = self._engine()
        if engine is not None:
            for tier in engine.shared:
                if engine.breakers[tier.name].is_open:
                    probe(engine, tier)
        return not self._any_down()
