"""The same endpoints as applications to mount into a server that runs anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from .access import Access
from .routes import CacheSource, Request, Routes

if TYPE_CHECKING:
    from ..cache import Cache

WsgiApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], list[bytes]]
AsgiApp: TypeAlias = Callable[
    [dict[str, Any], Callable[[], Awaitable[dict[str, Any]]], Callable[[dict[str, Any]], Awaitable[None]]],
    Awaitable[None],
]


def _routes(cache: Cache, token: str | None, allow: Iterable[str] | None, hosts: Iterable[str] | None) -> Routes:
    options = cache.settings.monitor
    if token is None and options.token is not None:
        token = options.token.get_secret_value()
    chosen = options.allow if allow is None else tuple(allow)
    return Routes(
        CacheSource(cache),
        Access(token=token, allow=chosen or None, hosts=options.hosts if hosts is None else hosts),
    )


def wsgi_app(
    cache: Cache,
    *,
    token: str | None = None,
    allow: Iterable[str] | None = None,
    hosts: Iterable[str] | None = None,
) -> WsgiApp:
    """Return a WSGI application that answers `/health`, `/metrics` and `/api/metrics` below where it is mounted.

    Args:
        cache: whose figures they are.
        token: what the header `Authorization: Bearer <token>` has to hold; None is `monitor.token`. Without one, only
            this machine is answered, under its own name.
        allow: addresses or networks that are answered; None is `monitor.allow`. Behind a proxy every request comes from
            the proxy: use a token.
        hosts: names under which it is asked; None is `monitor.hosts`; `["*"]` where the server in front checks them.

    Raises:
        SettingsError: one of them is malformed.
    """
    routes = _routes(cache, token, allow, hosts)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        method = str(environ.get("REQUEST_METHOD", "GET"))
        response = routes.respond(
            Request(
                method,
                str(environ.get("PATH_INFO", "/")),
                str(environ.get("REMOTE_ADDR", "")),
                str(environ.get("HTTP_HOST", "")),
                str(environ.get("HTTP_AUTHORIZATION", "")),
                str(environ.get("HTTP_ACCEPT", "")),
            )
        )
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", response.all_headers())
        return [] if method == "HEAD" else [response.body]

    return app


def asgi_app(
    cache: Cache,
    *,
    token: str | None = None,
    allow: Iterable[str] | None = None,
    hosts: Iterable[str] | None = None,
) -> AsgiApp:
    """Return an ASGI application that does what that of `wsgi_app` does; answers are made in a thread.

    Args:
        cache: whose figures they are.
        token: as for `wsgi_app`.
        allow: as for `wsgi_app`.
        hosts: as for `wsgi_app`.

    Raises:
        SettingsError: one of them is malformed.
    """
    routes = _routes(cache, token, allow, hosts)

    async def app(
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        request = Request(
            scope["method"],
            path,
            str((scope.get("client") or ("", 0))[0]),
            headers.get("host", ""),
            headers.get("authorization", ""),
            headers.get("accept", ""),
        )
        response = await asyncio.to_thread(routes.respond, request)
        plain = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.all_headers()]
        await send({"type": "http.response.start", "status": response.status, "headers": plain})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else response.body})

    return app
