"""Invalidating: this process first, then the shared markers, and never forgetting what could not be delivered."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..effects import DOWN, Capture, Fetch, Hold, ReadRules, Release, Renew
from ..engine import Engine
from ..errors import PatternLogFull
from ..events import Invalidated, InvalidationDelayed, InvalidationDelivered, RuleLogFull
from ..keys import Glob
from ..markers import (
    MAX_RULES,
    NAMESPACE,
    RULES,
    Rule,
    RuleLog,
    key_dep,
    model_dep,
    new_id,
    segment_dep,
    tag_dep,
)
from ..tiers import Tier


@dataclass(slots=True)
class Invalidation:
    """What to invalidate: dependencies by name, and rules for what no dependency names.

    Attributes:
        what: for events: `key`, `tag`, `model`, `pattern`, `namespace`, or `several`.
        values: what the caller named.
        replicas: how many replicas of the shared tier should have it before it counts as replicated.
    """

    what: str
    values: tuple[str, ...]
    deps: list[str] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    replicas: int = 0

    @classmethod
    def keys(cls, keys: Iterable[str]) -> Invalidation:
        """Invalidate every value under these logical keys."""
        named = tuple(keys)
        return cls("key", named, [key_dep(key) for key in named])

    @classmethod
    def tags(cls, tags: Iterable[str], *, match_all: bool = False) -> Invalidation:
        """Invalidate every value with any of these tags, or with all of them."""
        named = tuple(dict.fromkeys(tags))
        if len(named) == 1:
            return cls("tag", named, [tag_dep(named[0])])
        if match_all and len(named) > 1:
            return cls("tag", named, rules=[Rule(all_tags=named)])
        return cls("tag", named, [tag_dep(tag) for tag in named])

    @classmethod
    def pattern(cls, pattern: str) -> Invalidation:
        """Invalidate every value whose logical key matches a glob.

        Raises:
            TemplateError: the glob is malformed, too long, or has too many wildcards.
        """
        glob = Glob(pattern)
        if glob.literal is not None:
            return cls("pattern", (pattern,), [key_dep(glob.literal)])
        if glob.pattern.strip("*") == "":
            return cls("pattern", (pattern,), [NAMESPACE])
        if glob.segment is not None:
            return cls("pattern", (pattern,), [segment_dep(glob.segment)])
        return cls("pattern", (pattern,), rules=[Rule(glob=pattern)])

    @classmethod
    def model(cls, name: str) -> Invalidation:
        """Invalidate every value of a model or function."""
        return cls("model", (name,), [model_dep(name)])

    @classmethod
    def everything(cls) -> Invalidation:
        """Invalidate the whole namespace."""
        return cls("namespace", (), [NAMESPACE])

    def __add__(self, other: Invalidation) -> Invalidation:
        what = self.what if self.what == other.what else "several"
        return Invalidation(
            what,
            self.values + other.values,
            list(dict.fromkeys(self.deps + other.deps)),
            list(dict.fromkeys(self.rules + other.rules)),
            max(self.replicas, other.replicas),
        )

    def __bool__(self) -> bool:
        return bool(self.deps or self.rules)


def forget_locally(engine: Engine, invalidation: Invalidation) -> int:
    """Make this process forget; return how many entries it held.

    The history comes first, under the lock that admits entries: a load that ends later sees it, one that ended earlier
    has its entry found.
    """
    deps, memory = invalidation.deps, engine.memory
    matchers = tuple(rule.matcher() for rule in invalidation.rules) if invalidation.rules else ()
    if memory is None:
        engine.record(deps, matchers)
        return 0
    with memory.lock:
        engine.record(deps, matchers)
    killed = memory.kill_deps(deps) if deps else 0
    for matches in matchers:
        killed += memory.kill_matching(matches)
    return killed


class Done(NamedTuple):
    """What became of an invalidation.

    Attributes:
        local: how many entries of this process were removed.
        delivered: whether the shared tier has taken it; if not it is pending, will be retried, and this process reads
            around the shared tiers for it until then.
        replicated: whether as many replicas as were asked for have it; None where none were.
    """

    local: int
    delivered: bool
    replicated: bool | None = None


class Question(NamedTuple):
    """What is to be asked for an invalidation that this process obeys already, where that is one thing.

    Attributes:
        tier: whom to ask.
        operation: what to ask.
        generation: that in which it is put.
        local: as for `Done`.
    """

    tier: Tier
    operation: Renew
    generation: int
    local: int


def begin(engine: Engine, invalidation: Invalidation) -> Question | None:
    """Obey an invalidation here, and return what is to be asked; None, and nothing done, where that is not one thing.

    The answer goes to `settle`, whatever happens in between.
    """
    tier = engine.authority
    if invalidation.rules or tier is None or not invalidation.deps:
        return None
    markers = [(dep, new_id()) for dep in invalidation.deps]
    # Pending before anything is sent: a reader between the two must not find the old value in a shared tier.
    engine.pending.add(markers)
    killed = forget_locally(engine, invalidation)
    generation = engine.generation
    return Question(tier, _renewal(engine, markers, [], invalidation.replicas), generation, killed)


def settle(engine: Engine, invalidation: Invalidation, question: Question, reply: Any) -> Done:
    """Note what became of an invalidation, and tell of it: after the trip, so that nobody elsewhere waits for that.

    Args:
        engine: the cache's state.
        invalidation: what was invalidated.
        question: what `begin` returned.
        reply: the authority's; `DOWN` also where none was waited for.
    """
    markers, replicas = question.operation.markers, question.operation.replicas
    delivered = reply is not DOWN and engine.pending.delivered(markers, generation=question.generation)
    engine.listeners.emit(Invalidated(invalidation.what, invalidation.values, question.local))
    if not delivered:
        engine.listeners.emit(InvalidationDelayed(tuple(invalidation.deps)))
        return Done(question.local, False)
    return Done(question.local, True, bool(reply) if replicas else None)


def invalidate(engine: Engine, invalidation: Invalidation, holder: bytes | None = None) -> Generator[Any, Any, Done]:
    """Invalidate here and in the shared markers.

    Args:
        engine: the cache's state.
        invalidation: what to invalidate.
        holder: who has held it until now, if anybody has; the hold ends with it.

    Raises:
        PatternLogFull: the shared log has no room for the rules; everything but them was invalidated.
    """
    if not invalidation:
        return Done(0, True)
    if holder is None and (question := begin(engine, invalidation)) is not None:
        reply: Any = DOWN
        try:
            reply = yield question.tier, question.operation
        finally:
            done = settle(engine, invalidation, question, reply)
        return done
    full: PatternLogFull | None = None
    if invalidation.rules and engine.authority is not None:
        try:
            yield from _find_room(engine, len(invalidation.rules))
        except PatternLogFull as error:
            # What needs no room in the log is not given up with what does.
            full = error
            invalidation = replace(invalidation, rules=[])
            if not invalidation:
                raise
    markers = [(dep, new_id()) for dep in invalidation.deps]
    rules = [(new_id(), rule) for rule in invalidation.rules]
    if engine.authority is not None:
        engine.pending.add(markers, [(rule_id, rule.encode(), rule.matcher()) for rule_id, rule in rules])
    if holder is not None and engine.authority is None:
        engine.hold_here(invalidation.deps, end=True)
    killed = forget_locally(engine, invalidation)
    delivered, replicated = True, None
    try:
        if engine.authority is not None:
            if holder is not None:
                delivered = yield from _release(engine, markers, holder)
            else:
                encoded = [(rule_id, rule.encode()) for rule_id, rule in rules]
                delivered, replicated = yield from _send(engine, markers, encoded, invalidation.replicas)
    finally:
        engine.listeners.emit(Invalidated(invalidation.what, invalidation.values, killed))
    if not delivered:
        engine.listeners.emit(InvalidationDelayed(tuple(invalidation.deps) or invalidation.values))
    if full is not None:
        raise full
    return Done(killed, delivered, replicated)


def hold(
    engine: Engine, invalidation: Invalidation, holder: bytes, seconds: float, *, again: bool = False
) -> Generator[Any, Any, bool]:
    """Take the ids of dependencies away for a while; return whether the shared tier has taken it.

    Where it has not, an invalidation is what can be had instead: it will be retried, and this process reads around the
    shared tiers for it.

    Args:
        engine: the cache's state.
        invalidation: what to hold; it has no rules.
        holder: an id for whoever holds it.
        seconds: how long, unless it is done again.
        again: whether this only prolongs a hold.
    """
    if engine.authority is None:
        if not again:
            engine.hold_here(invalidation.deps)
            forget_locally(engine, invalidation)
        return True
    engine.sending([holder])
    reply = yield engine.authority, Hold(invalidation.deps, holder, seconds)
    if reply is DOWN:
        if not again:
            yield from invalidate(engine, invalidation)
        return False
    if not all(reply):
        forget_locally(engine, invalidation)
    return True


def _release(engine: Engine, markers: list[tuple[str, bytes]], holder: bytes) -> Generator[Any, Any, bool]:
    engine.sending(marker_id for _, marker_id in markers)
    generation = engine.generation
    reply = yield engine.authority, Release(markers, holder, engine.marker_life())
    return reply is not DOWN and engine.pending.delivered(markers, generation=generation)


def _find_room(engine: Engine, count: int) -> Generator[Any, Any, None]:
    """Refuse more rules than the log can hold beside those that may still matter to some value.

    One that falls off the end makes every older value invalid; that is safe, but nobody would have asked for it. Rules
    older than the longest life of a value matter to nobody.
    """
    reply = yield engine.authority, Fetch([], [RULES])
    held = 0
    if reply is not DOWN and (head := reply.ids[0]) is not None:
        if engine.rules is None or engine.rules.head != head:
            reply = yield engine.authority, ReadRules()
            if reply is not DOWN:
                engine.rules = RuleLog(head, reply)
        if engine.rules is not None and engine.rules.head == head:
            held = engine.rules.since(engine.wall() - engine.marker_life() / 2)
    if held + count > MAX_RULES:
        engine.listeners.emit(RuleLogFull(MAX_RULES))
        raise PatternLogFull(
            f"the log holds {MAX_RULES} patterns that may still matter; give these entries a tag and invalidate that, "
            f"use a pattern such as 'vm:*', which needs no room in the log, or clear()",
            limit=MAX_RULES,
        )


def deliver(engine: Engine) -> Generator[Any, Any, bool]:
    """Send everything that is pending; return whether nothing is left."""
    generation = engine.generation
    markers, rules = engine.pending.snapshot()
    if not markers and not rules:
        return True
    # Every sending has ids of its own. An earlier one may have arrived with its answer lost, and values may have been
    # stored under its ids and invalidated since: the same ids again would bring them back.
    fresh = [(dep, new_id()) for dep, _ in markers]
    delivered, _ = yield from _send(engine, fresh, [(new_id(), data) for _, data in rules])
    if not delivered:
        return False
    if not engine.pending.delivered(markers, [rule_id for rule_id, _ in rules], generation=generation):
        return False
    engine.listeners.emit(InvalidationDelivered(tuple(dep for dep, _ in markers)))
    return not engine.pending


def _renewal(
    engine: Engine, markers: list[tuple[str, bytes]], rules: list[tuple[bytes, bytes]], replicas: int = 0
) -> Renew:
    """Return what is about to be sent, with a link to hear of it, and its ids noted: they are no news here."""
    if engine.link is not None:
        # Also for a process that reads nothing: the link is what notices that the server was replaced since.
        engine.link.ensure()
    ids = [marker_id for _, marker_id in markers]
    engine.sending([*ids, *(rule_id for rule_id, _ in rules)] if rules else ids)
    return Renew(markers, engine.marker_life(), rules, replicas, obeyed=True)


def _send(
    engine: Engine, markers: list[tuple[str, bytes]], rules: list[tuple[bytes, bytes]], replicas: int = 0
) -> Generator[Any, Any, tuple[bool, bool | None]]:
    """Write markers and rules to the authority; what has arrived is no longer pending.

    Returns:
        Whether it has arrived, and whether as many replicas have it as were asked for (None: none were).
    """
    linked: list[tuple[bytes, bytes]] = []
    generation = engine.generation
    if rules:
        # A rule names the head it is appended to, so that a value captured there is tested against it.
        reply = yield engine.authority, Capture([RULES], engine.marker_life())
        if reply is DOWN:
            return False, None
        after = reply[0]
        for rule_id, data in rules:
            linked.append((rule_id, Rule.decode(data).following(after, engine.wall()).encode()))
            after = rule_id
    # More than the log holds would push each other out; values with an older head are then invalid, which is safe.
    reply = yield engine.authority, _renewal(engine, markers, linked[-MAX_RULES:], replicas)
    if reply is DOWN or not engine.pending.delivered(markers, [i for i, _ in rules], generation=generation):
        return False, None
    return True, bool(reply) if replicas else None
