"""From settings to an engine: which tiers there are, and with what they are made."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .codecs import make_pipeline
from .engine import Engine
from .entry import Clock
from .errors import SettingsError
from .link import DiskLink, TrackingLink
from .settings import CacheSettings
from .tiers import Tier
from .tiers.given import given
from .tiers.memory import MemoryTier
from .tiers.redis import RedisTier
from .tiers.redis_watched import WatchedTier

if TYPE_CHECKING:
    from .tiers.disk import DiskTier


def build_engine(settings: CacheSettings, clock: Clock, resources: ExitStack, tiers: Iterable[Tier] = ()) -> Engine:
    """Return the engine that the settings describe; what must be closed with the cache goes to `resources`.

    Args:
        settings: what they say.
        clock: the clock of everything.
        resources: closed with the cache.
        tiers: others than those of the settings, which stand behind them, nearest first.

    Raises:
        SettingsError: something the settings need is missing on this machine, or a given tier cannot be used. What was
            made until then is closed.
    """
    with ExitStack() as made:
        engine = _build(settings, clock, made, tiers)
        resources.push(made.pop_all())
    return engine


def _build(settings: CacheSettings, clock: Clock, resources: ExitStack, tiers: Iterable[Tier]) -> Engine:
    others = given(tiers)
    if others and settings.namespace is None:
        raise SettingsError(
            f"namespace is not set, and the {others[0].name} tier is shared: without one, two applications could read "
            f"each other's entries; pass CacheSettings(namespace='my-app')",
            variable="namespace",
        )
    memory = None
    if settings.memory_on:
        memory = MemoryTier(
            max_items=settings.memory.max_items,
            max_bytes=settings.memory.max_bytes,
            policy=settings.memory.policy,
            clock=clock,
        )
    shared: list[Tier] = []
    if settings.redis_on:
        shared.append(_redis(settings, clock, resources))
        resources.callback(shared[-1].close)
    disk: DiskTier | None = None
    if settings.disk_on:
        from .tiers.disk import DiskTier

        disk = DiskTier(
            settings.disk.path or "",
            size_limit=settings.disk.size_limit,
            namespace=settings.namespace or "",
            clock=clock,
        )
        shared.append(disk)
        resources.callback(disk.close)
    for other in others:
        shared.append(other)
        resources.callback(other.close)
    if memory is None and not shared:
        raise SettingsError("every tier is switched off; leave memory.enabled on, or name a redis.url or a disk.path")
    pipeline = make_pipeline(
        namespace=settings.namespace or "",
        serialization=settings.serialization,
        compression=settings.compression,
        compression_level=settings.compression_level,
        compression_min_bytes=settings.compression_min_bytes,
        max_decoded_bytes=settings.max_decoded_bytes,
        signing_keys=[key.get_secret_value() for key in settings.signing_keys],
        compression_dictionaries=settings.compression_dictionaries,
    )
    engine = Engine(
        clock=clock,
        memory=memory,
        shared=shared,
        caps={
            "memory": settings.memory.ttl,
            "redis": settings.redis.ttl,
            "disk": settings.disk.ttl,
            **{other.name: other.ttl for other in others},
        },
        pipeline=pipeline,
        bound=settings.staleness_bound,
        on_outage=settings.on_outage,
        cleanup_interval=settings.memory.cleanup_interval,
        counting=settings.enable_metrics,
        background_threads=settings.background_threads,
    )
    if isinstance(authority := engine.authority, RedisTier):
        authority.generations.changed = _weakly(engine.met_another_authority)
        # Also without process memory: the link is what notices that the server behind the connections was replaced.
        watch = authority.watch if isinstance(authority, WatchedTier) else None
        link = TrackingLink(
            authority.connect,
            prefix=authority.commands.signals,
            parse=authority.commands.parse_signal,
            subscriber=engine,
            bound=settings.staleness_bound,
            monotonic=clock.monotonic,
            masters=None if watch is None else watch.known,
            confirmed=None if watch is None else watch.confirmed_at,
            switch_interval=settings.switch_interval,
        )
        engine.use_link(link)
        authority.listener = link
        if isinstance(authority, WatchedTier):
            authority.emit = engine.listeners.emit
            authority.watch.on_change.append(link.nudge)
    elif disk is not None and engine.authority is disk and memory is not None:
        engine.use_link(
            DiskLink(disk, subscriber=engine, bound=settings.staleness_bound, monotonic=clock.monotonic),
        )
    return engine


def _weakly(changed: Callable[[float], Callable[[], None]]) -> Callable[[float], Callable[[], None]]:
    """Return what calls a method while its object lives; the link's thread holds the tier, but not the engine."""
    method = weakref.WeakMethod(changed)

    def call(known_for: float) -> Callable[[], None]:
        bound = method()
        return (lambda: None) if bound is None else bound(known_for)

    return call


def _redis(settings: CacheSettings, clock: Clock, resources: ExitStack) -> Tier:
    from .tiers.redis_connections import RedisConnections, preload

    options, namespace, bound = settings.redis, settings.namespace or "", settings.staleness_bound
    preload()
    if options.mode == "sentinel":
        from .tiers.redis_sentinel import SentinelConnections, SentinelTier

        return SentinelTier(SentinelConnections(options, bound=bound, monotonic=clock.monotonic), namespace)
    if options.mode == "cluster":
        from .tiers.redis_cluster import ClusterConnections, RedisClusterTier

        return RedisClusterTier(ClusterConnections(options, bound=bound, monotonic=clock.monotonic), namespace)
    if options.mode == "embedded":
        from .topology.embedded import EmbeddedServer
        from .topology.places import of_project

        server = EmbeddedServer(options.state_directory or of_project()).start()
        resources.callback(server.stop)
        told = options.model_dump(exclude_unset=True, exclude={"state_directory"})
        options = type(options)(**{**told, "mode": "standalone", "url": server.url})
    return RedisTier(RedisConnections(options), namespace)
