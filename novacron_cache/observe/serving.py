"""A small server of its own for health and figures, from the standard library alone.

It is for a port that operators reach, not for the public: a few connections at a time, each given seconds and not more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import socketserver
import threading
import weakref
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from ..errors import SettingsError
from ..events import logger
from .access import Access, is_loopback
from .routes import Request, Routes, Source

PATIENCE: Final = 5.0
"""Seconds that a connection may take for its next request, or to take an answer."""

AT_ONCE: Final = 16
"""How many connections are served at once; more are closed."""


class MetricsServer:
    """Answers `/health`, `/metrics` and `/api/metrics` from a thread of its own, until `close()`.

    Args:
        source: where answers come from.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        token: needed for any address but this machine's own.
        allow: addresses or networks that are answered; None is this machine, or everybody with the token.
        hosts: names beside this machine's under which it is asked.
        alerts: returns the alerts of now.

    Attributes:
        port: the port it listens on.
        url: where it answers.

    Raises:
        SettingsError: the port is taken, the address is not this machine's, or a token is missing.
    """

    def __init__(
        self,
        source: Source,
        *,
        host: str = "127.0.0.1",
        port: int = 9091,
        token: str | None = None,
        allow: Iterable[str] | None = None,
        hosts: Iterable[str] = (),
        alerts: Any = None,
    ) -> None:
        if token is None and not is_loopback(host):
            raise SettingsError(
                f"listening on {host!r} shows health and figures to other machines, which needs a token: pass "
                f"token='...' (NOVACRON_CACHE_MONITOR__TOKEN), or listen on 127.0.0.1",
                variable="monitor.token",
            )
        named = () if is_loopback(host) else (host,)
        routes = Routes(source, Access(token=token, allow=allow, hosts=(*hosts, *named)), alerts)
        try:
            self._server = _Server(host, port, routes)
        except OverflowError:
            raise SettingsError(f"port={port!r}: expected 0 to 65535", variable="monitor.metrics_port") from None
        except OSError as error:
            raise listening_error(error, host, port, names="METRICS_PORT", variable="monitor.metrics_port") from error
        self.port: int = self._server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="novacron_cache metrics", daemon=True
        )
        self._thread.start()
        _servers.add(self)

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        if self in _servers:
            _servers.discard(self)
            self._server.shutdown()
            self._thread.join(timeout=PATIENCE)
        self._server.server_close()

    def let_go(self) -> None:
        """In a forked child: give back the port, which is the parent's."""
        with contextlib.suppress(OSError):
            self._server.socket.close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.url}>"


def listening_error(error: OSError, host: str, port: int, *, names: str, variable: str) -> SettingsError:
    """Return what to raise where a port cannot be listened on.

    Args:
        error: what the system said.
        host: the address.
        port: the port.
        names: the variable of the environment that sets the port.
        variable: the setting that does.
    """
    if error.errno == errno.EADDRINUSE:
        says = f"port {port} on {host} is taken; choose another with {names} or port=..., or 0 for a free one"
    elif error.errno == errno.EACCES:
        says = f"port {port} needs more rights than this process has; choose one above 1023"
    elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        says = f"{host!r} is no address of this machine; listen on 127.0.0.1, or on 0.0.0.0 with a token"
    else:
        says = f"cannot listen on {host}:{port}: {error.strerror or error}"
    return SettingsError(says, variable=variable)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, routes: Routes) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.routes = routes
        self._free = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not the base class's, which looks up the machine's name, and that may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a connection to the metrics server broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "novacron_cache"
    sys_version = ""
    timeout = PATIENCE
    # The body follows the head in a segment of its own, which would wait 40 ms for the acknowledgement of the first.
    disable_nagle_algorithm = True

    def _respond(self) -> None:
        routes: Routes = self.server.routes  # type: ignore[attr-defined]  # `_Server` has them
        response = routes.respond(
            Request(
                self.command,
                self.path,
                str(self.client_address[0]),
                self.headers.get("Host", ""),
                self.headers.get("Authorization", ""),
                self.headers.get("Accept", ""),
            )
        )
        self.send_response(response.status)
        for name, value in response.all_headers():
            self.send_header(name, value)
        if self.command not in ("GET", "HEAD"):
            # A body that nobody reads would be taken for the next request.
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _respond  # noqa: N815 - the names are given

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        logger.debug("metrics server: %s", format % args)


_servers: weakref.WeakSet[MetricsServer] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_servers):
        server.let_go()
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
