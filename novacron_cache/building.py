"""From settings to an engine: which tiers there are, and with what they are made."""

from __future__ import annotations

from contextlib import ExitStack

from .codecs import make_pipeline
from .engine import Engine
from .entry import Clock
from .errors import SettingsError
from .link import TrackingLink
from .settings import CacheSettings
from .tiers import Tier
from .tiers.memory import MemoryTier
from .tiers.redis import RedisTier


def build_engine(settings: CacheSettings, clock: Clock, resources: ExitStack) -> Engine:
    """Return the engine that the settings describe; what must be closed with the cache goes to `resources`.

    Raises:
        SettingsError: something the settings need is missing on this machine.
    """
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
        shared.append(_redis(settings, resources))
    if settings.disk_on:
        from .tiers.disk import DiskTier

        shared.append(
            DiskTier(
                settings.disk.path or "",
                size_limit=settings.disk.size_limit,
                namespace=settings.namespace or "",
                clock=clock,
            )
        )
    for tier in shared:
        resources.callback(tier.close)
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
    )
    engine = Engine(
        clock=clock,
        memory=memory,
        shared=shared,
        caps={"memory": settings.memory.ttl, "redis": settings.redis.ttl, "disk": settings.disk.ttl},
        pipeline=pipeline,
        bound=settings.staleness_bound,
        on_outage=settings.on_outage,
        cleanup_interval=settings.memory.cleanup_interval,
        counting=settings.enable_metrics,
    )
    if isinstance(authority := engine.authority, RedisTier) and memory is not None:
        link = TrackingLink(
            authority.connect,
            prefix=authority.commands.signals,
            parse=authority.commands.parse_signal,
            subscriber=engine,
            bound=settings.staleness_bound,
            monotonic=clock.monotonic,
        )
        engine.use_link(link)
    return engine


def _redis(settings: CacheSettings, resources: ExitStack) -> Tier:
    from .tiers.redis_connections import RedisConnections, preload

    options = settings.redis
    if options.mode in ("sentinel", "cluster"):
        raise SettingsError(
            f"redis.mode={options.mode!r} is not available in this release; use 'standalone' with a url, or 'embedded'",
            variable="redis.mode",
        )
    if options.mode == "embedded":
        from .topology.embedded import EmbeddedServer

        server = EmbeddedServer()
        server.start()
        resources.callback(server.stop)
        options = type(options)(**{**options.model_dump(exclude_unset=True), "mode": "standalone", "url": server.url})
    preload()
    return RedisTier(RedisConnections(options), settings.namespace or "")
