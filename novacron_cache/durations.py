"""Durations as people write them: `30`, `0.25`, `timedelta(...)`, `"30s"`, `"2m"`, `"1h30m"`, `"250ms"`."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TypeAlias

from .errors import DeclarationError

Duration: TypeAlias = int | float | str | timedelta
"""Anything `seconds()` accepts."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*")
_FORMS = "seconds as a number, a timedelta, or text such as '30s', '2m', '1h30m' or '250ms'"


def seconds(value: Duration, *, what: str = "ttl") -> float:
    """Return a duration in seconds.

    Args:
        value: seconds (int or float), a `timedelta`, or text made of numbers with the units ms, s, m, h, d, w.
        what: the option's name, for the error message.

    Returns:
        Seconds, finite and not negative. Zero stays zero.

    Raises:
        DeclarationError: the value is malformed, negative, infinite or of another type.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | timedelta):
        raise DeclarationError(f"{what}={value!r}: expected {_FORMS}")
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        result = _parse(value, what)
    else:
        try:
            result = float(value)
        except OverflowError:  # an int that no float can hold
            result = math.inf
    if not math.isfinite(result) or result < 0:
        raise DeclarationError(f"{what}={_shown(value)}: a duration must be finite and not negative; expected {_FORMS}")
    return result


def _shown(value: Duration) -> str:
    # Python refuses to write an int of too many digits.
    return "an int of too many digits" if isinstance(value, int) and abs(value) >= 10**100 else repr(value)


def _parse(text: str, what: str) -> float:
    stripped = text.strip().lower()
    try:
        return float(stripped)
    except ValueError:
        pass
    position, total = 0, 0.0
    while match := _PART.match(stripped, position):
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not stripped or position != len(stripped):
        raise DeclarationError(f"{what}={text!r}: malformed duration; expected {_FORMS}")
    return total
