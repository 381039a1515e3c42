"""Two processes, shared tiers, and every order of events that a seeded generator can think of.

A dictionary of versions is the source. Reads, invalidations, sets and deliveries run as flows that are moved one step
at a time, in random order, while the clock advances, markers and payloads are evicted, and the ways to the shared tiers
fail before or after an operation was carried out. Two properties hold throughout:

- a read that begins in a process after an invalidation returned there never gives an older version than the source had
  when the invalidation began;
- a read that begins anywhere later than the staleness bound after the shared tier took an invalidation does not either.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flows.harness import BOUND, MISSING, Call, Invalidation, ManualClock, MemoryTier, Process, plan

from novacron_cache import flows
from novacron_cache.effects import Load

KEYS = ("vm:1", "vm:2", "node:1")
TAGS = {"vm:1": ("a", "b"), "vm:2": ("a",), "node:1": ("b", "c")}
PLANS = {
    "vm:1": plan("short", ttl=20.0),
    "vm:2": plan("graceful", ttl=5.0, grace=60.0),
    "node:1": plan("short", ttl=20.0, negative_ttl=1.0),
}
MANNERS = ("get", "batch", "refresh", "peek", "touch")
RUNS, STEPS = 16, 250


def late_tags(key: str) -> Callable[[Any], tuple[str, ...]] | None:
    if key == "vm:2":
        return None
    # One tag that every version has, and one that changes with the version.
    return lambda value: (f"late:{key}", f"parity:{value % 2}")


def invalidations(key: str) -> list[Invalidation]:
    """Return every way of naming a key's value."""
    many = [
        Invalidation.keys([key]),
        Invalidation.tags([TAGS[key][0]]),
        Invalidation.tags(["other", TAGS[key][-1]]),
        Invalidation.tags(TAGS[key], match_all=True),
        Invalidation.model(PLANS[key].name),
        Invalidation.pattern(key.split(":")[0] + ":*"),
        Invalidation.pattern("*" + key[1:]),
        Invalidation.pattern("?" + key[1:-1] + "[0-9]"),
        Invalidation.everything(),
        Invalidation.keys([key]) + Invalidation.pattern("*" + key[2:]),
    ]
    if late_tags(key) is not None:
        many += [
            Invalidation.tags([f"late:{key}"]),
            Invalidation.tags([f"late:{key}", TAGS[key][0]], match_all=True),
            Invalidation.tags(["parity:0", "parity:1"]),
        ]
    return many


@dataclass
class Running:
    call: Call
    what: str
    ended: Callable[[Call], None]


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - chooses what happens
        self.clock = ManualClock()
        self.tiers = [MemoryTier(clock=self.clock) for _ in range(self.random.choice((1, 2)))]
        self.processes = [Process(self.clock, self.tiers) for _ in range(2)]
        self.source = dict.fromkeys(KEYS, 0)
        self.running: list[Running] = []
        self.trace: list[str] = []
        # What each process must not fall behind, and what nobody must from a moment on.
        self.own: list[dict[str, int]] = [dict.fromkeys(KEYS, 0) for _ in self.processes]
        self.delivered: list[tuple[float, str, int]] = []
        self.undelivered: list[list[tuple[str, int]]] = [[] for _ in self.processes]
        # Each world has habits of its own: what seldom comes together in a fair mixture does in some of them.
        self.favourite = self.random.choice(KEYS)
        self.constancy = self.random.choice((0.4, 0.8, 1.0))
        self.failing = self.random.choice((0.0, 0.1, 0.5))
        self.pace = self.random.choice(((1, 2, 3), (1, 2, 4, 30), (1, 30), (3, 9)))
        self.crowd = self.random.choice((2, 3, 5, 8))
        self.pauses = self.random.choice(((0.1, 0.5), (0.5, 1.0, 3.1), (1.0, 3.1, 6.0)))
        self.means = self.random.sample(range(13), self.random.choice((1, 3, 13)))
        self.manners = self.random.sample(MANNERS, self.random.choice((2, 3, len(MANNERS))))
        self.habits = [weight * self.random.choice((0.0, 0.5, 1.0, 1.0, 3.0)) for weight in (16, 12, 4, 5, 2, 1, 4, 3)]
        # Who writes to the source and to the cache in another order than others do gets what it asked for.
        self.writing: set[str] = set()

    def say(self, text: str) -> None:
        self.trace.append(f"{self.clock.monotonic() - 1000:6.1f}  {text}")

    def floor(self, process: int, key: str) -> int:
        now = self.clock.monotonic()
        return max(
            self.own[process][key],
            *(version for since, named, version in self.delivered if named == key and since + BOUND < now),
            0,
        )

    # -- what may begin -------------------------------------------------------------------------------------------

    def start(self, process: int, what: str, flow: Any, ended: Callable[[Call], None]) -> None:
        self.say(f"P{process} begins {what}")
        engine = self.processes[process].engine
        self.running.append(Running(Call(engine, flow), f"P{process} {what}", ended))

    def loader(self, key: str) -> Callable[[], int]:
        def load() -> int:
            if self.random.random() < self.failing:
                raise ConnectionError("the source fails")
            return self.source[key]

        return load

    def request(self, process: int, key: str, *, load: bool = True) -> Any:
        return self.processes[process].request(
            key, self.loader(key) if load else None, tags=TAGS[key], late=late_tags(key), plan=PLANS[key]
        )

    def check(self, process: int, key: str, floor: int, entry: Any) -> None:
        if entry is not None:
            value = self.processes[process].value(self.request(process, key), entry)
            self.say(f"P{process} has read {key} -> {value}, at least {floor}")
            # None stands for what a batch loader left out; it has no version.
            assert value is None or value >= floor, (
                f"{key}: version {value} served where {floor} was the oldest allowed"
            )

    def key(self) -> str:
        return self.favourite if self.random.random() < self.constancy else self.random.choice(KEYS)

    def read(self, process: int) -> None:
        keys = list(dict.fromkeys(self.key() for _ in range(self.random.choice((1, 1, 2, 3)))))
        floors = {key: self.floor(process, key) for key in keys}
        engine = self.processes[process].engine
        how = self.random.choice(("get", *self.manners))
        load = how in ("get", "batch", "refresh")
        requests = [self.request(process, key, load=load) for key in keys]

        def ended(call: Call) -> None:
            if call.error is not None:
                assert isinstance(call.error, ConnectionError), call.error
                return
            entries = call.result if isinstance(call.result, list) else [call.result]
            for key, entry in zip(keys, entries, strict=False):
                self.check(process, key, floors[key], entry)

        flow: Any
        if how == "refresh":
            flow = flows.refresh(engine, requests[0])
        elif how == "peek":
            flow = flows.peek_many(engine, requests)
        elif how == "touch":
            self.start(process, f"touch {keys}", flows.touch(engine, requests, 20.0), lambda call: None)
            return
        elif how == "batch":

            def batch(missing: Any) -> Load:
                names = [request.subject for request in missing]
                return Load(lambda: {name: self.loader(name)() for name in names if self.random.random() < 0.8})

            flow = flows.get_many(engine, requests, batch)
        else:
            flow = flows.get_many(engine, requests)
        self.start(process, f"{how} {keys} from {floors}", flow, ended)

    def write(self, process: int) -> None:
        key = self.key()
        if key in self.writing:
            return
        self.writing.add(key)
        self.source[key] += 1
        version = self.source[key]
        many = invalidations(key)
        invalidation = many[self.random.choice(self.means) % len(many)]

        def ended(call: Call) -> None:
            assert call.error is None, call.error
            self.invalidated(process, key, version, call.result[1])

        flow = flows.invalidate(self.processes[process].engine, invalidation)
        self.start(process, f"invalidate {key} at {version} by {invalidation.what} {invalidation.values}", flow, ended)

    def set(self, process: int) -> None:
        key = self.key()
        if key in self.writing:
            return
        self.writing.add(key)
        self.source[key] += 1
        version = self.source[key]

        def ended(call: Call) -> None:
            assert call.error is None, call.error
            self.invalidated(process, key, version, call.result)

        items = [(self.request(process, key, load=False), version)]
        self.start(process, f"set {key} to {version}", flows.set_many(self.processes[process].engine, items), ended)

    def invalidated(self, process: int, key: str, version: int, done: bool) -> None:
        self.say(f"P{process} has invalidated {key} at {version}: {'done' if done else 'pending'}")
        self.writing.discard(key)
        self.own[process][key] = max(self.own[process][key], version)
        if done:
            self.delivered.append((self.clock.monotonic(), key, version))
        else:
            self.undelivered[process].append((key, version))

    def deliver(self, process: int) -> None:
        named = list(self.undelivered[process])

        def ended(call: Call) -> None:
            assert call.error is None, call.error
            if call.result:
                self.say(f"P{process} has delivered {named}")
                self.delivered += [(self.clock.monotonic(), key, version) for key, version in named]
                self.undelivered[process] = [one for one in self.undelivered[process] if one not in named]

        self.start(process, "deliver", flows.deliver(self.processes[process].engine), ended)

    # -- what may happen ------------------------------------------------------------------------------------------

    def move(self) -> None:
        ready = [one for one in self.running if not one.call.stuck]
        assert ready or not self.running, "everybody waits for somebody"
        if not ready:
            return
        one = self.random.choice(ready)
        for _ in range(self.random.choice(self.pace)):
            if one.call.done or one.call.stuck:
                break
            one.call.step()
        self.say(f"{one.what}: now {one.call.kind.__name__ if one.call.kind else 'answered'}")
        if one.call.done:
            self.running.remove(one)
            one.ended(one.call)

    def happen(self) -> None:
        if len(self.running) >= self.crowd or self.random.random() < 0.4:
            self.move()
        else:
            deeds = (self.read, self.write, self.set, self.wait, self.lose, self.evict, self.fail, self.deliver)
            (deed,) = self.random.choices(deeds, [weight + 0.01 for weight in self.habits])
            deed(self.random.randrange(2))

    def wait(self, process: int) -> None:
        self.clock.advance(self.random.choice(self.pauses))

    def lose(self, process: int) -> None:
        if markers := self.tiers[0]._markers:
            dep = self.random.choice(sorted(markers))
            del markers[dep]
            self.say(f"the marker {dep} is lost")

    def evict(self, process: int) -> None:
        tier = self.random.choice([*self.tiers, self.processes[process].engine.memory])
        if tier is not None and (entries := tier.entries()):
            tier.remove(self.random.choice(entries).key)

    def fail(self, process: int) -> None:
        way = self.random.choice(self.processes[process].ways)
        way.down, way.lossy = self.random.choice(((False, False), (False, False), (True, False), (False, True)))
        self.say(f"P{process}: {way.name} down={way.down} lossy={way.lossy}")

    def settle(self) -> None:
        """Let everything end and recover; then nobody may be behind at all."""
        while self.running:
            self.move()
        for index, process in enumerate(self.processes):
            for way in process.ways:
                way.down = way.lossy = False
            self.clock.advance(10.0)
            self.deliver(index)
            while self.running:
                self.move()
            assert not process.engine.pending
            assert len(process.engine.flights) == 0
        self.clock.advance(BOUND + 0.1)
        for process in self.processes:
            for key in KEYS:
                value = process.get(key, lambda key=key: self.source[key], tags=TAGS[key], late=late_tags(key),
                                    plan=PLANS[key])  # fmt: skip
                assert value is MISSING or value == self.source[key]


@pytest.mark.parametrize("batch", range(25))
def test_no_order_of_events_serves_what_was_invalidated(batch: int) -> None:
    for seed in range(batch * RUNS, (batch + 1) * RUNS):
        world = World(seed)
        try:
            for _ in range(STEPS):
                world.happen()
            world.settle()
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}\n" + "\n".join(world.trace[-60:]), pytrace=True)
