"""One round of an audit: compare a few served values with their source, and watch what differs until it is gone.

A difference is no proof. The value may have been replaced while the source was read, and a change that the source has
made may be on its way to the cache. So the cache is looked at again and again, and the source with it, until the cache
serves something else. The age is the time from noticing the difference until the value was last seen served: never more
than it was, and less by the time between two looks. Only ages longer than the time to settle count as stale. A value
that outlives the watch counts with the age it has reached.

A round is a generator, like the flows: it decides, and yields what has to wait. It yields a flow to have it carried out
by a driver, a `Reading` to have the source read (the answer is the value and the error, one of them None), and a number
to pause for so many seconds (the answer is whether to end now).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from ..engine import Engine
from ..events import StaleFound, logger
from .looking import Served, form_of, look, same
from .report import StaleExample, Tally
from .sampling import Sample
from .sources import Reading, Sources

__all__ = ["Limiter", "Round", "Rules"]

PEEK: Final = 0.02
"""Seconds between two looks at what the cache serves while a difference is watched."""

REREAD: Final = (0.05, 1.0)
"""Seconds after which the source of a watched value is read again: at first, and at most; each time it doubles."""

RESTLESS: Final = 3
"""After so many readings in a row that all differ, a source is one that never gives the same value twice."""

ALWAYS_DIFFERENT: Final = "its source never gives the same value twice"
UNREADABLE_VALUE: Final = "the served value cannot be compared"


class Limiter:
    """Keeps the readings of sources at a distance in time.

    Args:
        per_second: how many there may be in a second.
        monotonic: the time.
    """

    def __init__(self, per_second: float, monotonic: Callable[[], float]) -> None:
        self._distance = 1.0 / per_second
        self._monotonic = monotonic
        self._next = monotonic()

    def take(self) -> bool:
        """Return whether a source may be read now; if so, it counts."""
        now = self._monotonic()
        if now < self._next:
            return False
        self._next = now + self._distance
        return True

    def wait(self) -> float:
        """Return the seconds until the next reading."""
        return max(0.0, self._next - self._monotonic())


@dataclass(frozen=True)
class Rules:
    """What an audit goes by.

    Attributes:
        settle: seconds for which a difference is a change in flight.
        patience: seconds after which a watch is given up.
        show_keys: whether examples show logical keys as they are.
        salt: what marks in place of keys are made with, so that nobody can look a key up by its mark.
        on_stale: called with each stale value that is found.
    """

    settle: float
    patience: float
    show_keys: bool
    salt: bytes
    on_stale: Callable[[StaleFound], None] | None = None


@dataclass
class _Watched:
    """A value that differs from its source."""

    reading: Reading
    sample: Sample
    served: Served
    noticed: float
    seen: float
    stored_ago: float
    source: bytes | None
    changes: int
    look_at: float
    read_at: float
    delay: float


class Round:
    """One round.

    Args:
        engine: the cache's state.
        sources: who loads what.
        rules: what to go by.
        limiter: when sources may be read; shared by all rounds of an audit.
        tallies: where findings are counted.
        monotonic: the time.
        asynchronous: whether coroutine functions can be called.
    """

    def __init__(
        self,
        engine: Engine,
        sources: Sources,
        rules: Rules,
        limiter: Limiter,
        tallies: Iterable[Tally],
        *,
        monotonic: Callable[[], float],
        asynchronous: bool,
    ) -> None:
        self._engine = engine
        self._sources = sources
        self._rules = rules
        self._limiter = limiter
        self._tallies = tuple(tallies)
        self._monotonic = monotonic
        self._asynchronous = asynchronous
        self._watched: list[_Watched] = []

    def run(self, samples: Iterable[Sample]) -> Generator[Any, Any, None]:
        """Check the samples and watch what differs; a pause that is answered with True ends both."""
        todo = deque(samples)
        ended = False
        while (todo or self._watched) and not ended:
            if todo and self._limiter.take():
                yield from self._check(todo.popleft())
            for one in list(self._watched):
                if self._monotonic() >= one.look_at:
                    yield from self._watch(one)
            waits = [one.look_at - self._monotonic() for one in self._watched]
            if todo:
                waits.append(self._limiter.wait())
            if waits:
                ended = yield max(0.0, min(waits))
        for one in self._watched:
            self._found(one, still=True)
        self._watched = []

    # -- checking -------------------------------------------------------------------------------------------------

    def _check(self, sample: Sample) -> Generator[Any, Any, None]:
        reading = self._sources.find(sample.key, asynchronous=self._asynchronous)
        if isinstance(reading, str):
            self._skip(sample.name, reading)
            return
        request, name = reading.request, reading.request.plan.name
        served = yield from self._look(reading)
        if isinstance(served, str):
            self._skip(name, served)
            return
        form, error = yield from self._read(reading)
        if error is not None:
            for tally in self._tallies:
                tally.unknown(name, error)
            return
        if same(request.plan, served.form, form):
            for tally in self._tallies:
                tally.matched(name, sample.weight)
            return
        now = self._monotonic()
        stored_ago = max(0.0, self._engine.wall() - served.created)
        watched = _Watched(reading, sample, served, now, now, stored_ago, form, 1, now, now + REREAD[0], REREAD[0])
        self._watched.append(watched)

    def _look(self, reading: Reading, known: Served | None = None) -> Generator[Any, Any, Served | str]:
        try:
            found: Served | str = yield look(self._engine, reading.request, known)
        except Exception:  # a serialiser or a validator of the user's own may raise anything
            return UNREADABLE_VALUE
        return found

    def _read(self, reading: Reading) -> Generator[Any, Any, tuple[bytes | None, BaseException | None]]:
        """Return the serialised value of the source, or the error."""
        self._engine.counters(reading.request.plan.name).audited += 1
        value, error = yield reading
        if error is None:
            try:
                return form_of(reading.request.plan, reading.pick(value), reading.request.logical), None
            except Exception as wrong:
                error = wrong
        return None, error

    # -- watching -------------------------------------------------------------------------------------------------

    def _watch(self, one: _Watched) -> Generator[Any, Any, None]:
        plan = one.reading.request.plan
        served = yield from self._look(one.reading, one.served)
        if isinstance(served, str) or not same(plan, served.form, one.served.form):
            self._over(one)
            return
        one.served, one.seen = served, self._monotonic()
        if self._monotonic() >= one.read_at and self._limiter.take():
            started = self._monotonic()
            form, error = yield from self._read(one.reading)
            took = self._monotonic() - started
            if error is None and same(plan, served.form, form):
                self._over(one)  # the source has come back to what the cache serves
                return
            if error is None:
                # One that says something new each time cannot be compared, however fresh the cache is.
                one.changes = 1 if same(plan, form, one.source) else one.changes + 1
                one.source = form
                if one.changes >= RESTLESS:
                    self._watched.remove(one)
                    self._skip(plan.name, ALWAYS_DIFFERENT)
                    return
            # Nobody looks while a source is read, so slow ones are read less often.
            one.delay = max(min(2 * one.delay, REREAD[1]), 4 * took)
            one.read_at = self._monotonic() + one.delay
        if one.seen - one.noticed >= self._rules.patience:
            self._watched.remove(one)
            self._found(one, still=True)
        one.look_at = self._monotonic() + PEEK

    def _over(self, one: _Watched) -> None:
        self._watched.remove(one)
        self._found(one, still=False)

    # -- counting -------------------------------------------------------------------------------------------------

    def _skip(self, name: str, reason: str) -> None:
        for tally in self._tallies:
            tally.skipped(name, reason)

    def _found(self, one: _Watched, *, still: bool) -> None:
        """Count a difference by how long it lasted."""
        age = one.seen - one.noticed
        request = one.reading.request
        name = request.plan.name
        if age <= self._rules.settle:
            for tally in self._tallies:
                tally.in_flight(name, one.sample.weight)
            return
        key = request.logical if self._rules.show_keys else self._redacted(one)
        example = StaleExample(name, key, one.served.tier, age, still, one.stored_ago)
        for tally in self._tallies:
            tally.stale(example, one.sample.weight)
        counters = self._engine.counters(name)
        counters.audited_stale += 1
        counters.audited_age = max(counters.audited_age, age)
        event = StaleFound(name, request.logical, one.served.tier, age, still)
        self._engine.listeners.emit(event)
        if self._rules.on_stale is not None:
            try:
                self._rules.on_stale(event)
            except Exception:
                logger.exception("on_stale failed")

    def _redacted(self, one: _Watched) -> str:
        mark = blake2b(one.reading.request.logical.encode(), digest_size=4, key=self._rules.salt).hexdigest()
        return f"{one.reading.template} #{mark}"
