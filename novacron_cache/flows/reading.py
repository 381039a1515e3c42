"""Reading without loading: which tier has a value that may be served, and why not.

Theory. One trip to the authority brings the payloads *and* the current ids of every dependency. An entry that process
memory holds past its deadline is not thrown away: when its ids are still the current ones it is good for another round.
A payload from a farther tier is judged by the same ids, so a disk that slept through an invalidation cannot serve the
value. Tags that only the value knows take a second trip for their ids. Whatever is found moves nearer with the life it
has left, never with a new one, and process memory counts its staleness bound from before the ids were read.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..codecs import Header
from ..effects import DOWN, Fetch, Item, ReadClock, ReadRules, Store
from ..engine import Engine
from ..entry import DEAD, FOREVER, Entry
from ..errors import DecodeError, DictionaryUnknown
from ..events import Corrupt, Hit, Miss
from ..guards import NOTHING_PENDING, PendingView
from ..markers import RULES, RuleLog, tag_dep, valid
from ..requests import Request
from ..tiers import Tier
from .dictionaries import Lacking, unsealed
from .nearby import is_near, nearby

Ids = dict[str, bytes]

MOST_ENCOUNTERS = 3
"""How often a read is begun anew because a server turned out to be another one than before."""

MOST_OVERTAKEN = 2
"""How often a read is begun anew because what it found was invalidated meanwhile."""


@dataclass(slots=True)
class Found:
    """What the tiers know about one request.

    Attributes:
        entry: the value to serve, or None.
        stale: a value past its ttl that may stand in if the loader fails.
        ids: the current ids that were read, of every dependency that has one; shared by the requests of one call.
        expected: the tags that the last known value had; the next one is likely to have them too.
        reason: why there is no entry (see `events.Miss`).
        shared: whether the authority answered, so that a loaded value may be stored there.
        tier: the tier that answered.
        asked: monotonic seconds before the ids were read; infinite where nobody was asked.
        held: whether a dependency turned out to be held, so that a loaded value must not be kept anywhere.
        overtaken: whether a good value was found, and what it depends on was invalidated before it could be kept.
    """

    entry: Entry | None = None
    stale: Entry | None = None
    ids: Ids = field(default_factory=dict)
    expected: tuple[str, ...] = ()
    reason: str = "cold"
    shared: bool = False
    tier: str = ""
    asked: float = FOREVER
    held: bool = False
    overtaken: bool = False


def consult(
    engine: Engine, requests: Sequence[Request], token: int, *, beyond: bool = False, near: bool = True
) -> Generator[Any, Any, list[Found]]:
    """Ask the shared tiers about keys that process memory cannot answer; nothing is loaded.

    Args:
        engine: the cache's state.
        requests: distinct keys.
        token: the history number at which the call began; an entry hit by a later invalidation is not kept.
        beyond: whether what process memory has is not wanted, because there may be something newer.
        near: whether it is worth asking for payloads alone.
    """
    found = yield from _answered(engine, requests, token, beyond=beyond, near=near)
    for _ in range(MOST_OVERTAKEN):
        again = [place for place, one in enumerate(found) if one.overtaken]
        if not again:
            break
        # Whoever invalidated by setting has stored what is valid now, and may have told others so: it is not absent.
        later = yield from _answered(
            engine, [requests[place] for place in again], engine.history.seq, beyond=beyond, near=False
        )
        for place, one in zip(again, later, strict=True):
            found[place] = one
    return found


def _answered(
    engine: Engine, requests: Sequence[Request], token: int, *, beyond: bool, near: bool
) -> Generator[Any, Any, list[Found]]:
    """Ask until the answers count, or it is clear that none will."""
    for _ in range(MOST_ENCOUNTERS):
        found = yield from _consult(engine, requests, token, beyond=beyond, near=near and not beyond)
        if found is not None:
            return found
    # One address that leads now here, now there: nobody can say which of the answers count.
    return (yield from unanswered(engine, requests, beyond=beyond))


def unanswered(
    engine: Engine, requests: Sequence[Request], *, beyond: bool = False
) -> Generator[Any, Any, list[Found]]:
    """Do what `consult` does where the authority is known to give no answer that counts."""
    found = [Found() if beyond else _from_memory(engine, request) for request in requests]
    pending = engine.pending.view()
    asked = [
        (request, one)
        for request, one in zip(requests, found, strict=True)
        if not pending.blocks(request.deps, request.logical, request.tags)
    ]
    yield from outage(engine, asked, pending)
    return found


def _consult(
    engine: Engine, requests: Sequence[Request], token: int, *, beyond: bool, near: bool
) -> Generator[Any, Any, list[Found] | None]:
    """Do what `consult` does; None where a server turned out to be another one meanwhile, so that all is asked again.

    What was read then may be of two servers, and what this process invalidated lately may be pending again.
    """
    found = [Found() if beyond else _from_memory(engine, request) for request in requests]
    authority = engine.authority
    if authority is None:
        return found
    asked: list[tuple[Request, Found]] = []
    encounters = engine.encounters()
    pending = engine.pending.view()
    for request, one in zip(requests, found, strict=True):
        if pending.blocks(request.deps, request.logical, request.tags):
            one.reason, one.stale = "pending", None
        else:
            asked.append((request, one))
    if not asked:
        return found
    if engine.link is not None:
        engine.link.ensure()
    yield from read_clock(engine)
    if near and len(asked) > 1 and (close := [request for request, _ in asked if is_near(engine, request)]):
        entries = yield from nearby(engine, close, token)
        if entries is None:
            yield from outage(engine, asked, pending)
            return found
        for request, one in asked:
            if (entry := entries.get(request.key)) is not None:
                one.entry, one.tier, one.shared = entry, authority.name, True
        asked = [(request, one) for request, one in asked if one.entry is None]
        if not asked:
            return found
        encounters = engine.encounters()
    started = engine.clock.monotonic()
    deps = list(dict.fromkeys(dep for request, _ in asked for dep in _deps(engine, request)))
    readable = [request for request, _ in asked if authority.name in request.plan.tiers]
    reply = yield authority, Fetch([request.key for request in readable], deps)
    if reply is DOWN:
        yield from outage(engine, asked, pending)
        return found
    # What was read is as good as the word of those who say which server is the master.
    judge = _Judge(engine, min(started, authority.confirmed_at()), pending)
    judge.learn(deps, reply.ids)
    payloads = dict(zip((request.key for request in readable), reply.payloads, strict=True))
    yield from _rules(engine, judge.ids)
    if engine.encounters() != encounters:
        return None
    for request, one in asked:
        one.shared, one.asked, one.ids = True, started, judge.ids
        if not beyond:
            _revalidate(judge, request, one, token)
    open_ = [(request, one) for request, one in asked if one.entry is None]
    yield from _examine(judge, authority, open_, [payloads.get(request.key) for request, _ in open_])
    if pending is NOTHING_PENDING:
        engine.learn(token, judge.ids)
    yield from _far(engine, asked, judge)
    seconds = engine.clock.monotonic() - started
    for request, one in asked:
        if one.entry is not None and one.tier != "memory":
            _promote(engine, request, one, token, seconds)
    return found


def read_clock(engine: Engine) -> Generator[Any, Any, None]:
    """Take over the authority's clock when that is due: expiry travels in it, and hosts disagree about the time."""
    authority = engine.authority
    if authority is not None and authority.has_clock and engine.authority_clock.is_old():
        asked = engine.clock.monotonic()
        reply = yield authority, ReadClock()
        engine.authority_clock.set(asked, None if reply is DOWN else reply)


def peek_many(
    engine: Engine, requests: Sequence[Request], *, counted: bool = False
) -> Generator[Any, Any, list[Entry | None]]:
    """Return what is cached for each request, without loading.

    Args:
        engine: the cache's state.
        requests: distinct keys.
        counted: whether these are calls to be counted, as hits or as misses; else they are a mere look.
    """
    token = engine.history.seq
    started = time.perf_counter()
    entries = [None if request.strong else engine.fresh(request.key) for request in requests]
    absent = [request for request, entry in zip(requests, entries, strict=True) if entry is None]
    if counted:
        for request, entry in zip(requests, entries, strict=True):
            if entry is not None:
                engine.count_hit(request, "memory")
        if not absent and len(entries) == 1 and entries[0] is not None:
            engine.answered(entries[0], started)
    if absent:
        found = dict(zip(map(id, absent), (yield from consult(engine, absent, token)), strict=True))
        if counted:
            for request in absent:
                if (one := found[id(request)]).entry is None:
                    engine.counters(request.plan.name).misses[one.reason] += 1
                    engine.listeners.emit(Miss(request.plan.name, request.logical, one.reason))
        entries = [
            entry if entry is not None else found[id(request)].entry
            for request, entry in zip(requests, entries, strict=True)
        ]
        _leave_refresh(engine, absent, found)
    return entries


def _leave_refresh(engine: Engine, requests: Sequence[Request], found: Mapping[int, Found]) -> None:
    """Have the next call come this way too where an early refresh is due: who only looks cannot start it."""
    memory = engine.memory
    if memory is None:
        return
    for request in requests:
        entry = found[id(request)].entry
        if (
            entry is not None
            and request.plan.refresh_ahead is not None
            and not entry.refreshing
            and entry.refresh_at <= engine.clock.monotonic()
        ):
            with memory.lock:
                entry.deadline = min(entry.deadline, entry.refresh_at)


def _deps(engine: Engine, request: Request) -> tuple[str, ...]:
    """Return the dependencies to ask about: the request's, and late ones of the entry that may be revalidated."""
    old = engine.old(request.key)
    return request.deps if old is None or old.tags == request.tags else (*request.deps, *map(tag_dep, old.tags))


def _from_memory(engine: Engine, request: Request) -> Found:
    old = engine.old(request.key)
    if old is None or old.deadline == DEAD:
        return Found()
    found = Found(stale=old if engine.in_grace(old) else None, reason="expired", expected=old.tags)
    if engine.authority is None and engine.memory is not None and engine.clock.monotonic() < old.expires:
        # Only an early refresh sends a hit this way when there is nobody to ask.
        with engine.memory.lock:
            if old.deadline != DEAD:
                engine.set_deadline(old, request.plan)
                engine.count_hit(request, "memory")
                found.entry, found.tier = old, "memory"
    return found


def _revalidate(judge: _Judge, request: Request, one: Found, token: int) -> None:
    """Give the entry in process memory another round when its ids are the current ones."""
    engine = judge.engine
    old, now, memory = engine.old(request.key), engine.clock.monotonic(), engine.memory
    if old is None or memory is None or old.deadline == DEAD:
        return
    if not judge.current(request, old.ids, old.tags):
        one.stale = None
        if old.ids and now < old.expires:
            one.reason = "invalidated"
        return
    if now >= old.expires:
        return
    with memory.lock:
        # An invalidation of this process may have come between; a dead entry stays dead.
        if old.deadline != DEAD:
            engine.set_deadline(old, request.plan, judge.asked)
            deps = (*request.deps, *(dep for dep, _ in old.ids))
            if not engine.history.hits(token, deps, old.logical, old.tags):
                engine.vouch(old, request.plan, token)
            one.entry, one.tier = old, "memory"
            engine.count_hit(request, "memory")
            engine.served(old)


def _rules(engine: Engine, ids: Ids) -> Generator[Any, Any, None]:
    """Read the rule log when its head has moved since it was last read."""
    head = ids.get(RULES)
    if head is None or (engine.rules is not None and engine.rules.head == head):
        return
    reply = yield engine.authority, ReadRules()
    if reply is not DOWN:
        engine.rules = RuleLog(head, reply)


def _far(engine: Engine, asked: Sequence[tuple[Request, Found]], judge: _Judge) -> Generator[Any, Any, None]:
    """Look into the tiers behind the authority, judging what they hold by the authority's ids."""
    for tier in engine.shared[1:]:
        open_ = [(r, one) for r, one in asked if one.entry is None and tier.name in r.plan.tiers]
        if not open_:
            return
        reply = yield tier, Fetch([request.key for request, _ in open_])
        if reply is DOWN:
            continue
        yield from _examine(judge, tier, open_, reply.payloads)
        items = []
        for (request, one), payload in zip(open_, reply.payloads, strict=True):
            if payload is not None and one.entry is not None:
                left = one.entry.stale_until - engine.clock.monotonic()
                authority = engine.authority
                if authority is not None and authority.name in request.plan.tiers and left > 0:
                    items.append(Item(request.key, payload, min(left, engine.caps[authority.name])))
        if items:
            yield engine.authority, Store(items)


def _examine(
    judge: _Judge, tier: Tier, open_: Sequence[tuple[Request, Found]], payloads: Sequence[bytes | None]
) -> Generator[Any, Any, None]:
    """Judge what a tier holds, having asked for the ids of what only the values themselves name."""
    engine = judge.engine
    opened: list[tuple[Request, Found, Header, bytes]] = []
    lacking: list[tuple[Lacking, Found]] = []
    for (request, one), payload in zip(open_, payloads, strict=True):
        if payload is not None:
            try:
                header, body = engine.values.unseal(request, payload)
            except DictionaryUnknown as error:
                lacking.append(((request, payload, error), one))
            except DecodeError as error:
                judge.unreadable(tier, request, one, error)
            else:
                opened.append((request, one, header, body))
    if lacking:
        results = yield from unsealed(engine, [asked for asked, _ in lacking], engine.shared)
        for ((request, _, _), one), result in zip(lacking, results, strict=True):
            if isinstance(result, DecodeError):
                judge.unreadable(tier, request, one, result)
            else:
                opened.append((request, one, *result))
    unknown = judge.unknown([header for _, _, header, _ in opened])
    if unknown:
        encounters = engine.encounters()
        reply = yield engine.authority, Fetch([], unknown)
        if reply is not DOWN and engine.encounters() == encounters:
            judge.learn(unknown, reply.ids)
    for request, one, header, body in opened:
        judge.payload(tier, request, one, header, body)


def outage(
    engine: Engine, asked: Sequence[tuple[Request, Found]], pending: PendingView = NOTHING_PENDING
) -> Generator[Any, Any, None]:
    """The authority does not answer: by default nothing is served past its bound, on request by ttl alone."""
    for _, one in asked:
        one.reason = "tier_down"
        one.stale = None
    now = engine.clock.monotonic()
    asked = [(request, one) for request, one in asked if not request.strong]
    if engine.on_outage == "load":
        for request, one in asked:
            _still_vouched(engine, request, one, now)
        return
    for request, one in asked:
        old = engine.old(request.key)
        if old is not None and old.deadline != DEAD and now < old.expires:
            one.entry, one.tier = old, "memory"
    for tier in engine.shared[1:]:
        open_ = [(r, one) for r, one in asked if one.entry is None and tier.name in r.plan.tiers]
        reply = yield tier, Fetch([request.key for request, _ in open_])
        if reply is DOWN:
            continue
        for (request, one), payload in zip(open_, reply.payloads, strict=True):
            if payload is None:
                continue
            try:
                try:
                    header, body = engine.values.unseal(request, payload)
                except DictionaryUnknown as error:
                    (result,) = yield from unsealed(engine, [(request, payload, error)], engine.shared[1:])
                    if isinstance(result, DecodeError):
                        raise result from None
                    header, body = result
                entry = engine.values.revive(request, header, body)
            except DecodeError as error:
                engine.listeners.emit(Corrupt(tier.name, request.logical, error.reason))
                continue
            if pending.blocks([dep for dep, _ in header.ids], request.logical, header.tags):
                continue
            if now < entry.expires:
                one.entry, one.tier = entry, tier.name


def _still_vouched(engine: Engine, request: Request, one: Found, now: float) -> None:
    """Serve what the link vouched for until its last word has run out, rather than load everything at once."""
    old, memory = engine.old(request.key), engine.memory
    if old is None or memory is None:
        return
    with memory.lock:
        until = min(old.expires, engine.vouched_until(old))
        if old.deadline != DEAD and now < until:
            old.epoch, old.deadline = 0, until
            one.entry, one.tier = old, "memory"
            engine.count_hit(request, "memory")


def _promote(engine: Engine, request: Request, one: Found, token: int, seconds: float) -> None:
    entry = one.entry
    if entry is None:
        return
    deps = (*request.deps, *(dep for dep, _ in entry.ids))
    if not engine.admit(entry, request.plan, token, deps) and engine.history.hits(
        token, deps, entry.logical, entry.tags
    ):
        # Heard of after the call had begun, and perhaps after the ids were read: whether the value has the id from
        # before or the one from after cannot be told from here.
        one.entry, one.reason, one.overtaken = None, "invalidated", True
        return
    engine.count_hit(request, one.tier)
    if request.plan.shadow is None:
        engine.responded(one.tier, seconds, 1)
        if engine.listeners.heard(Hit):
            engine.listeners.emit(Hit(request.plan.name, request.logical, one.tier, seconds))


class _Judge:
    """Decides whether a value is valid under the ids just read.

    Attributes:
        asked: monotonic seconds from which the staleness bound of what was read counts.
        pending: what was pending then.
        known: the dependencies asked about.
        ids: the ids of those that have one.
        watched: whether ids that the link watches count as well.
    """

    __slots__ = ("asked", "engine", "ids", "known", "pending", "watched")

    def __init__(self, engine: Engine, asked: float, pending: PendingView) -> None:
        self.engine = engine
        self.asked = asked
        self.pending = pending
        self.known: set[str] = set()
        self.ids: Ids = {}
        self.watched = False

    def learn(self, deps: Sequence[str], ids: Sequence[bytes | None]) -> None:
        """Take in the ids of dependencies."""
        self.known.update(deps)
        self.ids.update((dep, marker) for dep, marker in zip(deps, ids, strict=True) if marker is not None)

    def unknown(self, headers: Sequence[Header]) -> list[str]:
        """Return the dependencies whose present ids have to be asked for, each once.

        Where the link watches just the ids that a value has, nobody needs to be asked; other ids prove nothing.
        """
        engine = self.engine
        if not engine.knows():
            return list(dict.fromkeys(dep for header in headers for dep, _ in header.ids if dep not in self.known))
        self.watched = True
        self.asked = min(self.asked, engine.horizon.valid_until - engine.bound)
        known = engine.known
        return list(
            dict.fromkeys(
                dep
                for header in headers
                for dep, marker_id in header.ids
                if dep not in self.known and known.get(dep) != marker_id
            )
        )

    def current(self, request: Request, captured: Sequence[tuple[str, bytes]], tags: Sequence[str]) -> bool:
        """Return whether every captured id is still the current one."""
        return valid(
            captured, self._present if self.watched else self.ids.get, request.logical, tags, self.engine.rules
        )

    def _present(self, dep: str) -> bytes | None:
        # Looked up only now: what has been signalled since it was found to be known is not known any more.
        return self.ids.get(dep) if dep in self.known else self.engine.known.get(dep)

    def unreadable(self, tier: Tier, request: Request, one: Found, error: DecodeError) -> None:
        """Note that a payload cannot be read."""
        one.reason = error.reason
        if error.reason != "schema":
            self.engine.listeners.emit(Corrupt(tier.name, request.logical, error.reason))

    def payload(self, tier: Tier, request: Request, one: Found, header: Header, body: bytes) -> None:
        """Note what a payload is good for."""
        engine = self.engine
        one.expected = header.tags
        if not set(request.tags).issubset(header.tags):
            one.reason = "schema"
            return
        if self.pending.blocks([dep for dep, _ in header.ids], request.logical, header.tags):
            one.reason, one.stale = "pending", None
            return
        if not self.current(request, header.ids, header.tags):
            one.reason, one.stale = "invalidated", None
            return
        try:
            entry = engine.values.revive(request, header, body, self.asked)
        except DecodeError as error:
            self.unreadable(tier, request, one, error)
            return
        now = engine.clock.monotonic()
        if now >= entry.expires:
            one.reason = "expired"
            one.stale = entry if now < entry.stale_until else None
            return
        one.entry, one.tier = entry, tier.name
