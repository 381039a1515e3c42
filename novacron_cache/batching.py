"""`@cached_many`: a function over several ids, called for the misses only, once.

Where the key depends on the id alone, what process memory has is found by the id (see `fronting`); everything else
takes the way of requests and flows.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload

from . import flows
from .callables import is_asynchronous, is_unnamed, label_of, module_of
from .declaring import (
    Declaration,
    KeyMaker,
    Owners,
    checked_ignore,
    condition_parameters,
    declaration_of,
    fields_of,
    key_of,
    register_controller,
    split_none,
)
from .drivers import adrive, drive
from .effects import Load
from .entry import Entry
from .errors import CachedValueError, DeclarationError, TemplateError, nearest
from .events import Stats
from .flows.invalidating import Invalidation
from .fronting import Front
from .keys import KeyTemplate
from .options import Options
from .receipts import Receipt
from .requests import Plan, Request, Several

if TYPE_CHECKING:
    from typing import Self

    from .cache import Cache

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Prepared(NamedTuple):
    """One call of a batch function.

    Attributes:
        cache: the cache it asks.
        front: where entries are found by their element; None where elements cannot stand for keys.
        found: what process memory has by the front, and None for the others, by element in the caller's order.
        requests: one for each of the others.
        load: the batch loader.
        met: takes the entries that are met, by element, where they may be refreshed early; else None.
    """

    cache: Cache
    front: dict[Any, Entry] | None
    found: dict[Any, Any]
    requests: Sequence[Request]
    load: Callable[[Sequence[Request]], Load]
    met: dict[Any, Entry] | None


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
        ignore: Iterable[str],
        cache: Cache | None,
        bound: str | None,
    ) -> None:
        self.function = function
        self.asynchronous = is_asynchronous(function)
        self.signature = inspect.signature(function)
        self.label = label_of(function)
        self.each = each
        self.given_cache = cache
        type_ = split_none(type_)[0]
        model = declaration_of(type_)
        if model is not None:
            options = options.over(model.options)
        self.unnamed = name is None and model is None and is_unnamed(function)
        if name is None:
            name = model.name if model is not None else f"{module_of(function)}.{self.label}"
        if key is None:
            key = key_of(type_)
        if key is None:
            raise DeclarationError(f"@cached_many on `{self.label}` needs a key, such as key='vm:<vm_id>'")
        parameters = list(self.signature.parameters)
        if each not in parameters:
            raise DeclarationError(
                f"each={each!r}: `{self.label}` has no parameter {each!r}{nearest(each, parameters)}"
            )
        self.template = KeyTemplate.parse(key)
        self.element = self._element(parameters)
        others = [one for one in parameters if one not in (each, bound)]
        ignored = checked_ignore(ignore, others, self.label)
        self.template.check(
            [*others, self.element, *([bound] if bound else [])],
            owner=self.label,
            unused_ok={*ignored, *([bound] if bound else [])},
        )
        self.owners: Owners | None = None
        if bound is not None and bound not in self.template.roots and not {"self", "cls", bound} & set(ignored):
            self.owners = Owners(self.label, bound)
        self.bound = bound
        options.check_timeouts(f"`{self.label}`")
        self.condition: tuple[str, ...] = ()
        if options.condition is not None:
            self.condition = condition_parameters(options.condition, self.signature, self.label)
        self.declaration = Declaration(name, type_, options, label=f"`{self.label}`", none_allowed=True)
        self.names = [*others, *([bound] if bound else [])]
        kinds = self.signature.parameters
        self.var_keywords = [name for name in others if kinds[name].kind is inspect.Parameter.VAR_KEYWORD]
        self.keys = self._key_maker(options.tags or ())
        self.cache: Cache | None = None
        # Where the element is not all that the key depends on, there is none.
        self.front = Front() if self.owners is None and self.template.roots == {self.element} else None
        register_controller(self)

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
            cache.check_name(self)
            self.cache = cache
            tags = cache.tag_override(self.declaration)
            self.keys = self._key_maker(self.declaration.options.tags or () if tags is None else tags)
        return cache

    def _is_met(self, arguments: Mapping[str, Any]) -> bool:
        condition = self.declaration.options.condition
        return condition is None or bool(condition(**{name: arguments[name] for name in self.condition}))

    def prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, fronted: bool = False, asked: bool = False
    ) -> Prepared:
        """Return what a call asks for.

        Args:
            args: its positional arguments.
            kwargs: its keyword arguments.
            fronted: whether what the front has is found already.
            asked: whether the function's condition is asked.
        """
        cache = self.bind()
        call = self.signature.bind(*args, **kwargs)
        call.apply_defaults()
        elements = call.arguments[self.each]
        if isinstance(elements, str | bytes) or not isinstance(elements, Iterable):
            raise TypeError(f"`{self.label}`: {self.each} takes several values, not {elements!r}")
        plan = cache.plan(self.declaration)
        if not self.asynchronous:
            cache.check_threads(plan)
        excluded = asked and not self._is_met(call.arguments)
        fronted = fronted and not (excluded or plan.strong or plan.shadow is not None or cache.engine.bypass.active)
        front = self.front.of(cache) if self.front is not None and fronted else None
        found: dict[Any, Any] = dict.fromkeys(elements)
        rest: Collection[Any] = Front.look(cache, plan, front, found) if front else found
        values = {name: call.arguments[name] for name in self.names}
        for name in self.var_keywords:
            values[name] = tuple(sorted(values[name].items()))
        scope = self.owners.scope_of(values[self.owners.parameter]) if self.owners is not None else None
        requests: Sequence[Request] | None = None
        if fronted and scope is None:
            requests = self.keys.several(plan, values, self.element, rest)
        if requests is None:
            requests = self._each(plan, values, rest, scope, excluded=excluded)

        def load(misses: Sequence[Request]) -> Load:
            again = self.signature.bind(*args, **kwargs)
            again.arguments[self.each] = [request.subject for request in misses]
            return Load(self._checked_async if self.asynchronous else self._checked, again.args, again.kwargs)

        return Prepared(cache, front, found, requests, load, None if plan.refresh_ahead is None else {})

    def _each(
        self, plan: Plan, values: dict[str, Any], elements: Iterable[Any], scope: Any, *, excluded: bool
    ) -> list[Request]:
        requests: dict[str, Request] = {}
        for element in elements:
            request = self.keys.request(plan, {**values, self.element: element}, scope=scope, subject=element)
            request.excluded = excluded
            requests[request.key] = request
        return list(requests.values())

    def _checked(self, *args: Any, **kwargs: Any) -> Mapping[Any, Any]:
        return self._mapping(self.function(*args, **kwargs), args, kwargs)

    async def _checked_async(self, *args: Any, **kwargs: Any) -> Mapping[Any, Any]:
        return self._mapping(await self.function(*args, **kwargs), args, kwargs)

    def _mapping(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[Any, Any]:
        if not isinstance(result, Mapping):
            raise CachedValueError(
                f"`{self.label}` returned {type(result).__name__}, expected a dict from each element of `{self.each}` "
                f"to its value",
                expected="dict",
            )
        asked = self.signature.bind(*args, **kwargs).arguments[self.each]
        if result and asked and result.keys().isdisjoint(asked):
            # As with ids that JSON has made text: all would count as absent, and be remembered as that.
            given, wanted = {*map(type, result)}, {*map(type, asked)}
            if given.isdisjoint(wanted):
                raise CachedValueError(
                    f"`{self.label}` returned a dict from {_names(given)}, and the elements of `{self.each}` are "
                    f"{_names(wanted)}: none of them is in it",
                    expected="dict",
                )
        return result

    def flow(self, prepared: Prepared) -> flows.Flow[list[Any]]:
        """Return what gives `answer` what it takes."""
        cache, front, _, requests, load, met = prepared
        if not isinstance(requests, Several):
            return flows.get_many(cache.engine, requests, load)

        def tell(element: Any, entry: Entry) -> None:
            if front is not None:
                Front.attach(cache, front, element, entry)

        if met is None:
            return flows.get_values(cache.engine, requests, load, tell)

        def meet(element: Any, entry: Entry) -> None:
            tell(element, entry)
            met[element] = entry

        return flows.get_values(cache.engine, requests, load, meet)

    def refresh_early(self, prepared: Prepared) -> None:
        """Have what was met and has reached its `refresh_at` loaded anew behind the call, all of it by one load."""
        cache, _, _, requests, load, met = prepared
        due = {element: entry for element, entry in (met or {}).items() if cache.is_early(entry)}
        if due:
            subjects = requests.subjects if isinstance(requests, Several) else [one.subject for one in requests]
            wanted = [requests[place] for place, subject in enumerate(subjects) if subject in due]
            cache.refresh_batch(wanted, [due[one.subject] for one in wanted], load, asynchronous=self.asynchronous)

    def answer(self, prepared: Prepared, results: Sequence[Any]) -> dict[Any, Any]:
        """Return the values by element; an element that is absent, or cached as absent, is left out.

        Args:
            prepared: the call.
            results: for each request an entry or None; for those of `Several` a value or None.
        """
        cache, front, found, requests, _, met = prepared
        if isinstance(requests, Several):
            found.update(zip(requests.subjects, results, strict=True))
        else:
            for request, entry in zip(requests, results, strict=True):
                if entry is not None:
                    found[request.subject] = cache.engine.hand_out(entry, request.plan)
                    if front is not None:
                        Front.attach(cache, front, request.subject, entry)
                    if met is not None:
                        met[request.subject] = entry
        return {element: value for element, value in found.items() if value is not None}


class _BatchView:
    """The methods of a batch function; `prefix` is the instance or class that it is bound to."""

    def __init__(self, controller: BatchController, prefix: tuple[Any, ...] = ()) -> None:
        self._controller = controller
        self._prefix = prefix

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, asked: bool = False) -> Prepared:
        return self._controller.prepare((*self._prefix, *args), kwargs, asked=asked)

    def stats(self) -> Stats:
        """Return the counters of the entries this function shares with whoever uses the same name."""
        return self._controller.bind().stats(self._controller.declaration.name)


class CachedManyFunction(_BatchView, Generic[P, R]):
    """A synchronous batch function that loads the misses only."""

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the values by element, in the caller's order."""
            raise AssertionError

        @overload
        def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
        @overload
        def __get__(
            self: Callable[Concatenate[S, Q], R], instance: S, owner: type[Any] | None = None, /
        ) -> CachedManyFunction[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...
        def __get__(self, instance: Any, owner: Any = None, /) -> Any:
            """Return the method bound to an instance."""
            raise AssertionError

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return those that are cached; the function is not called, and nothing is counted."""
        return self._look(args, kwargs, counted=False)

    def get(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return those that are cached; each element counts as a hit or a miss, and nothing is loaded."""
        return self._look(args, kwargs, counted=True)

    def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, counted: bool) -> R:
        prepared = self._prepare(args, kwargs, asked=True)
        engine = prepared.cache.engine
        entries = drive(engine, flows.peek_many(engine, prepared.requests, counted=counted))
        return cast("R", self._controller.answer(prepared, entries))  # what the loader says that it returns

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate everything under the logical keys of a call."""
        prepared = self._prepare(args, kwargs)
        return prepared.cache.run_invalidation(Invalidation.keys(one.logical for one in prepared.requests))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """Return the logical key of each element."""
        return [request.logical for request in self._prepare(args, kwargs).requests]


class AsyncCachedManyFunction(_BatchView, Generic[P, R]):
    """An asynchronous batch function that loads the misses only."""

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str
        __wrapped__: Callable[..., Any]

        async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Return the values by element, in the caller's order."""
            raise AssertionError

        @overload
        def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
        @overload
        def __get__(
            self: Callable[Concatenate[S, Q], Coroutine[Any, Any, R]], instance: S, owner: type[Any] | None = None, /
        ) -> AsyncCachedManyFunction[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...
        def __get__(self, instance: Any, owner: Any = None, /) -> Any:
            """Return the method bound to an instance."""
            raise AssertionError

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return those that are cached; the function is not called, and nothing is counted."""
        return await self._look(args, kwargs, counted=False)

    async def get(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return those that are cached; each element counts as a hit or a miss, and nothing is loaded."""
        return await self._look(args, kwargs, counted=True)

    async def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, counted: bool) -> R:
        prepared = self._prepare(args, kwargs, asked=True)
        engine = prepared.cache.engine
        entries = await adrive(engine, flows.peek_many(engine, prepared.requests, counted=counted))
        return cast("R", self._controller.answer(prepared, entries))  # what the loader says that it returns

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Invalidate everything under the logical keys of a call."""
        prepared = self._prepare(args, kwargs)
        return await prepared.cache.arun_invalidation(Invalidation.keys(one.logical for one in prepared.requests))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """Return the logical key of each element."""
        return [request.logical for request in self._prepare(args, kwargs).requests]


class ClassCachedManyFunction(CachedManyFunction[Concatenate[type[S], P], R], Generic[S, P, R]):
    """What checkers see of a classmethod, or of anything whose first parameter is a class: a lookup binds that."""

    if TYPE_CHECKING:

        def __get__(  # type: ignore[override]  # never unbound, so narrower than what it inherits
            self, instance: Any, owner: Any = None, /
        ) -> CachedManyFunction[P, R]:
            """Return the method bound to the class."""
            raise AssertionError


class ClassAsyncCachedManyFunction(AsyncCachedManyFunction[Concatenate[type[S], P], R], Generic[S, P, R]):
    """What checkers see of a classmethod, or of anything whose first parameter is a class: a lookup binds that."""

    if TYPE_CHECKING:

        def __get__(  # type: ignore[override]  # never unbound, so narrower than what it inherits
            self, instance: Any, owner: Any = None, /
        ) -> AsyncCachedManyFunction[P, R]:
            """Return the method bound to the class."""
            raise AssertionError


BATCH_METHODS = ("get", "peek", "invalidate", "key", "stats")


class BatchMethod:
    """The descriptor of a batch method: the wrapper is a function already, but its methods have to know the instance.

    Looked up in the class it takes the instance as its first argument, as the function itself does.
    """

    def __init__(self, wrapper: Any, controller: BatchController, *, of_class: bool, obj: Any = None) -> None:
        functools.update_wrapper(self, wrapper)
        self.cache_controller = controller
        self._wrapper = wrapper
        self._of_class = of_class
        self._prefix = () if obj is None else (obj,)
        if obj is not None:
            self.__wrapped__ = controller.function.__get__(obj)

    @property  # type: ignore[misc]  # declared as an attribute of `object`
    def __class__(self) -> type[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # nobody sets it
        """Pass for the function that it stands for, also with libraries that look for functions in a class body."""
        return FunctionType

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        obj = (owner if owner is not None else type(instance)) if self._of_class else instance
        if obj is None:
            return self
        return BatchMethod(self._wrapper, self.cache_controller, of_class=self._of_class, obj=obj)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the values by element, in the caller's order."""
        return self._wrapper(*self._prefix, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # Everything else, `__code__` included, by which `inspect` knows a coroutine function, is the function's own.
        controller = self.__dict__.get("cache_controller")
        if controller is None:
            raise AttributeError(name)
        if name in BATCH_METHODS:
            view = AsyncCachedManyFunction if controller.asynchronous else CachedManyFunction
            return getattr(view(controller, self._prefix), name)
        return getattr(controller.function, name)

    def __reduce__(self) -> Any:
        return (getattr, (*self._prefix, self.__name__)) if self._prefix else self.__qualname__


def batch_wrapper(controller: BatchController) -> Any:
    """Return the function that users call, carrying the cache's methods."""
    function = controller.function
    wrapper: Any
    view: Any
    if controller.asynchronous:

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            """Read, load and answer."""
            prepared = controller.prepare(args, kwargs, fronted=True, asked=True)
            results: Sequence[Any] = ()
            if prepared.requests:
                results = await adrive(prepared.cache.engine, controller.flow(prepared))
            values = controller.answer(prepared, results)
            controller.refresh_early(prepared)
            return values

        wrapper, view = acall, AsyncCachedManyFunction(controller)
    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            prepared = controller.prepare(args, kwargs, fronted=True, asked=True)
            results: Sequence[Any] = ()
            if prepared.requests:
                results = drive(prepared.cache.engine, controller.flow(prepared))
            values = controller.answer(prepared, results)
            controller.refresh_early(prepared)
            return values

        wrapper, view = call, CachedManyFunction(controller)
    if controller.bound is None:
        for name in BATCH_METHODS:
            setattr(wrapper, name, getattr(view, name))
    wrapper.cache_controller = controller
    return wrapper


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(sorted(kind.__qualname__ for kind in kinds))
