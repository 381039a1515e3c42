"""What is served over HTTP, and where alerts are sent: read-only, for whom it is meant, and no loop or detour."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from novacron_cache import Cache, SettingsError
from novacron_cache.observe import WebhookSink
from novacron_cache.observe.alerting import Alert
from novacron_cache.observe.serving import MetricsServer

TOKEN = "a-token-of-sixteen-or-more"
ALERT = Alert("Test", "firing", "critical", 1.0, 0.0, "events", 0.0, "it is a test", "nothing")
PATHS = ["/", "/health", "/metrics", "/api/metrics"]


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        cache.get_or_load("account:mallory", lambda: "the-value", tags=["owner:mallory"])
        yield cache


@pytest.fixture
def server(cache: Cache) -> MetricsServer:
    return cache.serve_metrics(port=0)


def asked(server: MetricsServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
def test_no_answer_holds_a_key_a_tag_or_a_value(server: MetricsServer, path: str) -> None:
    status, text, headers = asked(server, path)
    assert status == 200
    assert [one for one in ("mallory", "the-value") if one in text] == []
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not {"Set-Cookie", "Access-Control-Allow-Origin"} & headers.keys()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_changed_by_any_request(server: MetricsServer, cache: Cache, method: str) -> None:
    for path in PATHS:
        assert asked(server, path, method)[0] in (405, 501)
    assert cache.get("account:mallory") == "the-value"


def test_a_page_that_has_its_name_lead_here_is_told_nothing(server: MetricsServer) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "localhost@evil.example"):
        status, text, _ = asked(server, "/metrics", Host=host)
        assert status in (400, 421), host
        assert "novacron_cache_hits" not in text


@pytest.mark.parametrize("path", ["/../etc/passwd", "//etc/passwd", "/%2e%2e/etc/passwd", "/metrics/../../x", "/\x7f"])
def test_a_path_leads_to_no_file(server: MetricsServer, path: str) -> None:
    if not path.isprintable():
        path = "/%7f"
    status, text, _ = asked(server, path)
    assert status == 404
    assert "root:" not in text


def test_whoever_listens_to_others_needs_a_token_that_cannot_be_guessed(cache: Cache) -> None:
    with pytest.raises(SettingsError, match="token"):
        cache.serve_metrics(host="0.0.0.0", port=0)  # noqa: S104 - that is what is refused
    with pytest.raises(SettingsError, match="at least 16"):
        cache.serve_metrics(host="0.0.0.0", port=0, token="short")  # noqa: S104


@pytest.mark.parametrize("given", ["", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN])
def test_a_wrong_token_is_told_nothing(cache: Cache, given: str) -> None:
    server = cache.serve_metrics(port=0, token=TOKEN)
    headers = {"Authorization": given} if given else {}
    assert [asked(server, path, **headers)[0] for path in PATHS] == [401] * len(PATHS)
    assert asked(server, "/health", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_a_webhook_that_leads_back_to_the_monitor_begins_no_loop(cache: Cache, server: MetricsServer) -> None:
    sink = WebhookSink(f"{server.url}/api/metrics", attempts=3, pause=0.01)
    for _ in range(5):
        sink.send(ALERT)
    sink.close()
    assert (sink.sent, sink.dropped) == (0, 5)
    assert cache.health().status == "healthy"


class _Redirecting(http.server.BaseHTTPRequestHandler):
    to = ""
    seen: list[str]

    def do_POST(self) -> None:
        type(self).seen.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", type(self).to)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("to", ["{itself}/again", "http://169.254.169.254/latest", "file:///etc/passwd", "ftp://host/"])
def test_a_webhook_follows_no_redirection(to: str) -> None:
    _Redirecting.seen = []
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Redirecting)
    itself = f"http://127.0.0.1:{receiver.server_address[1]}"
    _Redirecting.to = to.format(itself=itself)
    thread = threading.Thread(target=receiver.serve_forever, args=[0.01])
    thread.start()
    try:
        sink = WebhookSink(f"{itself}/hook", attempts=1)
        sink.send(ALERT)
        sink.close()
    finally:
        receiver.shutdown()
        thread.join(10.0)
        receiver.server_close()
    assert _Redirecting.seen == ["/hook"]
    assert (sink.sent, sink.dropped) == (0, 1)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://host/", "javascript:alert(1)", "//host/", "http:///x"])
def test_a_webhook_is_an_address_of_the_web(url: str) -> None:
    with pytest.raises(SettingsError, match="begin with https:// or http://"):
        WebhookSink(url)


def test_an_alert_names_no_key(cache: Cache) -> None:
    assert "mallory" not in json.dumps(ALERT.as_dict())
