"""Seeing what a cache does: figures, health, alerts and logs, at no cost to a hit in process memory.

A `Recorder` counts what is slower than that (`recording`); a `Snapshot` of it (`taking`, `snapshot`) is what all else
starts from: `exposition` for Prometheus, `summary` for people and programs, `alerting` for rules that fire, `directory`
and `fleet` for the sum over many processes. `serving` and `apps` answer requests by `routes`; who may ask is decided in
`access`. `tracing` makes spans. `observer` is what a cache holds of all this; the rest is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alerting import Alert, Alerts
    from .apps import asgi_app, wsgi_app
    from .exposition import CacheCollector, collector
    from .health import Health, TierHealth
    from .logs import JsonFormatter, configure_logging, log_events
    from .rules import RULES, Rule, prometheus_rules
    from .serving import MetricsServer
    from .sinks import CallbackSink, LogSink, WebhookSink, sign
    from .snapshot import Snapshot
    from .tracing import trace

_HOMES = {
    "alerting": ("Alert", "Alerts"),
    "apps": ("asgi_app", "wsgi_app"),
    "exposition": ("CacheCollector", "collector"),
    "health": ("Health", "TierHealth"),
    "logs": ("JsonFormatter", "configure_logging", "log_events"),
    "rules": ("RULES", "Rule", "prometheus_rules"),
    "serving": ("MetricsServer",),
    "sinks": ("CallbackSink", "LogSink", "WebhookSink", "sign"),
    "snapshot": ("Snapshot",),
    "tracing": ("trace",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "RULES",
    "Alert",
    "Alerts",
    "CacheCollector",
    "CallbackSink",
    "Health",
    "JsonFormatter",
    "LogSink",
    "MetricsServer",
    "Rule",
    "Snapshot",
    "TierHealth",
    "WebhookSink",
    "asgi_app",
    "collector",
    "configure_logging",
    "log_events",
    "prometheus_rules",
    "sign",
    "trace",
    "wsgi_app",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
