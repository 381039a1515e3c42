"""Calls of one event loop that read together.

Theory. A task whose value is not in process memory asks the authority. Where many tasks do so in the same turn of the
loop, their trips are shared already; but a flow, a flight and a request of each that went their whole way cost more
than the trip. So while one call is under way, the others of that turn leave as one batch, at its end, and are read in
columns (`flows.together`). A call that is alone goes at once and by itself.

A batch only reads: no loader is run in it and nobody waits longer than for the trip. Who is not given a value by it
goes on by itself, and so does every call that a batch would treat differently: one in shadow mode, say, or one that is
traced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from . import flows
from .codecs import IDS_BEFORE
from .drivers import adrive, running_loop
from .engine import Engine
from .entry import MISSING, Entry
from .errors import DecodeError
from .markers import MAX_NAMED
from .requests import Plan, Request, Several

__all__ = ["Gathered", "Gathering", "Turn"]

MOST = 256
"""How many calls leave together; the loop does nothing else while so many values are decoded."""


Gathered: TypeAlias = tuple[Any, Entry | None]
"""What a batch has for one call: the value, for this caller alone where it can be changed, or `MISSING` where there is
none; and its entry, or None where process memory keeps none."""

NOTHING: Gathered = (MISSING, None)

Waiting: TypeAlias = "tuple[Request, list[asyncio.Future[Gathered]]]"
"""A key, and those of one turn who want it."""


class Gathering:
    """Brings the calls of each event loop together.

    Args:
        engine: the cache's state.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns: dict[asyncio.AbstractEventLoop, Turn] = {}

    def turn(self) -> Turn:
        """Return what the running loop has under way; raises CacheError where asyncio runs none."""
        loop = running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            for other in [other for other in list(self._turns) if other.is_closed()]:
                self._turns.pop(other, None)
            turn = self._turns[loop] = Turn(self._engine, loop)
        return turn

    def after_fork(self) -> None:
        """Forget the parent's loops, in a forked child."""
        self._turns = {}


class Turn:
    """What one loop has under way, and what leaves next.

    Attributes:
        under_way: how many calls and batches are.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._groups: dict[tuple[Plan, tuple[str, ...]], dict[str, Waiting]] = {}
        self._trips: set[asyncio.Task[None]] = set()
        self.under_way = 0

    def join(self, request: Request) -> asyncio.Future[Gathered] | None:
        """Return what will be known of a key when the next batch is back; None for a call that goes by itself."""
        engine, key = self._engine, request.key
        if engine.bypass.active or len(request.logical) > MAX_NAMED or key in engine.flights:
            return None
        deps = request.deps
        groups, kind = self._groups, (request.plan, deps[:IDS_BEFORE])
        group = groups.get(kind)
        if group is None:
            if not self._opens(request):
                return None
            if not groups:
                self._loop.call_soon(self._leave)
            group = groups[kind] = {}
        elif key not in group and (deps[IDS_BEFORE] not in engine.known or engine.old(key) is not None):
            return None
        future: asyncio.Future[Gathered] = self._loop.create_future()
        if (waiting := group.get(key)) is None:
            group[key] = request, [future]
        else:
            waiting[1].append(future)
        return future

    def _opens(self, request: Request) -> bool:
        """Return whether a call may be the first of a batch, whose others are asked no more than what may differ."""
        engine, plan = self._engine, request.plan
        return (
            plan.shadow is None
            and engine.traced is None
            and (plan.refresh_ahead is None or engine.keeps(plan))
            and flows.is_near(engine, request)
        )

    def _leave(self) -> None:
        groups, self._groups = self._groups, {}
        for (plan, _), group in groups.items():
            waiting = list(group.values())
            for first in range(0, len(waiting), MOST):
                trip = self._loop.create_task(self._read(plan, waiting[first : first + MOST]))
                self._trips.add(trip)
                trip.add_done_callback(self._trips.discard)

    async def _read(self, plan: Plan, waiting: Sequence[Waiting]) -> None:
        there = [one for one in waiting if not one[1][0].done() or not all(future.done() for future in one[1])]
        self.under_way += 1
        found = None
        try:
            if there:
                wanted = Several.of([request for request, _ in there])
                found = await adrive(self._engine, flows.read(self._engine, wanted))
        finally:
            # Also when the loop ends and cancels this: whoever still waits finds out by itself how things are.
            self.under_way -= 1
            values, entries = found if found is not None else flows.Read([MISSING] * len(there), [])
            for (_, futures), value, entry in zip(there, values, entries or [None] * len(there), strict=True):
                if len(futures) == 1 and value is not MISSING and not futures[0].done():
                    futures[0].set_result((value, entry))
                else:
                    self._answer(plan, futures, value, entry)

    def _answer(self, plan: Plan, futures: Sequence[asyncio.Future[Gathered]], value: Any, entry: Entry | None) -> None:
        """Tell those who want one key what was found; of what can be changed, each gets a copy of his own."""
        engine, again = self._engine, False
        for future in futures:
            if future.done():
                continue
            if again and value is not MISSING:
                value = self._another(plan, value, entry)
            if value is not MISSING:
                engine.counters(plan.name).joined += again
            future.set_result(NOTHING if value is MISSING else (value, entry))
            again = True

    def _another(self, plan: Plan, value: Any, entry: Entry | None) -> Any:
        """Return a value for one more caller, or `MISSING` where he has to ask for himself."""
        if entry is None:
            return value if value is None or plan.schema.is_exact(value) else MISSING
        try:
            return self._engine.hand_out(entry, plan)
        except DecodeError:
            return MISSING
