"""Switching OpenTelemetry on for a cache, where it is installed; `spans` does the rest and is imported only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import SettingsError
from .conventions import place_of
from .logs import Redactor

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from ..cache import Cache
    from ..engine import Engine
    from ..settings import CacheSettings

__all__ = ["current_trace", "start", "trace"]


def trace(cache: Cache, *, tracer_provider: TracerProvider | None = None, show_keys: bool = False) -> None:
    """Trace a cache from now on, as `enable_tracing` does; a second call replaces what the first one said.

    Args:
        cache: the cache.
        tracer_provider: who gets the spans; None is the provider of the process, whenever that is set.
        show_keys: whether spans name keys as they are, and loaders' errors with their text.

    Raises:
        SettingsError: OpenTelemetry's API is not installed.
    """
    start(cache.engine, cache.settings, tracer_provider=tracer_provider, show_keys=show_keys)
    if cache.observer.exemplar is None:
        cache.observer.exemplar = current_trace


def start(
    engine: Engine, settings: CacheSettings, *, tracer_provider: TracerProvider | None = None, show_keys: bool = False
) -> None:
    """Do what `trace` does, but for the exemplars."""
    try:
        from opentelemetry.trace import get_tracer
    except ImportError as error:
        raise SettingsError(
            "enable_tracing: OpenTelemetry is not installed; install it with: pip install 'novacron-cache[otel]'",
            variable="enable_tracing",
        ) from error
    from .spans import LISTENERS, Tracing

    if engine.traced is None:
        for kind, listener in LISTENERS.items():
            engine.listeners.on(kind, listener)
    engine.traced = Tracing(
        get_tracer("novacron_cache", tracer_provider=tracer_provider),
        {tier.name: place_of(tier, settings) for tier in engine.shared},
        namespace=settings.namespace or "",
        redactor=Redactor(show_keys=show_keys),
        texts=show_keys,
    )


def current_trace() -> Mapping[str, str] | None:
    """Return the ids of the current span for an exemplar, or None where none is recorded."""
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
