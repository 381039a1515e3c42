"""What OpenTelemetry's semantic conventions for databases call a tier, its place, an operation of it, and an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from ..effects import Delete, Fetch, Operation, Store, TakeLease, Together

if TYPE_CHECKING:
    from ..settings import CacheSettings
    from ..settings.tree import RedisSettings
    from ..tiers import Tier

Attributes: TypeAlias = dict[str, str | bool | int]
Place: TypeAlias = Callable[[], Attributes]

_SYSTEMS: Final = {"redis": "redis", "disk": "sqlite"}
_PORT: Final = 6379


def name_and_attributes(tier: Tier, operation: Operation, place: Attributes) -> tuple[str, Attributes]:
    """Return the name of an operation's span, and what is known of it before it is carried out.

    Args:
        tier: who is to do it.
        operation: what; of two in one trip, the one that matters.
        place: the attributes of the tier's place.
    """
    first = operation.first if isinstance(operation, Together) else operation
    name = type(first).__name__.lower()
    attributes: Attributes = {
        "db.system.name": _SYSTEMS.get(tier.name, tier.name),
        "db.operation.name": name,
        "cache.tier": tier.name,
        **place,
    }
    if (keys := _keys(first)) is not None:
        attributes["cache.keys"] = keys
        if keys > 1:
            attributes["db.operation.batch.size"] = keys
    if isinstance(operation, Together):
        attributes["cache.lease"] = "take" if isinstance(operation.then, TakeLease) else "return"
    target = f"{place['server.address']}:{place['server.port']}" if "server.port" in place else tier.name
    return f"{name} {target}", attributes


def _keys(operation: Any) -> int | None:
    """Return how many values an operation is about; None where it is about something else."""
    if isinstance(operation, Fetch | Delete):
        return len(operation.keys)
    return len(operation.items) if isinstance(operation, Store) else None


def type_of(error: BaseException) -> str:
    """Return the full name of an error's type."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def name_of(loader: Any) -> tuple[str, str]:
    """Return a loader's qualified name, without its module and with it."""
    function = loader.func if isinstance(loader, partial) else loader
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None)
    return name, f"{module}.{name}" if module else name


def place_of(tier: Tier, settings: CacheSettings) -> Place:
    """Return what says where a tier is: a master may move, everything else stays."""
    if tier.name == "disk":
        directory: Attributes = {"db.namespace": str(settings.disk.path)}
        return partial(dict, directory)
    if tier.name == "redis":
        return _redis_place(tier, settings.redis)
    return dict


def _redis_place(tier: Any, options: RedisSettings) -> Place:
    if options.mode == "cluster":
        return partial(dict, {"db.namespace": "0"})  # each key has a server of its own
    if options.mode == "sentinel":
        return lambda: {"db.namespace": "0", **_address(tier.servers()[0])}
    return partial(dict, _address(tier.servers()[0]))


def _address(where: str) -> Attributes:
    """Return the attributes of a server's address as a tier says it; none while no master is known."""
    text = where.partition(" ")[0]
    if "://" not in text:
        host, _, port = text.rpartition(":")
        return {"server.address": host.strip("[]"), "server.port": int(port)} if host and port.isdigit() else {}
    url = urlsplit(text)
    if url.scheme == "unix":
        database = parse_qs(url.query).get("db", ["0"])[0]
        return {"db.namespace": database, "server.address": unquote(url.path), "network.transport": "unix"}
    database = url.path.strip("/") or parse_qs(url.query).get("db", ["0"])[0]
    return {"db.namespace": database, "server.address": url.hostname or "localhost", "server.port": url.port or _PORT}
