"""What each path answers, whichever server carries the request; nothing here changes anything or waits for nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from .access import Access
from .exposition import OPENMETRICS, TEXT, exposed, wants_openmetrics
from .snapshot import Snapshot
from .summary import summarised

if TYPE_CHECKING:
    from ..cache import Cache
    from .alerting import Alert

JSON: Final = "application/json"
_PLAIN: Final = "text/plain; charset=utf-8"

_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)


class Source(Protocol):
    """Where answers come from: one cache, or a fleet."""

    def health(self) -> tuple[dict[str, Any], bool]:
        """Return the health as plain data, and whether the cache is usable."""
        ...

    def figures(self) -> Snapshot:
        """Return the figures."""
        ...


class CacheSource:
    """Answers for one cache, and the processes it shares a directory with."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def health(self) -> tuple[dict[str, Any], bool]:
        """Return the cache's health."""
        found = self._cache.health()
        return found.as_dict(), found.usable

    def figures(self) -> Snapshot:
        """Return the figures, the servers' own included."""
        return self._cache.observer.figures(ask=True)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, as far as it matters."""

    method: str
    path: str
    client: str
    host: str = ""
    authorization: str = ""
    accept: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = _PLAIN
    headers: tuple[tuple[str, str], ...] = ()

    def all_headers(self) -> list[tuple[str, str]]:
        """Return every header of the answer."""
        return [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            *_HEADERS,
            *self.headers,
        ]


@dataclass(slots=True)
class Routes:
    """Answers requests from a source to those who may ask.

    Attributes:
        source: where answers come from.
        access: who may ask.
        alerts: returns the alerts of now, or None where nobody watches for them.
    """

    source: Source
    access: Access
    alerts: Callable[[], list[Alert]] | None = field(default=None)

    def respond(self, request: Request) -> Response:
        """Return the answer to a request; never raises."""
        refused = self.access.refuse(
            method=request.method, client=request.client, host=request.host, authorization=request.authorization
        )
        if refused is not None:
            headers = {401: (("WWW-Authenticate", "Bearer"),), 405: (("Allow", "GET, HEAD"),)}.get(refused.status, ())
            return Response(refused.status, f"{refused.text}\n".encode(), headers=headers)
        try:
            return self._answer(request)
        except Exception as error:
            # What went wrong may name keys.
            return Response(500, f"{type(error).__name__}\n".encode())

    def _answer(self, request: Request) -> Response:
        path = request.path.partition("?")[0].rstrip("/") or "/"
        if path == "/health":
            plain, usable = self.source.health()
            return _json(plain, 200 if usable else 503)
        if path == "/metrics":
            openmetrics = wants_openmetrics(request.accept)
            body = exposed(self.source.figures(), openmetrics=openmetrics)
            return Response(200, body, OPENMETRICS if openmetrics else TEXT)
        if path == "/api/metrics":
            plain = summarised(self.source.figures())
            if self.alerts is not None:
                plain["alerts"] = [alert.as_dict() for alert in self.alerts()]
            return _json(plain)
        if path == "/":
            return Response(200, b"/health\n/metrics\n/api/metrics\n")
        return Response(404, b"there are /health, /metrics and /api/metrics\n")


def _json(plain: dict[str, Any], status: int = 200) -> Response:
    return Response(status, (json.dumps(plain, indent=2) + "\n").encode(), JSON)
