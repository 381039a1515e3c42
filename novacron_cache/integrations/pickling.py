"""What stands in the cache for the arbitrary objects that frameworks hand to their caches: themselves, or their pickle.

Reading a pickle runs what its writer wanted, so these are used only where the cache signs what it shares (see
`sharing`), or shares nothing.
"""

from __future__ import annotations

import logging
import pickle
from typing import Any

from novacron_cache import MISSING

logger = logging.getLogger("novacron_cache.integrations")

_AS_THEY_ARE = frozenset({type(None), bool, int, float, str})


def packed(value: Any) -> Any:
    """Return what stands for a value in the cache; numbers, text and None stand for themselves."""
    if type(value) in _AS_THEY_ARE and not (type(value) is str and _has_surrogates(value)):
        return value
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def unpacked(stored: Any, default: Any) -> Any:
    """Return the value that something stored stands for; the default for `MISSING`, and for what cannot be read."""
    if stored is MISSING:
        return default
    if type(stored) is not bytes:
        return stored
    try:
        return pickle.loads(stored)  # noqa: S301 - from this process, or under a valid signature
    except Exception:
        # A class has changed or gone since; a deployment must find an empty cache, not a broken one.
        logger.warning("a cached object cannot be read any more and is taken as absent", exc_info=True)
        return default


def _has_surrogates(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
