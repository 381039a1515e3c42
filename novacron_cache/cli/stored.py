"""What the shared tiers keep, read as an operator sees it: names, tags, sizes, and whether it would still be served.

Stored keys are read backwards and values by their headers; no value is decoded, and none is shown. A look changes
nothing. It goes through the keys of every server in steps of a few, so that nobody has to wait for it, and its length
is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ..engine import Engine
    from ..markers import RuleLog
    from ..tiers import Tier

__all__ = ["UNREADABLE", "Name", "Reader", "Stored"]

AT_ONCE: Final = 100
"""How many values one trip reads: it fetches them whole."""

UNREADABLE: Final = "key unreadable"
"""The state of a value whose key was too long, or holds what is not read: nobody can say what it depends on."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a stored key tells by itself.

    Attributes:
        stored: the key.
        model: the name of the model or function; empty for plain keys.
        logical: the logical keys that it may stand for; none where it cannot be read.
    """

    stored: str
    model: str
    logical: tuple[str, ...]

    @classmethod
    def of(cls, stored: str) -> Name:
        """Return what a stored key tells."""
        from ..keys import read_stored

        head, logical = read_stored(stored)
        # What comes after the sign keeps two types of one name apart.
        return cls(stored, head.partition("#")[0], logical)

    @property
    def shown(self) -> str:
        """The logical key, or the stored one where that cannot be read."""
        return self.logical[-1] if self.logical else self.stored


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored value.

    Attributes:
        tier: where it is.
        name: what its key tells.
        size: bytes of the payload.
        tags: its tags.
        left: seconds until its ttl ends; negative when it has.
        state: `fresh`, `expired`, `invalidated`, or why it cannot be read.
    """

    tier: str
    name: Name
    size: int
    tags: tuple[str, ...]
    left: float
    state: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "key": self.name.shown,
            "stored_key": self.name.stored,
            "model": self.name.model,
            "tier": self.tier,
            "size": self.size,
            "ttl": round(self.left, 3),
            "tags": list(self.tags),
            "state": self.state,
        }


class Reader:
    """Reads what the shared tiers of a cache keep.

    Args:
        engine: the state of the cache.
        limit: how many keys are gone through in each tier.

    Attributes:
        seen: keys gone through so far.
        cut: whether there were more than `limit`.
    """

    def __init__(self, engine: Engine, limit: int) -> None:
        self._engine = engine
        self._limit = limit
        self._now = self._clock()
        self._rules: RuleLog | None = None
        self.seen = 0
        self.cut = False

    def names(self, tier: Tier, progress: Callable[[float, str], None] = lambda _part, _text: None) -> Iterator[Name]:
        """Yield the names of a tier's values, each once.

        Args:
            tier: one of the shared tiers.
            progress: told which part of the tier has been gone through, and that in words.

        Raises:
            TierError: the tier does not answer.
        """
        from ..tiers.stored import stored_keys

        known: set[str] = set()
        for part, place, keys in stored_keys(tier):
            for key in keys:
                if key not in known:
                    if len(known) >= self._limit:
                        self.cut = True
                        return
                    known.add(key)
                    self.seen += 1
                    yield Name.of(key)
            progress(part, f"{tier.name}{place}: {len(known)} keys")

    def values(self, tier: Tier, names: Iterator[Name]) -> Iterator[Stored]:
        """Yield the values of names; those that have gone meanwhile are left out.

        Raises:
            TierError: the tier does not answer.
        """
        while batch := list(islice(names, AT_ONCE)):
            yield from self._examined(tier, batch)

    def _examined(self, tier: Tier, names: Sequence[Name]) -> Iterator[Stored]:
        from ..effects import Fetch
        from ..errors import DecodeError
        from ..markers import dependencies

        payloads = tier.perform(Fetch([name.stored for name in names])).payloads
        opened: list[tuple[Name, int, Any]] = []
        for name, payload in zip(names, payloads, strict=True):
            if payload is not None:
                try:
                    header = self._header(tier, name.stored, payload)
                except DecodeError as error:
                    yield Stored(tier.name, name, len(payload), (), 0.0, error.reason)
                else:
                    opened.append((name, len(payload), header))
        ids = self._current(
            dict.fromkeys(
                chain.from_iterable(
                    dependencies(logical, name.model, header.tags)
                    for name, _, header in opened
                    for logical in name.logical
                )
            )
        )
        for name, size, header in opened:
            left = header.expires - self._now
            yield Stored(tier.name, name, size, header.tags, left, self._state(name, header, left, ids))

    def _header(self, tier: Tier, stored: str, payload: bytes) -> Any:
        """Return the header of a payload that can be read.

        Raises:
            DecodeError: it cannot be read.
        """
        from ..drivers import drive
        from ..errors import DictionaryUnknown
        from ..flows.dictionaries import fetch

        engine = self._engine
        try:
            return engine.pipeline.open(stored, payload)[0]
        except DictionaryUnknown as error:
            drive(engine, fetch(engine, [error.digest], [tier], copies=False))
            return engine.pipeline.open(stored, payload)[0]

    def _state(self, name: Name, header: Any, left: float, ids: dict[str, bytes]) -> str:
        from ..markers import dependencies, valid

        if not name.logical:
            return UNREADABLE
        values = [one for _, one in header.ids]
        good = any(
            valid(
                list(zip(dependencies(logical, name.model, header.tags), values, strict=False)),
                ids.get,
                logical,
                header.tags,
                self._rules,
            )
            for logical in name.logical
        )
        return "invalidated" if not good else "expired" if left <= 0 else "fresh"

    def _current(self, deps: dict[str, None]) -> dict[str, bytes]:
        """Return the current ids of dependencies, with the rules that belong to them."""
        from ..effects import Fetch, ReadRules
        from ..markers import RULES, RuleLog

        authority: Any = self._engine.authority
        found = authority.perform(Fetch([], list(deps))).ids if deps else []
        ids = {dep: one for dep, one in zip(deps, found, strict=True) if one is not None}
        head = ids.get(RULES)
        if head is not None and (self._rules is None or self._rules.head != head):
            self._rules = RuleLog(head, authority.perform(ReadRules()))
        return ids

    def _clock(self) -> float:
        """Return the time by which values expire, epoch seconds: the server's where there is one."""
        from ..effects import ReadClock

        authority: Any = self._engine.authority
        return float(authority.perform(ReadClock())) if authority.has_clock else self._engine.clock.time()
