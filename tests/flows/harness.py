"""Processes without processes: engines that share tiers in memory, and calls that a test moves one step at a time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from novacron_cache import flows
from novacron_cache.codecs import make_pipeline
from novacron_cache.drivers import _perform, drive
from novacron_cache.effects import AwaitLease, Capture, Fetch, Join, Load, Operation, ReadRules, Renew, Store, Together
from novacron_cache.engine import Engine
from novacron_cache.entry import MISSING
from novacron_cache.errors import TierUnavailableError
from novacron_cache.events import Event
from novacron_cache.flows.invalidating import Invalidation
from novacron_cache.guards import Outcome
from novacron_cache.keys import stored_text_key
from novacron_cache.link import LinkState
from novacron_cache.requests import Plan, Request
from novacron_cache.schema import Schema, plain_schema
from novacron_cache.testing import ManualClock
from novacron_cache.tiers import Tier
from novacron_cache.tiers.memory import MemoryTier

BOUND = 3.0
TTL = 900.0

Flow = Generator[Any, Any, Any]


class FlakyTier(Tier):
    """One process's way to a tier that others may share.

    Attributes:
        down: every operation fails before it is carried out.
        lossy: every operation is carried out and its answer lost.
        operations: what was asked and answered.
    """

    def __init__(self, tier: MemoryTier, name: str, *, leases: bool) -> None:
        self.tier = tier
        self.name = name  # type: ignore[misc]  # a tier says so in its class
        self.has_leases = leases  # type: ignore[misc]  # a tier says so in its class
        self.down = False
        self.lossy = False
        self.operations: list[Operation] = []

    def perform(self, operation: Operation) -> Any:
        if self.down:
            raise TierUnavailableError("down", tier=self.name)
        answer = self.tier.perform(operation)
        if self.lossy:
            raise TierUnavailableError("the answer is lost", tier=self.name)
        self.operations.append(operation)
        return answer

    async def aperform(self, operation: Operation) -> Any:
        return self.perform(operation)

    def close(self) -> None: ...

    def count(self, kind: type) -> int:
        return sum(isinstance(operation, kind) for operation in self.operations)


def plan(name: str = "thing", *, schema: Schema[Any] | None = None, **options: Any) -> Plan:
    return Plan(name, schema or plain_schema(), **{"ttl": TTL, **options})


async def until(condition: Callable[[], Any]) -> None:
    """Let other tasks run until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads, too
            await asyncio.sleep(0.001)


class Process:
    """One engine with process memory of its own, and the calls an application makes of it."""

    def __init__(
        self,
        clock: ManualClock,
        tiers: Sequence[MemoryTier],
        *,
        bound: float = BOUND,
        leases: bool = False,
        max_items: int = 10_000,
        **options: Any,
    ) -> None:
        self.clock = clock
        names = ("redis", "disk")
        self.ways = [FlakyTier(tier, name, leases=leases) for tier, name in zip(tiers, names, strict=False)]
        self.engine = Engine(
            clock=clock,
            memory=MemoryTier(clock=clock, max_items=max_items),
            shared=self.ways,
            caps={"memory": 300.0, "redis": TTL, "disk": 86_400.0},
            pipeline=make_pipeline(namespace="test"),
            bound=bound,
            **options,
        )
        self.events: list[Event] = []
        self.engine.listeners.on("*", self.events.append)

    def request(
        self,
        key: str,
        loader: Callable[[], Any] | None = None,
        *,
        tags: Iterable[str] = (),
        late: Callable[[Any], tuple[str, ...]] | None = None,
        plan: Plan = plan(),  # noqa: B008 - plans are constant
        ttl: float | None = None,
    ) -> Request:
        load = Load(loader) if loader is not None else None
        stored = stored_text_key(plan.name, key)
        return Request(plan, stored, key, tuple(tags), late_tags=late, load=load, ttl=ttl, subject=key)

    def run(self, flow: Flow) -> Any:
        return drive(self.engine, flow)

    def get(self, key: str, loader: Callable[[], Any], **options: Any) -> Any:
        request = self.request(key, loader, **options)
        return self.value(request, self.run(flows.get_or_load(self.engine, request)))

    def peek(self, key: str, **options: Any) -> Any:
        request = self.request(key, **options)
        (entry,) = self.run(flows.peek_many(self.engine, [request]))
        return MISSING if entry is None else self.value(request, entry)

    def value(self, request: Request, entry: Any) -> Any:
        return self.engine.hand_out(entry, request.plan)

    def set(self, key: str, value: Any, **options: Any) -> bool:
        return bool(self.run(flows.set_many(self.engine, [(self.request(key, **options), value)])))

    def invalidate(self, invalidation: Invalidation) -> bool:
        return bool(self.run(flows.invalidate(self.engine, invalidation))[1])

    def deliver(self) -> bool:
        return bool(self.run(flows.deliver(self.engine)))

    def loading(self, key: str, loader: Callable[[], Any], **options: Any) -> Call:
        """Begin a get that the test moves by hand."""
        request = self.request(key, loader, **options)
        return Call(self.engine, flows.get_or_load(self.engine, request), lambda entry: self.value(request, entry))

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Call:
    """A flow that is moved by hand; between any two of its steps a test may do what other calls would.

    Carrying out an effect and taking note of its answer are two steps: a reply that travels is no longer what is there.
    """

    def __init__(self, engine: Engine, flow: Flow, value: Callable[[Any], Any] = lambda result: result) -> None:
        self.engine = engine
        self.flow = flow
        self._value = value
        # Each call is a thread of its own as far as context variables are concerned.
        self._context = contextvars.Context()
        self._answer: tuple[Any, BaseException | None] | None = (None, None)
        self.effect: Any = None
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def kind(self) -> type | None:
        """The kind of the effect that is asked for and not yet carried out."""
        if self._answer is not None or self.done:
            return None
        return type(self.effect[1]) if isinstance(self.effect, tuple) else type(self.effect)

    @property
    def stuck(self) -> bool:
        """Whether the call waits for another one."""
        return self.kind is Join and self.effect.flight.outcome is None and self._waits

    def step(self) -> None:
        """Carry out the effect that was asked for, or hand its answer in."""
        assert not self.done
        self._context.run(self._step)

    def _step(self) -> None:
        if self._answer is None:
            try:
                self._answer = self._carry_out(), None
            except BaseException as error:
                self._answer = None, error
            return
        answer, failure = self._answer
        self._answer = None
        try:
            self.effect = self.flow.send(answer) if failure is None else self.flow.throw(failure)
        except StopIteration as stop:
            self.done, self.result = True, self._value(stop.value)
        except BaseException as error:
            self.done, self.error = True, error
        else:
            if isinstance(self.effect, Join):
                self._waits = self.engine.flights.may_wait(self.effect.flight, blocking=True)

    def _carry_out(self) -> Any:
        if isinstance(self.effect, AwaitLease):
            # Whether the time has really passed is the test's to say, with its clock.
            return self.effect.waiting.wait(self.effect.holder, 0.0)
        if not isinstance(self.effect, Join):
            return _perform(self.engine, self.effect)
        if not self._waits:
            return Outcome.SOLO
        assert not self.stuck, "this call would wait for ever"
        self.engine.flights.waited(self.effect.flight)
        return self.effect.flight.outcome

    def before(self, kind: type) -> Call:
        """Go on until an effect of a kind is asked for, and not yet carried out."""
        while self.kind is not kind:
            assert not self.done, f"the call ended before {kind.__name__}"
            self.step()
        return self

    def after(self, kind: type) -> Call:
        """Go on until an effect of a kind has been carried out, and its answer not handed in."""
        self.before(kind).step()
        return self

    def finish(self) -> Any:
        """Go on to the end, and return the result or raise the error."""
        while not self.done:
            self.step()
        if self.error is not None:
            raise self.error
        return self.result


__all__ = [
    "BOUND", "MISSING", "TTL", "AwaitLease", "Call", "Capture", "Fetch", "FlakyTier", "Invalidation", "Join", "Load",
    "ManualClock", "MemoryTier", "Process", "ReadRules", "Renew", "Store", "Together", "plan", "until",
]  # fmt: skip


class StillLink:
    """A link that is up, and says nothing by itself."""

    state = LinkState.UP

    def ensure(self) -> None: ...
    def stop(self) -> None: ...
    def drop(self, reason: str) -> None: ...
    def barrier(self, patience: float) -> bool:
        return True

    async def abarrier(self, patience: float) -> bool:
        return True
