"""Serving dashboards: one NiceGUI for the process, and a server of its own in front of it for each dashboard.

NiceGUI keeps its state in its modules and starts once in a process. So it runs in a thread with a loop of its own, for
as long as the process does, and what opens and closes are the servers, each with its port, its guard and its board. The
application's loops and threads never see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import SettingsError
from ..events import logger
from ..observe.access import Access, is_loopback
from ..observe.logs import Redactor
from ..observe.serving import listening_error
from .board import Board
from .views import CacheView, FleetView, View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..cache import Cache
    from ..observe.alerting import Alert
    from ..observe.fleet import Fleet

__all__ = ["Dashboard", "serve", "serve_fleet"]

VIEWERS: Final = 24
"""How many pages may be open at once."""

_BOARD: Final = "novacron_cache.dashboard"
_PATIENCE: Final = 5.0


class Dashboard:
    """A dashboard that is served, until `close()`.

    Args:
        view: what is looked at.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        token: needed for any address but this machine's own.
        allow: addresses or networks that are answered; None is this machine, or everybody with the token.
        hosts: names beside this machine's under which it is asked.
        show_keys: whether keys are shown as they are.

    Attributes:
        board: what its pages show.
        port: the port it listens on.
        url: where it answers.

    Raises:
        SettingsError: NiceGUI is missing or used by the application, the port is taken, the address is not this
            machine's, or a token is missing.
    """

    def __init__(
        self,
        view: View,
        *,
        host: str = "127.0.0.1",
        port: int = 8082,
        token: str | None = None,
        allow: Iterable[str] | None = None,
        hosts: Iterable[str] = (),
        show_keys: bool = False,
    ) -> None:
        if token is None and not is_loopback(host):
            raise SettingsError(
                f"listening on {host!r} shows the dashboard to other machines, which needs a token: pass token='...' "
                f"(NOVACRON_CACHE_MONITOR__TOKEN), or listen on 127.0.0.1",
                variable="monitor.token",
            )
        named = () if is_loopback(host) else (host,)
        access = Access(token=token, allow=allow, hosts=(*hosts, *named))
        host_of_pages = _pages()
        self._socket = _bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}"
        self.board = Board(view)
        self.show_keys = show_keys
        self.redactor = Redactor(show_keys=show_keys)
        self.viewers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pages = host_of_pages
        self._closed = False
        self._server = host_of_pages.serve(self, access, self._socket)
        self.board.start()
        _dashboards.add(self)

    def close(self) -> None:
        """Stop listening and looking; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        _dashboards.discard(self)
        self._pages.end(self._server)
        self.board.close()
        self._socket.close()

    def let_go(self) -> None:
        """In a forked child: give back the port, which is the parent's."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.close()

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Dashboard {self.url}>"


def serve(
    cache: Cache,
    *,
    host: str | None = None,
    port: int | None = None,
    token: str | None = None,
    allow: Iterable[str] | None = None,
    hosts: Iterable[str] | None = None,
    show_keys: bool = False,
) -> Dashboard:
    """Return a dashboard of one cache; None takes what its settings say.

    Raises:
        SettingsError: as `Dashboard` says.
    """
    return Dashboard(CacheView(cache), **_options(cache, host, port, token, allow, hosts), show_keys=show_keys)


def serve_fleet(
    fleet: Fleet,
    cache: Cache,
    alerts: Callable[[], Sequence[Alert]],
    *,
    host: str | None = None,
    port: int | None = None,
    show_keys: bool = False,
) -> Dashboard:
    """Return a dashboard of a fleet that somebody else has look again and again.

    Raises:
        SettingsError: as `Dashboard` says.
    """
    view = FleetView(fleet, cache.settings.namespace or "", alerts)
    return Dashboard(view, **_options(cache, host, port, None, None, None), show_keys=show_keys)


def _options(
    cache: Cache,
    host: str | None,
    port: int | None,
    token: str | None,
    allow: Iterable[str] | None,
    hosts: Iterable[str] | None,
) -> dict[str, Any]:
    options = cache.settings.monitor
    if token is None and options.token is not None:
        token = options.token.get_secret_value()
    return {
        "host": options.host if host is None else host,
        "port": options.webui_port if port is None else port,
        "token": token,
        "allow": (options.allow or None) if allow is None else allow,
        "hosts": options.hosts if hosts is None else hosts,
    }


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(64)
    except OverflowError:
        made.close()
        raise SettingsError(f"port={port!r}: expected 0 to 65535", variable="monitor.webui_port") from None
    except OSError as error:
        made.close()
        raise listening_error(error, host, port, names="WEBUI_PORT", variable="monitor.webui_port") from error
    made.setblocking(False)
    return made


class _Pages:
    """The one NiceGUI of this process, in a thread with a loop of its own."""

    def __init__(self) -> None:
        try:
            from nicegui import core, ui
        except ImportError as error:
            raise SettingsError(
                "the dashboard needs NiceGUI: pip install 'novacron-cache[dashboard]'", variable="monitor.webui_port"
            ) from error
        if core.app.config.has_run_config or core.app.is_started:
            raise SettingsError(
                "this process runs a NiceGUI application of its own, and a process has room for one; run "
                "`novacron-cache monitor` beside it",
                variable="monitor.webui_port",
            )
        self._core = core
        self._app = self._application(ui, core)
        self._loop = asyncio.new_event_loop()
        self._lifespan: Any = None
        self._thread = threading.Thread(target=self._run, name="novacron_cache dashboard", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result(timeout=30.0)

    def _application(self, ui: Any, core: Any) -> Any:
        from fastapi import FastAPI, Request
        from fastapi.responses import PlainTextResponse

        from .page import Page, head

        in_head = head()

        async def index(request: Request) -> Any:
            dashboard: Dashboard = request.scope[_BOARD]
            if len(dashboard.viewers) >= VIEWERS:
                return PlainTextResponse("too many pages of this dashboard are open\n", 503)
            ui.add_head_html(in_head)
            page = Page(dashboard.board, show_keys=dashboard.show_keys, redactor=dashboard.redactor)
            dashboard.viewers.add(ui.context.client)
            page.update()
            ui.timer(1.0, page.update)
            return None

        index.__annotations__["request"] = Request  # known here alone, and asked for by name
        ui.page("/", title="novacron_cache dashboard")(index)
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        ui.run_with(
            app, title="novacron_cache", favicon=Path(__file__).with_name("icon.svg"), dark=None, language="en-US",
            binding_refresh_interval=None, reconnect_timeout=3.0, message_history_length=20, tailwind=False,
            gzip_middleware_factory=None, show_welcome_message=False,
        )  # fmt: skip
        # Only over a websocket: everything else is a GET then, which is all that the guard lets through.
        core.app.config.socket_io_js_transports = ["websocket"]
        core.app.storage.max_tab_storage_age = 60.0
        return app

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _begin(self) -> None:
        # That of NiceGUI itself. The one that it gave the application around it goes through every object there is,
        # in search of a server, and wakes what an application left lazy.
        self._lifespan = self._core.app.router.lifespan_context(self._core.app)
        await self._lifespan.__aenter__()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs in this process."""
        return self._thread.is_alive()

    def serve(self, dashboard: Dashboard, access: Access, listening: socket.socket) -> Any:
        """Begin to answer on a socket; return what `end` takes."""
        import uvicorn

        from .guard import Guard

        cookie = f"novacron_dashboard_{dashboard.port}_{secrets.token_hex(4)}"
        guard = Guard(self._app, access, {_BOARD: dashboard}, cookie)
        config = uvicorn.Config(
            guard, loop="none", http="h11", ws="wsproto", lifespan="off", log_config=None, access_log=False,
            server_header=False, date_header=False, proxy_headers=False, timeout_keep_alive=10,
            timeout_graceful_shutdown=1, limit_concurrency=256, ws_max_size=2**20,
        )  # fmt: skip
        server = uvicorn.Server(config)
        running = asyncio.run_coroutine_threadsafe(server.serve(sockets=[listening]), self._loop)
        return server, running

    def end(self, served: Any) -> None:
        """Stop answering."""
        server, running = served
        server.should_exit = True
        try:
            running.result(timeout=_PATIENCE)
        except Exception:
            logger.debug("the dashboard's server did not end well", exc_info=True)


_lock = threading.Lock()
_the_pages: _Pages | None = None
_dashboards: weakref.WeakSet[Dashboard] = weakref.WeakSet()


def _pages() -> _Pages:
    global _the_pages
    with _lock:
        if _the_pages is None:
            _the_pages = _Pages()
        elif not _the_pages.is_alive:
            raise SettingsError(
                "a process that was forked from one with a dashboard cannot have one itself; serve it in the parent, "
                "or run `novacron-cache monitor`",
                variable="monitor.webui_port",
            )
        return _the_pages


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for dashboard in list(_dashboards):
        dashboard.let_go()
    _dashboards.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
