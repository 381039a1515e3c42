"""A tier that misbehaves on purpose, as servers and disks do by themselves: to see what callers notice of it.

What goes wrong is drawn from a seed, so a test that failed can be run again with the same faults in the same order, as
far as the order of its operations is the same.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..effects import Fetched, Operation
from ..engine import Engine
from ..errors import DeclarationError, TierUnavailableError, nearest
from ..tiers import Tier

__all__ = ["FAULTS", "ChaosTier", "disturbed"]

FAULTS = ("hang", "fail", "slow", "lose", "corrupt")
"""What may go wrong, in the order in which it is drawn."""


class ChaosTier(Tier):
    """Stands before another tier and spoils some of its operations.

    The faults, each with a rate from 0 (never) to 1 (always): `fail`, the operation is refused; `lose`, it is carried
    out and its answer lost; `slow`, it takes `delay` longer; `hang`, it does nothing for `patience` and then fails, as
    a tier with a time-out does; `corrupt`, a payload that is read comes back damaged.

    Args:
        tier: the tier that does the work.
        seed: what the faults are drawn from.
        delay: seconds that a slow operation takes longer.
        patience: seconds after which one that hangs fails.
        rates: the rates by the names of the faults; those left out are 0.

    Attributes:
        tier: the tier that does the work.
        rates: the rates as they are now; they may be changed at any time.
        counts: how often each fault has been caused.

    Raises:
        DeclarationError: there is no such fault, or a rate is not from 0 to 1.
    """

    def __init__(
        self, tier: Tier, *, seed: int = 0, delay: float = 0.05, patience: float = 0.25, **rates: float
    ) -> None:
        for fault, rate in rates.items():
            if fault not in FAULTS:
                raise DeclarationError(f"there is no fault {fault!r}{nearest(fault, FAULTS)}")
            if not 0.0 <= rate <= 1.0:
                raise DeclarationError(f"{fault}={rate!r}: a rate is from 0 (never) to 1 (always)")
        self.tier = tier
        self.name = tier.name  # type: ignore[misc]  # it goes by the name of whichever tier it stands before
        self.has_clock = tier.has_clock  # type: ignore[misc]  # as above
        self.has_leases = tier.has_leases  # type: ignore[misc]  # as above
        self.rates: dict[str, float] = {**dict.fromkeys(FAULTS, 0.0), **rates}
        self.counts: Counter[str] = Counter()
        self._delay = delay
        self._patience = patience
        self._random = random.Random(seed)  # noqa: S311 - draws faults, hides nothing
        self._lock = threading.Lock()

    def calm(self) -> None:
        """Cause no more faults; what was damaged stays so only in the answers that were given."""
        self.rates.update(dict.fromkeys(FAULTS, 0.0))

    def perform(self, operation: Operation) -> Any:
        """Carry out an operation, or spoil it."""
        faults = self._draw()
        if pause := self._pause(faults):
            time.sleep(pause)
        self._refuse(faults)
        return self._spoilt(faults, self.tier.perform(operation))

    async def aperform(self, operation: Operation) -> Any:
        """Do what `perform` does without blocking the running loop."""
        faults = self._draw()
        if pause := self._pause(faults):
            await asyncio.sleep(pause)
        self._refuse(faults)
        return self._spoilt(faults, await self.tier.aperform(operation))

    def _draw(self) -> set[str]:
        with self._lock:
            # Each is drawn every time, so that a changed rate of one leaves the others where they were.
            drawn = {fault for fault in FAULTS if self._random.random() < self.rates[fault]}
            # What hangs or is refused has no answer that could be lost or damaged.
            faults = next(({fault} for fault in FAULTS[:2] if fault in drawn), drawn)
            self.counts.update(faults - {"corrupt"})
            return faults

    def _pause(self, faults: set[str]) -> float:
        return self._patience if "hang" in faults else self._delay if "slow" in faults else 0.0

    def _refuse(self, faults: set[str]) -> None:
        if "hang" in faults:
            raise TierUnavailableError(f"chaos: no answer within {self._patience} s", tier=self.name)
        if "fail" in faults:
            raise TierUnavailableError("chaos: refused", tier=self.name)

    def _spoilt(self, faults: set[str], answer: Any) -> Any:
        if "lose" in faults:
            raise TierUnavailableError("chaos: carried out, and the answer is lost", tier=self.name)
        if "corrupt" in faults:
            fetched = answer[0] if isinstance(answer, tuple) else answer
            if isinstance(fetched, Fetched) and any(fetched.payloads):
                with self._lock:
                    self.counts["corrupt"] += 1
                    fetched.payloads = [payload and self._damaged(payload) for payload in fetched.payloads]
        return answer

    def _damaged(self, payload: bytes) -> bytes:
        kind, at = self._random.randrange(3), self._random.randrange(len(payload))
        if kind == 0:
            return payload[:at]
        if kind == 1:
            return self._random.randbytes(len(payload))
        flipped = payload[at] ^ 1 << self._random.randrange(8)
        return payload[:at] + bytes([flipped]) + payload[at + 1 :]

    def close(self) -> None:
        """Close the tier."""
        self.tier.close()

    async def aclose(self) -> None:
        """Close the tier without blocking the running loop."""
        await self.tier.aclose()

    def renew_connections(self) -> None:
        """Do what the tier does."""
        self.tier.renew_connections()

    def encounters(self) -> int:
        """Return what the tier says."""
        return self.tier.encounters()

    def confirmed_at(self) -> float:
        """Return what the tier says."""
        return self.tier.confirmed_at()

    def __getattr__(self, name: str) -> Any:
        # What one kind of tier has beyond the interface, such as the addresses of its servers.
        if name == "tier":
            raise AttributeError(name)
        return getattr(self.tier, name)

    def __repr__(self) -> str:
        rates = ", ".join(f"{fault}={rate}" for fault, rate in self.rates.items() if rate)
        return f"<ChaosTier before {self.name}: {rates or 'calm'}>"


@contextmanager
def disturbed(engine: Engine, name: str | None = None, **chaos: Any) -> Iterator[ChaosTier]:
    """Put a `ChaosTier` before a shared tier of a cache for the length of a block.

    Args:
        engine: that of the cache: `cache.engine`.
        name: the tier's name; None takes the nearest one.
        chaos: as for `ChaosTier`.

    Raises:
        DeclarationError: the cache has no such tier, or an argument is wrong.
    """
    names = [tier.name for tier in engine.shared]
    if not names:
        raise DeclarationError(
            "process memory alone has nothing that could fail; give the cache a shared tier, such as disk=True"
        )
    if name is not None and name not in names:
        raise DeclarationError(f"the cache has no shared tier {name!r}{nearest(name, names)}; it has {names}")
    place = 0 if name is None else names.index(name)
    tier = engine.shared[place]
    stand_in = ChaosTier(tier, **chaos)
    engine.shared[place] = stand_in
    if engine.authority is tier:
        engine.authority = stand_in
    try:
        yield stand_in
    finally:
        engine.shared[place] = tier
        if engine.authority is stand_in:
            engine.authority = tier
