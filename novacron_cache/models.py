"""`CacheModel`: a frozen pydantic model that knows how it is cached, and `entries`, the manager of its values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from . import flows, straight
from .callables import label_of
from .codecs import JSON
from .codecs.thrift import share_names
from .declaring import (
    Declaration,
    KeyMaker,
    declaration_of,
    declare,
    declared,
    fields_of,
    key_of,
    loader_of,
    register_loader,
)
from .drivers import adrive, drive
from .effects import Load
from .entry import MISSING, MissingType
from .errors import DeclarationError
from .flows.invalidating import Invalidation
from .keys import KeyTemplate
from .options import parse_options
from .receipts import Receipt
from .requests import Request
from .schema import Schema

if TYPE_CHECKING:
    from .cache import Cache

M = TypeVar("M", bound="CacheModel")
L = TypeVar("L", bound=Callable[..., Any])


class Entries(Generic[M]):
    """The cached values of one model: `VMState.entries.get("vm-1")`.

    Positional arguments fill the placeholders of the model's key in order; keyword arguments name them. With `cache`
    None, the methods use the default cache.
    """

    def __init__(self, model: type[M], cache: Cache | None = None) -> None:
        self._model = model
        self._cache = cache

    def using(self, cache: Cache) -> Entries[M]:
        """Return the same manager over another cache."""
        return Entries(self._model, cache)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[Cache, KeyMaker]:
        from .default import default_cache

        cache = self._cache or default_cache()
        cache.check_open()
        return cache, cache.keys_of_model(self._model)

    def _request(self, args: tuple[Any, ...], kwargs: dict[str, Any], loader: Callable[..., Any] | None) -> Request:
        cache, keys = self._open()
        roots = list(dict.fromkeys(placeholder.root for placeholder in keys.template.placeholders))
        label = f"{self._model.__name__}.entries"
        if len(args) > len(roots):
            raise TypeError(f"{label}: the key {keys.template.text!r} takes {len(roots)} values, got {len(args)}")
        values = dict(zip(roots, args, strict=False))
        for name, value in kwargs.items():
            if name not in roots or name in values:
                raise TypeError(f"{label}: {name!r} is given twice or is not in the key {keys.template.text!r}")
            values[name] = value
        if missing := [root for root in roots if root not in values]:
            raise TypeError(f"{label}: the key {keys.template.text!r} also needs {', '.join(missing)}")
        load = Load(loader, (), dict(values)) if loader is not None else None
        return keys.request(cache.plan(declared(self._model)), values, load=load)

    def _requests(self, keys: Iterable[Any]) -> list[Request]:
        return [self._request(key if isinstance(key, tuple) else (key,), {}, None) for key in keys]

    def _of_state(self, state: M) -> Request:
        cache, keys = self._open()
        if type(state) is not self._model:
            raise DeclarationError(
                f"{self._model.__name__}.entries.set() takes a {self._model.__name__}, not {type(state).__name__}"
            )
        values = {name: getattr(state, name) for name in type(state).model_fields}
        return keys.request(cache.plan(declared(self._model)), values)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, *args: Any, **kwargs: Any) -> M | None:
        """Return the cached model, or None; nothing is loaded."""
        request = self._request(args, kwargs, None)
        engine = self._open()[0].engine
        (entry,) = drive(engine, flows.peek_many(engine, [request], counted=True))
        found: M | None = None if entry is None else engine.hand_out(entry, request.plan)
        return found

    async def aget(self, *args: Any, **kwargs: Any) -> M | None:
        """Do what `get` does, asynchronously."""
        request = self._request(args, kwargs, None)
        engine = self._open()[0].engine
        (entry,) = await adrive(engine, flows.peek_many(engine, [request], counted=True))
        found: M | None = None if entry is None else engine.hand_out(entry, request.plan)
        return found

    def get_many(self, keys: Iterable[Any]) -> dict[Any, M]:
        """Return those that are cached, by the key given: a value, or a tuple where the key has several."""
        wanted = list(dict.fromkeys(keys))
        engine = self._open()[0].engine
        return _found(wanted, drive(engine, flows.look(engine, self._requests(wanted))))

    async def aget_many(self, keys: Iterable[Any]) -> dict[Any, M]:
        """Do what `get_many` does, asynchronously."""
        wanted = list(dict.fromkeys(keys))
        engine = self._open()[0].engine
        return _found(wanted, await adrive(engine, flows.look(engine, self._requests(wanted))))

    # -- loading ----------------------------------------------------------------------------------------------------

    def loader(self, function: L) -> L:
        """Register the function that `load` calls for a miss; its parameters are the key's placeholders."""
        keys = self._template()
        roots = {placeholder.root for placeholder in keys.placeholders}
        keys.check(list(inspect.signature(function).parameters), owner=label_of(function), unused_ok=False)
        if not roots:
            raise DeclarationError(
                f"{self._model.__name__} has a key without placeholders; there is nothing to load by"
            )
        register_loader(self._model, function)
        return function

    def _loader(self) -> Callable[..., Any]:
        found = loader_of(self._model)
        if found is None:
            name = self._model.__name__
            raise DeclarationError(f"{name} has no loader; register one with @{name}.entries.loader")
        return found

    def load(self, *args: Any, **kwargs: Any) -> M | None:
        """Return the cached model, or load it with the registered loader, which must be synchronous."""
        request = self._request(args, kwargs, self._loader())
        cache = self._open()[0]
        cache.check_threads(request.plan)
        engine = cache.engine
        value, entry = straight.get_or_load(engine, request)
        if entry is not None:
            cache.refresh_early(request, entry, asynchronous=False)
            value = engine.hand_out(entry, request.plan) if value is MISSING else value
        found: M | None = value
        return found

    async def aload(self, *args: Any, **kwargs: Any) -> M | None:
        """Return the cached model, or load it with the registered loader, synchronous or not."""
        request = self._request(args, kwargs, self._loader())
        cache = self._open()[0]
        engine = cache.engine
        entry = await adrive(engine, flows.get_or_load(engine, request))
        cache.refresh_early(request, entry, asynchronous=True)
        found: M | None = engine.hand_out(entry, request.plan)
        return found

    # -- writing ----------------------------------------------------------------------------------------------------

    def set(self, state: M) -> None:
        """Store a model under the key that its fields give, overruling loads that are still running."""
        self._open()[0].run_set([(self._of_state(state), state)])

    async def aset(self, state: M) -> None:
        """Do what `set` does, asynchronously."""
        await self._open()[0].arun_set([(self._of_state(state), state)])

    def invalidate(self, *args: Any, **kwargs: Any) -> Receipt:
        """Invalidate everything under one logical key."""
        logical = self._request(args, kwargs, None).logical
        return self._open()[0].run_invalidation(Invalidation.keys([logical]))

    async def ainvalidate(self, *args: Any, **kwargs: Any) -> Receipt:
        """Do what `invalidate` does, asynchronously."""
        logical = self._request(args, kwargs, None).logical
        return await self._open()[0].arun_invalidation(Invalidation.keys([logical]))

    def clear(self) -> Receipt:
        """Invalidate every value of the model."""
        return self._open()[0].run_invalidation(Invalidation.model(declared(self._model).name))

    async def aclear(self) -> Receipt:
        """Do what `clear` does, asynchronously."""
        return await self._open()[0].arun_invalidation(Invalidation.model(declared(self._model).name))

    def _template(self) -> KeyTemplate:
        text = key_of(self._model)
        if text is None:
            name = self._model.__name__
            raise DeclarationError(f"{name} has no key; declare it as `class {name}(CacheModel, key='...:<id>')`")
        return KeyTemplate.parse(text)

    def peek(self, *args: Any, **kwargs: Any) -> M | MissingType | None:
        """Return the cached model, None where "not found" is cached, or `MISSING`; nothing is loaded."""
        request = self._request(args, kwargs, None)
        engine = self._open()[0].engine
        (entry,) = drive(engine, flows.peek_many(engine, [request]))
        found: M | MissingType | None = MISSING if entry is None else engine.hand_out(entry, request.plan)
        return found

    async def apeek(self, *args: Any, **kwargs: Any) -> M | MissingType | None:
        """Do what `peek` does, asynchronously."""
        request = self._request(args, kwargs, None)
        engine = self._open()[0].engine
        (entry,) = await adrive(engine, flows.peek_many(engine, [request]))
        found: M | MissingType | None = MISSING if entry is None else engine.hand_out(entry, request.plan)
        return found


class _EntriesDescriptor:
    def __get__(self, instance: object, owner: type[M]) -> Entries[M]:
        return Entries(owner)


class CacheModel(BaseModel):
    """A frozen pydantic model that declares how it is cached.

    Class keywords, none of which becomes an attribute: `key` (the template of its logical key), `ttl`, `tags`, `name`
    (default: the class's name), `grace`, `refresh_ahead`, `jitter`, `tiers`, `negative_ttl`, `consistency`,
    `soft_timeout`, `hard_timeout`, `max_concurrent_loads`, `skip_if`, `shadow`. A subclass starts from the keywords of
    its parent, but has a name of its own. The one reserved field name is `entries`.

    Raises:
        DeclarationError: a keyword is unknown or wrong, or a template names no field.
        SchemaError: the model does not survive its own round trip.

    Example:
        >>> class Host(CacheModel, key="host:<host_id>", ttl="30s", tags=["rack:<rack>"]):
        ...     host_id: str
        ...     rack: str
    """

    model_config = ConfigDict(frozen=True)

    entries: ClassVar[_EntriesDescriptor] = _EntriesDescriptor()

    if not TYPE_CHECKING:  # to a checker it would mean that any attribute may be set

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                model = type(self).__name__
                error.add_note(
                    f"A cached {model} is shared by all who read it. Make a changed copy with "
                    f"`model_copy(update={{{name!r}: ...}})`, and store that with `{model}.entries.set(...)`."
                )
                raise

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave the keywords to `__pydantic_init_subclass__`, which sees the fields too."""
        super().__init_subclass__()
        if "entries" in inspect.get_annotations(cls):
            raise _reserved(cls)  # before pydantic warns of it

    @classmethod
    def __pydantic_init_subclass__(cls, *, key: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        """Check the declaration; pydantic calls this when the fields are known."""
        super().__pydantic_init_subclass__()
        owner = cls.__name__
        if "entries" in cls.model_fields:
            raise _reserved(cls)
        if not cls.model_config.get("frozen"):
            raise DeclarationError(f"{owner}: a cache model is frozen, so that a cached value cannot be changed")
        parent = next((one for one in cls.__mro__[1:] if declaration_of(one) is not None), None)
        options = parse_options(kwargs, owner=owner, also=("key", "name"))
        if options.condition is not None:
            raise DeclarationError(
                f"{owner}: a condition is asked about the arguments of a function; say it there, as in "
                f"@cached({owner}, condition=...)"
            )
        if parent is not None:
            options = options.over(declared(parent).options)
            key = key if key is not None else key_of(parent)
        options.check_timeouts(owner)
        fields = fields_of(cls) or ()
        if key is not None:
            KeyTemplate.parse(key).check(fields, owner=owner, kind="field")
        for tag in options.tags or ():
            KeyTemplate.parse(tag, label="tag").check(fields, owner=owner, kind="field")
        if name is not None and (not isinstance(name, str) or not name):
            raise DeclarationError(f"{owner}: name={name!r} is not a name")
        declare(cls, Declaration(name or owner, cls, options, label=f"`{owner}`", none_allowed=True), key)
        if cls.__pydantic_complete__ and not cls.__pydantic_generic_metadata__["parameters"]:
            Schema.of(cls, codec=options.codec or JSON)
        else:
            share_names(cls)  # while there are no instances of it


def _reserved(cls: type[Any]) -> DeclarationError:
    return DeclarationError(f"{cls.__name__}: `entries` is the manager of its cached values; name the field otherwise")


def _found(wanted: Iterable[Any], values: Iterable[Any]) -> dict[Any, Any]:
    return {key: value for key, value in zip(wanted, values, strict=True) if value is not MISSING and value is not None}
