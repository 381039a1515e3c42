"""The commonest call that needs a server, in a straight line: one key, in one trip, by a caller that blocks.

Theory. A flow decides and a driver waits, and both are ready for whatever may come: a load, a lease, another call that
wants the same key. Nearly always nothing of that comes. The key was met before, the link is up, and the authority has a
payload that this process knows to be valid. Such a call is carried out here by plain calls of functions. It decides
nothing by itself: whether it may go this way, and what a payload is worth, is what `flows.nearby` says, and the trip is
that of the drivers, with their breaker and their figures. Whatever turns out to be otherwise goes on as a flow.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import flows
from .drivers import ask, drive
from .effects import DOWN, Fetch
from .engine import Engine
from .entry import MISSING, Entry
from .flows import Sighted
from .guards import Flight, Outcome
from .requests import Request

__all__ = ["get_or_load"]


def get_or_load(engine: Engine, request: Request) -> Sighted:
    """Return what the nearest tier has that may serve a key, else the entry that its loader makes.

    The value is for this caller alone where it can be changed; it is `MISSING` where the entry has to be asked for it.
    """
    plan, tier = request.plan, engine.authority
    if (
        tier is None
        or request.excluded
        or plan.shadow is not None
        or engine.bypass.active
        or engine.traced is not None
        or not flows.is_near(engine, request)
    ):
        return _made(drive(engine, flows.get_or_load(engine, request)))
    flights, key, token = engine.flights, request.key, engine.history.seq
    lead = flights.claim(key, token, engine.clock.monotonic())
    if lead is None:
        return _made(drive(engine, flows.get_or_load(engine, request)))
    try:
        look, found = flows.Look(engine, tier, token), None
        reply = ask(engine, tier, Fetch((key,)))
        if reply is not DOWN and look.counts():
            found = look.sight(request, reply.payloads[0], lasting=plan.refresh_ahead is not None)
    except BaseException as error:
        _land(engine, flights.disband(lead), error=error)
        raise
    if found is not None:
        if wanted := flights.disband(lead):
            _land(engine, wanted, found[1] or look.entry())
        return found
    if reply is DOWN:
        return _made(drive(engine, flows.get_unanswered(engine, request, flights.take_over(lead), token)))
    _land(engine, flights.disband(lead))
    return _made(drive(engine, flows.get_unfound(engine, request)))


def _made(entry: Entry) -> Sighted:
    return MISSING, entry


def _land(
    engine: Engine, wanted: Sequence[Flight], entry: Entry | None = None, error: BaseException | None = None
) -> None:
    """Tell those who wanted the same key meanwhile what there is; without an entry they have to ask by themselves."""
    failed = isinstance(error, Exception)
    outcome = Outcome.LANDED if entry is not None else Outcome.FAILED if failed else Outcome.HANDED_OVER
    for flight in wanted:
        engine.flights.land(flight, outcome, entry, error)
