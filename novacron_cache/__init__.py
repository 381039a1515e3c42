"""Typed, multi-tier caching for Python in which an invalidated value is never served again.

Everything public is importable from here. Names are loaded when they are first used, so that importing the package
costs little more than importing pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batching import AsyncCachedManyFunction, CachedManyFunction
    from .cache import Cache, CacheItem
    from .decorating import cached, cached_many, invalidates
    from .default import configure, default_cache
    from .durations import Duration, seconds
    from .entry import MISSING
    from .errors import (
        CacheClosedError,
        CachedValueError,
        CacheError,
        CacheScopeWarning,
        DeclarationError,
        DictionaryRefused,
        InvalidationPending,
        KeyValueError,
        LoaderTimeout,
        PatternLogFull,
        SchemaError,
        SettingsError,
        TemplateError,
        TierError,
        TierUnavailableError,
    )
    from .events import Stats
    from .explaining import Explanation
    from .functions import AsyncCachedFunction, CachedFunction, WarmReport
    from .keys import KeyTemplate
    from .models import CacheModel
    from .receipts import Receipt
    from .settings import CacheSettings
    from .training import TrainedDictionary

__version__ = "0.1.0"

_HOMES = {
    "batching": ("AsyncCachedManyFunction", "CachedManyFunction"),
    "cache": ("Cache", "CacheItem"),
    "decorating": ("cached", "cached_many", "invalidates"),
    "default": ("configure", "default_cache"),
    "durations": ("Duration", "seconds"),
    "entry": ("MISSING",),
    "errors": (
        "CacheClosedError",
        "CacheError",
        "CacheScopeWarning",
        "CachedValueError",
        "DeclarationError",
        "DictionaryRefused",
        "InvalidationPending",
        "KeyValueError",
        "LoaderTimeout",
        "PatternLogFull",
        "SchemaError",
        "SettingsError",
        "TemplateError",
        "TierError",
        "TierUnavailableError",
    ),
    "events": ("Stats",),
    "explaining": ("Explanation",),
    "functions": ("AsyncCachedFunction", "CachedFunction", "WarmReport"),
    "keys": ("KeyTemplate",),
    "models": ("CacheModel",),
    "receipts": ("Receipt",),
    "settings": ("CacheSettings",),
    "training": ("TrainedDictionary",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "MISSING",
    "AsyncCachedFunction",
    "AsyncCachedManyFunction",
    "Cache",
    "CacheClosedError",
    "CacheError",
    "CacheItem",
    "CacheModel",
    "CacheScopeWarning",
    "CacheSettings",
    "CachedFunction",
    "CachedManyFunction",
    "CachedValueError",
    "DeclarationError",
    "DictionaryRefused",
    "Duration",
    "Explanation",
    "InvalidationPending",
    "KeyTemplate",
    "KeyValueError",
    "LoaderTimeout",
    "PatternLogFull",
    "Receipt",
    "SchemaError",
    "SettingsError",
    "Stats",
    "TemplateError",
    "TierError",
    "TierUnavailableError",
    "TrainedDictionary",
    "WarmReport",
    "cached",
    "cached_many",
    "configure",
    "default_cache",
    "invalidates",
    "seconds",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
