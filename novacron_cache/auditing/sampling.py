"""What to look at: a share of the hits, told from counters that are there anyway.

Each entry of process memory counts its hits for the eviction policy. The difference to the last look says how many
there were since, so hits are sampled after the fact, at no cost to them. An entry that had `d` hits stands for
`d * share` sampled ones; the fraction is decided by chance, which keeps the sample unbiased for rarely hit entries too.
A program without a history of its own, such as the command line, takes its sample from the keys that a server keeps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from ..chance import chance
from ..engine import Engine
from ..entry import DEAD
from ..errors import DeclarationError
from ..tiers.memory import MemoryTier
from ..tiers.redis import RedisTier
from ..tiers.stored import stored_keys

__all__ = ["HitSampler", "Sample", "Sampler", "StoredSampler"]

MAX_LOOKED_AT: Final = 10_000
"""How many entries one look goes through, so that it holds the interpreter for a few milliseconds at most."""

MAX_SCANNED: Final = 100_000
"""How many keys of a server one sample is taken from."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value to check.

    Attributes:
        key: its stored key.
        name: the model's or function's name where it is known.
        weight: how many sampled hits it stands for.
    """

    key: str
    name: str
    weight: int = 1


class Sampler(Protocol):
    """Chooses what to look at."""

    def pick(self, limit: int) -> list[Sample]:
        """Return at most `limit` values to check, the heavier ones rather than the lighter ones."""
        ...


class HitSampler:
    """Samples the hits that process memory answered since the last look.

    Args:
        memory: the first tier.
        share: the share of hits that are sampled, from 0 to 1.
    """

    def __init__(self, memory: MemoryTier, share: float) -> None:
        self._memory = memory
        self._share = share
        self._marks: dict[str, tuple[int, int]] = {}

    def pick(self, limit: int) -> list[Sample]:
        """Return at most `limit` entries with the hits they stand for; one look at an entry answers for all of them."""
        entries = self._memory.entries()
        if len(entries) > MAX_LOOKED_AT:
            entries = chance.sample(entries, MAX_LOOKED_AT)
        before, self._marks = self._marks, {}
        chosen: dict[str, Sample] = {}
        for entry in entries:
            hits = entry.hits
            identity, mark = before.get(entry.key, (0, 0))
            self._marks[entry.key] = (id(entry), hits)
            # Another entry in the same place may even have the same address; its hits then start anew.
            since = hits - mark if identity == id(entry) and hits >= mark else hits
            if entry.deadline != DEAD and (weight := self._weight(since)):
                chosen[entry.key] = Sample(entry.key, entry.name, weight)
        return _within(chosen, limit)

    def _weight(self, hits: int) -> int:
        expected = hits * self._share
        whole = math.floor(expected)
        return whole + (chance.random() < expected - whole)


def _within(chosen: dict[str, Sample], limit: int) -> list[Sample]:
    """Return what fits: drawn by weight where it is too much, so that each draw stands for one sampled hit."""
    if len(chosen) <= limit:
        return list(chosen.values())
    keys = list(chosen)
    drawn = Counter(chance.choices(keys, [chosen[key].weight for key in keys], k=limit))
    return [Sample(key, chosen[key].name, times) for key, times in drawn.items()]


class StoredSampler:
    """Samples the values that a server keeps for a namespace, each with the same chance.

    Args:
        engine: the state of the cache whose server it is.
        share: the share of values that are sampled, from 0 to 1.

    Raises:
        DeclarationError: the cache has no server.
    """

    def __init__(self, engine: Engine, share: float) -> None:
        if not isinstance(engine.authority, RedisTier):
            raise DeclarationError("the cache has no server to take a sample from; give its settings a redis url")
        self._tier = engine.authority
        self._share = share

    def pick(self, limit: int) -> list[Sample]:
        """Return at most `limit` values.

        Raises:
            TierError: the server does not answer.
        """
        chosen: list[str] = []
        seen = 0
        for number, key in enumerate(self._keys()):
            if chance.random() < self._share:
                # A reservoir: whatever the server's order, each has the same chance to stay.
                seen += 1
                if len(chosen) < limit:
                    chosen.append(key)
                elif (place := chance.randrange(seen)) < limit:
                    chosen[place] = key
            if number >= MAX_SCANNED:
                break
        return [Sample(key, "") for key in dict.fromkeys(chosen)]

    def _keys(self) -> Iterator[str]:
        for _, _, keys in stored_keys(self._tier):
            yield from keys
