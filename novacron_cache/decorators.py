"""`@cached`: from a function to one that asks its cache first.

A decorated function stays a function: the generated wrapper (see `compiling`) carries the cache's methods as
attributes. A decorated method becomes a descriptor, because `vms.get_state.invalidate("vm-1")` has to know `vms`.
"""

from __future__ import annotations

import functools
import inspect
import typing
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import wrapt

from . import flows
from .codecs import JSON
from .compiling import UNSAFE, compile_call
from .declaring import Declaration, KeyMaker, declaration_of, fields_of, key_of, split_none
from .drivers import adrive, drive
from .effects import Load
from .entry import Entry
from .errors import CacheScopeWarning, DeclarationError, nearest
from .functions import METHODS, AsyncCachedFunction, CachedFunction
from .keys import KeyTemplate
from .options import Options, parse_options
from .requests import Request
from .schema import Schema, plain_schema

if TYPE_CHECKING:
    from .cache import Cache
    from .requests import Plan


class Controller:
    """What stands behind one decorated function: its declaration, its templates, and the cache it is bound to."""

    def __init__(
        self,
        function: Callable[..., Any],
        type_: Any,
        *,
        key: str | None,
        name: str | None,
        options: Options,
        ignore: Collection[str],
        cache: Cache | None,
        bound: str | None,
    ) -> None:
        self.function = function
        self.asynchronous = inspect.iscoroutinefunction(function)
        self.signature = inspect.signature(function)
        self.label = getattr(function, "__qualname__", repr(function))
        self.bound = bound
        hints = hints_of(function)
        model = declaration_of(type_)
        declared, admits_none = split_none(hints.get("return", Any) if type_ is None else type_)
        if type_ is not None and "return" in hints:
            admits_none = admits_none or split_none(hints["return"])[1]
        if model is not None:
            options = options.over(model.options)
        if name is None:
            name = model.name if model is not None else f"{function.__module__}.{self.label}"
        self.declaration = Declaration(
            name,
            declared,
            options,
            label=f"`{self.label}`",
            none_allowed=admits_none or options.negative_ttl is not None or "return" not in hints,
        )
        parameters = [p for p in self.signature.parameters if p != bound]
        for ignored in ignore:
            if ignored not in self.signature.parameters and ignored not in ("self", "cls"):
                near = nearest(ignored, parameters)
                raise DeclarationError(f"ignore={[*ignore]!r}: `{self.label}` has no parameter {ignored!r}{near}")
        self.var_keywords = [
            p.name for p in self.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD
        ]
        self.template = self._template(key, type_ if model is not None else None, parameters, ignore)
        self.names = [*parameters, *([bound] if bound else [])]
        self.keys = self._key_maker(options.tags or ())
        self.scoped = False
        self.shares_self = bound is None or bound in self.template.roots or bool({"self", "cls"} & set(ignore))
        self.hints = hints
        self.given_cache = cache
        self.cache: Cache | None = None
        self.plan: Plan = cast("Plan", None)
        self.front: dict[Any, Entry] = {}
        self.on_compile: Callable[[], None] = lambda: None
        self.instances: dict[int, weakref.ref[Any]] = {}
        self.warned = False
        self._counted = 0
        self.compile()

    def _template(self, key: str | None, model: Any, parameters: Sequence[str], ignore: Collection[str]) -> KeyTemplate:
        if key is None:
            key = key_of(model)
        if key is None:
            # Dots and brackets of a qualified name are literal text here.
            text = f"{self.function.__module__}.{self.label}".replace("<", "<<").replace(">", ">>")
            key = ":".join([text, *(f"<{name}>" for name in parameters if name not in ignore)])
        template = KeyTemplate.parse(key)
        template.check(
            [*parameters, *([self.bound] if self.bound else [])],
            owner=self.label,
            unused_ok={*ignore, *([self.bound] if self.bound else [])},
        )
        return template

    def _key_maker(self, tags: Sequence[str]) -> KeyMaker:
        return KeyMaker(
            self.template, tags, names=self.names, result_fields=fields_of(self.declaration.type), owner=self.label
        )

    # -- compiling and binding --------------------------------------------------------------------------------------

    def compile(self) -> None:
        """Generate the hit path anew; called once, and again when the class turns out to have a `cache_scope`."""
        type_ = self.declaration.type
        schema = plain_schema() if type_ is Any else Schema.of(type_, codec=JSON)
        expressions = list(self.template.expressions())
        if self.scoped:
            expressions.append(f"{self.bound}.cache_scope")
        elif not self.shares_self:
            expressions.append(f"id({self.bound})")
        self.compiled = compile_call(
            self.function,
            self.signature,
            expressions,
            types=self.hints,
            asynchronous=self.asynchronous,
            immutable=schema.immutable,
            bound=self.bound,
        )
        self.unbind()
        self.on_compile()

    def unbind(self) -> None:
        """Forget the cache; the next call finds one again."""
        if self.cache is not None:
            self.cache._forget(self)
            self.cache = None
        self.front = {}
        self.compiled.bind(self.front.get, _never, self._amiss if self.asynchronous else self._miss, None)

    def bind(self) -> Cache:
        """Return the cache of this function, choosing it at the first call."""
        cache = self.cache
        if cache is None:
            from .default import default_cache

            cache = self.given_cache or default_cache(self)
            cache.check_open()
            self.plan = cache.plan(self.declaration)
            tags = cache.tag_override(self.declaration)
            self.keys = self._key_maker(self.declaration.options.tags or () if tags is None else tags)
            self.front = {}
            self.cache = cache
            self._counted = self.compiled.hits()
            cache._adopt(self)
            self.compiled.bind(
                self.front.get,
                cache.engine.clock.monotonic,
                self._amiss if self.asynchronous else self._miss,
                self.plan.schema.decode,
            )
        return cache

    def front_hits(self) -> int:
        """Return how many calls the front has answered since the function was bound to its cache."""
        return self.compiled.hits() - self._counted

    # -- the slow path ----------------------------------------------------------------------------------------------

    def request(self, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """Return the request for the arguments of one call."""
        self.bind()
        for name in self.var_keywords:
            values[name] = tuple(sorted(values[name].items()))
        scope = self._scope(values[self.bound]) if self.bound is not None and not self.shares_self else None
        return self.keys.request(self.plan, values, scope=scope, load=Load(self.function, args, kwargs))

    def _scope(self, owner: Any) -> Any:
        """Return the `cache_scope` of a method's instance or class, and warn when instances share entries unasked."""
        scope = getattr(owner, "cache_scope", None)
        if scope is not None:
            if not self.scoped:
                self.scoped = True
                cache = self.cache
                self.compile()
                if cache is not None:
                    self.bind()
            return scope
        if not self.warned:
            known = self.instances.get(id(owner))
            if known is not None and known() is owner:
                return None
            try:
                self.instances[id(owner)] = weakref.ref(owner, self._forgetter(id(owner)))
            except TypeError:
                return None  # an instance that cannot be referred to weakly cannot be told from a later one
            if len(self.instances) > 1:
                self.warned = True
                warnings.warn(
                    f"two instances of {type(owner).__name__} share the entries of `{self.label}`: name what tells "
                    f"them apart in the key (`<{self.bound}.x>`), give the class a `cache_scope`, or say "
                    f"ignore=['{self.bound}']",
                    CacheScopeWarning,
                    stacklevel=5,
                )
        return None

    def _forgetter(self, key: int) -> Callable[[Any], None]:
        instances = self.instances

        def forget(_: Any) -> None:
            instances.pop(key, None)

        return forget

    def _miss(self, raw: Any, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = self.bind()
        request = self.request(values, args, kwargs)
        entry = drive(cache.engine, flows.get_or_load(cache.engine, request))
        return self._answer(cache, raw, request, entry)

    async def _amiss(self, raw: Any, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = self.bind()
        request = self.request(values, args, kwargs)
        entry = await adrive(cache.engine, flows.get_or_load(cache.engine, request))
        return self._answer(cache, raw, request, entry)

    def _answer(self, cache: Cache, raw: Any, request: Request, entry: Entry) -> Any:
        if raw is not UNSAFE and cache.engine.memory is not None:
            cache.engine.memory.attach(self.front, raw, entry)
        cache.refresh_early(request, entry, asynchronous=self.asynchronous)
        return cache.engine.hand_out(entry, request.plan)


def _never() -> float:
    return float("inf")


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the resolved annotations of a function; none where a name cannot be resolved."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # a name that exists for type checkers alone, or later
        return {}


# --- the decorators -------------------------------------------------------------------------------------------------


class _Bound:
    """A cached method bound to an instance or a class; each decorated method has its own subclass with its own call."""

    __slots__ = ("__weakref__", "obj")

    controller: Controller
    view: type[CachedFunction[..., Any] | AsyncCachedFunction[..., Any]]
    obj: Any

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            return getattr(self.view(self.controller, (self,)), name)
        return getattr(self.controller.function, name)

    @property
    def __self__(self) -> Any:
        return self.obj

    @property
    def __func__(self) -> Any:
        return self.controller.function

    @property
    def __wrapped__(self) -> Any:
        return self.controller.function.__get__(self.obj)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bound) and other.obj is self.obj and other.controller is self.controller

    def __hash__(self) -> int:
        return hash((id(self.obj), id(self.controller)))

    def __repr__(self) -> str:
        return f"<cached method {self.controller.label} of {self.obj!r}>"


class CachedMethod(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # wrapt's own types fix the signature
    """The descriptor of a cached method; each decorated method has its own subclass with its own `__get__`."""

    _self_controller: Controller

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method through its class, the instance being the first argument."""
        if not args:
            return self.__wrapped__(*args, **kwargs)  # the natural TypeError
        return self.__get__(args[0], type(args[0]))(*args[1:], **kwargs)

    @property
    def cache_controller(self) -> Controller:
        """Return what stands behind the method."""
        return self._self_controller


def _pass_through(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def _method(controller: Controller, original: Any, *, of_class: bool) -> Any:
    """Return the descriptor of a cached method."""
    view = AsyncCachedFunction if controller.asynchronous else CachedFunction
    bound_class = type(
        f"Bound_{controller.function.__name__}",
        (_Bound,),
        {"__slots__": (), "controller": controller, "view": view, "__call__": controller.compiled.call},
    )
    controller.on_compile = lambda: setattr(bound_class, "__call__", controller.compiled.call)
    new: Any = object.__new__

    if of_class:

        def get(self: Any, instance: Any, owner: Any = None) -> Any:
            bound = new(bound_class)
            bound.obj = owner if owner is not None else type(instance)
            return bound
    else:

        def get(self: Any, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            bound = new(bound_class)
            bound.obj = instance
            return bound

    descriptor_class = type(f"Cached_{controller.function.__name__}", (CachedMethod,), {"__get__": get})
    descriptor = descriptor_class(controller.function, _pass_through)
    descriptor._self_controller = controller
    return descriptor


def _function(controller: Controller) -> Any:
    """Return the generated wrapper of a function, dressed as the function and carrying the cache's methods."""
    function = controller.compiled.call
    functools.update_wrapper(function, controller.function)
    view: Any = (AsyncCachedFunction if controller.asynchronous else CachedFunction)(controller)
    for name in METHODS:
        setattr(function, name, getattr(view, name))
    function.cache_controller = controller  # type: ignore[attr-defined]  # one more attribute of a function
    return function


def _bound_parameter(function: Callable[..., Any]) -> str | None:
    """Return the name of the first parameter where the function stands in a class body."""
    parameters = list(inspect.signature(function).parameters)
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    in_class = bool(scope) and not scope.endswith("<locals>")
    return parameters[0] if parameters and in_class and parameters[0] in ("self", "cls") else None


def _refuse(function: Any, decorator: str) -> None:
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(
            f"`{name}` is a generator: what it yields can be consumed once, so it cannot be cached; return a list"
        )
    if isinstance(function, property):
        raise DeclarationError(f"@{decorator} goes below @property, on the function itself")
    if isinstance(function, type) or not callable(function):
        raise DeclarationError(f"@{decorator} decorates functions and methods, not {name}")


def unwrap(function: Any, decorator: str) -> tuple[Callable[..., Any], str | None, str]:
    """Return the plain function, its bound parameter, and its kind: function, method, classmethod or staticmethod."""
    if isinstance(function, classmethod | staticmethod):
        plain = function.__func__
        _refuse(plain, decorator)
        if isinstance(function, staticmethod):
            return plain, None, "staticmethod"
        return plain, next(iter(inspect.signature(plain).parameters)), "classmethod"
    _refuse(function, decorator)
    bound = _bound_parameter(function)
    return function, bound, "function" if bound is None else "method"


def decorate_cached(
    type_: Any,
    *,
    key: str | None,
    name: str | None,
    ignore: Iterable[str],
    cache: Cache | None,
    given: dict[str, Any],
) -> Callable[[Any], Any]:
    """Do what `decorating.cached` does; that one has the types."""
    options = parse_options(given, owner="@cached", also=("key", "name", "ignore", "cache"))
    ignored = tuple(ignore)

    def decorate(function: Any) -> Any:
        plain, bound, kind = unwrap(function, "cached")
        controller = Controller(
            plain, type_, key=key, name=name, options=options, ignore=ignored, cache=cache, bound=bound
        )
        if kind == "function":
            return _function(controller)
        if kind == "staticmethod":
            return staticmethod(_function(controller))
        return _method(controller, function, of_class=kind == "classmethod")

    return decorate
