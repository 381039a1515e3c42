"""Training the dictionaries that a model's values are compressed with."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from ..declaring import declaration_of, name_of
from .requesting import Requesting

if TYPE_CHECKING:
    from ..training import TrainedDictionary


class Training(Requesting):
    """The operation that makes dictionaries."""

    def train_dictionary(
        self, model: Any, *, samples: int = 1000, size: int = 16_384, store: bool = True
    ) -> TrainedDictionary:
        """Train a dictionary on what is stored of a model, and have all processes compress its values with it.

        The values are read from the nearest shared tier that keeps them, and the dictionary is kept there. Each process
        with `compression_dictionaries` on takes it into use within a minute; what was written before stays readable.

        Args:
            model: a cache model, or a function's or model's name.
            samples: how many stored values are read at most, from 100 on; four in five are trained on, and the others
                measured.
            size: how long the dictionary may be, in bytes, from 1,024 to 114,688.
            store: whether it is kept; else it is only measured.

        Raises:
            DictionaryRefused: fewer than 100 values are stored, or it saves less than a tenth of their bytes.
            DeclarationError: an argument is wrong, or no shared tier keeps the values.
            SettingsError: the package `zstandard` is not installed.
            TierError: the shared tier does not answer.
            CacheClosedError: the cache is closed.
        """
        from ..training import home_of, train

        self.check_open()
        name = name_of(model)
        home = home_of(self.engine, self.tiers_of(model))
        return train(self.engine, name, home, samples=samples, size=size, store=store)

    async def atrain_dictionary(
        self, model: Any, *, samples: int = 1000, size: int = 16_384, store: bool = True
    ) -> TrainedDictionary:
        """Do what `train_dictionary` does in a thread: it takes a second or so."""
        work = partial(self.train_dictionary, model, samples=samples, size=size, store=store)
        return await asyncio.get_running_loop().run_in_executor(None, work)

    def tiers_of(self, model: Any) -> frozenset[str] | None:
        """Return the tiers that may keep a model's or function's values; None where this process does not know it."""
        name = name_of(model)
        declaration = None if isinstance(model, str) else declaration_of(model)
        if declaration is not None:
            return frozenset(self.plan(declaration).tiers)
        found = [plan.tiers for plan in list(self._plans.values()) if plan.name == name]
        return frozenset.intersection(*map(frozenset, found)) if found else None
