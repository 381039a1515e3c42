"""`deferred_invalidation()`: invalidations that wait for the end of a block, as around a database transaction."""

from __future__ import annotations

import threading
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from .flows.invalidating import Done, Invalidation
from .receipts import Receipt

if TYPE_CHECKING:
    from .cache import Cache

_deferrals: ContextVar[tuple[DeferredInvalidation, ...]] = ContextVar("novacron_cache_deferrals", default=())


def current_deferral(cache: object) -> DeferredInvalidation | None:
    """Return the innermost block of this context that collects for a cache, or None."""
    if not (open_ := _deferrals.get()):
        return None
    return next((one for one in reversed(open_) if one.cache is cache and not one.ended), None)


class DeferredInvalidation:
    """Collects what is invalidated inside its block; a nested block hands its own to the outer one.

    Attributes:
        cache: the cache it collects for.
        receipt: the receipt of everything together, once the block has ended well.
        ended: whether the block is over; what a task that outlives it invalidates is applied at once.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.receipt: Receipt | None = None
        self.ended = False
        self._lock = threading.Lock()
        self._collected = Invalidation("several", ())
        self._token: Token[tuple[DeferredInvalidation, ...]] | None = None

    def collect(self, invalidation: Invalidation) -> Receipt | None:
        """Note an invalidation; its receipt is pending until the block has ended. None: it has ended meanwhile."""
        with self._lock:
            if self.ended:
                return None
            self._collected = self._collected + invalidation if self._collected else invalidation
        return DeferredReceipt(self, invalidation)

    def _leave(self) -> None:
        with self._lock:
            self.ended = True
        if self._token is not None:
            _deferrals.reset(self._token)
            self._token = None

    def __enter__(self) -> DeferredInvalidation:
        self._token = _deferrals.set((*_deferrals.get(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: Any) -> None:
        self._leave()
        if kind is None and self._collected:
            self.receipt = self.cache.run_invalidation(self._collected)

    async def __aenter__(self) -> DeferredInvalidation:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *exc: Any) -> None:
        self._leave()
        if kind is None and self._collected:
            self.receipt = await self.cache.arun_invalidation(self._collected)


class DeferredReceipt(Receipt):
    """The receipt of an invalidation inside a `deferred_invalidation()`: done when that of the block is."""

    __slots__ = ("_deferral",)

    def __init__(self, deferral: DeferredInvalidation, invalidation: Invalidation) -> None:
        super().__init__(deferral.cache.engine, invalidation, Done(0, delivered=False))
        self._deferral = deferral

    @property
    def done(self) -> bool:
        """Whether the block has ended well and the shared tier has taken the invalidation."""
        return self._deferral.receipt is not None and self._deferral.receipt.done
