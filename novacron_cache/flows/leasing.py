"""Leases: one process of the fleet loads a cold key, and the others wait for what it stores.

Theory. The call that leads its process's flight asks for the key's lease in the trip that captures the missing ids, and
returns it in the trip that stores the value. Whoever does not get it waits, and looks for the value once the end of the
lease has been signalled. Ids alone decide whether what it finds may be served, so a lease can be lost, doubled or out
of date and costs no more than a load. A holder that died leaves a lease that runs out within a second, and a slow one
keeps it (see `keep_leases`), so those who wait ask again whenever it ought to have run out.

Nobody waits without end, or in a circle:

- a waiter waits for two holders at most, for none after one whose end was in vain (its loader raised, or its value may
  not be stored), and not longer than `PATIENCE` in all; then it loads beside whoever has the lease;
- a call made by a loader waits for no lease, so that nobody who is waited for waits in turn;
- a process does not wait for a lease of its own: the load under way began before something was invalidated;
- where the tier cannot be asked for leases, the call loads as if there were none.

Without a link nothing is signalled; then a waiter asks again after a pause that doubles up to `LONGEST_PAUSE`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from ..effects import (
    DOWN,
    AwaitLease,
    Capture,
    Ending,
    Fetch,
    KeepLeases,
    ReturnLease,
    Store,
    TakeLease,
    Taken,
    Together,
)
from ..engine import Engine
from ..entry import FOREVER
from ..errors import DecodeError
from ..guards import leading
from ..leases import LIFE, Lease, Waiting, Woken
from ..markers import tag_dep
from ..requests import Request
from .capturing import missing_ids, take_in
from .reading import Found, consult

PATIENCE: Final = 30.0
"""Seconds that a call waits for the loads of other processes before it loads for itself."""
MOST_HOLDERS: Final = 2
"""How many of them it waits for: one that dies, and the one that takes its place."""
FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.2
"""Seconds between two questions where nothing is signalled; shorter than a lease says that a value was stored."""
_SLACK: Final = 0.002
"""Seconds past the end of a lease; a question that comes too early has to be asked again."""
_NEWER: Final = 0.002
"""Seconds by which a value has to be younger to count as another one; payloads keep milliseconds."""


def has_leases(engine: Engine, request: Request) -> bool:
    """Return whether leases make sense for a value: the authority has them and may hold it."""
    authority = engine.authority
    return authority is not None and authority.has_leases and authority.name in request.plan.tiers


def is_due(engine: Engine, request: Request, one: Found, token: int) -> bool:
    """Return whether a load should be led by one process: only where the others can have what it brings home."""
    if not one.shared or not has_leases(engine, request):
        return False
    # Without the link, tags that only the result names keep it out of the shared tier, unless they can be foreseen.
    return request.late_tags is None or one.expected != request.tags or engine.watches(token)


def obtain(
    engine: Engine, request: Request, found: Found, token: int, until: float = FOREVER
) -> Generator[Any, Any, tuple[Found, int, Lease | None]]:
    """Get the lease of a key, or a value that another process has stored meanwhile.

    Args:
        engine: the cache's state.
        request: what is wanted.
        found: what a look at the tiers has found: nothing.
        token: the history number before that look.
        until: monotonic seconds after which nobody is waited for.

    Returns:
        What the last look has found, the history number before it, and the lease. With neither a value nor a lease the
        call loads without.
    """
    lease = engine.leases.begin(request.key)
    waiting = engine.leases.expect(request.key)
    try:
        last, token = yield from _obtain(engine, request, found, token, lease, waiting, until)
        last.reason = found.reason
        if not lease.until:
            engine.leases.end(lease)
        elif last.entry is not None or not last.shared:
            yield from give_back(engine, lease, Ending.GIVEN_UP)
        else:
            return last, token, lease
        return last, token, None
    except BaseException as error:
        yield from give_up(engine, lease, error)
        raise
    finally:
        engine.leases.forget(waiting)


def _obtain(
    engine: Engine, request: Request, found: Found, token: int, lease: Lease, waiting: Waiting, until: float
) -> Generator[Any, Any, tuple[Found, int]]:
    """Ask, wait and look until there is a value or the lease, or waiting is no use; return the last look."""
    monotonic = engine.clock.monotonic
    until = min(until, monotonic() + PATIENCE)
    patient = not leading()
    waited = looked = False
    holders: set[bytes] = set()
    seen, pause = b"", FIRST_PAUSE
    while True:
        # Asked before the lease is: what is signalled from then on is heard, or `waiting` is roused.
        listening = engine.listening
        taken = yield from _take(engine, request, found, lease, seen)
        if not isinstance(taken, Taken) or not found.shared or not patient or engine.leases.ours(taken.holder):
            break
        holders.add(taken.holder)
        if len(holders) > MOST_HOLDERS or monotonic() >= until:
            break
        if not taken.done:
            if not waited:
                waited = True
                engine.counters(request.plan.name).waited += 1
            seconds = min(taken.left + _SLACK, until - monotonic())
            if not listening:
                seconds, pause = min(seconds, pause), min(2 * pause, LONGEST_PAUSE)
            woken = yield AwaitLease(waiting, taken.holder, seconds)
            looked = False
            if woken is Woken.REFUSED:
                break
            if woken is Woken.RAN_OUT:
                continue
            patient = woken is Woken.ENDED
        seen, looked = taken.holder, True
        found, token = yield from _look(engine, request)
        if found.entry is not None or not found.shared:
            break
    if waited and not looked:
        # Ids from before the wait would do, but not for long; and somebody may have stored a value and gone.
        found, token = yield from _look(engine, request)
    return found, token


def _look(engine: Engine, request: Request) -> Generator[Any, Any, tuple[Found, int]]:
    token = engine.history.seq
    (found,) = yield from consult(engine, [request], token)
    return found, token


def _take(engine: Engine, request: Request, found: Found, lease: Lease, seen: bytes) -> Generator[Any, Any, Any]:
    """Ask for a lease, and in the same trip for the ids that are missing; return what `TakeLease` does."""
    asked = engine.clock.monotonic()
    lease.open = True
    take = TakeLease(request.key, lease.holder, LIFE, seen, asked - found.asked)
    misses = [(request, found)]
    missing = missing_ids(misses)
    if missing:
        reply = yield engine.authority, Together(Capture(missing, engine.marker_life()), take)
        captured, taken = (DOWN, DOWN) if reply is DOWN else reply
        take_in(engine, misses, missing, captured)
    else:
        taken = yield engine.authority, take
    _taken(engine, lease, taken, asked)
    return taken


def _taken(engine: Engine, lease: Lease, taken: Any, asked: float) -> None:
    lease.open = taken is None
    if taken is None:
        engine.leases.hold(lease, asked + LIFE)


def try_to_refresh(
    engine: Engine, request: Request, token: int
) -> Generator[Any, Any, tuple[Found | None, Lease | None]]:
    """Get the lease for an early refresh; nothing is found where that is left to, or was done by, another process."""
    old = engine.old(request.key)
    found = Found(expected=() if old is None else old.tags)
    if engine.pending.blocks(request.deps, request.logical, request.tags):
        return found, None
    lease = engine.leases.begin(request.key)
    try:
        found.asked = engine.clock.monotonic()
        deps = list(dict.fromkeys((*request.deps, *map(tag_dep, found.expected))))
        lease.open = True
        reply = yield (
            engine.authority,
            Together(Fetch([request.key], deps), TakeLease(request.key, lease.holder, LIFE)),
        )
        if reply is DOWN:
            engine.leases.end(lease)
            return found, None
        fetched, taken = reply
        _taken(engine, lease, taken, found.asked)
        if isinstance(taken, Taken):
            engine.leases.end(lease)
            return None, None
        found.shared = True
        found.ids = {dep: id_ for dep, id_ in zip(deps, fetched.ids, strict=True) if id_ is not None}
        if old is not None and _is_newer(engine, request, fetched.payloads[0], old.created):
            (other,) = yield from consult(engine, [request], token, beyond=True)
            if other.entry is not None:
                yield from give_back(engine, lease, Ending.GIVEN_UP)
                return None, None
    except BaseException as error:
        yield from give_up(engine, lease, error)
        raise
    return found, lease


def _is_newer(engine: Engine, request: Request, payload: bytes | None, created: float) -> bool:
    if payload is None:
        return False
    try:
        header, _ = engine.values.unseal(request, payload)
    except DecodeError:
        return False
    return header.created > created + _NEWER


def store(engine: Engine, operation: Store, lease: Lease | None) -> Generator[Any, Any, Any]:
    """Have the authority store values and take a lease back, in one trip; return what `Store` does.

    Where the lease was lost meanwhile, what another process may have stored since then stays: this value is older.
    """
    if lease is None:
        return (yield engine.authority, operation)
    operation.new_only = lease.lost or engine.clock.monotonic() >= lease.until
    ending = Ending.STORED if operation.items else Ending.IN_VAIN
    reply = yield engine.authority, Together(operation, ReturnLease(lease.key, lease.holder, ending))
    lease.open = False
    engine.leases.end(lease)
    return reply if reply is DOWN else reply[0]


def give_back(engine: Engine, lease: Lease | None, ending: Ending) -> Generator[Any, Any, None]:
    """Return a lease, if there is one that was not returned yet."""
    if lease is None:
        return
    engine.leases.end(lease)
    if lease.open:
        lease.open = False
        yield engine.authority, ReturnLease(lease.key, lease.holder, ending)


def give_up(engine: Engine, lease: Lease | None, error: BaseException) -> Generator[Any, Any, None]:
    """Return a lease because of an error or a cancellation, so that others need not wait until it runs out."""
    if lease is None:
        return
    if isinstance(error, GeneratorExit):
        engine.leases.end(lease)  # nothing can be asked for any more
    else:
        yield from give_back(engine, lease, Ending.IN_VAIN if isinstance(error, Exception) else Ending.GIVEN_UP)


def keep_leases(engine: Engine) -> Generator[Any, Any, None]:
    """Have the leases of this process last for another while; called over and over while there are any."""
    due = engine.leases.due()
    if not due:
        return
    asked = engine.clock.monotonic()
    reply = yield engine.authority, KeepLeases([(lease.key, lease.holder) for lease in due], LIFE)
    if reply is not DOWN:
        for lease, good in zip(due, reply, strict=True):
            if good:
                lease.until = asked + LIFE
            else:
                lease.lost = True
