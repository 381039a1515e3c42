"""What a cached function can do besides being called.

`CachedFunction` and `AsyncCachedFunction` are the types that checkers see and the methods that users find on a
decorated function (`get_vm_state.invalidate("vm-1")`) or on a bound method (`vms.get_state.invalidate("vm-1")`).
Their parameters are those of the function itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from . import flows
from .drivers import adrive, drive
from .entry import MISSING, MissingType
from .errors import DeclarationError
from .events import Stats
from .explaining import Explanation, explain
from .flows.invalidating import Invalidation
from .receipts import Receipt
from .requests import Request

if TYPE_CHECKING:
    from typing import Self

    from .decorators import Controller
    from .engine import Engine
    from .entry import Entry

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What `warm` did.

    Attributes:
        cached: keys that some tier had already.
        loaded: keys that were loaded and stored.
        failed: for each key whose loader raised, the logical key and the error.
    """

    cached: int
    loaded: int
    failed: tuple[tuple[str, BaseException], ...]


METHODS = ("get", "peek", "set", "refresh", "invalidate", "many", "warm", "explain", "key", "tags", "stats")


class _Owner:
    """An instance as generated functions take it in place of `self`."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj = obj


class _View:
    """The methods that need no I/O, for functions and for methods bound to an instance or class (the `prefix`).

    With `unbound`, the instance of a method is the first argument.
    """

    def __init__(self, controller: Controller, prefix: tuple[Any, ...] = (), *, unbound: bool = False) -> None:
        self._controller = controller
        self._prefix = prefix
        self._unbound = unbound

    def _collected(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
        if self._unbound and self._controller.bound == "cls" and not (args and isinstance(args[0], type)):
            # From Python 3.13 on a classmethod no longer asks what it wraps for a method bound to the class.
            raise DeclarationError(
                f"`{self._controller.label}`: write @cached above @classmethod; "
                f"below it, this has no way to know the class"
            )
        if self._unbound and args:
            args = (_Owner(args[0]), *args[1:])
        return self._controller.compiled.collect(*self._prefix, *args, **kwargs)

    def _request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        return self._controller.request(*self._collected(args, kwargs))

    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """Return the request of a call that goes by the function's condition."""
        return self._controller.asked(*self._collected(args, kwargs))

    def _requests(self, calls: Iterable[Any]) -> list[Request]:
        requests = []
        for call in calls:
            if isinstance(call, dict):
                requests.append(self._asked((), call))
            else:
                requests.append(self._asked(call if isinstance(call, tuple) else (call,), {}))
        return requests

    def _distinct(self, requests: Iterable[Request]) -> list[Request]:
        return list({_told_apart(request): request for request in requests}.values())

    def stats(self) -> Stats:
        """Return the counters of the entries this function shares with whoever uses the same name."""
        cache = self._controller.bind()
        return cache.stats(self._controller.declaration.name)

    def _peeked(self, engine: Engine, request: Request, entry: Entry | None) -> Any:
        if entry is None or not request.plan.suits(entry):
            return MISSING
        return engine.hand_out(entry, request.plan)

    def _several(self, engine: Engine, requests: list[Request], by_key: dict[Any, Entry]) -> list[Any]:
        return [engine.hand_out(by_key[_told_apart(request)], request.plan) for request in requests]

    def _warmed(self, requests: list[Request], entries: list[Any], results: list[Any]) -> WarmReport:
        absent = [request for request, entry in zip(requests, entries, strict=True) if entry is None]
        failed = [
            (request.logical, error)
            for request, error in zip(absent, results, strict=True)
            if isinstance(error, BaseException)
        ]
        return WarmReport(len(requests) - len(absent), len(absent) - len(failed), tuple(failed))


def _told_apart(request: Request) -> Any:
    """Return what tells the calls of one batch apart; one without a key is like no other."""
    return request.key or request


class CachedFunction(_View, Generic[P, R]):
    """A synchronous function that asks its cache first."""

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the cached value, or load it, store it and return it."""
            raise AssertionError

        @overload
        def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
        @overload
        def __get__(
            self: Callable[Concatenate[S, Q], R], instance: S, owner: type[Any] | None = None, /
        ) -> CachedFunction[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...
        def __get__(self, instance: Any, owner: Any = None, /) -> Any:
            """Return the method bound to an instance."""
            raise AssertionError

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the logical key of a call."""
        return self._request(args, kwargs).logical

    def tags(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """Return the tags of a call that its arguments alone determine."""
        return self._request(args, kwargs).tags

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | MissingType:
        """Return the cached value, or `MISSING`; the function is not called, and nothing is counted."""
        return self._look(args, kwargs, counted=False)

    def get(self, *args: P.args, **kwargs: P.kwargs) -> R | MissingType:
        """Return the cached value, or `MISSING`, as a call that counts as a hit or a miss; nothing is loaded."""
        return self._look(args, kwargs, counted=True)

    def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, counted: bool) -> R | MissingType:
        request = self._asked(args, kwargs)
        engine = self._controller.bind().engine
        (entry,) = drive(engine, flows.peek_many(engine, [request], counted=counted))
        value: R | MissingType = self._peeked(engine, request, entry)
        return value

    def set(self, value: R, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for a call, overruling loads that are still running.

        Raises:
            CachedValueError: the value is not of the declared type.
        """
        cache = self._controller.bind()
        cache.run_set([(self._request(args, kwargs), value)])

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function whatever is cached, store its result and return it."""
        request = self._request(args, kwargs)
        engine = self._controller.bind().engine
        entry = drive(engine, flows.refresh(engine, request))
        value: R = engine.hand_out(entry, request.plan)
        return value

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate everything under the logical key of a call."""
        return self._controller.bind().run_invalidation(Invalidation.keys([self._request(args, kwargs).logical]))

    def many(self, calls: Iterable[Any]) -> list[R]:
        """Return the values of several calls, in their order: one trip to each tier, then one load for each miss.

        Args:
            calls: for each call its only argument, a tuple of arguments, or a dict of keyword arguments.

        Raises:
            Exception: the first error of a loader; what the others loaded is stored.
        """
        requests = self._requests(calls)
        cache = self._controller.bind()
        engine = cache.engine
        distinct = self._distinct(requests)
        entries = drive(engine, flows.get_many(engine, distinct))
        by_key = {}
        for request, entry in zip(distinct, entries, strict=True):
            if entry is None or not request.plan.suits(entry):
                entry = drive(engine, flows.refresh(engine, request))
            cache.refresh_early(request, entry, asynchronous=False)
            by_key[_told_apart(request)] = entry
        return self._several(engine, requests, by_key)

    def warm(self, calls: Iterable[Any]) -> WarmReport:
        """Load what is not cached yet among several calls; errors are reported, not raised.

        Args:
            calls: as for `many`.
        """
        requests = self._distinct(one for one in self._requests(calls) if not one.excluded)
        engine = self._controller.bind().engine
        entries = drive(engine, flows.find(engine, requests))
        results: list[Any] = []
        for request, entry in zip(requests, entries, strict=True):
            if entry is None:
                try:
                    results += drive(engine, flows.fill(engine, [request]))
                except Exception as error:
                    results.append(error)
        return self._warmed(requests, entries, results)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return which tier would answer a call and why the next call would miss; nothing is loaded or promoted."""
        request = self._asked(args, kwargs)
        engine = self._controller.bind().engine
        return drive(engine, explain(engine, request))


class AsyncCachedFunction(_View, Generic[P, R]):
    """An asynchronous function that asks its cache first."""

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str
        __wrapped__: Callable[..., Any]

        async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the cached value, or load it, store it and return it."""
            raise AssertionError

        @overload
        def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
        @overload
        def __get__(
            self: Callable[Concatenate[S, Q], Coroutine[Any, Any, R]], instance: S, owner: type[Any] | None = None, /
        ) -> AsyncCachedFunction[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...
        def __get__(self, instance: Any, owner: Any = None, /) -> Any:
            """Return the method bound to an instance."""
            raise AssertionError

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the logical key of a call."""
        return self._request(args, kwargs).logical

    def tags(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """Return the tags of a call that its arguments alone determine."""
        return self._request(args, kwargs).tags

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | MissingType:
        """Return the cached value, or `MISSING`; the function is not called, and nothing is counted."""
        return await self._look(args, kwargs, counted=False)

    async def get(self, *args: P.args, **kwargs: P.kwargs) -> R | MissingType:
        """Return the cached value, or `MISSING`, as a call that counts as a hit or a miss; nothing is loaded."""
        return await self._look(args, kwargs, counted=True)

    async def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, counted: bool) -> R | MissingType:
        request = self._asked(args, kwargs)
        engine = self._controller.bind().engine
        (entry,) = await adrive(engine, flows.peek_many(engine, [request], counted=counted))
        value: R | MissingType = self._peeked(engine, request, entry)
        return value

    async def set(self, value: R, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for a call, overruling loads that are still running.

        Raises:
            CachedValueError: the value is not of the declared type.
        """
        cache = self._controller.bind()
        await cache.arun_set([(self._request(args, kwargs), value)])

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function whatever is cached, store its result and return it."""
        request = self._request(args, kwargs)
        engine = self._controller.bind().engine
        entry = await adrive(engine, flows.refresh(engine, request))
        value: R = engine.hand_out(entry, request.plan)
        return value

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate everything under the logical key of a call."""
        cache = self._controller.bind()
        return await cache.arun_invalidation(Invalidation.keys([self._request(args, kwargs).logical]))

    async def many(self, calls: Iterable[Any]) -> list[R]:
        """Return the values of several calls, in their order: one trip to each tier, then all misses at once.

        Args:
            calls: for each call its only argument, a tuple of arguments, or a dict of keyword arguments.

        Raises:
            Exception: the first error of a loader; what the others loaded is stored.
        """
        requests = self._requests(calls)
        cache = self._controller.bind()
        engine = cache.engine
        distinct = self._distinct(requests)
        entries = await adrive(engine, flows.get_many(engine, distinct))
        by_key = {}
        for request, entry in zip(distinct, entries, strict=True):
            if entry is None or not request.plan.suits(entry):
                entry = await adrive(engine, flows.refresh(engine, request))
            cache.refresh_early(request, entry, asynchronous=True)
            by_key[_told_apart(request)] = entry
        return self._several(engine, requests, by_key)

    async def warm(self, calls: Iterable[Any]) -> WarmReport:
        """Load what is not cached yet among several calls, some at once; errors are reported, not raised.

        Args:
            calls: as for `many`.
        """
        requests = self._distinct(one for one in self._requests(calls) if not one.excluded)
        engine = self._controller.bind().engine
        entries = await adrive(engine, flows.find(engine, requests))
        results: list[Any] = []
        for request, entry in zip(requests, entries, strict=True):
            if entry is None:
                try:
                    results += await adrive(engine, flows.fill(engine, [request]))
                except Exception as error:
                    results.append(error)
        return self._warmed(requests, entries, results)

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Return which tier would answer a call and why the next call would miss; nothing is loaded or promoted."""
        request = self._asked(args, kwargs)
        engine = self._controller.bind().engine
        return await adrive(engine, explain(engine, request))


class ClassCachedFunction(CachedFunction[Concatenate[type[S], P], R], Generic[S, P, R]):
    """What checkers see of a classmethod, or of anything whose first parameter is a class: a lookup binds that."""

    if TYPE_CHECKING:

        def __get__(  # type: ignore[override]  # always bound, which is the point
            self, instance: Any, owner: Any = None, /
        ) -> CachedFunction[P, R]:
            """Return the method bound to the class."""
            raise AssertionError


class ClassAsyncCachedFunction(AsyncCachedFunction[Concatenate[type[S], P], R], Generic[S, P, R]):
    """What checkers see of a classmethod, or of anything whose first parameter is a class: a lookup binds that."""

    if TYPE_CHECKING:

        def __get__(  # type: ignore[override]  # always bound, which is the point
            self, instance: Any, owner: Any = None, /
        ) -> AsyncCachedFunction[P, R]:
            """Return the method bound to the class."""
            raise AssertionError
