"""`cache.bypassed()`: a block whose calls go straight to their loaders.

Theory. Which block a call stands in is a context variable, so that a block concerns its own thread or task, and the
tasks begun inside, and nobody else. Reading that variable would cost a hit in memory a tenth of its time, so hits do
not read it: while any block is open in the process, the fronts of the cache's functions are set aside, all calls take
the slower way, and that looks. With the last block the fronts are back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, TypeAlias

__all__ = ["Bypass", "BypassBlock"]

Way: TypeAlias = Literal["bypassed", "refresh"]

_blocks: ContextVar[tuple[BypassBlock, ...]] = ContextVar("novacron_cache_bypassed", default=())
"""The blocks around the present call, the innermost last."""


class Bypass:
    """The open blocks of one cache.

    Attributes:
        active: how many blocks are open in this process.
        changed: called when the first one was opened, and when the last one was closed.
    """

    def __init__(self) -> None:
        self.active = 0
        self.changed: Callable[[], None] = _nobody
        self._lock = threading.RLock()

    def way(self) -> Way | None:
        """Return how the present call goes past the cache, or None where it does not."""
        if self.active:
            for block in reversed(_blocks.get()):
                if block.bypass is self and block.open:
                    return block.way
        return None

    def count(self, by: int) -> None:
        """Note that a block was opened or closed."""
        with self._lock:
            before, self.active = self.active, self.active + by
            if not before or not self.active:
                self.changed()

    def after_fork(self) -> None:
        """Forget, in a forked child, the blocks of threads that stayed in the parent."""
        self._lock = threading.RLock()
        self.active = sum(block.bypass is self and block.open for block in _blocks.get())
        self.changed()


class BypassBlock:
    """The block of `cache.bypassed()`, for `with` and `async with`; it ends where it is left, in every task.

    Args:
        bypass: the open blocks of the cache.
        refresh: whether what is loaded inside is stored.
    """

    def __init__(self, bypass: Bypass, *, refresh: bool) -> None:
        self.bypass = bypass
        self.way: Way = "refresh" if refresh else "bypassed"
        self.open = False

    def __enter__(self) -> None:
        if self.open:
            raise RuntimeError("this block is open already; call cache.bypassed() for each block")
        self.open = True
        _blocks.set((*_blocks.get(), self))
        self.bypass.count(+1)

    def __exit__(self, *exc: object) -> None:
        self.open = False
        _blocks.set(tuple(block for block in _blocks.get() if block is not self))
        self.bypass.count(-1)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()


def _nobody() -> None:
    """Stand in until there is somebody to call."""
