"""`@cached`: what stands behind a decorated function, and how it comes to be.

What the application gets to see in the function's place is made by `wrapping`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
import types
import typing
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from . import flows, straight
from .callables import is_asynchronous, is_unnamed, label_of, module_of, plain_of
from .codecs import JSON
from .compiling import UNSAFE, compile_call
from .compiling import Owners as OwnersMode
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
from .entry import MISSING, Entry
from .errors import DeclarationError, KeyValueError
from .keys import KeyTemplate
from .link import Horizon
from .options import Options, parse_options
from .requests import Request
from .schema import Schema, plain_schema
from .wrapping import function_of, method_of

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
        ignore: Iterable[str],
        cache: Cache | None,
        bound: str | None,
    ) -> None:
        self.function = function
        self.asynchronous = is_asynchronous(function)
        self.signature = inspect.signature(function)
        self.label = label_of(function)
        self.bound = bound
        hints = hints_of(function)
        declared, admits_none = split_none(hints.get("return", Any) if type_ is None else type_)
        model = declaration_of(declared)
        if type_ is not None and "return" in hints:
            admits_none = admits_none or split_none(hints["return"])[1]
        if model is not None:
            options = options.over(model.options)
        self.unnamed = name is None and model is None and is_unnamed(function)
        if name is None:
            name = model.name if model is not None else f"{module_of(function)}.{self.label}"
        options.check_timeouts(f"`{self.label}`")
        self.declaration = Declaration(
            name,
            declared,
            options,
            label=f"`{self.label}`",
            none_allowed=admits_none or options.negative_ttl is not None or "return" not in hints,
        )
        parameters = [p for p in self.signature.parameters if p != bound]
        ignore = checked_ignore(ignore, [*self.signature.parameters], self.label)
        self.var_keywords = [
            p.name for p in self.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD
        ]
        self.condition = self._condition(options.condition)
        self.template = self._template(key, declared, parameters, ignore)
        self.names = [*parameters, *([bound] if bound else [])]
        self.keys = self._key_maker(options.tags or ())
        self.owners: Owners | None = None
        if bound is not None and bound not in self.template.roots and not {"self", "cls", bound} & set(ignore):
            self.owners = Owners(self.label, bound)
            self.owners.on_gone = lambda: self.front.clear()
        self.mode: OwnersMode = "one" if self.owners is None else "watched"
        self.hints = hints
        self.given_cache = cache
        self.cache: Cache | None = None
        self.plan: Plan = cast("Plan", None)
        self.front: dict[Any, Entry] = {}
        self.on_compile: Callable[[], None] = lambda: None
        self.front_finalizer: weakref.finalize[Any, Any] | None = None
        self._counted = 0
        self.compile()
        register_controller(self)

    def _template(self, key: str | None, model: Any, parameters: Sequence[str], ignore: Collection[str]) -> KeyTemplate:
        if key is None:
            key = key_of(model)
        if key is None:
            # Dots and brackets of a qualified name are literal text here.
            text = f"{module_of(self.function)}.{self.label}".replace("<", "<<").replace(">", ">>")
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

    def _condition(self, condition: Callable[..., Any] | None) -> tuple[str, ...]:
        """Return the parameters that a condition takes.

        Raises:
            DeclarationError: the function has no such parameter.
        """
        return () if condition is None else condition_parameters(condition, self.signature, self.label)

    # -- compiling and binding --------------------------------------------------------------------------------------

    def compile(self) -> None:
        """Generate the hit path; again when a method's instances turn out to have a `cache_scope`, or to share."""
        type_ = self.declaration.type
        codec = self.declaration.options.codec
        if codec is not None and type_ is Any:
            raise DeclarationError(
                f"`{self.label}`: codec {codec.name!r} writes values of a declared type; annotate what it returns, or "
                f"name the type: @cached(SomeType, codec=...)"
            )
        schema = plain_schema() if type_ is Any else Schema.of(type_, codec=codec or JSON)
        self._release()
        self.immutable = schema.immutable
        self.compiled = compile_call(
            self.function,
            self.signature,
            self.template.expressions(),
            types=self.hints,
            asynchronous=self.asynchronous,
            immutable=schema.immutable,
            bound=self.bound,
            owners=self.mode,
            condition=self.declaration.options.condition,
            condition_takes=self.condition,
        )
        self.unbind()
        self.on_compile()

    def unbind(self) -> None:
        """Forget the cache; the next call finds one again."""
        self._release()
        self.front = {}
        # A call that is under way in another thread goes on with what it finds here, so nothing may be None.
        decode = self.plan.schema.decode if self.plan is not None else _nothing_to_decode
        miss, exclude = self._slow
        self.compiled.bind(self.front, _never, miss, decode, _PAST, exclude)

    def _release(self) -> None:
        if self.cache is not None:
            self.cache._forget(self)
            self.cache = None

    def bind(self) -> Cache:
        """Return the cache of this function, choosing it at the first call."""
        while (cache := self.cache) is None:
            with _binding:
                cache = self._bind()
            if not cache.closed or self.given_cache is not None:
                return cache
            # It was closed while it was being chosen, too late to be told of this function.
            self.unbind()
        return cache

    def _bind(self) -> Cache:
        cache = self.cache
        if cache is None:
            from .default import default_cache

            cache = self.given_cache or default_cache(self)
            cache.check_open()
            cache.check_name(self)
            self.plan = cache.plan(self.declaration)
            if not self.asynchronous:
                cache.check_threads(self.plan)
            tags = cache.tag_override(self.declaration)
            self.keys = self._key_maker(self.declaration.options.tags or () if tags is None else tags)
            self.front = {}
            self.cache = cache
            self._counted = self.compiled.hits()
            cache._adopt(self)
            self.show_front(cache)
        return cache

    def show_front(self, cache: Cache) -> None:
        """Have calls look into the front, or past it while a block of `bypassed()` is open somewhere."""
        bypass = cache.engine.bypass
        miss, exclude = self._slow
        while True:
            aside = bool(bypass.active)
            self.compiled.bind(
                {} if aside else self.front,
                cache.engine.clock.monotonic,
                miss,
                self.plan.schema.decode,
                cache.engine.horizon,
                exclude,
            )
            if aside == bool(bypass.active):  # else another thread has just opened, or closed, one
                return

    @property
    def _slow(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """What answers a call that the front does not, and one that the condition keeps from the cache."""
        return (self._amiss, self._aexclude) if self.asynchronous else (self._miss, self._exclude)

    def front_hits(self) -> int:
        """Return how many calls the front has answered since the function was bound to its cache."""
        return self.compiled.hits() - self._counted

    # -- the slow path ----------------------------------------------------------------------------------------------

    def request(self, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """Return the request for the arguments of one call."""
        scope = None if self.owners is None else self._scope(self.owners, values[self.owners.parameter])
        self.bind()
        for name in self.var_keywords:
            values[name] = tuple(sorted(values[name].items()))
        return self.keys.request(self.plan, values, scope=scope, load=Load(self.function, args, kwargs))

    def asked(self, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """Return the request for the arguments of one call, having asked the condition about them."""
        condition = self.declaration.options.condition
        if condition is not None and not condition(**{name: values[name] for name in self.condition}):
            return self._excluded(values, args, kwargs)
        return self.request(values, args, kwargs)

    def _excluded(self, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        try:
            request = self.request(values, args, kwargs)
        except KeyValueError:
            # It may well be for such arguments that the condition is there.
            request = Request(self.plan, "", "", load=Load(self.function, args, kwargs))
        request.excluded = True
        return request

    def _scope(self, owners: Owners, owner: Any) -> Any:
        """Return the `cache_scope` of a method's instance or class; follow what is now known of how they share."""
        try:
            return owners.scope_of(owner)
        finally:
            # Also after a warning that a filter has made an error: it is not given twice.
            mode: OwnersMode = "shared" if not owners.watching else "scoped" if owners.scoped else "watched"
            if mode != self.mode:
                self.mode = mode
                self.compile()
            elif mode == "watched":
                self.compiled.watch(weakref.ref(owner))

    def _miss(self, raw: Any, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache, front = self.bind(), self.front
        request = self.request(values, args, kwargs)
        value, entry = straight.get_or_load(cache.engine, request)
        if entry is None and (value is not None or request.plan.none_allowed):
            return value
        if entry is None or not request.plan.suits(entry):
            entry = drive(cache.engine, flows.refresh(cache.engine, request))
        elif value is not MISSING:
            self._keep(cache, front, raw, request, entry)
            return value
        return self._answer(cache, front, raw, request, entry)

    async def _amiss(self, raw: Any, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache, front = self.bind(), self.front
        request = self.request(values, args, kwargs)
        get, turn = flows.get_or_load, cache.gathering.turn()
        if turn.under_way and (reading := turn.join(request)) is not None:
            value, found = await reading
            if found is not None and request.plan.suits(found):
                self._keep(cache, front, raw, request, found)
                return value
            if found is None and value is not MISSING and (value is not None or request.plan.none_allowed):
                return value
            get = flows.get_unfound
        turn.under_way += 1
        try:
            entry = await adrive(cache.engine, get(cache.engine, request))
            if not request.plan.suits(entry):
                entry = await adrive(cache.engine, flows.refresh(cache.engine, request))
        finally:
            turn.under_way -= 1
        return self._answer(cache, front, raw, request, entry)

    def _exclude(self, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        engine = self.bind().engine
        request = self._excluded(values, args, kwargs)
        return engine.hand_out(drive(engine, flows.get_or_load(engine, request)), request.plan)

    async def _aexclude(self, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        engine = self.bind().engine
        request = self._excluded(values, args, kwargs)
        return engine.hand_out(await adrive(engine, flows.get_or_load(engine, request)), request.plan)

    def _answer(self, cache: Cache, front: dict[Any, Entry], raw: Any, request: Request, entry: Entry) -> Any:
        self._keep(cache, front, raw, request, entry)
        return cache.engine.hand_out(entry, request.plan)

    def _keep(self, cache: Cache, front: dict[Any, Entry], raw: Any, request: Request, entry: Entry) -> None:
        """Have the next call with these arguments find an entry, and have it refreshed when it is time."""
        # A front that was replaced meanwhile had raw keys of another form, or another cache. Where the type promises
        # live values, one that had to be serialised after all (an int for a float) is no business of the hit path.
        if (
            raw is not UNSAFE
            and not request.strong
            and request.plan.shadow is None
            and cache.engine.memory is not None
            and front is self.front
            and not (self.immutable and entry.body is not None)
        ):
            cache.engine.attach(front, raw, entry)
        cache.refresh_early(request, entry, asynchronous=self.asynchronous)


_binding = threading.RLock()
"""Held while a function chooses its cache."""

_PAST = Horizon()
_PAST.valid_until = float("-inf")


def _after_fork() -> None:
    global _binding
    _binding = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _never() -> float:
    return float("inf")


def _nothing_to_decode(_body: bytes) -> Any:
    raise AssertionError("a function without a cache has no entries")


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the resolved annotations of a function, without those that name what cannot be resolved."""
    function = plain_of(function)
    try:
        return typing.get_type_hints(function)
    except Exception:  # a name that exists for type checkers alone, or later
        plain = inspect.unwrap(function)
        hints: dict[str, Any] = {}
        for name, annotation in getattr(plain, "__annotations__", {}).items():
            # `get_type_hints` resolves all or nothing, and reads the annotations of whatever it is given.
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            with contextlib.suppress(Exception):
                hints |= typing.get_type_hints(alone, getattr(plain, "__globals__", None))
        return hints


def _bound_parameter(function: Callable[..., Any]) -> str | None:
    """Return the name of the first parameter where the function stands in a class body."""
    parameters = list(inspect.signature(function).parameters)
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    in_class = bool(scope) and not scope.endswith("<locals>")
    return parameters[0] if parameters and in_class and parameters[0] in ("self", "cls") else None


def _refuse(function: Any, decorator: str) -> None:
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        why = "what it yields can be consumed once, so it cannot be cached; return a list"
        if decorator == "invalidates":
            why = "calling it does nothing yet, so there is no success to wait for; decorate what consumes it"
        raise DeclarationError(f"`{name}` is a generator: {why}")
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

    def decorate(function: Any) -> Any:
        plain, bound, kind = unwrap(function, "cached")
        controller = Controller(
            plain, type_, key=key, name=name, options=options, ignore=ignore, cache=cache, bound=bound
        )
        if kind == "function":
            return function_of(controller)
        if kind == "staticmethod":
            return staticmethod(function_of(controller))
        return method_of(controller, of_class=kind == "classmethod")

    return decorate
