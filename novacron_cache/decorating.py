"""The public decorators, with the types that checkers see."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from types import UnionType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, overload

from .batching import (
    AsyncCachedManyFunction,
    BatchController,
    BatchMethod,
    CachedManyFunction,
    ClassAsyncCachedManyFunction,
    ClassCachedManyFunction,
    batch_wrapper,
)
from .callables import is_asynchronous, label_of
from .declaring import fields_of, name_of, split_none, value_of
from .decorators import decorate_cached, hints_of, unwrap
from .durations import seconds
from .errors import DeclarationError, TemplateError, nearest
from .flows.invalidating import Invalidation
from .functions import AsyncCachedFunction, CachedFunction, ClassAsyncCachedFunction, ClassCachedFunction
from .keys import KeyTemplate
from .options import OptionKeywords, parse_options

if TYPE_CHECKING:
    from .cache import Cache

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
V = TypeVar("V")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


# A coroutine function is a function too, so the overloads below overlap; the first that fits is the one that is meant.


class CachedDecorator(Protocol):
    """What `cached(...)` without a type returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[Concatenate[type[S], P], Coroutine[Any, Any, R]], /
    ) -> ClassAsyncCachedFunction[S, P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[type[S], P], R], /) -> ClassCachedFunction[S, P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function or method."""


class TypedDecorator(Protocol[V]):
    """What `cached(SomeType, ...)` returns: it takes functions that return that type, or None."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[Concatenate[type[S], P], Coroutine[Any, Any, V]], /
    ) -> ClassAsyncCachedFunction[S, P, V]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[Concatenate[type[S], P], Coroutine[Any, Any, V | None]], /
    ) -> ClassAsyncCachedFunction[S, P, V | None]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[P, Coroutine[Any, Any, V]], /
    ) -> AsyncCachedFunction[P, V]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[P, Coroutine[Any, Any, V | None]], /
    ) -> AsyncCachedFunction[P, V | None]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[type[S], P], V], /) -> ClassCachedFunction[S, P, V]: ...  # pyright: ignore[reportOverlappingOverload]  # see above
    @overload
    def __call__(
        self, function: Callable[Concatenate[type[S], P], V | None], /
    ) -> ClassCachedFunction[S, P, V | None]: ...
    @overload
    def __call__(self, function: Callable[P, V], /) -> CachedFunction[P, V]: ...
    @overload
    def __call__(self, function: Callable[P, V | None], /) -> CachedFunction[P, V | None]: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function or method."""


@overload
def cached(
    model: None = None,
    *,
    key: str | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    cache: Cache | None = None,
    **options: Unpack[OptionKeywords],
) -> CachedDecorator: ...
@overload
def cached(  # type: ignore[overload-overlap]  # what fits it fits `type[Any]` below too
    model: type[V],
    *,
    key: str | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    cache: Cache | None = None,
    **options: Unpack[OptionKeywords],
) -> TypedDecorator[V]: ...
@overload
def cached(
    model: UnionType | type[Any],
    *,
    key: str | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    cache: Cache | None = None,
    **options: Unpack[OptionKeywords],
) -> CachedDecorator: ...
def cached(
    model: Any = None,
    *,
    key: str | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    cache: Cache | None = None,
    **options: Any,
) -> Any:
    """Make a function ask its cache first.

    Args:
        model: the type of its result: a `CacheModel`, with `| None` or without, or anything pydantic can adapt. None
            takes the return annotation.
        key: the template of its logical key; None takes the model's, or the qualified name and all parameters.
        name: the name of its entries; None takes the model's name, or the function's qualified name.
        ignore: parameters that the key leaves out. `self` and `cls` are left out anyway; naming them here says that
            instances may share entries.
        cache: the cache; None takes the default one at the first call.
        options: `ttl`, `tags`, `grace`, `refresh_ahead`, `jitter`, `tiers`, `negative_ttl`, `consistency`,
            `soft_timeout`, `hard_timeout`, `max_concurrent_loads`, `condition`, `skip_if`, `shadow`, `codec`: they
            override the model's, and `CacheSettings.models[name]` overrides them.

    Raises:
        DeclarationError: an option is unknown, the template names no parameter or leaves one out, or the function is a
            generator.
        SchemaError: the type cannot be cached.

    Example:
        >>> @cached(key="square:<n>", ttl="1m")
        ... def square(n: int) -> int:
        ...     return n * n
        >>> square(12), square.key(12)
        (144, 'square:12')
    """
    if model is not None and inspect.isroutine(model):
        raise DeclarationError("@cached takes parentheses: @cached(), or @cached(SomeModel, key='...:<id>')")
    _refuse_as_type(model, "cached")
    return decorate_cached(model, key=key, name=name, ignore=ignore, cache=cache, given=options)


class CachedOfCache(Protocol):
    """What `cache.cached` is: `cached`, but for the cache."""

    @overload
    def __call__(
        self,
        model: None = None,
        *,
        key: str | None = None,
        name: str | None = None,
        ignore: Iterable[str] = (),
        **options: Unpack[OptionKeywords],
    ) -> CachedDecorator: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as with `cached` itself
        self,
        model: type[V],
        *,
        key: str | None = None,
        name: str | None = None,
        ignore: Iterable[str] = (),
        **options: Unpack[OptionKeywords],
    ) -> TypedDecorator[V]: ...
    @overload
    def __call__(
        self,
        model: UnionType | type[Any],
        *,
        key: str | None = None,
        name: str | None = None,
        ignore: Iterable[str] = (),
        **options: Unpack[OptionKeywords],
    ) -> CachedDecorator: ...
    def __call__(self, model: Any = None, **options: Any) -> Any:
        """Return the decorator."""


class CachedManyOfCache(Protocol):
    """What `cache.cached_many` is: `cached_many`, but for the cache."""

    def __call__(
        self,
        model: Any,
        *,
        each: str,
        key: str | None = None,
        name: str | None = None,
        ignore: Iterable[str] = (),
        **options: Unpack[OptionKeywords],
    ) -> ManyDecorator:
        """Return the decorator."""
        raise AssertionError


class InvalidatesOfCache(Protocol):
    """What `cache.invalidates` is: `invalidates`, but for the cache."""

    def __call__(
        self,
        *,
        keys: Sequence[str] = (),
        tags: Sequence[str] = (),
        patterns: Sequence[str] = (),
        models: Sequence[Any] = (),
    ) -> Callable[[F], F]:
        """Return the decorator."""
        raise AssertionError


class ManyDecorator(Protocol):
    """What `cached_many(...)` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[Concatenate[type[S], P], Coroutine[Any, Any, R]], /
    ) -> ClassAsyncCachedManyFunction[S, P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # coroutine functions first
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedManyFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[type[S], P], R], /) -> ClassCachedManyFunction[S, P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedManyFunction[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function or method."""


def cached_many(
    model: Any,
    *,
    each: str,
    key: str | None = None,
    name: str | None = None,
    ignore: Iterable[str] = (),
    cache: Cache | None = None,
    **options: Unpack[OptionKeywords],
) -> ManyDecorator:
    """Make a function over several ids load the misses only, in one call.

    Args:
        model: the type of each value.
        each: the parameter that takes the ids.
        key: the template of each value's logical key; exactly one of its placeholders is filled from the elements of
            `each`, the others from the other parameters. None takes the model's.
        name: the name of the entries; None takes the model's name, or the function's qualified name.
        ignore: as for `cached`.
        cache: the cache; None takes the default one.
        options: as for `cached`. What the function leaves out of its dict is absent from the result, and is remembered
            as absent for `negative_ttl` where that is given.

    Raises:
        DeclarationError: as for `cached`.

    Example:
        >>> @cached_many(int, key="length:<word>", each="words")
        ... def lengths(words: list[str]) -> dict[str, int]:
        ...     return {word: len(word) for word in words}
        >>> lengths(["tag", "tier", "tag"])
        {'tag': 3, 'tier': 4}
    """
    _refuse_as_type(model, "cached_many")
    parsed = parse_options({**options}, owner="@cached_many", also=("key", "each", "name", "ignore", "cache"))

    def decorate(function: Any) -> Any:
        plain, bound, kind = unwrap(function, "cached_many")
        controller = BatchController(
            plain, model, key=key, each=each, name=name, options=parsed, ignore=ignore, cache=cache, bound=bound
        )
        wrapper = batch_wrapper(controller)
        if kind == "staticmethod":
            return staticmethod(wrapper)
        return wrapper if kind == "function" else BatchMethod(wrapper, controller, of_class=kind == "classmethod")

    return decorate


def _refuse_as_type(model: Any, decorator: str) -> None:
    """Refuse a ttl or a key where the type of the values belongs, which is where other libraries take them."""
    option = ""
    if isinstance(model, int | float | timedelta):
        option = "ttl"
    elif isinstance(model, str):
        try:
            seconds(model)
            option = "ttl"
        except DeclarationError:
            try:
                ast.parse(model, mode="eval")  # the name of a type, perhaps of one that is defined further down
            except (SyntaxError, ValueError):
                option = "key"
    if option:
        raise DeclarationError(
            f"@{decorator}({model!r}): the first argument is the type of the values; write {option}={model!r}"
        )


def _same(value: T) -> T:
    return value


def invalidates(
    *misplaced: Any,
    keys: Sequence[str] = (),
    tags: Sequence[str] = (),
    patterns: Sequence[str] = (),
    models: Sequence[Any] = (),
    cache: Cache | None = None,
) -> Callable[[F], F]:
    """Invalidate after the decorated function has succeeded; when it raises, nothing is invalidated.

    Args:
        keys: templates of logical keys, filled from the arguments and, for what is not an argument, from the result,
            whose type the function says then. Where that may be None and is, those that need it are left out.
        tags: templates of tags, likewise.
        patterns: globs with placeholders, likewise; wildcards in values are literal.
        models: cache models, cached functions or names.
        cache: the cache; None takes the default one at each call.

    Raises:
        DeclarationError: nothing is named, or a template names neither a parameter nor a field of the result; the
            result of a function without a return annotation has none.
    """
    if misplaced:
        raise DeclarationError("@invalidates takes keywords: @invalidates(tags=['vm:<vm_id>'])")
    if not (keys or tags or patterns or models):
        raise DeclarationError("@invalidates names nothing to invalidate; say keys, tags, patterns or models")
    for what, given in (("keys", keys), ("tags", tags), ("patterns", patterns)):
        if isinstance(given, str):
            raise DeclarationError(f"{what}={given!r}: expected a list of templates")
    templates = [
        ([KeyTemplate.parse(text) for text in keys], "key"),
        ([KeyTemplate.parse(text, label="tag") for text in tags], "tag"),
        ([KeyTemplate.parse(text, label="pattern") for text in patterns], "pattern"),
    ]

    names = [name_of(model) for model in models]

    def decorate(function: Any) -> Any:
        plain, _, kind = unwrap(function, "invalidates")
        signature = inspect.signature(plain)
        label = label_of(plain)
        hints = hints_of(plain)
        returned, may_be_none = split_none(hints.get("return", Any))
        fields = fields_of(returned)
        for one in (template for group, _ in templates for template in group):
            one.refuse_braces({*signature.parameters, *(fields or ())}, owner=label, kind="value")
            for root in sorted(one.roots - set(signature.parameters)):
                near = nearest(root, [*signature.parameters, *(fields or ())]).replace("'", "`")
                if signature.return_annotation is inspect.Signature.empty:
                    # What it returns would show only after it has written, and then nothing could be invalidated.
                    raise TemplateError(
                        f"{one.label}={one.text!r}: `{label}` has no parameter `{root}`{near}, and does not say what it"
                        f" returns; where `{root}` is a field of that, annotate it (`-> Any` if its type is not known)",
                        template=one.text,
                    )
                if fields is not None and root not in fields:
                    raise TemplateError(
                        f"{one.label}={one.text!r}: neither the parameters nor the result of `{label}` have `{root}`"
                        f"{near}",
                        template=one.text,
                    )

        def collect(args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Invalidation:
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            found = Invalidation("several", ())
            for group, what in templates:
                for template in group:
                    if result is None and may_be_none and not template.roots <= call.arguments.keys():
                        continue  # as with a cached None, there is nothing that could fill it
                    values = {root: value_of(template, root, call.arguments, result) for root in template.roots}
                    if what == "pattern":
                        one = Invalidation.pattern(template.glob(values))
                    elif what == "tag":
                        one = Invalidation.tags([template.build(values)])
                    else:
                        one = Invalidation.keys([template.build(values)])
                    found = found + one if found else one
            for name in names:
                one = Invalidation.model(name)
                found = found + one if found else one
            return found

        async def awaited(coroutine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            """Wait for what was called, then invalidate."""
            result = await coroutine
            await _cache(cache).arun_invalidation(collect(args, kwargs, result))
            return result

        if is_asynchronous(plain):

            @functools.wraps(plain)
            async def acall(*args: Any, **kwargs: Any) -> Any:
                """Call the function, then invalidate."""
                return await awaited(plain(*args, **kwargs), args, kwargs)

            wrapper: Any = acall
        else:

            @functools.wraps(plain)
            def call(*args: Any, **kwargs: Any) -> Any:
                result = plain(*args, **kwargs)
                if inspect.iscoroutine(result):
                    return awaited(result, args, kwargs)  # a decorator between has hidden that it is asynchronous
                _cache(cache).run_invalidation(collect(args, kwargs, result))
                return result

            wrapper = call
        return {"classmethod": classmethod, "staticmethod": staticmethod}.get(kind, _same)(wrapper)

    return decorate


def _cache(cache: Cache | None) -> Cache:
    from .default import default_cache

    return cache or default_cache()
