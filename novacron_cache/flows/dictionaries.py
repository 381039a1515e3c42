"""Dictionaries where they are kept: taken into use, fetched by whoever meets a body that needs one, and kept alive.

Theory. A model's dictionary lies beside its payloads, in the nearest shared tier that has these: its *home*. Under the
dictionary's own name is its content; under the model's name is the name of the one to write with. Both are payloads
under the envelope's proof, which is a signature where there are keys. Both end `LIFE` after somebody last looked after
them, so that what nobody uses goes by itself.

Who writes a model's values looks once in a while, before it stores some, which dictionary is the newest, and finds on
that occasion whether its content is still there, about to end, or signed by a key that is on its way out. If so it is
put back, by whichever process comes first. Where no name is there any more (a server that was flushed, a purge), nobody
writes with a dictionary until one is trained again.

Who reads a body with a dictionary that this process does not know asks for it, once for each dictionary; where it is
not to be had, the body is a miss, and for a moment nobody asks again. What was found in one tier is copied to those
that the model is allowed in and that lack it, so that what a directory keeps is read also when the server is gone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Final

from ..codecs import Dictionary, Header
from ..codecs.dictionaries import DIGEST_BYTES, FINGERPRINT
from ..effects import DOWN, Fetch, Item, Store
from ..engine import Engine
from ..errors import DecodeError, DictionaryUnknown
from ..events import Corrupt, logger
from ..keys import dictionary_key, newest_key
from ..requests import Plan, Request
from ..tiers import Tier

__all__ = ["INTERVAL", "LIFE", "Lacking", "fetch", "newest", "publish", "take_newest", "unsealed"]

LIFE: Final = 30 * 86_400.0
"""Seconds that a dictionary stays after it was trained, or last found to be in use with less than half of them left."""
INTERVAL: Final = 60.0
"""Seconds after which a process that stores values of a model looks which dictionary is its newest."""
PAUSE: Final = 10.0
"""Seconds for which nobody looks for a dictionary that was nowhere to be had."""
BRIEFLY: Final = 1.0
"""The same where some tier did not answer: to ask it for each body would cost each call its time-out."""

Lacking = tuple[Request, bytes, DictionaryUnknown]
"""What was asked for, the payload that was found, and what was wrong with it."""


# -- reading -----------------------------------------------------------------------------------------------------------


def unsealed(
    engine: Engine, lacking: Sequence[Lacking], tiers: Sequence[Tier], *, copies: bool = True
) -> Generator[Any, Any, list[tuple[Header, bytes] | DecodeError]]:
    """Open payloads whose dictionaries are not known here, having asked for these.

    Args:
        engine: the cache's state.
        lacking: the payloads.
        tiers: the shared tiers to ask, nearest first.
        copies: as for `fetch`.
    """
    groups: dict[frozenset[str], list[bytes]] = {}
    for request, _, error in lacking:
        groups.setdefault(frozenset(request.plan.tiers), []).append(error.digest)
    for allowed, digests in groups.items():
        yield from fetch(engine, digests, [tier for tier in tiers if tier.name in allowed], copies=copies)
    results: list[tuple[Header, bytes] | DecodeError] = []
    for request, payload, _ in lacking:
        try:
            results.append(engine.values.unseal(request, payload))
        except DecodeError as error:
            results.append(error.with_traceback(None))
    return results


def fetch(
    engine: Engine, digests: Iterable[bytes], tiers: Sequence[Tier], *, copies: bool = True
) -> Generator[Any, Any, None]:
    """Have this process know dictionaries by their names, as far as they are to be had.

    Args:
        engine: the cache's state.
        digests: the names.
        tiers: the tiers to ask, nearest first.
        copies: whether what one of them has is copied to the others.
    """
    book, monotonic = engine.pipeline.dictionaries, engine.clock.monotonic
    wanted = book.wanted(digests, monotonic())
    if not wanted:
        return
    found: dict[bytes, tuple[bytes, float]] = {}
    without: list[tuple[Tier, list[bytes]]] = []
    pause = PAUSE
    for tier in tiers:
        asked = [digest for digest in wanted if digest not in found]
        if not asked:
            without.append((tier, wanted))
            continue
        reply = yield tier, Fetch([dictionary_key(digest) for digest in asked])
        if reply is DOWN or not reply.whole:
            pause = BRIEFLY
        if reply is DOWN:
            continue
        lacks = [digest for digest in wanted if digest in found]
        for digest, payload in zip(asked, reply.payloads, strict=True):
            opened = _opened(engine, tier, dictionary_key(digest), payload)
            if opened is not None and payload is not None and _learned(engine, tier, digest, opened[1]):
                found[digest] = payload, opened[0].expires
            elif reply.whole:
                lacks.append(digest)
        without.append((tier, lacks))
    book.missed((digest for digest in wanted if digest not in found), monotonic() + pause)
    for tier, lacks in without if copies else ():
        items = [
            Item(dictionary_key(digest), found[digest][0], left)
            for digest in lacks
            if digest in found and (left := found[digest][1] - engine.wall()) > 0
        ]
        if items:
            yield tier, Store(items)


def _opened(engine: Engine, tier: Tier, key: str, payload: bytes | None) -> tuple[Header, bytes] | None:
    """Return what is kept of a dictionary under a key, or None where it is not there or not to be trusted."""
    if payload is None:
        return None
    try:
        return engine.pipeline.open(key, payload, fingerprint=FINGERPRINT)
    except DecodeError as error:
        engine.listeners.emit(Corrupt(tier.name, key, error.reason))
        return None


def _learned(engine: Engine, tier: Tier, digest: bytes, content: bytes) -> bool:
    try:
        engine.pipeline.dictionaries.learn(digest, content)
    except DecodeError as error:
        engine.listeners.emit(Corrupt(tier.name, dictionary_key(digest), error.reason))
        return False
    return True


# -- writing -----------------------------------------------------------------------------------------------------------


def take_newest(engine: Engine, plans: Iterable[Plan]) -> Generator[Any, Any, None]:
    """See to it that values about to be stored are written with the newest dictionaries; mostly there is nothing to do.

    For each model or function this asks its home once in each interval, and is what keeps dictionaries alive.
    """
    book, now = engine.pipeline.dictionaries, engine.clock.monotonic()
    for plan in dict.fromkeys(plans):
        tiers = engine.values.homes(plan)
        if plan.name and tiers and book.is_due((tiers[0].name, plan.name), now, INTERVAL):
            yield from _take_newest(engine, plan.name, tiers)


def _take_newest(engine: Engine, name: str, tiers: Sequence[Tier]) -> Generator[Any, Any, None]:
    book, home = engine.pipeline.dictionaries, tiers[0]
    shelf = home.name, name
    current = book.newest(shelf)
    keys = [newest_key(name), *([] if current is None else [dictionary_key(current.digest)])]
    reply = yield home, Fetch(keys)
    if reply is DOWN or not reply.whole:
        return
    named = _named(engine, home, name, reply.payloads[0])
    if named is None:
        book.use(shelf, None)
        return
    header, digest = named
    if current is None or current.digest != digest:
        yield from fetch(engine, [digest], tiers)
        dictionary = book.known(digest)
        book.use(shelf, dictionary)
        if dictionary is not None:
            logger.info("values of %s are compressed with the dictionary %s", name, digest.hex())
        return
    kept = _opened(engine, home, keys[1], reply.payloads[1])
    ends = min(header.expires, 0.0 if kept is None else kept[0].expires)
    signed = all(payload is not None and engine.pipeline.is_signed_now(payload) for payload in reply.payloads)
    if ends - engine.wall() < LIFE / 2 or not signed:
        # Should another dictionary be published at this very moment, its name could be written over. Then values go on
        # being written with this one, which is as good for all who read them, until somebody trains anew.
        yield from _keep(engine, home, name, current, header.created)


def newest(engine: Engine, home: Tier, name: str) -> Generator[Any, Any, bytes | None]:
    """Return the name of the dictionary that values of a model or function are to be written with."""
    reply = yield home, Fetch([newest_key(name)])
    named = None if reply is DOWN else _named(engine, home, name, reply.payloads[0])
    return None if named is None else named[1]


def _named(engine: Engine, home: Tier, name: str, payload: bytes | None) -> tuple[Header, bytes] | None:
    opened = _opened(engine, home, newest_key(name), payload)
    return opened if opened is not None and len(opened[1]) == DIGEST_BYTES else None


def publish(engine: Engine, home: Tier, name: str, dictionary: Dictionary) -> Generator[Any, Any, bool]:
    """Have all processes write a model's or function's values with a dictionary; return whether the tier took it.

    The one before stays for as long as what was written with it can.
    """
    before = yield from newest(engine, home, name)
    if not (yield from _keep(engine, home, name, dictionary, engine.wall())):
        return False
    book = engine.pipeline.dictionaries
    book.use((home.name, name), dictionary)
    book.is_due((home.name, name), engine.clock.monotonic(), INTERVAL)
    if before is not None and before != dictionary.digest:
        key = dictionary_key(before)
        reply = yield home, Fetch([key])
        if reply is not DOWN and (payload := reply.payloads[0]) is not None:
            # Until the others have looked they go on writing with it.
            yield home, Store([Item(key, payload, engine.marker_life() + 2 * INTERVAL)])
    return True


def _keep(engine: Engine, home: Tier, name: str, dictionary: Dictionary, created: float) -> Generator[Any, Any, bool]:
    """Store a dictionary, and then what names it: nobody is to read a name without finding what it stands for."""
    expires = engine.wall() + LIFE
    header = Header(FINGERPRINT, created, expires, expires)
    for key, body in ((dictionary_key(dictionary.digest), dictionary.content), (newest_key(name), dictionary.digest)):
        reply = yield home, Store([Item(key, engine.pipeline.seal(key, header, body), LIFE)])
        if reply is DOWN:
            return False
    return True
