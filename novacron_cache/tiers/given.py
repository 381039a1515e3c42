"""A tier that somebody else wrote, as a cache uses it.

What it lacks is said when the cache is made, not by the first call that needs it. And whatever it raises later is a
failure of the tier, which costs its callers a miss, and never an error of the call: a tier is asked by those who want a
value, and they have a loader.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ..effects import Operation
from ..errors import SettingsError, TierError
from . import Tier

__all__ = ["GivenTier", "given"]

OWN = ("memory", "redis", "disk")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class GivenTier(Tier):
    """Stands before a tier from elsewhere, under its name."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.name = tier.name  # type: ignore[misc]  # it goes by the name of whichever tier it stands before
        self.has_clock = tier.has_clock  # type: ignore[misc]  # as above
        self.has_leases = tier.has_leases  # type: ignore[misc]  # as above
        self.ttl = tier.ttl

    def perform(self, operation: Operation) -> Any:
        """Carry out an operation; any exception of the tier is a `TierError`."""
        try:
            return self.tier.perform(operation)
        except TierError:
            raise
        except Exception as error:
            raise self._failed(operation, error) from error

    async def aperform(self, operation: Operation) -> Any:
        """Do what `perform` does without blocking the running loop."""
        try:
            return await self.tier.aperform(operation)
        except TierError:
            raise
        except Exception as error:
            raise self._failed(operation, error) from error

    def _failed(self, operation: Operation, error: Exception) -> TierError:
        what = f"{type(operation).__name__} raised {type(error).__qualname__}: {error}"
        return TierError(f"{self.name}: {what}", tier=self.name)

    def renew_connections(self) -> None:
        """Have every connection opened anew before it is next used."""
        self.tier.renew_connections()

    def encounters(self) -> int:
        """Return how many servers behind this tier were met for the first time after another one."""
        return self.tier.encounters()

    def confirmed_at(self) -> float:
        """Return when it was last confirmed that this leads to what counts."""
        return self.tier.confirmed_at()

    def close(self) -> None:
        """Release what the tier holds."""
        self.tier.close()

    async def aclose(self) -> None:
        """Do what `close` does without blocking the running loop."""
        await self.tier.aclose()


def given(tiers: Iterable[Any]) -> list[GivenTier]:
    """Return the tiers that a cache was given, nearest first, having checked that it can use them.

    Raises:
        SettingsError: one is no tier, or its name or its `ttl` cannot be used.
    """
    if isinstance(tiers, Tier) or not isinstance(tiers, Iterable):
        raise SettingsError(f"tiers={_shown(tiers)}: expected a list of tiers, such as tiers=[MyTier()]")
    found: dict[str, GivenTier] = {}
    for tier in tiers:
        if isinstance(tier, type) and issubclass(tier, Tier):
            raise SettingsError(f"tiers: {tier.__qualname__} is the class; give an instance, {tier.__qualname__}(...)")
        if not isinstance(tier, Tier):
            raise SettingsError(
                f"tiers: {_shown(tier)} is not a tier; inherit novacron_cache.tiers.Tier, or BlockingTier where every "
                f"operation is a blocking call"
            )
        kind, name = type(tier).__qualname__, getattr(tier, "name", None)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingsError(
                f"tiers: {kind}.name is {name!r}; expected 1 to 32 lower-case letters, digits and '_', such as "
                f"'archive': it is a label of metrics and events"
            )
        if name in OWN or name in found:
            whose = "a tier of the package" if name in OWN else "another tier that was given"
            raise SettingsError(f"tiers: {kind}.name={name!r} is the name of {whose}; give it one of its own")
        ttl = tier.ttl
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < math.inf:
            raise SettingsError(f"tiers: {kind}.ttl is {ttl!r}; expected seconds, more than zero and not for ever")
        found[name] = GivenTier(tier)
    return list(found.values())


def _shown(thing: Any) -> str:
    return repr(thing) if isinstance(thing, str | int | float | None) else f"<{type(thing).__qualname__}>"
