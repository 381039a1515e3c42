"""`@cached_many`: a function over several ids, called for the misses only, once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from . import flows
from .declaring import Declaration, KeyMaker, declaration_of, fields_of, key_of
from .drivers import adrive, drive
from .effects import Load
from .entry import Entry
from .errors import CachedValueError, DeclarationError, TemplateError
from .events import Stats
from .flows.invalidating import Invalidation
from .keys import KeyTemplate
from .options import Options
from .receipts import Receipt
from .requests import Request

if TYPE_CHECKING:
    from .cache import Cache

P = ParamSpec("P")
R = TypeVar("R")


class BatchController:
    """What stands behind one function decorated with `cached_many`."""

    def __init__(
        self,
        function: Callable[..., Any],
        type_: Any,
        *,
        key: str | None,
        each: str,
        name: str | None,
        options: Options,
        cache: Cache | None,
        bound: str | None,
    ) -> None:
        self.function = function
        self.asynchronous = inspect.iscoroutinefunction(function)
        self.signature = inspect.signature(function)
        self.label = getattr(function, "__qualname__", repr(function))
        self.each = each
        self.given_cache = cache
        model = declaration_of(type_)
        if model is not None:
            options = options.over(model.options)
        if name is None:
            name = model.name if model is not None else f"{function.__module__}.{self.label}"
        if key is None:
            key = key_of(type_)
        if key is None:
            raise DeclarationError(f"@cached_many on `{self.label}` needs a key, such as key='vm:<vm_id>'")
        parameters = list(self.signature.parameters)
        if each not in parameters:
            raise DeclarationError(f"each={each!r}: `{self.label}` has no parameter {each!r}")
        self.template = KeyTemplate.parse(key)
        self.element = self._element(parameters)
        others = [one for one in parameters if one not in (each, bound)]
        self.template.check(
            [*others, self.element, *([bound] if bound else [])],
            owner=self.label,
            unused_ok={bound} if bound else False,
        )
        self.bound = bound
        self.declaration = Declaration(name, type_, options, label=f"`{self.label}`", none_allowed=True)
        self.names = [*others, *([bound] if bound else [])]
        self.keys = self._key_maker(options.tags or ())
        self.cache: Cache | None = None

    def _element(self, parameters: Sequence[str]) -> str:
        """Return the one placeholder that no parameter fills: the elements of `each` do."""
        free = list(dict.fromkeys(p.root for p in self.template.placeholders if p.root not in parameters))
        if self.each in self.template.roots and not free:
            return self.each
        if len(free) != 1:
            found = ", ".join(f"`<{one}>`" for one in free) or "none"
            raise TemplateError(
                f"key={self.template.text!r}: exactly one placeholder is filled from the elements of `{self.each}`, "
                f"and must not be a parameter of `{self.label}`; found {found}",
                template=self.template.text,
            )
        return free[0]

    def _key_maker(self, tags: Sequence[str]) -> KeyMaker:
        return KeyMaker(
            self.template,
            tags,
            names=self.names,
            result_fields=fields_of(self.declaration.type),
            owner=self.label,
            elements=self.element,
        )

    def bind(self) -> Cache:
        """Return the cache of this function."""
        from .default import default_cache

        cache = self.given_cache or default_cache()
        cache.check_open()
        if cache is not self.cache:
            self.cache = cache
            tags = cache.tag_override(self.declaration)
            self.keys = self._key_maker(self.declaration.options.tags or () if tags is None else tags)
        return cache

    def prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Cache, list[Request], Callable[[Sequence[Request]], Load]]:
        """Return the cache, one request for each distinct element in the caller's order, and the batch loader."""
        cache = self.bind()
        call = self.signature.bind(*args, **kwargs)
        call.apply_defaults()
        elements = call.arguments[self.each]
        if isinstance(elements, str | bytes) or not isinstance(elements, Iterable):
            raise TypeError(f"`{self.label}`: {self.each} takes several values, not {elements!r}")
        plan = cache.plan(self.declaration)
        values = {name: call.arguments[name] for name in self.names}
        scope = getattr(values[self.bound], "cache_scope", None) if self.bound is not None else None
        requests = {
            request.key: request
            for element in dict.fromkeys(elements)
            for request in [self.keys.request(plan, {**values, self.element: element}, scope=scope, subject=element)]
        }

        def load(misses: Sequence[Request]) -> Load:
            again = self.signature.bind(*args, **kwargs)
            again.arguments[self.each] = [request.subject for request in misses]
            return Load(self._checked_async if self.asynchronous else self._checked, again.args, again.kwargs)

        return cache, list(requests.values()), load

    def _checked(self, *args: Any, **kwargs: Any) -> Mapping[Any, Any]:
        return self._mapping(self.function(*args, **kwargs))

    async def _checked_async(self, *args: Any, **kwargs: Any) -> Mapping[Any, Any]:
        return self._mapping(await self.function(*args, **kwargs))

    def _mapping(self, result: Any) -> Mapping[Any, Any]:
        if not isinstance(result, Mapping):
            raise CachedValueError(
                f"`{self.label}` returned {type(result).__name__}, expected a dict from each element of `{self.each}` "
                f"to its value",
                expected="dict",
            )
        return result

    def answer(self, cache: Cache, requests: Sequence[Request], entries: Sequence[Entry | None]) -> dict[Any, Any]:
        """Return the values by element; an element that is absent, or cached as absent, is left out."""
        found = {}
        for request, entry in zip(requests, entries, strict=True):
            if entry is not None and (value := cache.engine.hand_out(entry, request.plan)) is not None:
                found[request.subject] = value
        return found


class _BatchView:
    def __init__(self, controller: BatchController) -> None:
        self._controller = controller

    def stats(self) -> Stats:
        """Return the counters of the entries this function shares with whoever uses the same name."""
        return self._controller.bind().stats(self._controller.declaration.name)


class CachedManyFunction(_BatchView, Generic[P, R]):
    """A synchronous batch function that loads the misses only."""

    if TYPE_CHECKING:
        __name__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the values by element, in the caller's order."""
            raise AssertionError

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return those that are cached; the function is not called."""
        cache, requests, _ = self._controller.prepare(args, kwargs)
        entries = drive(cache.engine, flows.peek_many(cache.engine, requests))
        result: Any = self._controller.answer(cache, requests, entries)
        return result  # type: ignore[no-any-return]  # the loader's own return type

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate everything under the logical keys of a call."""
        cache, requests, _ = self._controller.prepare(args, kwargs)
        return cache.run_invalidation(Invalidation.keys(request.logical for request in requests))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """Return the logical key of each element."""
        return [request.logical for request in self._controller.prepare(args, kwargs)[1]]


class AsyncCachedManyFunction(_BatchView, Generic[P, R]):
    """An asynchronous batch function that loads the misses only."""

    if TYPE_CHECKING:
        __name__: str
        __wrapped__: Callable[..., Any]

        async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the values by element, in the caller's order."""
            raise AssertionError

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return those that are cached; the function is not called."""
        cache, requests, _ = self._controller.prepare(args, kwargs)
        entries = await adrive(cache.engine, flows.peek_many(cache.engine, requests))
        result: Any = self._controller.answer(cache, requests, entries)
        return result  # type: ignore[no-any-return]  # the loader's own return type

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate everything under the logical keys of a call."""
        cache, requests, _ = self._controller.prepare(args, kwargs)
        return await cache.arun_invalidation(Invalidation.keys(request.logical for request in requests))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """Return the logical key of each element."""
        return [request.logical for request in self._controller.prepare(args, kwargs)[1]]


BATCH_METHODS = ("peek", "invalidate", "key", "stats")


def batch_wrapper(controller: BatchController) -> Any:
    """Return the function that users call, carrying the cache's methods."""
    function = controller.function
    wrapper: Any
    view: Any
    if controller.asynchronous:

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            cache, requests, load = controller.prepare(args, kwargs)
            entries = await adrive(cache.engine, flows.get_many(cache.engine, requests, load))
            return controller.answer(cache, requests, entries)

        wrapper, view = acall, AsyncCachedManyFunction(controller)
    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            cache, requests, load = controller.prepare(args, kwargs)
            entries = drive(cache.engine, flows.get_many(cache.engine, requests, load))
            return controller.answer(cache, requests, entries)

        wrapper, view = call, CachedManyFunction(controller)
    if controller.bound is None:
        for name in BATCH_METHODS:
            setattr(wrapper, name, getattr(view, name))
    wrapper.cache_controller = controller
    return wrapper
