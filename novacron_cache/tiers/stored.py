"""Which values a shared tier keeps: a way through all of its keys that holds nobody up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..keys import is_dictionary_key
from .redis import RedisTier

__all__ = ["stored_keys"]


def stored_keys(tier: Any, beginning: str = "") -> Iterator[tuple[float, str, list[str]]]:
    """Yield (part done, where, stored keys) until a tier has been gone through; one key may come twice.

    Args:
        tier: a server or a directory.
        beginning: what the keys begin with; it has none of the characters of a glob.

    Raises:
        TierError: the tier does not answer.
    """
    if isinstance(tier, RedisTier):
        prefix = tier.commands.value_key("")
        for found in tier.scan(f"{prefix}{beginning}*"):
            keys = [key.decode("utf-8", "surrogateescape")[len(prefix) :] for key in found.keys]
            yield found.progress, f" at {found.server}", _values(keys, beginning)
    else:
        for some in tier.scan():
            yield 0.0, "", _values(some, beginning)


def _values(keys: list[str], beginning: str) -> list[str]:
    return [key for key in keys if key.startswith(beginning) and not is_dictionary_key(key)]
