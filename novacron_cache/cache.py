"""`Cache`: one object for every operation, each in a blocking form and an `a`-prefixed asynchronous one.

The methods here only name things: they turn arguments into requests and hand a flow to a driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar
from urllib.parse import quote

from . import flows
from .building import build_engine
from .codecs import codec_named
from .declaring import Declaration, KeyMaker, declaration_of, key_of, name_of
from .deferring import DeferredInvalidation, current_deferral
from .delivery import Delivery
from .drivers import adrive, drive
from .durations import Duration, seconds
from .effects import Load, Purge
from .entry import Clock, Entry, SystemClock
from .errors import CacheClosedError, DeclarationError, SettingsError, TemplateError, nearest
from .events import Event, NameCounters, Stats, summarise
from .explaining import Explanation, explain
from .flows.invalidating import Invalidation
from .holding import InvalidatingBlock
from .keeping import Keeper, LeaseKeeping
from .keys import KeyTemplate, stored_text_key
from .observe.observer import Observer
from .options import Options
from .receipts import Receipt
from .requests import ALL_TIERS, Plan, Request
from .schema import Schema, plain_schema
from .settings import CacheSettings
from .tiers.redis import RedisTier

if TYPE_CHECKING:
    from . import decorating
    from .auditing import Audit
    from .decorators import Controller
    from .events import StaleFound
    from .observe import Health, MetricsServer
    from .tiers.memory import MemoryTier

T = TypeVar("T")
Durability: TypeAlias = Literal["acknowledged", "replicated"]
Consistency: TypeAlias = Literal["bounded", "strong"]

_PLAIN = Declaration("", Any, Options(), label="the cache", none_allowed=True)

_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class CacheItem:
    """A value with its own ttl and tags, for `set_many`.

    Attributes:
        value: the value.
        ttl: its lifetime; None takes the one given to `set_many`.
        tags: its tags, beside those given to `set_many`.
    """

    value: Any
    ttl: Duration | None = None
    tags: Sequence[str] = ()


class Cache:
    """A cache of up to three tiers.

    Args:
        settings: what it is made of; None is process memory alone.
        clock: for tests.

    Raises:
        SettingsError: the settings need something that this machine does not have.

    Example:
        >>> cache = Cache()
        >>> cache.set("greeting", "hello", ttl="1m", tags=["words"])
        >>> cache.get("greeting")
        'hello'
        >>> cache.invalidate_tags("words").done
        True
        >>> cache.get("greeting") is None
        True
        >>> cache.close()
    """

    def __init__(self, settings: CacheSettings | None = None, *, clock: Clock | None = None) -> None:
        if settings is not None and not isinstance(settings, CacheSettings):
            raise SettingsError(
                f"Cache() takes CacheSettings, not {type(settings).__name__}; for a URL or a directory use "
                f"Cache.connect('redis://...', namespace='...', disk='...')"
            )
        self.settings = settings if settings is not None else CacheSettings()
        self._resources = ExitStack()
        self.engine = build_engine(self.settings, clock if clock is not None else SystemClock(), self._resources)
        self._codec = codec_named(self.settings.serialization)
        self._plans: weakref.WeakKeyDictionary[Declaration, Plan] = weakref.WeakKeyDictionary()
        self._keys: dict[Any, KeyMaker] = {}
        self._types: dict[str, list[Declaration]] = {}
        self._spaces: dict[str, Any] = {}
        self._controllers: weakref.WeakSet[Controller] = weakref.WeakSet()
        self._unnamed: dict[str, weakref.ref[Controller]] = {}
        self._lock = threading.RLock()
        self._delivery = Delivery(self._deliver, lambda: bool(self.engine.pending))
        self.engine.on_pending = self._delivery.ensure
        self.engine.on_renewal = self._hurry
        self.keeper = Keeper()
        self.engine.leases.on_held = partial(self.keeper.add, LeaseKeeping(self.engine))
        try:
            self.observer = Observer(self)
        except SettingsError:
            self._resources.close()
            raise
        self._background: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._invalidations: set[asyncio.Task[Any]] = set()
        self._closed = False
        _caches.add(self)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Cache:
        """Return a cache made of the environment's variables; see the configuration page for their names.

        Raises:
            SettingsError: a variable is wrong; the message names it.
        """
        return cls(CacheSettings.from_env(environ))

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        namespace: str | None = None,
        disk: str | os.PathLike[str] | None = None,
        **more: Any,
    ) -> Cache:
        """Return a cache over a server, a directory, or both; `more` is any other setting."""
        return cls(CacheSettings.connect(url, namespace=namespace, disk=disk, **more))

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    @property
    def embedded_url(self) -> str | None:
        """The URL of the server that `redis.mode="embedded"` found or started, for other clients; else None."""
        if not self.settings.redis_on or self.settings.redis.mode != "embedded":
            return None
        server = next(tier.servers()[0] for tier in self.engine.shared if isinstance(tier, RedisTier))
        return "unix://" + quote(server.removeprefix("unix://"))

    def check_open(self) -> None:
        """Raise when the cache is closed.

        Raises:
            CacheClosedError: it is.
        """
        if self._closed:
            raise CacheClosedError("the cache is closed; make another one, or configure() another default")

    def close(self) -> None:
        """Release connections, files and threads; a second call does nothing. What is pending is tried once more."""
        if self._begin_closing():
            self._join()
            if self.engine.pending:
                drive(self.engine, flows.deliver(self.engine))
            self._resources.close()

    async def aclose(self) -> None:
        """Do what `close` does without blocking the running loop."""
        if not self._begin_closing():
            return
        loop = asyncio.get_running_loop()
        ours = [task for task in self._tasks if task.get_loop() is loop]
        for task in list(self._tasks):
            if task in ours:
                task.cancel()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed, and the task with it
                    task.get_loop().call_soon_threadsafe(task.cancel)
        try:
            await asyncio.gather(*ours, *self._begun(loop), return_exceptions=True)
            await loop.run_in_executor(None, self._join)
            if self.engine.pending:
                await adrive(self.engine, flows.deliver(self.engine))
            for tier in self.engine.shared:
                await tier.aclose()
        finally:
            await loop.run_in_executor(None, self._resources.close)

    def _begun(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
        return [task for task in list(self._invalidations) if task.get_loop() is loop]

    def _begin_closing(self) -> bool:
        """Mark the cache as closed and let go of its functions, waiting for nothing; return whether this call did."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
        for controller in list(self._controllers):
            controller.unbind()
        return True

    def _join(self) -> None:
        """End the threads and wait for them."""
        self.observer.stop()
        if self.engine.link is not None:
            self.engine.link.stop()
        self.keeper.stop()
        self._delivery.stop()
        if self._background is not None:
            self._background.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Cache:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        tiers = [*(["memory"] if self.engine.memory is not None else []), *(tier.name for tier in self.engine.shared)]
        return f"<Cache {self.settings.namespace or '(no namespace)'}: {', '.join(tiers)}{' closed' * self._closed}>"

    # -- declarations ---------------------------------------------------------------------------------------------

    def plan(self, declaration: Declaration) -> Plan:
        """Return how this cache keeps the entries of a declaration, its settings having the last word."""
        plan = self._plans.get(declaration)
        if plan is None:
            override = self.settings.options_for(declaration.name)
            said = Options(
                ttl=override.ttl, grace=override.grace, refresh_ahead=override.refresh_ahead, jitter=override.jitter,
                tiers=frozenset(override.tiers) if override.tiers else None, negative_ttl=override.negative_ttl,
            )  # fmt: skip
            options = said.over(declaration.options)
            type_ = declaration.type
            schema = plain_schema() if type_ is Any else Schema.of(type_, codec=self._codec)
            plan = Plan(
                declaration.name,
                schema,
                ttl=options.ttl if options.ttl is not None else self.settings.default_ttl,
                negative_ttl=options.negative_ttl,
                grace=options.grace or 0.0,
                refresh_ahead=options.refresh_ahead or None,
                jitter=options.jitter or 0.0,
                tiers=options.tiers or ALL_TIERS,
                none_allowed=declaration.none_allowed,
                strong=options.consistency == "strong",
                label=declaration.label,
                space=self._space(declaration, schema),
            )
            self._plans[declaration] = plan
        return plan

    def _space(self, declaration: Declaration, schema: Schema[Any]) -> str:
        """Return what stands for a name in stored keys, so that two types of one name never read each other's values.

        Payloads tell by their fingerprint; live values in process memory carry none.
        """
        with self._lock:
            space, number = declaration.name, 1
            while self._spaces.setdefault(space, declaration.type) != declaration.type:
                space = f"{declaration.name}#{schema.fingerprint.hex()}" + f"#{number}" * (number > 1)
                number += 1
            return space

    def tag_override(self, declaration: Declaration) -> tuple[str, ...] | None:
        """Return the tag templates that the settings give a name, or None where they say nothing."""
        return self.settings.options_for(declaration.name).tags

    def keys_of_model(self, model: Any) -> KeyMaker:
        """Return what makes the keys of a cache model.

        Raises:
            DeclarationError: the model has no key.
        """
        keys = self._keys.get(model)
        if keys is None:
            declaration, text = declaration_of(model), key_of(model)
            if declaration is None or text is None:
                name = getattr(model, "__name__", repr(model))
                raise DeclarationError(f"{name} has no key; declare it as `class {name}(CacheModel, key='...:<id>')`")
            override = self.tag_override(declaration)
            tags = declaration.options.tags or () if override is None else override
            template = KeyTemplate.parse(text)
            fields = tuple(model.model_fields)
            keys = KeyMaker(template, tags, names=template.roots, result_fields=fields, owner=declaration.name)
            self._keys[model] = keys
        return keys

    def check_name(self, controller: Controller) -> None:
        """Refuse a second function under a default name that cannot tell it from the first.

        Raises:
            DeclarationError: a lambda, or a function made in another one, shares its qualified name with a function
                that would load other values.
        """
        if not controller.unnamed:
            return
        name = controller.declaration.name
        known = self._unnamed.get(name)
        other = None if known is None else known()
        if other is not None and other is not controller and not controller.same_function(other):
            raise DeclarationError(
                f"two different functions are called {controller.label}, so their entries would be mixed up; "
                f"give each a name of its own: @cached(..., name='...')"
            )
        self._unnamed[name] = weakref.ref(controller)

    def _adopt(self, controller: Controller) -> None:
        self._controllers.add(controller)
        if (memory := self.engine.memory) is not None:
            memory.register_front(controller.front)
            # A function that was decorated inside another one may go before the cache does.
            hits, counters = controller.compiled.hits, self.engine.counters(controller.declaration.name)
            controller.front_finalizer = weakref.finalize(
                controller, _let_go, memory, controller.front, hits, hits(), counters
            )
            controller.front_finalizer.atexit = False  # type: ignore[misc]  # a property with a setter

    def _forget(self, controller: Controller) -> None:
        hits = controller.front_hits()
        if hits:
            self.engine.counters(controller.declaration.name).hits["memory"] += hits
        self._controllers.discard(controller)
        if controller.front_finalizer is not None:
            controller.front_finalizer.detach()
            controller.front_finalizer = None
        if self.engine.memory is not None:
            self.engine.memory.unregister_front(controller.front)

    # -- requests for plain keys ----------------------------------------------------------------------------------

    def _request(
        self,
        key: str,
        model: Any = None,
        *,
        value: Any = None,
        tags: Iterable[str] = (),
        ttl: Duration | None = None,
        load: Load | None = None,
        strong: bool = False,
    ) -> Request:
        request = self._plain_request(key, model, value=value, tags=tags, ttl=ttl, load=load)
        request.strong = request.strong or strong
        return request

    def _plain_request(
        self, key: str, model: Any, *, value: Any, tags: Iterable[str], ttl: Duration | None, load: Load | None
    ) -> Request:
        if not isinstance(key, str):
            raise TypeError(f"a key is text, not {type(key).__name__}")
        self.check_open()
        life = None if ttl is None else seconds(ttl)
        named = tuple(_tags(tags))
        type_ = model if model is not None else type(value)
        declaration = declaration_of(type_)
        if declaration is None:
            declaration = _PLAIN if model is None else self._adapted(model)
            plan = self.plan(declaration)
            return Request(plan, stored_text_key(plan.space, key), key, named, load=load, ttl=life)
        plan = self.plan(declaration)
        if key_of(type_) is not None:
            # A key that the model's own template gives is the same entry as the model's.
            keys = self.keys_of_model(type_)
            values = _typed(type_, keys.template.match(key))
            if values is not None and keys.template.build(values) == key:
                request = keys.request(plan, values, load=load, ttl=life)
                request.tags = tuple(dict.fromkeys((*request.tags, *named)))
                return request
        return Request(plan, stored_text_key(plan.space, key), key, named, load=load, ttl=life)

    def _adapted(self, model: Any) -> Declaration:
        """Return the declaration of a type that is no cache model; one for each type as it is written."""
        text = repr(model)
        known = self._types.setdefault(text, [])
        found = next((one for one in known if one.type == model), None)
        if found is None:
            label = getattr(model, "__name__", None) or text
            found = Declaration(f"={text}", model, Options(), label=f"`{label}`", none_allowed=True)
            known.append(found)
        return found

    # -- reading --------------------------------------------------------------------------------------------------

    def _run(self, flow: Generator[Any, Any, T]) -> T:
        return drive(self.engine, flow)

    def get(self, key: str, default: Any = None, *, model: Any = None, consistency: Consistency = "bounded") -> Any:
        """Return the value stored under a key, or `default`; nothing is loaded.

        Args:
            key: the logical key.
            default: what to return when nothing is cached; a cached None is returned as None.
            model: the type it was stored as; needed for anything but plain values.
            consistency: `"strong"` asks the shared tier, whatever process memory has: what was invalidated anywhere
                before this call, and acknowledged, is not returned.
        """
        request = self._request(key, model, strong=_strong(consistency))
        (entry,) = self._run(flows.peek_many(self.engine, [request], counted=True))
        return default if entry is None else self.engine.hand_out(entry, request.plan)

    async def aget(
        self, key: str, default: Any = None, *, model: Any = None, consistency: Consistency = "bounded"
    ) -> Any:
        """Do what `get` does, asynchronously."""
        request = self._request(key, model, strong=_strong(consistency))
        (entry,) = await adrive(self.engine, flows.peek_many(self.engine, [request], counted=True))
        return default if entry is None else self.engine.hand_out(entry, request.plan)

    def get_many(
        self, keys: Iterable[str], *, model: Any = None, consistency: Consistency = "bounded"
    ) -> dict[str, Any]:
        """Return those that are cached, by key, in one trip to each tier."""
        strong = _strong(consistency)
        requests = [self._request(key, model, strong=strong) for key in dict.fromkeys(_keys(keys))]
        return self._found(requests, self._run(flows.peek_many(self.engine, requests, counted=True)))

    async def aget_many(
        self, keys: Iterable[str], *, model: Any = None, consistency: Consistency = "bounded"
    ) -> dict[str, Any]:
        """Do what `get_many` does, asynchronously."""
        strong = _strong(consistency)
        requests = [self._request(key, model, strong=strong) for key in dict.fromkeys(_keys(keys))]
        return self._found(requests, await adrive(self.engine, flows.peek_many(self.engine, requests, counted=True)))

    def _found(self, requests: list[Request], entries: list[Entry | None]) -> dict[str, Any]:
        return {
            request.logical: self.engine.hand_out(entry, request.plan)
            for request, entry in zip(requests, entries, strict=True)
            if entry is not None
        }

    def exists(self, key: str, *, model: Any = None, consistency: Consistency = "bounded") -> bool:
        """Return whether a value is cached under a key."""
        request = self._request(key, model, strong=_strong(consistency))
        return self._run(flows.peek_many(self.engine, [request]))[0] is not None

    async def aexists(self, key: str, *, model: Any = None, consistency: Consistency = "bounded") -> bool:
        """Do what `exists` does, asynchronously."""
        request = self._request(key, model, strong=_strong(consistency))
        return (await adrive(self.engine, flows.peek_many(self.engine, [request])))[0] is not None

    def ttl(self, key: str, *, model: Any = None) -> float | None:
        """Return the seconds a cached value has left, or None where nothing is cached."""
        return self._left(self._run(flows.peek_many(self.engine, [self._request(key, model)]))[0])

    async def attl(self, key: str, *, model: Any = None) -> float | None:
        """Do what `ttl` does, asynchronously."""
        return self._left((await adrive(self.engine, flows.peek_many(self.engine, [self._request(key, model)])))[0])

    def _left(self, entry: Entry | None) -> float | None:
        return None if entry is None else max(0.0, entry.expires - self.engine.clock.monotonic())

    def get_or_load(
        self,
        key: str,
        loader: Callable[[], Any],
        *,
        model: Any = None,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        consistency: Consistency = "bounded",
    ) -> Any:
        """Return the value under a key; on a miss call the loader, store what it returns and return it.

        Args:
            key: the logical key.
            loader: called without arguments, once however many callers wait.
            model: the type of the value; needed for anything but plain values.
            ttl: its lifetime; None takes the model's or the default.
            tags: its tags.
            consistency: as for `get`.

        Raises:
            CachedValueError: the loader returned another type, or something that cannot be stored.
            Exception: what the loader raised, for every caller that waited for it.
        """
        request = self._request(key, model, tags=tags, ttl=ttl, load=Load(loader), strong=_strong(consistency))
        entry = self._run(flows.get_or_load(self.engine, request))
        self.refresh_early(request, entry, asynchronous=False)
        return self.engine.hand_out(entry, request.plan)

    async def aget_or_load(
        self,
        key: str,
        loader: Callable[[], Any],
        *,
        model: Any = None,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        consistency: Consistency = "bounded",
    ) -> Any:
        """Do what `get_or_load` does, asynchronously; the loader may return an awaitable."""
        request = self._request(key, model, tags=tags, ttl=ttl, load=Load(loader), strong=_strong(consistency))
        entry = await adrive(self.engine, flows.get_or_load(self.engine, request))
        self.refresh_early(request, entry, asynchronous=True)
        return self.engine.hand_out(entry, request.plan)

    def warm(self, loaders: Mapping[str, Callable[[], Any]], *, model: Any = None, tags: Iterable[str] = ()) -> int:
        """Load what is not cached yet among several keys; return how many were loaded. The first error is raised."""
        named = tuple(_tags(tags))
        requests = [self._request(k, model, tags=named, load=Load(loader)) for k, loader in loaders.items()]
        entries = self._run(flows.peek_many(self.engine, requests))
        absent = [request for request, entry in zip(requests, entries, strict=True) if entry is None]
        self._run(flows.get_many(self.engine, absent))
        return len(absent)

    async def awarm(
        self, loaders: Mapping[str, Callable[[], Any]], *, model: Any = None, tags: Iterable[str] = ()
    ) -> int:
        """Do what `warm` does, asynchronously, several loaders at once."""
        named = tuple(_tags(tags))
        requests = [self._request(k, model, tags=named, load=Load(loader)) for k, loader in loaders.items()]
        entries = await adrive(self.engine, flows.peek_many(self.engine, requests))
        absent = [request for request, entry in zip(requests, entries, strict=True) if entry is None]
        await adrive(self.engine, flows.get_many(self.engine, absent))
        return len(absent)

    # -- writing --------------------------------------------------------------------------------------------------

    def set(
        self, key: str, value: Any, *, ttl: Duration | None = None, tags: Iterable[str] = (), model: Any = None
    ) -> None:
        """Store a value under a key, overruling loads that are still running.

        Args:
            key: the logical key.
            value: a plain value (None, numbers, text, bytes, dates, UUIDs and containers of those) or a cache model.
            ttl: its lifetime; None takes the model's or the default; zero stores nothing and invalidates the key.
            tags: its tags.
            model: its type, where it is neither plain nor a cache model.

        Raises:
            CachedValueError: the value cannot be stored; what was cached before stays.
        """
        self._set([(key, CacheItem(value, ttl, tuple(_tags(tags))))], model)

    async def aset(
        self, key: str, value: Any, *, ttl: Duration | None = None, tags: Iterable[str] = (), model: Any = None
    ) -> None:
        """Do what `set` does, asynchronously."""
        await self._aset([(key, CacheItem(value, ttl, tuple(_tags(tags))))], model)

    def set_many(
        self,
        items: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        model: Any = None,
    ) -> None:
        """Store several values together; each may be a `CacheItem` with its own ttl and tags.

        Raises:
            CachedValueError: one of the values cannot be stored; then none is.
        """
        self._set(_items(items, ttl, tags), model)

    async def aset_many(
        self,
        items: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        model: Any = None,
    ) -> None:
        """Do what `set_many` does, asynchronously."""
        await self._aset(_items(items, ttl, tags), model)

    def _split(self, items: Sequence[tuple[str, CacheItem]], model: Any) -> tuple[list[tuple[Request, Any]], list[str]]:
        stored, dropped = [], []
        for key, item in items:
            if item.ttl is not None and seconds(item.ttl) == 0:
                dropped.append(key)
            else:
                request = self._request(key, model, value=item.value, tags=item.tags, ttl=item.ttl)
                stored.append((request, item.value))
        return stored, dropped

    def _set(self, items: Sequence[tuple[str, CacheItem]], model: Any) -> None:
        stored, dropped = self._split(items, model)
        if stored:
            self.run_set(stored)
        if dropped:
            self.run_invalidation(Invalidation.keys(dropped))

    async def _aset(self, items: Sequence[tuple[str, CacheItem]], model: Any) -> None:
        stored, dropped = self._split(items, model)
        if stored:
            await self.arun_set(stored)
        if dropped:
            await self.arun_invalidation(Invalidation.keys(dropped))

    def run_set(self, items: Sequence[tuple[Request, Any]]) -> None:
        """Store prepared requests."""
        try:
            self._run(flows.set_many(self.engine, items))
        finally:
            self.undelivered()

    async def arun_set(self, items: Sequence[tuple[Request, Any]]) -> None:
        """Do what `run_set` does, asynchronously."""
        try:
            await adrive(self.engine, flows.set_many(self.engine, items))
        finally:
            self.undelivered()

    def touch(self, key: str, ttl: Duration | None = None, *, model: Any = None) -> bool:
        """Give a cached value a new lifetime, counted from now; return whether there was one."""
        request = self._request(key, model)
        life = request.plan.ttl if ttl is None else seconds(ttl)
        return self._run(flows.touch(self.engine, [request], life))[0]

    async def atouch(self, key: str, ttl: Duration | None = None, *, model: Any = None) -> bool:
        """Do what `touch` does, asynchronously."""
        request = self._request(key, model)
        life = request.plan.ttl if ttl is None else seconds(ttl)
        return (await adrive(self.engine, flows.touch(self.engine, [request], life)))[0]

    # -- invalidating ---------------------------------------------------------------------------------------------

    def invalidate(
        self, *keys: str, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Invalidate everything under these logical keys, whatever its model.

        Args:
            keys: logical keys; with `values`, templates that they fill.
            wait: raise when the shared tier has not taken it, instead of returning a pending receipt.
            durability: `"replicated"` has the server wait, about 0.1 s at most, until a replica has it too; the receipt
                says in `replicated` whether one has.
            values: values of the templates' placeholders.

        Raises:
            InvalidationPending: only with `wait`: it is not delivered yet, and goes on being retried.
        """
        return self.run_invalidation(Invalidation.keys(_rendered(keys, values)), wait=wait, durability=durability)

    async def ainvalidate(
        self, *keys: str, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Do what `invalidate` does, asynchronously."""
        return await self.arun_invalidation(
            Invalidation.keys(_rendered(keys, values)), wait=wait, durability=durability
        )

    delete = invalidate
    adelete = ainvalidate

    def invalidate_tags(
        self,
        *tags: str,
        match: str = "any",
        wait: bool = False,
        durability: Durability = "acknowledged",
        **values: Any,
    ) -> Receipt:
        """Invalidate every value with any of these tags, or with `match="all"` those that have all of them.

        The arguments and errors are those of `invalidate`.
        """
        return self.run_invalidation(_tagged(tags, values, match), wait=wait, durability=durability)

    async def ainvalidate_tags(
        self,
        *tags: str,
        match: str = "any",
        wait: bool = False,
        durability: Durability = "acknowledged",
        **values: Any,
    ) -> Receipt:
        """Do what `invalidate_tags` does, asynchronously."""
        return await self.arun_invalidation(_tagged(tags, values, match), wait=wait, durability=durability)

    def invalidate_pattern(
        self, pattern: str, *, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Invalidate every value whose logical key matches a glob.

        `vm:*` costs one marker, however many keys there are; any other glob goes to a bounded log. With `values` the
        pattern is a template, and wildcards in the values are literal.

        Raises:
            TemplateError: the pattern is malformed, too long, or has too many wildcards.
            InvalidationPending: only with `wait`.
        """
        return self.run_invalidation(_patterned(pattern, values), wait=wait, durability=durability)

    async def ainvalidate_pattern(
        self, pattern: str, *, wait: bool = False, durability: Durability = "acknowledged", **values: Any
    ) -> Receipt:
        """Do what `invalidate_pattern` does, asynchronously."""
        return await self.arun_invalidation(_patterned(pattern, values), wait=wait, durability=durability)

    def invalidate_model(self, model: Any, *, wait: bool = False, durability: Durability = "acknowledged") -> Receipt:
        """Invalidate every value of a cache model, or of a function's or model's name."""
        return self.run_invalidation(Invalidation.model(name_of(model)), wait=wait, durability=durability)

    async def ainvalidate_model(
        self, model: Any, *, wait: bool = False, durability: Durability = "acknowledged"
    ) -> Receipt:
        """Do what `invalidate_model` does, asynchronously."""
        return await self.arun_invalidation(Invalidation.model(name_of(model)), wait=wait, durability=durability)

    def clear(self, *, purge: bool = False, wait: bool = False, durability: Durability = "acknowledged") -> Receipt:
        """Invalidate the whole namespace; with `purge`, erase the stored payloads too instead of leaving them."""
        receipt = self.run_invalidation(Invalidation.everything(), wait=wait, durability=durability)
        if purge:
            self._run(_purge(self))
        return receipt

    async def aclear(
        self, *, purge: bool = False, wait: bool = False, durability: Durability = "acknowledged"
    ) -> Receipt:
        """Do what `clear` does, asynchronously."""
        receipt = await self.arun_invalidation(Invalidation.everything(), wait=wait, durability=durability)
        if purge:
            await adrive(self.engine, _purge(self))
        return receipt

    def deferred_invalidation(self) -> DeferredInvalidation:
        """Return a context, for `with` and `async with`, that collects invalidations.

        They are applied together when the block ends well and dropped when it raises, as around a transaction.
        """
        return DeferredInvalidation(self)

    def invalidating(
        self,
        *,
        keys: Iterable[str] = (),
        tags: Iterable[str] = (),
        model: Any = None,
        pattern: str | None = None,
        hold: Duration = "10s",
        wait: bool = False,
        **values: Any,
    ) -> InvalidatingBlock:
        """Return a block, for `with` and `async with`, around a write that may die halfway.

        From its beginning to its end, in every process, nothing that depends on what is named is served or stored; at
        the end, whether the block raised or not, it is invalidated. Should this process die in between, the hold runs
        out and what is named is invalid all the same.

        Args:
            keys: logical keys, or with `values` templates of them.
            tags: tags, or templates of them.
            model: a cache model, or a function's or model's name.
            pattern: a pattern of the form `vm:*`.
            hold: how long the hold outlives this process; while the block runs it is prolonged.
            wait: raise when the shared tier does not take the hold (before the block runs), or the invalidation.
            values: values of the templates' placeholders.

        Raises:
            DeclarationError: nothing is named.
            TemplateError: the pattern is a glob that no marker stands for.
            InvalidationPending: only with `wait`.
        """
        named = _named(tuple(_keys(keys)), tuple(_tags(tags)), model, pattern, values)
        return InvalidatingBlock(self, named, seconds(hold), wait=wait)

    def run_invalidation(
        self, invalidation: Invalidation, *, wait: bool = False, durability: str = "acknowledged"
    ) -> Receipt:
        """Carry out an invalidation, or leave it to the enclosing `deferred_invalidation`."""
        self.check_open()
        invalidation = _durable(invalidation, durability)
        deferral = current_deferral(self)
        if deferral is not None and (receipt := deferral.collect(invalidation)) is not None:
            return receipt
        return self.carry_out(invalidation).check(wait=wait)

    async def arun_invalidation(
        self, invalidation: Invalidation, *, wait: bool = False, durability: str = "acknowledged"
    ) -> Receipt:
        """Do what `run_invalidation` does, asynchronously; cancelling the caller does not stop it."""
        self.check_open()
        invalidation = _durable(invalidation, durability)
        deferral = current_deferral(self)
        if deferral is not None and (receipt := deferral.collect(invalidation)) is not None:
            return receipt
        return (await self.acarry_out(invalidation)).check(wait=wait)

    def carry_out(self, invalidation: Invalidation, holder: bytes | None = None) -> Receipt:
        """Carry out an invalidation at once, ending the hold of a holder with it."""
        try:
            done = self._run(flows.invalidate(self.engine, invalidation, holder))
        except BaseException:
            self.undelivered()
            raise
        self.undelivered()
        return Receipt(self.engine, invalidation, done)

    async def acarry_out(
        self, invalidation: Invalidation, holder: bytes | None = None, *, after: threading.Event | None = None
    ) -> Receipt:
        """Do what `carry_out` does, asynchronously, once an event has come; cancelling the caller does not stop it."""
        task = self.begin_invalidation(invalidation, holder, after)
        try:
            done = await asyncio.shield(task)
        except BaseException:
            # The task goes on without its caller; what it cannot deliver is retried all the same.
            task.add_done_callback(lambda _: self.undelivered())
            raise
        self.undelivered()
        return Receipt(self.engine, invalidation, done)

    def begin_invalidation(
        self, invalidation: Invalidation, holder: bytes | None = None, after: threading.Event | None = None
    ) -> asyncio.Task[flows.Done]:
        """Begin what `acarry_out` does, and return the task that goes on whatever becomes of its caller."""
        task = asyncio.get_running_loop().create_task(self._acarry_out(invalidation, holder, after))
        # Kept by itself: whatever is cancelled when the cache is closed, an invalidation that has begun is not.
        self._invalidations.add(task)
        task.add_done_callback(self._invalidations.discard)
        return task

    async def _acarry_out(
        self, invalidation: Invalidation, holder: bytes | None, after: threading.Event | None
    ) -> flows.Done:
        if after is not None and not after.is_set():
            await asyncio.get_running_loop().run_in_executor(None, after.wait)
        return await adrive(self.engine, flows.invalidate(self.engine, invalidation, holder))

    def _hurry(self) -> None:
        self.keeper.hurry()

    def undelivered(self) -> None:
        """Have what is pending retried, if anything is."""
        if self.engine.pending:
            self._delivery.ensure()

    def _deliver(self) -> bool:
        return drive(self.engine, flows.deliver(self.engine))

    # -- background -----------------------------------------------------------------------------------------------

    def refresh_early(self, request: Request, entry: Entry, *, asynchronous: bool) -> None:
        """Start one refresh of an entry that has reached its `refresh_at`, in the background.

        Asynchronous callers start a task. For synchronous ones it is done in a thread, and only where
        `background_threads` allows it.
        """
        if entry.refreshing or request.load is None or self.engine.clock.monotonic() < entry.refresh_at:
            return
        if not asynchronous and not self.settings.background_threads:
            return
        entry.refreshing = True
        flow = flows.refresh_ahead(self.engine, request)
        if asynchronous:
            self._keep(asyncio.get_running_loop().create_task(self._arefresh(flow, entry)))
        else:
            with self._lock:
                if self._background is None:
                    self._background = ThreadPoolExecutor(
                        self.settings.background_threads, thread_name_prefix="novacron_cache refresh"
                    )
            self._background.submit(contextvars.copy_context().run, self._refresh, flow, entry)

    def _refresh(self, flow: Generator[Any, Any, None], entry: Entry) -> None:
        try:
            self._run(flow)
        except Exception:  # noqa: S110 - the flow has told the listeners; the value goes on until its ttl
            pass
        finally:
            entry.refreshing = False

    async def _arefresh(self, flow: Generator[Any, Any, None], entry: Entry) -> None:
        try:
            await adrive(self.engine, flow)
        except Exception:  # noqa: S110 - the flow has told the listeners; the value goes on until its ttl
            pass
        finally:
            entry.refreshing = False

    def _keep(self, task: asyncio.Future[Any]) -> None:
        if isinstance(task, asyncio.Task):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- seeing ---------------------------------------------------------------------------------------------------

    def on(self, event: str | type[Event], listener: Callable[[Any], None]) -> Callable[[], None]:
        """Call a listener for every event of a kind (see `events`); return a function that ends it."""
        return self.engine.listeners.on(event, listener)

    def stats(self, name: str | None = None) -> Stats:
        """Return the counters of this process: of one model's or function's name, or of all together.

        With `enable_metrics` off nothing is counted and every number is zero.
        """
        if not self.settings.enable_metrics:
            return summarise([], 0)
        counters = self.engine.all_counters()
        chosen = list(counters.values()) if name is None else [counters.get(name, NameCounters())]
        front = sum(
            controller.front_hits()
            for controller in list(self._controllers)
            if name is None or controller.declaration.name == name
        )
        return summarise(chosen, front)

    def stats_by_name(self) -> dict[str, Stats]:
        """Return the counters of every name seen so far; plain keys have an empty name."""
        names = {*self.engine.all_counters(), *(one.declaration.name for one in list(self._controllers))}
        return {name: self.stats(name) for name in sorted(names)}

    def front_hits(self) -> dict[str, int]:
        """Return how many calls the fronts of functions have answered, by name; they count where nobody else does."""
        found: dict[str, int] = {}
        for controller in list(self._controllers):
            name = controller.declaration.name
            found[name] = found.get(name, 0) + controller.front_hits()
        return found

    def health(self) -> Health:
        """Return how the cache is, having asked each tier; never raises.

        It is `degraded`, and not `down`, while calls are answered: without its server it serves from memory and loads.
        """
        return self.observer.health()

    async def ahealth(self) -> Health:
        """Do what `health` does, asynchronously."""
        return await self.observer.ahealth()

    def record_operation(self, name: str, seconds: float, success: bool = True, pattern: str = "") -> None:
        """Count an operation of the application's own among the metrics.

        Args:
            name: what it is called; the first 50 names have a label of their own, later ones share `other`.
            seconds: how long it took.
            success: whether it succeeded.
            pattern: what it was about, such as `"vm:"`; bounded as names are.

        Raises:
            DeclarationError: `seconds` is no duration.
        """
        self.observer.record(name, seconds, success, pattern)

    def export_prometheus(self, *, openmetrics: bool = False) -> str:
        """Return the metrics as text for Prometheus, or in the format of OpenMetrics, which has exemplars.

        With `monitor.directory` set they are the sum over the processes that share it. No server is asked: what one
        said last about its memory is repeated.
        """
        return self.observer.exported(openmetrics=openmetrics)

    def metrics_json(self) -> str:
        """Return the metrics as a JSON document: `basic`, `response_times`, `tiers`, `models` and more."""
        return self.observer.as_json()

    def serve_metrics(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        token: str | None = None,
        allow: Iterable[str] | None = None,
        hosts: Iterable[str] | None = None,
    ) -> MetricsServer:
        """Serve `/health`, `/metrics` and `/api/metrics` from a thread, until it is closed or the cache is.

        Args:
            host: the address to listen on; None is `monitor.host`, by default this machine alone.
            port: None is `monitor.metrics_port`, by default 9091; 0 takes a free one.
            token: what the header `Authorization: Bearer <token>` has to hold; None is `monitor.token`. Listening to
                other machines needs one.
            allow: addresses or networks that are answered; None is `monitor.allow`, by default this machine, or
                everybody with the token.
            hosts: names beside this machine's under which it is asked; None is `monitor.hosts`.

        Raises:
            SettingsError: the port is taken, the address is not this machine's, or a token is missing.
        """
        self.check_open()
        return self.observer.serve(host, port, token=token, allow=allow, hosts=hosts)

    def explain(self, key: str, *, model: Any = None) -> Explanation:
        """Return which tier would answer for a key, and why the next call would miss; nothing is changed."""
        return self._run(explain(self.engine, self._request(key, model)))

    async def aexplain(self, key: str, *, model: Any = None) -> Explanation:
        """Do what `explain` does, asynchronously."""
        return await adrive(self.engine, explain(self.engine, self._request(key, model)))

    def audit(
        self,
        sample: float = 0.01,
        *,
        interval: Duration = 1.0,
        settle: Duration | None = None,
        on_stale: Callable[[StaleFound], None] | None = None,
        max_per_second: float = 10.0,
        show_keys: bool = False,
    ) -> Audit:
        """Return an audit: it reads the source again for a share of the hits, and measures how stale they are.

        It is used as a context, with `with` or `async with`, or by calling its `run_once` or `arun_once`. Nothing is
        stored, counted as a hit or refreshed by it, and a hit costs what it did.

        Args:
            sample: the share of the hits in process memory that are audited, above 0 and up to 1.
            interval: seconds between two rounds in the background.
            settle: seconds for which a difference is a change in flight; None is 50 ms.
            on_stale: called with each `StaleFound`, in the thread or task of the audit.
            max_per_second: how often the source is read at most.
            show_keys: whether the examples of reports show keys as they are; they may hold personal data.

        Raises:
            DeclarationError: an argument is wrong, or the cache has no process memory.
        """
        from .auditing import Audit

        return Audit(
            self,
            sample=sample,
            interval=interval,
            settle=settle,
            on_stale=on_stale,
            max_per_second=max_per_second,
            show_keys=show_keys,
        )

    # -- decorators -----------------------------------------------------------------------------------------------

    if TYPE_CHECKING:
        # So that a function keeps its signature here too.
        cached: decorating.CachedOfCache
        cached_many: decorating.CachedManyOfCache
        invalidates: decorating.InvalidatesOfCache
    else:

        @property
        def cached(self) -> Any:
            """The decorator `cached`, for this cache."""
            return self._decorator("cached")

        @property
        def cached_many(self) -> Any:
            """The decorator `cached_many`, for this cache."""
            return self._decorator("cached_many")

        @property
        def invalidates(self) -> Any:
            """The decorator `invalidates`, for this cache."""
            return self._decorator("invalidates")

        def _decorator(self, name: str) -> Any:
            from . import decorating

            return partial(getattr(decorating, name), cache=self)


def _let_go(
    memory: MemoryTier, front: dict[Any, Entry], hits: Callable[[], int], before: int, counters: NameCounters
) -> None:
    """Let go of the front of a function that is gone, and keep what it has counted."""
    if counted := hits() - before:
        counters.hits["memory"] += counted
    memory.unregister_front(front)


def _purge(cache: Cache) -> Generator[Any, Any, None]:
    for tier in cache.engine.shared:
        yield tier, Purge()


def _keys(keys: Iterable[str]) -> Iterable[str]:
    if isinstance(keys, str):
        raise TypeError(f"keys={keys!r}: expected a list of keys")
    return keys


def _tags(tags: Iterable[str]) -> Iterable[str]:
    if isinstance(tags, str):
        raise TypeError(f"tags={tags!r}: expected a list of tags")
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"a tag is text, not {type(tag).__name__}")
    return tags


def _items(items: Mapping[str, Any], ttl: Duration | None, tags: Iterable[str]) -> list[tuple[str, CacheItem]]:
    shared = tuple(_tags(tags))
    result = []
    for key, value in items.items():
        item = value if isinstance(value, CacheItem) else CacheItem(value)
        result.append((key, CacheItem(item.value, ttl if item.ttl is None else item.ttl, (*shared, *_tags(item.tags)))))
    return result


def _rendered(texts: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    templates = _templates(texts, values)
    return [template.build(values) for template in templates] if values else list(texts)


def _templates(texts: Sequence[str], values: Mapping[str, Any]) -> list[KeyTemplate]:
    """Return the templates of what is invalidated, having checked that each value has its place in one of them."""
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"what is invalidated is named by text, not by {type(text).__name__}")
    templates = [KeyTemplate.parse(text) for text in texts] if values else []
    roots = {root for template in templates for root in template.roots}
    for name in values:
        if name not in roots:
            raise TemplateError(
                f"{name}= has no place in {', '.join(map(repr, texts)) or 'nothing'}{nearest(name, roots)}",
                template=texts[0] if texts else "",
            )
    return templates


def _tagged(tags: Sequence[str], values: Mapping[str, Any], match: str) -> Invalidation:
    if match not in ("any", "all"):
        raise DeclarationError(f"match={match!r}: expected 'any' or 'all'")
    return Invalidation.tags(_rendered(tags, values), match_all=match == "all")


def _patterned(pattern: str, values: Mapping[str, Any]) -> Invalidation:
    templates = _templates([pattern], values)
    return Invalidation.pattern(templates[0].glob(values) if templates else pattern)


def _durable(invalidation: Invalidation, durability: str) -> Invalidation:
    if durability not in ("acknowledged", "replicated"):
        raise DeclarationError(f"durability={durability!r}: expected 'acknowledged' or 'replicated'")
    if durability == "replicated":
        invalidation.replicas = 1
    return invalidation


def _named(
    keys: tuple[str, ...], tags: tuple[str, ...], model: Any, pattern: str | None, values: Mapping[str, Any]
) -> Invalidation:
    """Return one invalidation of everything that a call names, each template filled with the values."""
    patterns = () if pattern is None else (pattern,)
    _templates((*keys, *tags, *patterns), values)  # each value has its place in one of them
    fill = partial(_filled, values=values)
    parts = [Invalidation.keys(map(fill, keys)), Invalidation.tags(map(fill, tags))]
    if model is not None:
        parts.append(Invalidation.model(name_of(model)))
    parts += [Invalidation.pattern(KeyTemplate.parse(text).glob(values) if values else text) for text in patterns]
    named = reduce(add, filter(None, parts), Invalidation("several", ()))
    if not named:
        raise DeclarationError("name what is about to change: keys=[...], tags=[...], model= or pattern='vm:*'")
    return named


def _filled(text: str, *, values: Mapping[str, Any]) -> str:
    return KeyTemplate.parse(text).build(values) if values else text


def _strong(consistency: str) -> bool:
    if consistency not in ("bounded", "strong"):
        raise DeclarationError(f"consistency={consistency!r}: expected 'bounded' or 'strong'")
    return consistency == "strong"


def _typed(model: Any, texts: Mapping[str, str] | None) -> dict[str, Any] | None:
    """Return the values of a model's key fields from their text, or None where they do not fit."""
    if texts is None:
        return None
    from pydantic import TypeAdapter, ValidationError

    values: dict[str, Any] = {}
    for name, text in texts.items():
        field = model.model_fields.get(name)
        if field is None:
            return None
        try:
            values[name] = TypeAdapter(field.annotation).validate_strings(text)
        except ValidationError:
            return None
    return values


def _after_fork() -> None:
    for cache in list(_caches):
        cache._lock = threading.RLock()
        cache.engine.after_fork()
        cache._delivery.reset()
        cache.keeper.reset()
        cache.observer.after_fork()
        cache._background = None
        cache._tasks = set()
        cache._invalidations = set()
        if cache.engine.pending and not cache._closed:
            cache._delivery.ensure()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
