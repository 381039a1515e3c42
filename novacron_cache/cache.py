"""`Cache`: one object for every operation, each in a blocking form and an `a`-prefixed asynchronous one.

The methods here only name things: they turn arguments into requests and hand a flow to a driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import flows
from .building import build_engine
from .bypassing import BypassBlock
from .callables import is_same_function
from .codecs import codec_named
from .deferring import DeferredInvalidation
from .drivers import adrive, drive
from .durations import Duration, seconds
from .entry import Clock, Entry, SystemClock
from .errors import DeclarationError, SettingsError
from .events import NameCounters
from .finalizing import when_gone
from .gathering import Gathering
from .holding import InvalidatingBlock
from .keeping import LeaseKeeping
from .observe.observer import Observer
from .operations.arguments import CacheItem, all_named, checked_keys, checked_tags
from .operations.reading import Reading
from .operations.seeing import Seeing
from .operations.training import Training
from .operations.writing import Writing
from .recovery import Recovery
from .settings import CacheSettings
from .tiers.redis import RedisTier

if TYPE_CHECKING:
    from . import decorating
    from .auditing import Audit
    from .batching import BatchController
    from .dashboard import Dashboard
    from .decorators import Controller
    from .events import StaleFound
    from .tiers import Tier
    from .tiers.memory import MemoryTier


__all__ = ["Cache", "CacheItem"]

_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


class Cache(Reading, Writing, Seeing, Training):
    """A cache of up to three tiers, and others that it is given.

    Args:
        settings: what it is made of; None is process memory alone.
        tiers: tiers of your own, nearest first; they stand behind those of the settings, and the first is the authority
            where these name neither a server nor a directory. They belong to the cache, which closes them.
        clock: for tests.

    Raises:
        SettingsError: the settings need something that this machine does not have, or what is in `tiers` is no tier.

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

    def __init__(
        self, settings: CacheSettings | None = None, *, tiers: Iterable[Tier] = (), clock: Clock | None = None
    ) -> None:
        if settings is not None and not isinstance(settings, CacheSettings):
            raise SettingsError(
                f"Cache() takes CacheSettings, not {type(settings).__name__}; for a URL or a directory use "
                f"Cache.connect('redis://...', namespace='...', disk='...')"
            )
        settings = settings if settings is not None else CacheSettings()
        self._resources = ExitStack()
        engine = build_engine(settings, clock if clock is not None else SystemClock(), self._resources, tiers)
        super().__init__(settings, engine, codec_named(settings.serialization))
        self._controllers: weakref.WeakSet[Controller] = weakref.WeakSet()
        self._unnamed: dict[str, weakref.ref[Controller | BatchController]] = {}
        self.engine.bypass.changed = self._show_fronts
        self.engine.on_pending = self._delivery.ensure
        self.engine.on_renewal = self._hurry
        self._recovery = Recovery(self.engine)
        self.gathering = Gathering(self.engine)
        self.engine.leases.on_held = partial(self.keeper.add, LeaseKeeping(self.engine))
        try:
            self.observer = Observer(self)
        except SettingsError:
            self._resources.close()
            raise
        self._tasks = self.engine.background.tasks
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
        begun = [*list(self._invalidations), *list(self.engine.asking.values())]
        return [task for task in begun if task.get_loop() is loop]

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
        self._recovery.stop()
        self.engine.background.stop()

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

    def check_name(self, controller: Controller | BatchController) -> None:
        """Refuse a second function under a default name that cannot tell it from the first.

        Raises:
            DeclarationError: a lambda, or a function made in another one, shares its qualified name with a function
                that would load other values; so do a partial with what it calls, and the objects of one class.
        """
        if not controller.unnamed:
            return
        name = controller.declaration.name
        known = self._unnamed.get(name)
        other = None if known is None else known()
        if other is not None and other is not controller and not is_same_function(controller.function, other.function):
            raise DeclarationError(
                f"two different functions are called {controller.label}, so their entries would be mixed up; "
                f"give each a name of its own: @cached(..., name='...')"
            )
        self._unnamed[name] = weakref.ref(controller)

    def _show_fronts(self) -> None:
        """Have functions look into their fronts, or past them; called when the first block opens, and the last ends."""
        for controller in list(self._controllers):
            controller.show_front(self)

    def _adopt(self, controller: Controller) -> None:
        self._controllers.add(controller)
        if (memory := self.engine.memory) is not None:
            memory.register_front(controller.front)
            # A function that was decorated inside another one may go before the cache does.
            hits, counters = controller.compiled.hits, self.engine.counters(controller.declaration.name)
            controller.front_finalizer = when_gone(
                controller, _let_go, memory, controller.front, hits, hits(), counters
            )

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

    # -- blocks -------------------------------------------------------------------------------------------------------

    def bypassed(self, *, refresh: bool = False) -> BypassBlock:
        """Return a block, for `with` and `async with`, whose calls go straight to their loaders.

        Inside it, cached functions, `get_or_load` and `load` call the loader, and nothing is read from any tier or
        stored in one; what only looks (`get`, `peek`, `exists`...) finds nothing. What says by itself that something is
        to be stored or invalidated (`set`, `touch`, `refresh`, `warm`, `invalidate`...) is done as ever. The block
        concerns this thread or task and the tasks begun inside. Its calls count as misses for the reason `bypassed`.

        Args:
            refresh: whether what the loaders return is stored, for all to have.
        """
        return BypassBlock(self.engine.bypass, refresh=refresh)

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
        named = all_named(tuple(checked_keys(keys)), tuple(checked_tags(tags)), model, pattern, values)
        return InvalidatingBlock(self, named, seconds(hold), wait=wait)

    # -- seeing -------------------------------------------------------------------------------------------------------

    def serve_dashboard(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        token: str | None = None,
        allow: Iterable[str] | None = None,
        hosts: Iterable[str] | None = None,
        show_keys: bool = False,
    ) -> Dashboard:
        """Serve a live page of this process, until the cache is closed; it needs the extra `dashboard`.

        Args:
            host: the address to listen on; None is `monitor.host`, this machine alone.
            port: the port; None is `monitor.webui_port`, 0 takes a free one.
            token: what a browser signs in with; needed for any address but this machine's own. None is `monitor.token`.
            allow: addresses or networks that are answered; None is `monitor.allow`.
            hosts: names under which it is asked, beside this machine's; None is `monitor.hosts`.
            show_keys: whether keys and tags are shown as they are; values never are.

        Returns:
            The dashboard: its `url`, and `close()`.

        Raises:
            CacheClosedError: the cache is closed.
            SettingsError: NiceGUI is missing, the port is taken, or a token is.
        """
        from .dashboard import serve

        self.check_open()
        return self.observer.adopt(
            serve(self, host=host, port=port, token=token, allow=allow, hosts=hosts, show_keys=show_keys)
        )

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


def _after_fork() -> None:
    for cache in list(_caches):
        cache._lock = threading.RLock()
        cache.engine.after_fork()
        cache._delivery.reset()
        cache._recovery.reset()
        cache.gathering.after_fork()
        cache.keeper.reset()
        cache.observer.after_fork()
        cache._tasks = cache.engine.background.tasks
        cache._invalidations = set()
        if cache.engine.pending and not cache._closed:
            cache._delivery.ensure()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
