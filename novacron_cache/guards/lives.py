"""Which markers need not be asked to live longer, because this process has just seen to it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from ..entry import Clock

__all__ = ["Lives"]

_MOST: Final = 4096


class Lives:
    """Remembers for how long markers have no need of a longer life.

    A marker that was given twice the longest life that a value can have is enough for any value that is stored in the
    first half of it. One that was lost meanwhile, or has become shorter on a server that was promoted, ends early: the
    values that carry its id are missed then, and never wrong. So what is remembered here may be out of date.

    Args:
        clock: the time of this process.
        span: seconds for which a marker is not prolonged again.
    """

    def __init__(self, clock: Clock, span: float) -> None:
        self._clock = clock
        self._span = span
        self._until: dict[str, float] = {}

    def short(self, deps: Iterable[str]) -> list[str]:
        """Return those dependencies whose markers have to live longer once more, each once."""
        now, until = self._clock.monotonic(), self._until
        return [dep for dep in dict.fromkeys(deps) if until.get(dep, 0.0) <= now]

    def prolonged(self, deps: Iterable[str]) -> None:
        """Note that markers were given their whole life, a moment ago at most."""
        noted = dict.fromkeys(islice(deps, _MOST), self._clock.monotonic() + self._span)
        if len(self._until) + len(noted) > 2 * _MOST:
            self._until = noted
        else:
            self._until.update(noted)

    def forget(self) -> None:
        """Have every marker prolonged once more: the server may be another one."""
        self._until = {}
