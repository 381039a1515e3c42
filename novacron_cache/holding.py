"""`invalidating()`: an invalidation in two phases, around a write that may die halfway.

An invalidation after a write comes too late for whoever dies between the two: the database has changed, and nobody
says so. In two phases, what will be invalidated is first *held*: it has no id, so that nothing can be served or stored
under it. Then comes the write, then the invalidation that ends the hold. A writer that dies leaves a hold that runs
out, and with it a marker that is missing, which matches nothing.

While the block runs, one thread of the cache prolongs its holds.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from . import flows
from .drivers import adrive, drive
from .errors import InvalidationPending, TemplateError
from .events import logger
from .flows.invalidating import Invalidation
from .markers import new_id
from .receipts import Receipt

if TYPE_CHECKING:
    from .cache import Cache


class InvalidatingBlock:
    """The block of `cache.invalidating(...)`, for `with` and `async with`.

    Attributes:
        seconds: how long the hold lasts without being prolonged.
        held: whether the shared tier has taken the hold; while it has not, the block invalidates before and after, and
            a writer that dies in between is not covered.
        receipt: the receipt of the invalidation, once the block has ended.
    """

    def __init__(self, cache: Cache, invalidation: Invalidation, seconds: float, *, wait: bool) -> None:
        if invalidation.rules:
            raise TemplateError(
                f"invalidating() holds keys, tags, models and patterns such as 'vm:*', not {invalidation.values!r}: "
                f"a glob has no marker to hold; give these entries a tag",
                template=invalidation.values[0],
            )
        self.seconds = seconds
        self.held = False
        self.receipt: Receipt | None = None
        self._cache = cache
        self._invalidation = invalidation
        self._wait = wait
        self._holder = new_id()
        self._process = 0
        self.idle = threading.Event()
        """Clear while the hold is being prolonged; nothing of that may arrive after the invalidation that ends it."""
        self.idle.set()

    def over(self) -> bool:
        """Return False: the end of the block ends it."""
        return False

    def prolong(self) -> None:
        """Have the hold last for another while."""
        if not drive(self._cache.engine, self._hold(again=True)):
            logger.warning("a hold could not be prolonged: the shared tier does not answer")

    def _hold(self, *, again: bool = False) -> flows.Flow[bool]:
        return flows.hold(self._cache.engine, self._invalidation, self._holder, self.seconds, again=again)

    def _began(self, held: bool) -> None:
        self.held = held
        if self._cache.engine.authority is not None:
            self._cache.keeper.add(self)
        if not held:
            self._cache.undelivered()

    def _refused(self) -> InvalidationPending:
        return InvalidationPending(
            "the shared tier could not be asked to hold what is about to change; nothing was written yet",
            receipt=self.receipt,
        )

    def __enter__(self) -> InvalidatingBlock:
        self._cache.check_open()
        self._process = os.getpid()
        self._began(drive(self._cache.engine, self._hold()))
        if self._wait and not self.held:
            # Some of it may be held all the same, or will be when the command arrives.
            self.__exit__(InvalidationPending, None, None)
            raise self._refused()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process != os.getpid():
            return  # a forked child leaves the block too, but it is its parent's
        self._cache.keeper.remove(self)
        self.idle.wait()
        # Also when the block has raised: how far the write has come nobody knows.
        self.receipt = self._cache.carry_out(self._invalidation, self._holder)
        self.receipt.check(wait=self._wait and exc[0] is None)

    async def __aenter__(self) -> InvalidatingBlock:
        self._cache.check_open()
        self._process = os.getpid()
        try:
            self._began(await adrive(self._cache.engine, self._hold()))
        except BaseException:
            # Cancelled: the hold may have been taken.
            self._cache.begin_invalidation(self._invalidation, self._holder)
            raise
        if self._wait and not self.held:
            await self.__aexit__(InvalidationPending, None, None)
            raise self._refused()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._process != os.getpid():
            return
        self._cache.keeper.remove(self)
        self.receipt = await self._cache.acarry_out(self._invalidation, self._holder, after=self.idle)
        self.receipt.check(wait=self._wait and exc[0] is None)

    def __repr__(self) -> str:
        return f"<invalidating {', '.join(self._invalidation.values)}>"
