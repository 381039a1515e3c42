"""Stored keys: the name in front, the injective text behind it, and a bound on the whole.

A server's key is paid for in every request and every index, so however much a caller passes, it stays short; the digest
that replaces the tail keeps it injective.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from .templates import KeyTemplate
from .values import percent_escape

MAX_STORED_LENGTH: Final = 240
"""Characters of a stored key; a longer one is cut and ends in the digest of the whole."""

_DICTIONARY, _NEWEST = "~d:", "~n:"


def stored_key(name: str, template: KeyTemplate, values: tuple[Any, ...]) -> str:
    """Return the text a value is stored under: different names, skeletons or values never give the same.

    Args:
        name: the name of the model or function; may be empty.
        template: the key's template. Templates that differ in the names of placeholders alone share their entries.
        values: what `template.values` returned. A subclass of a scalar type is told apart by its class's full name,
            and so are enum members.

    Returns:
        Printable text without whitespace or glob characters, of at most 240 characters; a longer one ends in a digest.

    Raises:
        KeyValueError: a value has no stable text. Converters are not checked here but in `render`.
    """
    return bounded_key(stored_name(name) + template.encode(values))


def stored_text_key(name: str, logical: str) -> str:
    """Return the stored key of a value that is named by its logical key alone; never that of a template."""
    return bounded_key(f"{stored_name(name)}:~k{percent_escape(logical)}")


@lru_cache(maxsize=4096)
def stored_name(name: str) -> str:
    """Return a name as it stands in front of stored keys."""
    return percent_escape(name).replace(":", "%3A")


def dictionary_key(digest: bytes) -> str:
    """Return the key of the compression dictionary with this digest; never that of a value, which `~` cannot begin."""
    return f"{_DICTIONARY}{digest.hex()}"


def newest_key(name: str) -> str:
    """Return the key of what says which dictionary a model's or function's values are to be compressed with."""
    return bounded_key(_NEWEST + stored_name(name))


def is_dictionary_key(stored: str) -> bool:
    """Return whether a stored key is that of a dictionary, or of what names one, and not that of a value."""
    return stored.startswith((_DICTIONARY, _NEWEST))


def bounded_key(text: str) -> str:
    """Return a stored key of any length as one of at most 240 characters; a longer one ends in a digest of it."""
    if len(text) <= MAX_STORED_LENGTH:
        return text
    digest = f"~h{blake2b(text.encode(), digest_size=20).hexdigest()}"
    return text[: MAX_STORED_LENGTH - len(digest)] + digest
