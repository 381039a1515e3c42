"""What the cache would serve for a request right now, found out without changing anything.

A peek counts a hit, gives an entry another round and moves a value nearer; a look does none of this. It is `explain`
with the payload that `explain` read on its way, so that there is one judgement of what may be served.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from ..codecs.sameness import difference
from ..effects import DOWN, Fetch
from ..engine import Engine
from ..entry import DEAD, Entry
from ..errors import DecodeError
from ..explaining import explain, serves_unasked
from ..requests import Plan, Request

__all__ = ["Served", "form_of", "look", "same"]

NOT_SERVED: Final = "no longer served"
TIER_DOWN: Final = "the shared tier does not answer"


@dataclass(frozen=True, slots=True)
class Served:
    """A value as a tier serves it.

    Attributes:
        tier: the tier.
        form: the serialised value; None for a cached None.
        created: epoch seconds at which it was stored.
        entry: where process memory serves it.
    """

    tier: str
    form: bytes | None
    created: float
    entry: Entry | None = None


def look(engine: Engine, request: Request, known: Served | None = None) -> Generator[Any, Any, Served | str]:
    """Return what would be served, or why nothing would.

    Args:
        engine: the cache's state.
        request: what would be asked for.
        known: what was served a moment ago; returned again when process memory still serves the same entry.
    """
    entry = known.entry if known is not None and known.entry is not None else engine.old(request.key)
    if entry is not None and entry.deadline != DEAD and _serves(engine, request, entry):
        if known is not None and entry is known.entry:
            return known
        return _of_entry(engine, request, entry)
    # An authority's payload is the explanation's business; what it was given on the way is kept for the value.
    payloads: dict[str, bytes | None] = {}
    flow = explain(engine, request)
    reply: Any = None
    while True:
        try:
            effect = flow.send(reply)
        except StopIteration as stop:
            explanation = stop.value
            break
        reply = yield effect
        tier, operation = effect
        if isinstance(operation, Fetch) and list(operation.keys) == [request.key] and reply is not DOWN:
            payloads[tier.name] = reply.payloads[0]
    if explanation.tier is None:
        return TIER_DOWN if "down" in explanation.tiers.values() else NOT_SERVED
    if explanation.tier == "memory":
        entry = engine.old(request.key)
        return NOT_SERVED if entry is None else _of_entry(engine, request, entry)
    try:
        header, body = engine.values.unseal(request, payloads[explanation.tier] or b"")
    except DecodeError:
        return NOT_SERVED
    if header.is_none and not request.plan.none_allowed:
        return NOT_SERVED
    return Served(explanation.tier, None if header.is_none else body, header.created)


def _serves(engine: Engine, request: Request, entry: Entry) -> bool:
    if engine.authority is None:
        # With nobody to ask, a deadline before the end of the ttl only has a refresh started.
        return engine.clock.monotonic() < entry.expires
    return not request.strong and serves_unasked(engine, entry)


def _of_entry(engine: Engine, request: Request, entry: Entry) -> Served | str:
    if not request.plan.suits(entry):
        return NOT_SERVED
    form = entry.body if entry.body is not None else form_of(request.plan, entry.value)
    return Served("memory", form, entry.created, entry)


def form_of(plan: Plan, value: Any, key: str = "") -> bytes | None:
    """Return a value as it is compared: serialised, or None for a None that stands for "not found".

    Raises:
        CachedValueError: the value is not of the declared type.
    """
    if value is None and plan.none_allowed:
        return None
    plan.schema.validate(value, key=key, label=plan.label)
    return plan.schema.encode(value)


def same(plan: Plan, one: bytes | None, two: bytes | None) -> bool:
    """Return whether two serialised values are of equal values: sets and dicts have more than one form."""
    if one == two:
        return True
    if one is None or two is None:
        return False
    try:
        before, after = plan.schema.decode(one), plan.schema.decode(two)
        return difference(before, after) is None or bool(before == after)
    except Exception:  # a validator or an equality of the user's own may raise anything
        return False
