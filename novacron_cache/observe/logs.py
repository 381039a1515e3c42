"""Logging: one tree of loggers below `novacron_cache`, plain or as JSON, and events as structured records.

Keys hold what users are called, so no level shows them unless it is asked for: a key is a mark that tells it from other
keys of the same run, behind its first segment where the program's own templates spell that out. Nor does a line end
where somebody else's text wants it to: what cannot be printed is escaped.

What each level says:

- `critical`: nothing;
- `error`: what somebody has to look at: payloads that cannot be read or verified, stale values that an audit found, a
  critical alert, listeners that fail;
- `warning`: the cache works, but not as it was set up: a tier that is left alone, an invalidation that waits, a loader
  that failed, a server that was replaced;
- `info`: what changed and is well: the link, a tier that answers again, invalidations;
- `debug`: each call beyond process memory: misses with their reason, loads, what was stored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import fields
from typing import IO, TYPE_CHECKING, Any, Final

from ..errors import SettingsError, nearest
from ..events import Event
from ..events import logger as root
from ..keys import is_written, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cache import Cache

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_EVENT_LEVELS: Final = {
    "miss": logging.DEBUG,
    "hit": logging.DEBUG,
    "loaded": logging.DEBUG,
    "stored": logging.DEBUG,
    "not_stored": logging.DEBUG,
    "evicted": logging.DEBUG,
    "tier_failed": logging.DEBUG,
    "invalidated": logging.INFO,
    "invalidation_delivered": logging.INFO,
    "load_failed": logging.WARNING,
    "invalidation_delayed": logging.WARNING,
    "rule_log_full": logging.WARNING,
    "corrupt": logging.ERROR,
    "stale_found": logging.ERROR,
}
"""Events that are logged, with their levels; what is not here is logged where it happens."""

_KEYS: Final = frozenset({"key", "values", "dependencies"})
"""Attributes of events that may hold keys or tags."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON: time, level, logger, message, and what the record was given besides."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        plain: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        plain |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            plain["exception"] = self.formatException(record.exc_info)
        return json.dumps(plain, default=str)


class LineFormatter(logging.Formatter):
    """Writes each record as one line of text, whatever is in it; a traceback follows in lines that are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Return the line of a record."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        """Return the traceback, none of whose lines can be taken for a record."""
        return "\n".join("  " + printable(line) for line in super().formatException(ei).splitlines())


class _Ours(logging.StreamHandler[Any]):
    """Our own handler, so that a second call replaces it and no other."""


def configure_logging(level: str = "info", *, as_json: bool = False, stream: IO[str] | None = None) -> None:
    """Write the package's log to a stream, for an application that has not set up logging itself.

    A second call replaces what the first one set up; handlers of others are left alone.

    Args:
        level: `debug`, `info`, `warning`, `error` or `critical`; what `LOG_LEVEL` sets is
            `settings.monitor.log_level`.
        as_json: whether each line is JSON.
        stream: where to; None is the standard error.

    Raises:
        SettingsError: there is no such level.
    """
    name = str(level).strip().lower()
    name = "warning" if name == "warn" else name
    if name not in LEVELS:
        raise SettingsError(
            f"level={level!r}: expected one of {', '.join(LEVELS)}{nearest(name, LEVELS)}", variable="monitor.log_level"
        )
    handler = _Ours(stream)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    for known in [known for known in root.handlers if isinstance(known, _Ours)]:
        root.removeHandler(known)
    root.addHandler(handler)
    root.setLevel(name.upper())


class Redactor:
    """Shows keys so that they can be told apart, and no more.

    Args:
        show_keys: whether they are shown as they are.
    """

    def __init__(self, *, show_keys: bool = False) -> None:
        self._show = show_keys
        self._salt = os.urandom(16)

    def shown(self, key: str) -> str:
        """Return a key as it may be shown: `vm:~1f3a9c2e` where a template begins with `vm:`, else `~1f3a9c2e`."""
        if self._show:
            return key
        mark = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=self._salt, digest_size=4).hexdigest()
        head, colon, _ = key.partition(":")
        return f"{head}:~{mark}" if colon and is_written(head) else f"~{mark}"


def log_events(cache: Cache, *, show_keys: bool = False) -> Callable[[], None]:
    """Log the events of a cache under `novacron_cache.events`, each with its attributes.

    Args:
        cache: the cache.
        show_keys: whether keys and tags are shown as they are, and errors of loaders with their text; all of them may
            hold personal data.

    Returns:
        A function that ends it.
    """
    redactor = Redactor(show_keys=show_keys)
    log = logging.getLogger("novacron_cache.events")

    def listen(event: Event) -> None:
        level = _EVENT_LEVELS.get(event.kind)
        if level is None or not log.isEnabledFor(level):
            return
        said = {one.name: _said(one.name, getattr(event, one.name), redactor, show_keys) for one in fields(event)}
        text = printable(" ".join(f"{name}={value}" for name, value in said.items()))
        # `name` is an attribute of every record.
        extra = {("model" if name == "name" else name): value for name, value in said.items()}
        log.log(level, "%s %s", event.kind, text, extra={"event": event.kind, **extra})

    return cache.on("*", listen)


def _said(name: str, value: Any, redactor: Redactor, show_keys: bool) -> Any:
    if isinstance(value, BaseException):
        # A tier's error never holds keys or secrets; a loader's may hold anything.
        ours = type(value).__module__.startswith("novacron_cache.")
        return f"{type(value).__name__}: {value}" if show_keys or ours else type(value).__name__
    if name in _KEYS:
        return redactor.shown(value) if isinstance(value, str) else [redactor.shown(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value
