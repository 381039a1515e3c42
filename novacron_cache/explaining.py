"""Why the next call would hit or miss: a look at every tier that changes nothing."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

from .codecs import Header
from .effects import DOWN, Fetch, ReadRules
from .engine import Engine
from .entry import DEAD, Entry
from .errors import DecodeError
from .markers import RULES, RuleLog, valid
from .requests import Request


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the tiers know about one key.

    Attributes:
        key: the logical key.
        stored_key: the key under which tiers keep it.
        name: the model's or function's name.
        tier: the tier that would answer, or None.
        reason: why the next call would miss (see `events.Miss`), or `hit`.
        age: seconds since the value was stored, or None.
        remaining: seconds of its ttl that are left, or None.
        size: bytes of the payload in the answering shared tier, or None.
        tags: the value's tags, or those of the call where nothing is cached.
        tiers: what each tier says: `fresh`, `revalidate` (process memory has to ask), `expired`, `invalidated`,
            `absent`, `down`, or a decoding reason.
    """

    key: str
    stored_key: str
    name: str
    tier: str | None
    reason: str
    age: float | None
    remaining: float | None
    size: int | None
    tags: tuple[str, ...]
    tiers: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, for JSON."""
        return asdict(self)


def serves_unasked(engine: Engine, entry: Entry) -> bool:
    """Return whether process memory may serve an entry right now without asking anyone; the entry stays as it is."""
    now = engine.clock.monotonic()
    vouched = not entry.epoch or (entry.epoch == engine.epoch and now < engine.horizon.valid_until)
    return vouched and now < entry.deadline


def explain(engine: Engine, request: Request) -> Generator[Any, Any, Explanation]:
    """Return what each tier has for a request."""
    now, wall = engine.clock.monotonic(), engine.wall()
    states: dict[str, str] = {}
    best: tuple[str, float, float, int | None, tuple[str, ...]] | None = None
    old = engine.old(request.key)
    if engine.memory is not None:
        states["memory"] = "absent"
        if old is not None and old.deadline != DEAD:
            unasked = not request.strong and serves_unasked(engine, old)
            states["memory"] = "fresh" if unasked else "revalidate" if now < old.expires else "expired"
            if states["memory"] == "fresh":
                best = ("memory", wall - old.created, old.expires - now, None, old.tags)
    blocked = engine.pending.blocks(request.deps, request.logical, request.tags)
    if blocked:
        states.update({tier.name: "pending" for tier in engine.shared})
    elif engine.authority is not None:
        deps = list(dict.fromkeys([*request.deps, *(dep for dep, _ in (old.ids if old is not None else ()))]))
        ids: dict[str, bytes] = {}
        log = engine.rules
        for tier in engine.shared:
            reply: Any = yield tier, Fetch([request.key], deps if tier is engine.authority else ())
            if reply is DOWN:
                states[tier.name] = "down"
                if tier is engine.authority:
                    break
                continue
            if tier is engine.authority:
                ids = {dep: one for dep, one in zip(deps, reply.ids, strict=True) if one is not None}
                head = ids.get(RULES)
                if head is not None and (log is None or log.head != head):
                    rules: Any = yield tier, ReadRules()
                    log = RuleLog(head, rules) if rules is not DOWN else None
                if old is not None and states.get("memory") == "revalidate":
                    good = valid(old.ids, ids.get, request.logical, old.tags, log)
                    states["memory"] = "fresh" if good else "invalidated"
                    if good:
                        best = ("memory", wall - old.created, old.expires - now, None, old.tags)
            opened = _open(engine, request, reply.payloads[0])
            if isinstance(opened, str):
                states[tier.name] = opened
                continue
            unknown = [dep for dep, _ in opened[0].ids if dep not in deps]
            if unknown:
                deps += unknown
                more: Any = yield engine.authority, Fetch([], unknown)
                if more is not DOWN:
                    ids.update((dep, one) for dep, one in zip(unknown, more.ids, strict=True) if one is not None)
            states[tier.name], found = _judge(engine, request, *opened, ids, log)
            if found is not None and best is None:
                best = (tier.name, *found)
    if best is not None:
        tier_name, age, remaining, size, tags = best
        return Explanation(
            request.logical, request.key, request.plan.name, tier_name, "hit", age, remaining, size, tags, states
        )
    reason = next((s for s in states.values() if s not in ("absent", "revalidate", "down")), None)
    if reason is None:
        reason = "tier_down" if "down" in states.values() else "cold"
    return Explanation(
        request.logical, request.key, request.plan.name, None, reason, None, None, None, request.tags, states
    )


def _open(engine: Engine, request: Request, payload: bytes | None) -> tuple[Header, int] | str:
    """Return a payload's header and size, or why there is none."""
    if payload is None:
        return "absent"
    try:
        header, _ = engine.unseal(request, payload)
    except DecodeError as error:
        return error.reason
    return header, len(payload)


def _judge(
    engine: Engine, request: Request, header: Header, size: int, ids: dict[str, bytes], log: RuleLog | None
) -> tuple[str, tuple[float, float, int | None, tuple[str, ...]] | None]:
    if not set(request.tags).issubset(header.tags):
        return "schema", None
    if engine.pending.blocks((dep for dep, _ in header.ids), request.logical, header.tags):
        return "pending", None
    if not valid(header.ids, ids.get, request.logical, header.tags, log):
        return "invalidated", None
    wall = engine.wall()
    if wall >= header.expires:
        return "expired", None
    return "fresh", (wall - header.created, header.expires - wall, size, header.tags)
