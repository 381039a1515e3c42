"""Several keys at once, when all is as it was: one trip for the payloads, and nothing made for a key but its value.

Theory. What `nearby` does for one key is done here for the columns of a batch: no request, no flight and no list of ids
is made for a key unless somebody needs it. Everything that is checked there is checked here, only not a thousand times
what is the same for all: that the link is up, that the server is the one it was, that nothing was invalidated since the
call began. That last is asked once, in the end, and where the answer is not "nothing", of each key by itself. A value
that process memory keeps becomes an entry there, which is asked of each anyway when it enters.

What is not found here is left to `loading`, the long way, as is the whole batch when this process knows too little.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..codecs import EXPIRES_AT, IDS_BEFORE, IDS_END, KEY_ID_AT, TAGS_AT, packed_time, read_times
from ..effects import DOWN, Fetch
from ..engine import Engine
from ..entry import MISSING, Entry
from ..errors import DecodeError
from ..events import Hit
from ..guards import Convoy, Outcome
from ..markers import MAX_NAMED
from ..requests import Plan, Request, Several
from ..tiers import Tier
from . import loading
from .loading import After, BatchLoad
from .reading import peek_many, read_clock
from .sighting import Beginnings, Tagged, Tags


def get_many(
    engine: Engine, wanted: Several, batch: BatchLoad, tell: Callable[[Any, Entry], None]
) -> Generator[Any, Any, list[Any]]:
    """Return the value of each key; None where it is absent, or cached as absent.

    Args:
        engine: the cache's state.
        wanted: the keys.
        batch: one loader call for all misses, as for `loading.get_many`.
        tell: given the subject and the entry of each value for which one was made.
    """
    values: list[Any] = [MISSING] * len(wanted)
    after = After.NOTHING
    places = _near(engine, wanted)
    if places:
        near = wanted if len(places) == len(wanted) else wanted.some(places)
        found = yield from read(engine, near)
        after = After.DOWN if found is None else After.NEARBY
        if found is not None:
            _put(values, places, found.values)
            for subject, entry in zip(near.subjects, found.entries, strict=bool(found.entries)):
                if entry is not None:
                    tell(subject, entry)
    rest = [place for place, value in enumerate(values) if value is MISSING]
    if rest:
        entries = yield from loading.get_many(engine, [wanted[place] for place in rest], batch, after=after)
        for place, entry in zip(rest, entries, strict=True):
            if entry is None:
                values[place] = None
            else:
                values[place] = engine.hand_out(entry, wanted.plan)
                tell(wanted.subjects[place], entry)
    return values


def look(engine: Engine, requests: Sequence[Request]) -> Generator[Any, Any, list[Any]]:
    """Return what is cached for each request, without loading: its value for this caller alone, or `MISSING`.

    Args:
        engine: the cache's state.
        requests: distinct keys; they are counted as hits or as misses.
    """
    values: list[Any] = [MISSING] * len(requests)
    groups: dict[tuple[Plan, tuple[str, ...]], list[int]] = {}
    rest: list[int] = []
    for place, request in enumerate(requests):
        if request.strong or len(request.logical) > MAX_NAMED:
            rest.append(place)
        elif (entry := engine.fresh(request.key)) is None:
            groups.setdefault((request.plan, request.deps[:IDS_BEFORE]), []).append(place)
        else:
            engine.count_hit(request, "memory")
            values[place] = engine.hand_out(entry, request.plan)
    for places in groups.values():
        wanted = Several.of([requests[place] for place in places])
        near = _near(engine, wanted)
        if near:
            found = yield from read(engine, wanted if len(near) == len(wanted) else wanted.some(near))
            if found is not None:
                _put(values, [places[place] for place in near], found.values)
    rest += [place for places in groups.values() for place in places if values[place] is MISSING]
    if rest:
        entries = yield from peek_many(engine, [requests[place] for place in rest], counted=True)
        for place, entry in zip(rest, entries, strict=True):
            if entry is not None:
                values[place] = engine.hand_out(entry, requests[place].plan)
    return values


def _put(values: list[Any], places: Sequence[int], found: list[Any]) -> None:
    if len(found) == len(values):
        values[:] = found
        return
    for place, value in zip(places, found, strict=True):
        values[place] = value


def _near(engine: Engine, wanted: Several) -> Sequence[int]:
    """Return the places of the keys of which `is_near` is true."""
    plan, tier, memory, known = wanted.plan, engine.authority, engine.memory, engine.known
    if (
        tier is None
        or tier.name not in plan.tiers
        or plan.strong
        or not all(map(known.__contains__, wanted.common))
        or not engine.knows()
    ):
        return ()
    if all(map(known.__contains__, wanted.key_deps)) and (memory is None or memory.lacks(wanted.keys)):
        return range(len(wanted))
    return [
        place
        for place, (key, dep) in enumerate(zip(wanted.keys, wanted.key_deps, strict=True))
        if dep in known and engine.old(key) is None
    ]


class Read(NamedTuple):
    """What was found of several keys.

    Attributes:
        values: the value of each, `MISSING` where it is not there or not known to be valid.
        entries: the entry of each, None where there is none; empty where process memory keeps no such values.
    """

    values: list[Any]
    entries: list[Entry | None]


def read(engine: Engine, wanted: Several) -> Generator[Any, Any, Read | None]:
    """Return what the authority has and this process knows to be valid, of keys that `is_near` is true of.

    None where it does not answer. Others who want one of the keys meanwhile wait, and get what was found.
    """
    tier = engine.authority
    if tier is None:
        raise AssertionError("nothing is near without an authority")
    token = engine.history.seq
    convoy = engine.flights.board_all(wanted.keys, token, engine.clock.monotonic())
    try:
        if engine.link is not None:
            engine.link.ensure()
        yield from read_clock(engine)
        batch = _Batch(engine, tier, wanted, convoy, token)
        answered = yield from batch.fetch()
    except BaseException as error:
        failed = isinstance(error, Exception)
        for flight in engine.flights.disband(convoy):
            engine.flights.land(flight, Outcome.FAILED if failed else Outcome.HANDED_OVER, error=error)
        raise
    for flight in engine.flights.disband(convoy):
        entry = batch.entry(flight.key)
        engine.flights.land(flight, Outcome.HANDED_OVER if entry is None else Outcome.LANDED, entry)
    return batch.found if answered else None


def _loaded(load: Callable[[bytes], Any], bodies: Sequence[Any]) -> list[Any]:
    """Return the values of bodies, None for None, and `MISSING` for what is that already or does not fit its type."""
    if all(bodies):
        with suppress(Exception):  # looked for below
            return list(map(load, bodies))
    found: list[Any] = []
    for body in bodies:
        value = body
        if body is not None and body is not MISSING:
            try:
                value = load(body)
            except Exception:  # asked for once more on the long way, and reported there
                value = MISSING
        found.append(value)
    return found


class _Batch:
    """The keys that one call reads.

    Attributes:
        found: what was found, in the order of what was wanted.
    """

    def __init__(self, engine: Engine, tier: Tier, wanted: Several, convoy: Convoy, token: int) -> None:
        self._engine = engine
        self._tier = tier
        self._token = token
        self._wanted = wanted
        self._asked_for = wanted
        self._places: Sequence[int] = range(len(wanted))
        if len(convoy.keys) < len(wanted):
            # The others are under way already: they are waited for, the long way.
            mine = set(convoy.keys)
            self._places = [place for place, key in enumerate(wanted.keys) if key in mine]
            self._asked_for = wanted.some(self._places)
        self._payloads: Sequence[bytes | None] = ()
        self._bodies: list[Any] = []
        self._tagged: list[Tagged | None] = []
        self._asked = 0.0
        self._kept = engine.keeps(wanted.plan)
        self.found = Read([MISSING] * len(wanted), [None] * len(wanted) if self._kept else [])

    def fetch(self) -> Generator[Any, Any, bool]:
        """Read the payloads, and what of them is known to be valid; return whether the tier answers."""
        engine, wanted, tier = self._engine, self._asked_for, self._tier
        if not wanted.keys:
            return True
        encounters = engine.encounters()
        started = engine.clock.monotonic()
        reply = yield tier, Fetch(wanted.keys)
        if reply is DOWN:
            return False
        known, until = engine.known, engine.horizon.valid_until
        if not engine.knows() or engine.encounters() != encounters:
            return True
        seconds = engine.clock.monotonic() - started
        # What was known was true when the link last had word of it; who the master is, when that was last confirmed.
        self._asked = min(started, tier.confirmed_at(), until - engine.bound)
        self._payloads = reply.payloads
        beginnings = Beginnings(known, wanted.common, engine.pipeline.skimmer(wanted.plan.schema.fingerprint))
        tags = Tags(known)
        found = self._read(known, beginnings, tags)
        if engine.known is not known or engine.encounters() != encounters:
            return True  # the link was lost, or the server is another one
        if self._kept:
            _put(self.found.entries, self._places, self._keep(found, beginnings))
        else:
            self._spare(found, tags)
        _put(self.found.values, self._places, found)
        self._count(found, seconds)
        return True

    def _read(self, known: dict[str, bytes], beginnings: Beginnings, tags: Tags) -> list[Any]:
        """Return the values whose ids are known; what is asked of each payload is what `nearby` asks."""
        engine, wanted = self._engine, self._asked_for
        schema = wanted.plan.schema
        skimmer = engine.pipeline.skimmer(schema.fingerprint)
        now, most = packed_time(engine.wall()), skimmer.limit
        # A server that is none may answer with anything.
        payloads = [payload if type(payload) is bytes else b"" for payload in self._payloads]
        bodies: list[Any] = []
        told, tell = self._tagged, bodies.append
        for payload, whole, dep, wanted_tags in zip(
            payloads, skimmer.whole(wanted.keys, payloads), wanted.key_deps, wanted.tags, strict=True
        ):
            body: Any = MISSING
            tagged = None
            if (
                whole
                and (form := beginnings[payload[:KEY_ID_AT]]) is not None
                and payload[KEY_ID_AT:IDS_END] == known.get(dep)
                and payload[EXPIRES_AT:TAGS_AT] > now
            ):
                is_none, compression, end, start, stop = form
                tagged = tags[payload[TAGS_AT:end]]
                fits = 0 <= len(payload) + stop - start <= most
                if fits and tagged is not None and (not wanted_tags or tagged.has(wanted_tags)):
                    if is_none:
                        body = None
                    elif not compression:
                        body = payload[start:stop]
                    elif (expanded := skimmer.body(form, payload)) is not None:
                        body = expanded
            tell(body)
            told.append(tagged)
        self._bodies = bodies
        return _loaded(schema.load, bodies)

    def _keep(self, found: list[Any], beginnings: Beginnings) -> list[Entry | None]:
        """Put the values into process memory and return their entries; take out those that something invalidated."""
        engine, wanted, asked, token = self._engine, self._asked_for, self._asked, self._token
        plan, keys, key_deps = wanted.plan, wanted.keys, wanted.key_deps
        admit, revived = engine.admit, engine.values.revived
        entries: list[Entry | None] = []
        for place, (value, payload, body, tagged) in enumerate(
            zip(found, self._payloads, self._bodies, self._tagged, strict=True)
        ):
            if value is MISSING or payload is None or tagged is None:
                entries.append(None)
                continue
            dep, tags = key_deps[place], tagged.tags
            ids = (*beginnings.first, (dep, payload[KEY_ID_AT:IDS_END]), *tagged.pairs)
            logical, times = wanted.logical(place), read_times(payload)
            entry = revived(plan, keys[place], logical, value, body, times, tags, ids, asked)
            deps = (*wanted.common, dep, *tagged.deps)
            if not admit(entry, plan, token, deps) and engine.history.hits(token, deps, entry.logical, entry.tags):
                found[place] = MISSING
                entries.append(None)
            else:
                entries.append(entry)
        return entries

    def _spare(self, found: list[Any], met: Tags) -> None:
        """Take out the values that something invalidated since the call began."""
        engine, wanted = self._engine, self._asked_for
        names = engine.history.names_since(self._token)
        if names is not None and not names:
            return
        if names is not None and all(map(names.isdisjoint, (wanted.common, wanted.key_deps, met.deps()))):
            return
        for place, (value, tagged) in enumerate(zip(found, self._tagged, strict=True)):
            if value is not MISSING and tagged is not None:
                deps = (*wanted.common, wanted.key_deps[place], *tagged.deps)
                if engine.history.hits(self._token, deps, wanted.logical(place), tagged.tags):
                    found[place] = MISSING

    def _count(self, found: list[Any], seconds: float) -> None:
        engine, name, tier = self._engine, self._wanted.plan.name, self._tier.name
        hits = [place for place, value in enumerate(found) if value is not MISSING]
        if not hits:
            return
        engine.counters(name).hits[tier] += len(hits)
        engine.responded(tier, seconds, len(hits))
        if engine.listeners.heard(Hit):
            for place in hits:
                engine.listeners.emit(Hit(name, self._asked_for.logical(place), tier, seconds))

    def entry(self, key: str) -> Entry | None:
        """Return the entry of a key that others want as well, or None where its value was not found."""
        place = self._asked_for.keys.index(key)
        if self._kept:
            return self.found.entries[self._places[place]]
        if not self._payloads or self.found.values[self._places[place]] is MISSING:
            return None
        request, payload = self._asked_for[place], self._payloads[place]
        try:
            return None if payload is None else self._revived(request, payload)
        except DecodeError:
            return None

    def _revived(self, request: Request, payload: bytes) -> Entry:
        header, body = self._engine.values.unseal(request, payload)
        return self._engine.values.revive(request, header, body, self._asked)
