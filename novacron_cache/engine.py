"""The state that all flows of one cache share, and the rules about entries that every flow follows.

The engine decides; it never waits. What has to wait is a flow, carried out by a driver.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, Protocol

from .background import Background
from .bypassing import Bypass
from .codecs import Pipeline
from .effects import Operation
from .entry import DEAD, FOREVER, AuthorityClock, Clock, Entry
from .events import Evicted, GenerationChanged, LinkLost, LinkUp, Listeners, NameCounters, logger
from .guards import Breaker, Flights, History, Lives, Matcher, Pending
from .leases import Leases
from .link import Horizon, Link, LinkState
from .markers import NAMESPACE, RULES, WATCHED, RuleLog, new_id
from .requests import Plan, Request
from .tiers import Tier
from .tiers.memory import MemoryTier
from .values import Values


def _nobody() -> None:
    """Stand in until there is somebody to call."""


def _unlooked(seconds: float) -> None:
    """Stand in until somebody wants to know how long process memory takes."""


def _untold(tier: str, seconds: float, count: int) -> None:
    """Stand in until somebody wants to know how long answers from shared tiers take."""


def _forgotten(name: str, key: str) -> str | None:
    """Stand in until somebody remembers misses."""
    return None


def _untimed(tier: str, operation: Operation, seconds: float) -> None:
    """Stand in until somebody wants to know how long operations take."""


class KeySample(Protocol):
    """Sees what happens to some of the keys of process memory, the same ones all the time."""

    def keeps_out(self, entry: Entry) -> bool:
        """Return whether an entry has to stay out of fronts, so that its hits are seen."""
        ...

    def served(self, entry: Entry) -> None:
        """Process memory has answered."""

    def kept(self, entry: Entry) -> None:
        """Process memory has taken an entry in."""


MIN_KNOWN, MAX_KNOWN = 4_096, 65_536
"""How many current ids a process remembers under the link at least and at most; one forgotten early is asked for again.

In between it is four for each item that process memory may hold: its key and three tags.
"""
MAX_SENT = 4096
"""How many ids of its own invalidations a process remembers; one forgotten early costs a miss."""


class Engine:
    """What the flows of one cache share.

    Attributes:
        memory: the first tier, or None where it is switched off.
        shared: the tiers beyond process memory, nearest first.
        authority: the nearest shared tier, which keeps the markers; None in a cache of process memory alone.
        authority_clock: epoch seconds by the authority's clock; `wall` reads it.
        lives: which markers live long enough for what is stored now.
        values: makes entries and payloads.
        bound: seconds for which process memory may answer without asking the authority.
        rules: the rule log as last read.
        link: how other processes' invalidations arrive; None where nothing pushes them.
        horizon: until when fronts may answer.
        known: ids that the link watches: each was current when it was read, and nothing has been signalled since.
        epoch: goes up whenever entries that the link vouched for have to be revalidated.
        leases: those that this process has, and those it waits for.
        background: the threads and tasks in which loads go on behind their calls.
        bypass: the open blocks of `bypassed()`.
        differing: when a value of shadow mode was first seen to differ, by stored key, with the time of its storing.
        asking: the tasks that ask something for the holder of a lease or a hold, by the holder.
        on_down: called when the breaker of a tier has opened.
        on_pending: called when something became pending that nobody is delivering yet.
        on_renewal: called when the authority may have lost what has to be prolonged there.
        on_watched: called when somebody announces that the figures of this process are wanted.
        looked_up: told how long some answers from process memory took, in seconds.
        responded: told how long a shared tier took to answer, in seconds, and how many keys at once.
        timed: told how long each operation of a tier took, in seconds, whatever came of it.
        last_miss: returns why the latest call for a name and a logical key was a miss, where somebody remembers.
        traced: puts spans around a flow; None where nobody traces.
        key_sample: sees what happens to some keys in process memory; None while nobody wants to know.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        memory: MemoryTier | None,
        shared: Sequence[Tier] = (),
        caps: dict[str, float],
        pipeline: Pipeline,
        bound: float = 3.0,
        on_outage: Literal["load", "serve"] = "load",
        cleanup_interval: float = 30.0,
        counting: bool = True,
        background_threads: int = 0,
    ) -> None:
        self.clock = clock
        self.memory = memory
        self.shared = list(shared)
        self.authority: Tier | None = self.shared[0] if self.shared else None
        self.caps = caps
        self._marker_life = 2.0 * max((cap for name, cap in caps.items() if name != "memory"), default=0.0) or 60.0
        self.lives = Lives(clock, self._marker_life / 4)
        self.authority_clock = AuthorityClock(clock)
        self.wall = self.authority_clock.time
        self.pipeline = pipeline
        self.values = Values(
            pipeline,
            clock=clock,
            wall=self.wall,
            memory=memory,
            shared=self.shared,
            most=caps.get("memory", FOREVER),
            set_deadline=self.set_deadline,
        )
        self.bound = bound if self.shared else FOREVER
        self.on_outage = on_outage
        self.history = History()
        self.flights = Flights()
        self.leases = Leases(clock.monotonic)
        self.background = Background(background_threads)
        self.bypass = Bypass()
        self.differing: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.asking: dict[bytes, asyncio.Task[Any]] = {}
        self.pending = Pending(clock.monotonic, NAMESPACE, new_id)
        self.on_down: Callable[[], None] = _nobody
        self.on_pending: Callable[[], None] = _nobody
        self.on_renewal: Callable[[], None] = _nobody
        self._held_here: Counter[str] = Counter()
        self.on_watched: Callable[[], None] = _nobody
        self.looked_up: Callable[[float], None] = _unlooked
        self.responded: Callable[[str, float, int], None] = _untold
        self.timed: Callable[[str, Operation, float], None] = _untimed
        self.last_miss: Callable[[str, str], str | None] = _forgotten
        self.traced: Callable[[Generator[Any, Any, Any]], Generator[Any, Any, Any]] | None = None
        self.key_sample: KeySample | None = None
        self.listeners = Listeners()
        self.breakers = {tier.name: Breaker(clock.monotonic) for tier in self.shared}
        self.rules: RuleLog | None = None
        self.link: Link | None = None
        self.horizon = Horizon()
        self.known: dict[str, bytes] = {}
        self.most_known = 0 if memory is None else min(MAX_KNOWN, MIN_KNOWN + 4 * memory.max_items)
        self.epoch = 1
        self._linked = False
        self._linked_since = 0
        self._last_vouched = (0, 0.0)
        self._sent: dict[bytes, None] = {}
        self._counters: dict[str, NameCounters] = {}
        self._uncounted = None if counting else NameCounters()
        self._cleanup_interval = cleanup_interval
        self._next_sweep = clock.monotonic() + cleanup_interval
        if memory is not None:
            memory.on_evict = self._evicted

    # -- counting -----------------------------------------------------------------------------------------------

    def counters(self, name: str) -> NameCounters:
        """Return the counters of one model or function."""
        if self._uncounted is not None:
            return self._uncounted
        found = self._counters.get(name)
        if found is None:
            found = self._counters.setdefault(name, NameCounters())
        return found

    def count_hit(self, request: Request, tier: str) -> None:
        """Count that a tier answers a request; in shadow mode none does."""
        if request.plan.shadow is None:
            self.counters(request.plan.name).hits[tier] += 1

    def all_counters(self) -> dict[str, NameCounters]:
        """Return the counters of every name seen so far."""
        return dict(self._counters)

    def _evicted(self, entry: Entry) -> None:
        self.listeners.emit(Evicted(entry.name, entry.logical))

    def answered(self, entry: Entry, started: float) -> None:
        """Have the time of an answer from process memory taken, of one in sixteen; fronts answer without this."""
        if entry.hits & 15 == 1:
            self.looked_up(time.perf_counter() - started)

    # -- process memory -----------------------------------------------------------------------------------------

    def fresh(self, key: str) -> Entry | None:
        """Return the entry that process memory may serve right now, or None."""
        if self.memory is None:
            return None
        entry = self.memory.lookup(key)
        if entry is None:
            return None
        now = self.clock.monotonic()
        if now >= entry.deadline:
            return None
        if entry.epoch and (entry.epoch != self.epoch or now >= self.horizon.valid_until):
            return None
        entry.hits += 1
        self.served(entry)
        return entry

    def served(self, entry: Entry) -> None:
        """Have it noted that process memory answers, where somebody takes a sample."""
        if (sample := self.key_sample) is not None:
            sample.served(entry)

    def old(self, key: str) -> Entry | None:
        """Return the entry that process memory holds, even one that may not be served without asking."""
        return self.memory.lookup(key) if self.memory is not None else None

    def keeps(self, plan: Plan) -> bool:
        """Return whether process memory keeps values of a plan."""
        return self.memory is not None and self.memory.name in plan.tiers

    def set_deadline(self, entry: Entry, plan: Plan, asked: float | None = None) -> None:
        """Set until when process memory may serve an entry without asking anyone.

        Args:
            entry: the entry.
            plan: how it is kept.
            asked: monotonic seconds before its ids were read, or its load began; None is now. The staleness bound
                counts from there, for an invalidation elsewhere may have come right after.
        """
        now = self.clock.monotonic()
        entry.epoch = 0
        self._set(entry, plan, now, (now if asked is None else asked) + self.bound)

    def watches(self, token: int) -> bool:
        """Return whether the link has been up, without a gap, since the history had this number."""
        return self._linked and token >= self._linked_since

    def vouch(self, entry: Entry, plan: Plan, token: int) -> None:
        """Lift the staleness bound from an entry that the link watches; the caller holds the memory tier's lock.

        Args:
            entry: the entry. Its ids were read, or its load began, after the history had the number `token`, and
                nothing recorded since then hits it.
            plan: how it is kept.
            token: that number.
        """
        if self.watches(token) and entry.deadline != DEAD:
            entry.epoch = self.epoch
            self._set(entry, plan, self.clock.monotonic(), FOREVER)

    def _set(self, entry: Entry, plan: Plan, now: float, bound: float) -> None:
        deadline = min(entry.expires, now + self.caps["memory"], bound)
        if plan.refresh_ahead is not None and entry.refresh_at == FOREVER:
            lived = self.wall() - entry.created
            entry.refresh_at = now - lived + plan.refresh_ahead * (entry.expires - now + lived)
        if now < entry.refresh_at:
            # From then on a hit takes the slow path once, which starts the refresh.
            deadline = min(deadline, entry.refresh_at)
        entry.deadline = deadline

    def admit(self, entry: Entry, plan: Plan, token: int, deps: Collection[str], *, bounded: bool = False) -> bool:
        """Put an entry into process memory unless something it depends on was invalidated after `token`.

        Args:
            entry: the entry.
            plan: how it is kept.
            token: the history number at which the call began.
            deps: the entry's dependencies.
            bounded: whether the entry keeps the deadline it has, because nobody has just found it valid.
        """
        memory = self.memory
        if memory is None or memory.name not in plan.tiers:
            return not self.history.hits(token, deps, entry.logical, entry.tags)
        history = self.history

        def good() -> bool:
            if self._held_here and not self._held_here.keys().isdisjoint(deps):
                return False
            if history.hits(token, deps, entry.logical, entry.tags):
                return False
            if not bounded:
                self.vouch(entry, plan, token)
            return True

        admitted = memory.insert(entry, good)
        if admitted and (sample := self.key_sample) is not None:
            sample.kept(entry)
        now = self.clock.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + self._cleanup_interval
            memory.sweep(now)
        return admitted

    def attach(self, front: dict[Any, Entry], raw: Any, entry: Entry) -> None:
        """Enter an entry into a front, unless it has to be revalidated before it may be served again."""
        memory, sample = self.memory, self.key_sample
        if memory is not None and (sample is None or not sample.keeps_out(entry)):
            with memory.lock:
                if entry.epoch in (0, self.epoch):
                    memory.attach(front, raw, entry)

    # -- ids that the link watches ----------------------------------------------------------------------------------

    def knows(self) -> bool:
        """Return whether what is in `known` may be believed right now."""
        return self._linked and not self.pending and self.clock.monotonic() < self.horizon.valid_until

    def watched(self, ids: Iterable[tuple[str, bytes]]) -> bool:
        """Return whether all these (dependency, id) pairs are known to be the current ones."""
        known = self.known
        for dep, marker_id in ids:  # noqa: SIM110 - a generator would take twice the time
            if known.get(dep) != marker_id:
                return False
        return True

    def learn(self, token: int, ids: Mapping[str, bytes]) -> None:
        """Remember ids that were read after the history had this number, while nothing was pending.

        As an entry that `vouch` was called for, an id is as good as the link from then on. Where anything was recorded
        meanwhile, none is taken.
        """
        memory = self.memory
        if memory is None or token != self.history.seq or not self.watches(token):
            return
        with memory.lock:
            if token == self.history.seq and self.watches(token):
                known = self.known
                known.update(ids)
                if (excess := len(known) - self.most_known) > 0:
                    # Many at a time: to find the first key of a dict takes as long as many were removed before it.
                    for dep in list(islice(known, excess + self.most_known // 8)):
                        del known[dep]

    def record(self, deps: Collection[str], matchers: tuple[Matcher, ...] = ()) -> None:
        """Enter an invalidation into the history; the caller holds the memory tier's lock, where there is one."""
        self.history.append(deps, matchers)
        for dep in deps:
            self.known.pop(dep, None)
        if matchers:
            self.known.pop(RULES, None)

    def hold_here(self, deps: Iterable[str], *, end: bool = False) -> None:
        """Keep nothing in process memory that depends on these, or do so again; for a cache without an authority."""
        if self.memory is not None:
            with self.memory.lock:
                for dep in deps:
                    self._held_here[dep] += -1 if end else 1
                    if not self._held_here[dep]:
                        del self._held_here[dep]

    # -- the link -----------------------------------------------------------------------------------------------

    def use_link(self, link: Link) -> None:
        """Take a link into use; until it is up, every hit goes by the entry's own bound."""
        self.link = link
        self.horizon.valid_until = 0.0

    @property
    def listening(self) -> bool:
        """Whether signals arrive at present."""
        return self.link is not None and self.link.state is LinkState.UP

    def sending(self, ids: Iterable[bytes]) -> None:
        """Note the ids of invalidations about to be sent: their signals will tell this process nothing new."""
        if self.link is None or self.memory is None:
            return
        with self.memory.lock:
            sent = self._sent
            before = len(sent)
            sent.update(dict.fromkeys(ids))
            if len(sent) > MAX_SENT:
                limit = max(MAX_SENT, 2 * (len(sent) - before))
                # Many at a time: to find the first key of a dict takes as long as many were removed before it.
                for known in list(islice(sent, len(sent) - limit + limit // 8)) if len(sent) > limit else ():
                    del sent[known]

    def link_up(self, valid_until: float) -> None:
        """Signals arrive from now on."""
        memory = self.memory
        if memory is not None:
            with memory.lock:
                # Loads under way read their ids before there was a link: they keep to the bound of their own.
                self._linked_since = self.history.append(())
                self._linked = True
                self.horizon.valid_until = valid_until
                # What was kept for the bound while nobody listened is asked about once more: now it can be watched.
                self._expire_bounds(memory)
        if self.authority is not None:
            self.breakers[self.authority.name].retry_now()
        self.on_renewal()
        logger.info("the link is up: invalidations of other processes arrive as they happen")
        self.listeners.emit(LinkUp())

    def link_beat(self, valid_until: float) -> None:
        """Every signal sent until `valid_until` less the bound has been obeyed."""
        if self._linked:
            self.horizon.valid_until = valid_until

    def link_lost(self, reason: str) -> None:
        """Signals may have been missed: nothing is thrown away, everything is revalidated."""
        memory = self.memory
        if memory is not None:
            with memory.lock:
                if self._linked:
                    self._last_vouched = (self.epoch, self.horizon.valid_until)
                self._linked = False
                self.horizon.valid_until = 0.0
                self._next_epoch()
        if self.authority is not None:
            # What lost the link may have replaced the server behind the other connections too, without a word to them.
            self.authority.renew_connections()
        self.leases.rouse()
        logger.info("the link is lost (%s): entries are revalidated", reason)
        self.listeners.emit(LinkLost(reason))

    def signalled(self, signals: Sequence[tuple[str, bytes]]) -> None:
        """Obey what other processes invalidated, and tell who waits for a lease that it has ended."""
        deps = [
            dep
            for dep, marker_id in signals
            if not self.leases.signalled(dep, marker_id) and marker_id not in self._sent
        ]
        if WATCHED in deps:
            deps = [dep for dep in deps if dep != WATCHED]
            self.on_watched()
        memory = self.memory
        if not deps or memory is None:
            return
        with memory.lock:
            self.record(deps)
            if RULES in deps:
                # A rule names no entry; each is held against the log when it is next asked for.
                self._next_epoch()
                self._expire_bounds(memory)
        memory.kill_deps(dep for dep in deps if dep != RULES)

    def met_another_authority(self, known_for: float) -> Callable[[], None]:
        """Distrust what was learnt from the one before, and send again what that acknowledged lately.

        Args:
            known_for: seconds for which the fleet has known the new one.

        Returns:
            What remains to be done and may take its time.
        """
        if self.authority is not None:
            # Before the new generation begins: whatever is sent in it must not travel to the server of the old one.
            self.authority.renew_connections()
        count = self.pending.replay(known_for if known_for >= 0.0 else FOREVER)
        self.lives.forget()
        self._distrust()

        def announce() -> None:
            logger.warning("the server began another history; %d recent invalidations are sent again", count)
            if self.link is not None:
                self.link.drop("a connection leads to another history")
            self.on_renewal()
            self.listeners.emit(GenerationChanged(count))
            if count:
                self.on_pending()

        return announce

    @property
    def generation(self) -> int:
        """A number that goes up whenever the authority turned out to be another one than before."""
        return self.pending.generation

    def encounters(self) -> tuple[int, int]:
        """Return what changes when a connection leads to a server that this process did not know.

        Ids that were read before and after may be those of two servers, or of one before and after it was replaced.
        """
        return self.generation, 0 if self.authority is None else self.authority.encounters()

    def _distrust(self) -> None:
        """Have everything revalidated, linked or not; what is under way is not kept under the link."""
        memory = self.memory
        if memory is None:
            return
        with memory.lock:
            self._linked = False
            self.horizon.valid_until = 0.0 if self.link is not None else FOREVER
            self._next_epoch()
            self._expire_bounds(memory)

    def _expire_bounds(self, memory: MemoryTier) -> None:
        now = self.clock.monotonic()
        for entry in memory.entries():
            if not entry.epoch and entry.deadline != DEAD:
                entry.deadline = min(entry.deadline, now)

    def vouched_until(self, entry: Entry) -> float:
        """Return until when a lost link still vouches for an entry that nobody can be asked about: the bound holds."""
        epoch, until = self._last_vouched
        return until if entry.epoch == epoch else 0.0

    def _next_epoch(self) -> None:
        self.epoch += 1
        self.known = {}
        if self.memory is not None:
            self.memory.set_aside()

    # -- values --------------------------------------------------------------------------------------------------

    def hand_out(self, entry: Entry, plan: Plan) -> Any:
        """Return an entry's value so that no change by the caller reaches the cache."""
        return entry.value if entry.body is None else plan.schema.decode(entry.body)

    def in_grace(self, entry: Entry | None) -> bool:
        """Return whether an entry may stand in for a failing loader."""
        return entry is not None and entry.deadline != DEAD and self.clock.monotonic() < entry.stale_until

    def after_fork(self) -> None:
        """Make every lock anew in a forked child, where the thread that held one does not exist."""
        # Loads that other threads had under way stayed in the parent, and so did the link.
        self._linked = False
        if self.link is not None:
            self.horizon.valid_until = 0.0
        self._next_epoch()
        self.flights.reset()
        self.leases.reset()
        self.background.reset()
        self.bypass.after_fork()
        self.asking = {}
        self.pending.reset()
        self.history.reset()
        for breaker in self.breakers.values():
            breaker.reset()

    def marker_life(self) -> float:
        """Return the seconds that a marker lives at least: twice the longest life of anything that carries its id."""
        return self._marker_life
