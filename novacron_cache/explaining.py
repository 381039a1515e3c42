"""Why the next call would hit or miss: a look at every tier that changes nothing."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from typing import Any

from .codecs import Header, written_as
from .effects import DOWN, Fetch, ReadRules
from .engine import Engine
from .entry import DEAD, Entry
from .errors import DecodeError, DictionaryUnknown
from .flows import way
from .flows.dictionaries import unsealed
from .markers import RULES, RuleLog, tag_dep, valid
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
        tag_states: of each of these tags that a cached value names, whether it is `current` or was `invalidated` since;
            `unknown` where nobody can be asked. A value whose tags are all current can still be invalid: by its key,
            its model, a pattern, or the whole namespace.
        codec: how the payload in the answering shared tier is written, such as `json` or `msgpack+zstd, signed`.
        last_miss: why the latest call of this process for it was a miss, among the last 4096; None where none was.
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
    tag_states: dict[str, str] = field(default_factory=dict)
    codec: str | None = None
    last_miss: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, for JSON."""
        return asdict(self)


def serves_unasked(engine: Engine, entry: Entry) -> bool:
    """Return whether process memory may serve an entry right now without asking anyone; the entry stays as it is."""
    now = engine.clock.monotonic()
    vouched = not entry.epoch or (entry.epoch == engine.epoch and now < engine.horizon.valid_until)
    return vouched and now < entry.deadline


@dataclass(slots=True)
class _Held:
    """What a tier has, whether it may be served or not: the facts that an explanation tells of it."""

    tier: str
    age: float
    remaining: float
    size: int | None
    tags: tuple[str, ...]
    ids: tuple[tuple[str, bytes], ...]
    codec: str | None = None


def explain(engine: Engine, request: Request) -> Generator[Any, Any, Explanation]:
    """Return what each tier has for a request."""
    now, wall = engine.clock.monotonic(), engine.wall()
    states: dict[str, str] = {}
    best: _Held | None = None
    seen: _Held | None = None
    ids: dict[str, bytes] = {}
    old = engine.old(request.key)
    if old is not None and old.deadline != DEAD:
        seen = _Held("memory", wall - old.created, old.expires - now, None, old.tags, old.ids)
    if engine.memory is not None:
        states["memory"] = "absent"
        if old is not None and seen is not None:
            # Without an authority there is nobody to ask, when an early refresh is due as at any other time.
            alone = engine.authority is None and now < old.expires
            unasked = alone or (not request.strong and serves_unasked(engine, old))
            states["memory"] = "fresh" if unasked else "revalidate" if now < old.expires else "expired"
            if states["memory"] == "fresh":
                best = seen
    blocked = engine.pending.blocks(request.deps, request.logical, request.tags)
    if blocked:
        states.update({tier.name: "pending" for tier in engine.shared})
    elif engine.authority is not None:
        deps = list(dict.fromkeys([*request.deps, *(dep for dep, _ in (old.ids if old is not None else ()))]))
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
                        best = seen
            opened = yield from _open(engine, request, reply.payloads[0])
            if isinstance(opened, str):
                states[tier.name] = opened
                continue
            header, payload = opened
            unknown = [dep for dep, _ in header.ids if dep not in deps]
            if unknown:
                deps += unknown
                more: Any = yield engine.authority, Fetch([], unknown)
                if more is not DOWN:
                    ids.update((dep, one) for dep, one in zip(unknown, more.ids, strict=True) if one is not None)
            states[tier.name] = _judge(engine, request, header, ids, log)
            held = _Held(
                tier.name, wall - header.created, header.expires - wall, len(payload), header.tags, header.ids,
                written_as(payload),
            )  # fmt: skip
            seen = seen or held
            if states[tier.name] == "fresh" and best is None:
                best = held
    why = way(engine, request)
    told = best or seen
    tag_states = {} if told is None else _tag_states(engine, told, ids, served=best is not None)
    if why is not None:
        best = None
    last = engine.last_miss(request.plan.name, request.logical)
    if best is not None:
        return Explanation(
            request.logical, request.key, request.plan.name, best.tier, "hit", best.age, best.remaining, best.size,
            best.tags, states, tag_states, best.codec, last,
        )  # fmt: skip
    if why is not None:
        reason: str | None = "bypassed" if why == "refresh" else why
    else:
        reason = next((s for s in states.values() if s not in ("absent", "revalidate", "down")), None)
    if reason is None:
        reason = "tier_down" if "down" in states.values() else "cold"
    return Explanation(
        request.logical, request.key, request.plan.name, None, reason, None, None, None, request.tags, states,
        tag_states, None, last,
    )  # fmt: skip


def _tag_states(engine: Engine, held: _Held, ids: dict[str, bytes], *, served: bool) -> dict[str, str]:
    """Return how each tag of a value is, by the ids that the value carries and those of now."""
    carried = dict(held.ids)

    def state(dep: str) -> str:
        if dep in carried and ids:
            return "current" if carried[dep] == ids.get(dep) else "invalidated"
        # Process memory alone throws away what is invalidated, so what it has is current.
        return "current" if served and not engine.shared else "unknown"

    return {tag: state(tag_dep(tag)) for tag in held.tags}


def _open(engine: Engine, request: Request, payload: bytes | None) -> Generator[Any, Any, tuple[Header, bytes] | str]:
    """Return a payload with its header, or why there is none."""
    if payload is None:
        return "absent"
    try:
        header, _ = engine.values.unseal(request, payload)
    except DictionaryUnknown as error:
        (result,) = yield from unsealed(engine, [(request, payload, error)], engine.shared, copies=False)
        if isinstance(result, DecodeError):
            return result.reason
        header, _ = result
    except DecodeError as error:
        return error.reason
    return header, payload


def _judge(engine: Engine, request: Request, header: Header, ids: dict[str, bytes], log: RuleLog | None) -> str:
    """Return whether a value in a shared tier may be served, or why not."""
    if not set(request.tags).issubset(header.tags):
        return "schema"
    if engine.pending.blocks((dep for dep, _ in header.ids), request.logical, header.tags):
        return "pending"
    if not valid(header.ids, ids.get, request.logical, header.tags, log):
        return "invalidated"
    return "expired" if engine.wall() >= header.expires else "fresh"
