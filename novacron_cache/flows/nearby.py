"""The shortest way to a value that the authority keeps and this process need not ask about: one key, one trip.

Theory. Under the link, an id that was read is as good as an entry in process memory: either is given up when its
dependency is signalled, and both when the link is lost. So a payload whose ids are all known here needs nobody's word
but its own. What is known can only say yes: where a payload has another id, or one that is not known, or where there is
none, the call goes the long way and asks for the present ones, for what is remembered here may have been lost there.

`reading` does the same for several keys, and everything else.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from ..codecs import IDS_BEFORE, TAGS_AT, packed_time, read_ids, read_tags, read_times
from ..effects import DOWN, Fetch
from ..engine import Engine
from ..entry import Entry
from ..events import Hit
from ..markers import tag_dep
from ..requests import Request
from ..tiers import Tier

Sighted: TypeAlias = tuple[Any, Entry | None]
"""A value that is known to be valid, for one caller alone where it can be changed; and its entry, in process memory
already where that keeps it, or None where nobody needs one."""

Near = Generator[Any, Any, dict[str, Entry] | None]
Names = tuple[str, ...]
Ids = tuple[bytes, ...]


_SHORT: Final = 256
"""Bytes of tags and their ids that are worth remembering."""


def _read(text: bytes) -> tuple[Names | None, Names, Ids]:
    """Return the tags that a payload names, None where they cannot be read; their dependencies; and their ids."""
    found = read_tags(text)
    if found is None:
        return None, (), ()
    tags, ids = found
    return tags, tuple(map(tag_dep, tags)), ids


_named = lru_cache(maxsize=1024)(_read)
"""The same for texts that are short: many values have the tags of those before."""


def is_near(engine: Engine, request: Request) -> bool:
    """Return whether it is worth asking for a payload alone: this process has met the key, and the link is up."""
    tier = engine.authority
    return (
        tier is not None
        and all(map(engine.known.__contains__, request.deps))
        and not request.strong
        and tier.name in request.plan.tiers
        and engine.old(request.key) is None
        and engine.knows()
    )


def nearby(engine: Engine, requests: Sequence[Request], token: int) -> Near:
    """Return the entries, by stored key, of those requests whose payloads are there and known to be valid.

    Args:
        engine: the cache's state.
        requests: what `is_near` is true of, distinct keys.
        token: the history number at which the call began.

    Returns:
        The entries, already in process memory and counted as hits; None where the authority does not answer.
    """
    tier = engine.authority
    if tier is None:
        raise AssertionError("nothing is near without an authority")
    look = Look(engine, tier, token)
    reply = yield tier, Fetch([request.key for request in requests])
    if reply is DOWN:
        return None
    entries: dict[str, Entry] = {}
    if look.counts():
        for request, payload in zip(requests, reply.payloads, strict=True):
            if (found := look.sight(request, payload)) is not None and found[1] is not None:
                entries[request.key] = found[1]
    return entries


class Look:
    """What was the case before payloads were asked for, and what of it still is when they have come.

    Args:
        engine: the cache's state.
        tier: the authority.
        token: the history number at which the call began.
    """

    __slots__ = (
        "_asked", "_encounters", "_engine", "_generation", "_known", "_last", "_seconds", "_started", "_tier", "_token",
    )  # fmt: skip

    def __init__(self, engine: Engine, tier: Tier, token: int) -> None:
        self._engine = engine
        self._tier = tier
        self._token = token
        self._known = engine.known
        self._generation = engine.pending.generation
        self._encounters = tier.encounters()
        self._asked = self._started = engine.clock.monotonic()
        self._seconds = 0.0
        self._last: tuple[Request, bytes, Any, bytes | None, Names, Names, Ids] | None = None

    def counts(self) -> bool:
        """Return whether what has come was read under the link from the server that there was; asked once."""
        engine, until = self._engine, self._engine.horizon.valid_until
        if (
            engine.known is not self._known  # as when the link was lost: then all of it is given up at once
            or engine.pending.generation != self._generation
            or self._tier.encounters() != self._encounters
            or not engine.knows()
        ):
            return False
        self._seconds = engine.clock.monotonic() - self._started
        # What was known was true when the link last had word of it; who the master is, when that was last confirmed.
        self._asked = min(self._started, self._tier.confirmed_at(), until - engine.bound)
        return True

    def sight(self, request: Request, payload: bytes | None, *, lasting: bool = True) -> Sighted | None:
        """Return a value whose ids are all known to be the current ones, counted as a hit; None for any other.

        Args:
            request: what was asked for.
            payload: what was there.
            lasting: whether an entry is made also where process memory keeps none.
        """
        engine, plan, schema = self._engine, request.plan, request.plan.schema
        # What is not recognised is asked for once more on the long way, and reported there.
        skimmed = payload and engine.pipeline.skimmer(schema.fingerprint).skim(request.key, payload)
        if not payload or not skimmed:
            return None
        expires, end, body = skimmed
        tags, deps, ids = request.tags, request.deps, read_ids(payload)
        if end != TAGS_AT or tags:
            text = payload[TAGS_AT:end]
            found, late, more = _named(text) if len(text) <= _SHORT else _read(text)
            if found != tags:
                if found is None or (tags and not set(tags).issubset(found)):
                    return None
                tags, deps = found, deps[: IDS_BEFORE + 1] + late
            ids += more
        # Looked up now: what has been signalled since the call began is not known any more.
        if tuple(map(engine.known.get, deps)) != ids:
            return None
        try:
            value = None if body is None else schema.load(body)
        except Exception:  # a validator of the user's own may raise anything
            return None
        if packed_time(engine.wall()) >= expires:
            return None
        entry = None
        if lasting or engine.keeps(plan):
            entry = self._revived(request, payload, value, body, tags, deps, ids)
            admitted = engine.admit(entry, plan, self._token, deps)
        else:
            self._last = request, payload, value, body, tags, deps, ids
            admitted = False
        history, token = engine.history, self._token
        if not admitted and history.seq != token and history.hits(token, deps, request.logical, tags):
            return None
        if plan.shadow is None:
            name, tier = plan.name, self._tier.name
            engine.counters(name).hits[tier] += 1
            engine.responded(tier, self._seconds, 1)
            if engine.listeners.heard(Hit):
                engine.listeners.emit(Hit(name, request.logical, tier, self._seconds))
        return value, entry

    def entry(self) -> Entry | None:
        """Return an entry of the value that was last found without one: somebody needs it after all."""
        return None if self._last is None else self._revived(*self._last)

    def _revived(
        self, request: Request, payload: bytes, value: Any, body: bytes | None, tags: Names, deps: Names, ids: Ids
    ) -> Entry:
        return self._engine.values.revived(
            request.plan, request.key, request.logical, value, body, read_times(payload), tags,
            tuple(zip(deps, ids, strict=True)), self._asked,
        )  # fmt: skip
