"""`novacron-cache monitor`: the health and the figures of a whole fleet, served from one place.

It reads what processes publish to the server they share, adds it up, and answers what a process of its own would:
`/health`, `/metrics`, `/api/metrics`. Settings come from the environment, as those of the application do.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from .targets import json_option, said

if TYPE_CHECKING:
    from ..dashboard import Dashboard
    from ..observe.alerting import Alerts
    from ..observe.fleet import Fleet
    from ..observe.serving import MetricsServer


PATIENCE: Final = 1.0
"""Seconds for processes to hear that somebody watches, and to publish."""


class CannotStart(click.ClickException):
    """The monitor cannot start; the message says what to do."""

    exit_code = 2


@click.command(epilog="Exit codes: 0 ended by a signal or --once, 1 unusable (--once), 2 the monitor could not start.")
@click.option("--host", help="The address to listen on.  [env: NOVACRON_CACHE_MONITOR__HOST; default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port.  [env: METRICS_PORT; default: 9091]")
@click.option(
    "--webui-port", type=click.IntRange(0, 65535), help="The dashboard's port.  [env: WEBUI_PORT; default: 8082]"
)
@click.option("--no-dashboard", is_flag=True, help="Serve no dashboard.")
@click.option("--show-keys", is_flag=True, help="Show keys and tags on the dashboard as they are.")
@click.option("--once", is_flag=True, help="Print the figures and the health as JSON once, and end.")
@click.option("--log-json", is_flag=True, help="Log as JSON.")
@json_option
def monitor(
    host: str | None,
    port: int | None,
    webui_port: int | None,
    no_dashboard: bool,
    show_keys: bool,
    once: bool,
    log_json: bool,
    as_json: bool,
) -> None:
    """Serve the health, the figures and a dashboard of all processes that share a server.

    The server is that of the environment's settings (NOVACRON_CACHE_REDIS__URL, REDIS_MASTER_ADDR or SENTINEL_ADDRS,
    and NOVACRON_CACHE_NAMESPACE). Processes publish while a monitor runs; none has to be told where it is. To listen
    to other machines set NOVACRON_CACHE_MONITOR__TOKEN. Alerts are logged, and sent to
    NOVACRON_CACHE_MONITOR__WEBHOOK_URL where that is set. LOG_LEVEL and HEALTH_CHECK_INTERVAL count here. The dashboard
    needs NiceGUI: pip install 'novacron-cache[dashboard]'; without it the rest is served.
    """
    from .. import Cache, CacheSettings
    from ..errors import CacheError
    from ..observe.fleet import Fleet
    from ..observe.logs import configure_logging

    try:
        settings = CacheSettings.from_env()
        if not settings.redis_on:
            raise CannotStart(
                "there is no server to read from: set NOVACRON_CACHE_REDIS__URL (or REDIS_MASTER_ADDR, or "
                "SENTINEL_ADDRS) and NOVACRON_CACHE_NAMESPACE to those of the application"
            )
        configure_logging(settings.monitor.log_level, as_json=log_json)
        with Cache(settings) as cache:
            fleet = Fleet(cache)
            if once:
                _print_once(fleet)
            else:
                page = None if no_dashboard else _Page(webui_port, show_keys)
                _serve(fleet, cache, host, port, page, as_json=as_json)
    except CacheError as error:
        raise CannotStart(said(error)) from error


def _print_once(fleet: Fleet) -> None:
    import json
    import time

    from ..observe.summary import summarised

    fleet.look()
    time.sleep(PATIENCE)
    fleet.look()
    health, usable = fleet.health()
    click.echo(json.dumps({"health": health, **summarised(fleet.figures())}, indent=2))
    if not usable:
        raise click.exceptions.Exit(1)


class _Page(NamedTuple):
    """How the dashboard is wanted."""

    port: int | None
    show_keys: bool


def _serve(fleet: Fleet, cache: Any, host: str | None, port: int | None, page: _Page | None, *, as_json: bool) -> None:
    options = cache.settings.monitor
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    # Who asks first should find what there is: figures that begin at nothing and jump would look like a burst of work.
    fleet.look()
    stopped.wait(PATIENCE)
    fleet.look()
    with ExitStack() as open_:
        alerts = open_.enter_context(_alerts(fleet, cache))
        server = open_.enter_context(_server(fleet, cache, host, port, alerts))
        dashboard = None if page is None else _dashboard(fleet, cache, host, page, alerts)
        if dashboard is not None:
            open_.enter_context(dashboard)
        _announce(cache.settings.namespace, server.url, None if dashboard is None else dashboard.url, as_json=as_json)
        checked = -options.health_check_interval
        status = ""
        while not stopped.is_set():
            fleet.look()
            now = _monotonic()
            if now - checked >= options.health_check_interval:
                checked = now
                status = _say(fleet, status)
            stopped.wait(1.0)


def _announce(namespace: str, figures: str, dashboard: str | None, *, as_json: bool) -> None:
    """Say where the monitor is to be asked; in JSON on one line, for whoever reads what a running process says."""
    import json

    paths = ("/health", "/metrics", "/api/metrics")
    if as_json:
        urls = {path[1:].replace("/", "_"): figures + path for path in paths}
        told = {"namespace": namespace, **urls, "dashboard": dashboard}
        click.echo(json.dumps(told))
        return
    click.echo(f"watching {namespace!r}: {figures}{'  '.join(paths)}")
    if dashboard is not None:
        click.echo(f"dashboard: {dashboard}")


def _alerts(fleet: Fleet, cache: Any) -> Alerts:
    from ..observe.alerting import Alerts
    from ..observe.sinks import LogSink, Sink, WebhookSink

    options = cache.settings.monitor
    sinks: list[Sink] = [LogSink()]
    if options.webhook_url is not None:
        secret = options.webhook_secret
        sinks.append(
            WebhookSink(
                options.webhook_url.get_secret_value(), secret=None if secret is None else secret.get_secret_value()
            )
        )
    return Alerts(fleet.news, sinks=sinks)


def _server(fleet: Fleet, cache: Any, host: str | None, port: int | None, alerts: Alerts) -> MetricsServer:
    from ..observe.serving import MetricsServer

    options = cache.settings.monitor
    return MetricsServer(
        fleet,
        host=options.host if host is None else host,
        port=options.metrics_port if port is None else port,
        token=None if options.token is None else options.token.get_secret_value(),
        allow=options.allow or None,
        hosts=options.hosts,
        alerts=alerts.states,
    )


def _dashboard(fleet: Fleet, cache: Any, host: str | None, page: _Page, alerts: Alerts) -> Dashboard | None:
    """Return the dashboard, or None, having said why, where NiceGUI is not installed."""
    from importlib.util import find_spec

    if find_spec("nicegui") is None:
        click.echo("no dashboard: it needs NiceGUI; pip install 'novacron-cache[dashboard]'", err=True)
        return None
    from ..dashboard import serve_fleet

    # A part of NiceGUI that is a client imports aiohttp where it finds it, 10 MB that nothing here uses.
    modules: Any = sys.modules
    known = modules.setdefault("aiohttp", None)  # how an import is made to fail
    try:
        return serve_fleet(fleet, cache, alerts.states, host=host, port=page.port, show_keys=page.show_keys)
    finally:
        if known is None:
            del modules["aiohttp"]


def _say(fleet: Fleet, before: str) -> str:
    """Log how the fleet is where that has changed."""
    from ..events import logger

    health, _ = fleet.health()
    status = f"{health['status']}: {'; '.join(health['problems']) or 'nothing is wrong'}"
    if status != before:
        level = logger.info if health["status"] == "healthy" else logger.warning
        level("%s (%d processes)", status, len(health["processes"]))
    return status


def _monotonic() -> float:
    import time

    return time.monotonic()
