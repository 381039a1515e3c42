"""Who is told of alerts: the log, a function, or a web address that must not be able to hold anybody up."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, InvalidURL
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from ..chance import chance
from ..durations import Duration, seconds
from ..errors import SettingsError

if TYPE_CHECKING:
    from .alerting import Alert

logger = logging.getLogger("novacron_cache.alerts")

SIGNATURE: Final = "X-Novacron-Signature"
"""The header with the time and the signature of a webhook's body."""

_SHORTEST, _LONGEST = 0.5, 30.0
_GOOD_BYE = 3.0


class Sink(Protocol):
    """What is told when an alert fires or is resolved."""

    def send(self, alert: Alert) -> None:
        """Take an alert; it must not take long, for the next rule waits for it."""

    def close(self) -> None:
        """Release what it holds."""


class LogSink:
    """Logs alerts under `novacron_cache.alerts`: critical ones as errors, others as warnings, resolved ones as info."""

    def send(self, alert: Alert) -> None:
        """Log an alert."""
        level = logging.INFO
        if alert.state == "firing":
            level = logging.ERROR if alert.severity == "critical" else logging.WARNING
        shown = "no figure" if alert.value is None else f"{alert.value:.4g}"
        logger.log(
            level, "%s is %s (%s, threshold %g %s): %s", alert.name, alert.state, shown, alert.threshold, alert.unit,
            alert.says, extra={"event": "alert", "alert": alert.name, "state": alert.state},
        )  # fmt: skip

    def close(self) -> None:
        """Do nothing."""


class CallbackSink:
    """Calls a function with each alert, in the thread that looks; what it raises is logged."""

    def __init__(self, callback: Callable[[Alert], Any]) -> None:
        self._callback = callback

    def send(self, alert: Alert) -> None:
        """Call the function."""
        self._callback(alert)

    def close(self) -> None:
        """Do nothing."""


def sign(secret: str, body: bytes, at: int) -> str:
    """Return the value of the signature header for a body sent at an epoch second.

    The receiver computes the same with the time in the header, compares the two in constant time, and refuses a time
    that is long ago.
    """
    mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={mac}"


class WebhookSink:
    """Posts each alert as JSON to an address, from a thread of its own.

    Alerts wait in a queue; when it is full the oldest goes. Each is tried until it is taken with a status from 200 to
    299, with growing pauses, or given up. An address that hangs costs its own thread a time-out, and nobody else.

    Args:
        url: an address that begins with https:// or http://; redirections are not followed.
        secret: signs each body (see `sign`), in the header `X-Novacron-Signature`; None sends unsigned.
        timeout: seconds for each step of an attempt, or a duration.
        attempts: how often one alert is tried.
        pause: seconds before it is tried again; each time twice as long, up to half a minute.
        capacity: how many alerts may wait.

    Attributes:
        sent: how many were taken.
        dropped: how many were given up, or had no room.

    Raises:
        SettingsError: the address is no such one.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout: Duration = 5.0,
        attempts: int = 5,
        pause: Duration = _SHORTEST,
        capacity: int = 100,
    ) -> None:
        self._url = url
        self._where = _host(url)  # the rest may hold a token
        self._secret = secret
        self._timeout = seconds(timeout, what="timeout")
        self._attempts = attempts
        self._pause = seconds(pause, what="pause")
        self._queue: queue.Queue[bytes | None] = queue.Queue(capacity)
        self._stopped = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirection)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.sent = 0
        self.dropped = 0

    def send(self, alert: Alert) -> None:
        """Put an alert into the queue."""
        body = json.dumps({"version": 1, "alert": alert.as_dict()}).encode()
        while not self._stopped.is_set():
            try:
                self._queue.put_nowait(body)
                break
            except queue.Full:
                try:
                    self._queue.get_nowait()
                    self._drop("the queue is full")
                except queue.Empty:
                    continue
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="novacron_cache webhook", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Give what waits one more attempt, for a few seconds at most."""
        with self._lock:
            self._stopped.set()
            thread = self._thread
        if thread is not None:
            with contextlib.suppress(queue.Full):  # it looks whether it was stopped after each
                self._queue.put_nowait(None)
            thread.join(timeout=_GOOD_BYE)

    def _run(self) -> None:
        while True:
            try:
                body = self._queue.get(timeout=0.0 if self._stopped.is_set() else None)
            except queue.Empty:
                return
            if body is not None:
                self._deliver(body)
            elif self._queue.empty():
                return

    def _deliver(self, body: bytes) -> None:
        pause, problem = self._pause, ""
        for attempt in range(self._attempts):
            if attempt:
                # Once it is closed there is no time for another attempt.
                if self._stopped.wait(pause * chance.uniform(0.5, 1.0)):
                    break
                pause = min(_LONGEST, pause * 2)
            try:
                self._post(body)
            except (OSError, HTTPException, ValueError) as error:
                # An address that cannot be used is quoted by the error, and may hold a token.
                quoting = isinstance(error, InvalidURL | ValueError) and not isinstance(error, OSError)
                problem = type(error).__name__ if quoting else f"{type(error).__name__}: {error}"
                if isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in _AGAIN:
                    break
            else:
                self.sent += 1
                return
        self._drop(problem)

    def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "novacron_cache"}
        if self._secret is not None:
            headers[SIGNATURE] = sign(self._secret, body, int(time.time()))
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")  # noqa: S310 - see __init__
        with self._opener.open(request, timeout=self._timeout) as answer:
            answer.read(1024)

    def _drop(self, problem: str) -> None:
        self.dropped += 1
        logger.warning("an alert could not be sent to %s: %s", self._where, problem)


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError:  # its text may quote a token
        scheme, host = "", None
    if not host or scheme not in ("http", "https"):
        raise SettingsError(
            "the webhook's address has to begin with https:// or http:// and name a host",
            variable="monitor.webhook_url",
        )
    return host


_AGAIN: Final = frozenset({408, 425, 429})


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A redirection would carry alerts where nobody meant them to go."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
