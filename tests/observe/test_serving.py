"""The endpoints: what they answer, to whom, and what a stranger gets."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from servers import IMPATIENT, FaultProxy, ServerProcess, free_port, wait_until

from novacron_cache import Cache, CacheSettings, SettingsError
from novacron_cache.observe import MetricsServer, asgi_app, wsgi_app
from novacron_cache.observe.access import Access

TOKEN = "a-token-that-is-long-enough"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - with a token


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as made:
        made.get_or_load("a", lambda: 1)
        yield made


@pytest.fixture
def server(cache: Cache) -> Iterator[MetricsServer]:
    with cache.serve_metrics(port=0) as made:
        yield made


def ask(
    server: MetricsServer, path: str = "/health", method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


class TestAnswers:
    def test_health(self, server: MetricsServer) -> None:
        status, headers, body = ask(server)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body)["status"] == "healthy"

    def test_metrics(self, server: MetricsServer) -> None:
        status, headers, body = ask(server, "/metrics")
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b"novacron_cache_loads_total" in body

    def test_metrics_in_openmetrics_for_who_asks(self, server: MetricsServer) -> None:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        _, headers, body = ask(server, "/metrics", Accept=accept)
        assert headers["content-type"].startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")

    def test_metrics_as_json(self, server: MetricsServer) -> None:
        _, headers, body = ask(server, "/api/metrics")
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["basic"]["loads"] == 1

    def test_a_closed_cache_is_unavailable(self) -> None:
        cache = Cache()
        from novacron_cache.observe.routes import CacheSource

        with MetricsServer(CacheSource(cache), port=0) as server:
            cache.close()
            assert ask(server)[0] == 503
            assert ask(server, "/metrics")[0] == 200

    def test_other_paths_are_not_found(self, server: MetricsServer) -> None:
        assert ask(server, "/health/../../etc/passwd")[0] == 404
        assert ask(server, "/keys")[0] == 404

    def test_a_query_and_a_slash_at_the_end_do_not_matter(self, server: MetricsServer) -> None:
        assert ask(server, "/health/?pretty=1")[0] == 200

    def test_head_has_no_body(self, server: MetricsServer) -> None:
        status, headers, body = ask(server, method="HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_nothing_can_be_changed(self, server: MetricsServer, method: str) -> None:
        status, headers, _ = ask(server, "/metrics", method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")

    def test_several_requests_go_over_one_connection(self, server: MetricsServer) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for _ in range(3):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
        connection.close()

    @pytest.mark.servers
    @pytest.mark.parametrize("path", ["/metrics", "/api/metrics"])
    def test_a_hundred_models_take_less_than_20_ms(self, path: str) -> None:
        with Cache() as cache, cache.serve_metrics(port=0) as server:
            for number in range(100):
                get = cache.cached(int, key=f"m{number}:<n>", name=f"Model{number}")(lambda n: n)
                get(1), get(1)
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            times = []
            for _ in range(15):
                start = time.process_time()  # of both sides; what else the machine does is not what is measured
                connection.request("GET", path)
                body = connection.getresponse().read()
                times.append(time.process_time() - start)
            connection.close()
            assert b"Model99" in body
            assert min(times) < 0.02

    def test_a_body_does_not_wait_for_the_acknowledgement_of_its_head(self, server: MetricsServer) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        times = []
        for _ in range(20):
            start = time.perf_counter()
            connection.request("GET", "/api/metrics")
            connection.getresponse().read()
            times.append(time.perf_counter() - start)
        connection.close()
        assert sorted(times)[1] < 0.03  # a delayed acknowledgement comes after 40 ms; the first may be spared

    def test_a_server_that_hangs_leaves_a_scrape_with_what_is_known(self, valkey_server: ServerProcess) -> None:
        with (
            FaultProxy(valkey_server.port) as proxy,
            Cache.connect(proxy.url, namespace="shop", redis=IMPATIENT) as cache,
        ):
            cache.get_or_load("a", lambda: 1)
            with cache.serve_metrics(port=0) as server:
                assert ask(server, "/metrics")[0] == 200
                proxy.hold()
                start = time.monotonic()
                status, _, body = ask(server, "/metrics")
                assert (status, b"novacron_cache_loads_total" in body) == (200, True)
                status, _, body = ask(server)
                assert (status, json.loads(body)["status"]) == (200, "degraded")
                assert time.monotonic() - start < 8  # several time-outs of each


class TestAccess:
    def test_another_name_is_not_served(self, server: MetricsServer) -> None:
        # A page of evil.example can have its name lead to this machine, and would read along.
        assert ask(server, Host="evil.example")[0] == 421
        assert ask(server, Host=f"evil.example:{server.port}")[0] == 421
        assert ask(server, Host="localhost.evil.example")[0] == 421

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9091", "127.0.0.1", "[::1]:9091", "10.0.0.7"])
    def test_names_of_this_machine_and_addresses_are(self, server: MetricsServer, host: str) -> None:
        assert ask(server, Host=host)[0] == 200

    def test_names_that_were_given_are(self, cache: Cache) -> None:
        with cache.serve_metrics(port=0, hosts=["cache-monitor"]) as server:
            assert ask(server, Host="cache-monitor:9091")[0] == 200

    @pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.7", "example.org"])
    def test_listening_to_others_needs_a_token(self, cache: Cache, host: str) -> None:
        with pytest.raises(SettingsError, match="needs a token"):
            cache.serve_metrics(host, 0)

    def test_with_a_token_it_listens_to_others_and_asks_for_it(self, cache: Cache) -> None:
        with cache.serve_metrics(EVERYWHERE, 0, token=TOKEN) as server:
            status, headers, body = ask(server)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN.encode() not in body
            assert ask(server, Authorization=f"Bearer {TOKEN}x")[0] == 401
            assert ask(server, Authorization=f"Basic {TOKEN}")[0] == 401
            assert ask(server, Authorization=f"bearer {TOKEN}")[0] == 200
            assert ask(server, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200

    def test_the_token_of_the_settings_counts(self) -> None:
        with Cache(CacheSettings(monitor={"token": TOKEN})) as cache, cache.serve_metrics(port=0) as server:
            assert ask(server)[0] == 401

    def test_a_short_token_is_refused(self, cache: Cache) -> None:
        with pytest.raises(SettingsError, match="at least 16"):
            cache.serve_metrics(port=0, token="secret")

    def test_an_address_that_is_not_allowed_is_refused_whatever_it_knows(self, cache: Cache) -> None:
        with cache.serve_metrics(port=0, token=TOKEN, allow=["10.0.0.0/8"]) as server:
            assert ask(server, Authorization=f"Bearer {TOKEN}")[0] == 403

    @pytest.mark.parametrize(
        ("client", "allowed"),
        [("10.1.2.3", True), ("11.0.0.1", False), ("::ffff:10.1.2.3", True), ("fe80::1%eth0", False), ("", False),
         ("not an address", False)],
    )  # fmt: skip
    def test_addresses(self, client: str, allowed: bool) -> None:
        access = Access(token=TOKEN, allow=["10.0.0.0/8"])
        refused = access.refuse(method="GET", client=client, host="127.0.0.1", authorization=f"Bearer {TOKEN}")
        assert (refused is None) is allowed

    @pytest.mark.parametrize("allow", [["10.0.0.0/40"], ["my-machine"], "10.0.0.0/8"])
    def test_a_malformed_list_is_refused(self, cache: Cache, allow: Any) -> None:
        with pytest.raises(SettingsError, match=r"10\.0\.0\.0/8"):
            cache.serve_metrics(port=0, allow=allow)


class TestLife:
    def test_a_port_that_is_taken_is_said_so(self, cache: Cache, server: MetricsServer) -> None:
        with pytest.raises(SettingsError, match=f"port {server.port} on 127.0.0.1 is taken"):
            cache.serve_metrics(port=server.port)

    def test_closing_gives_the_port_back(self, cache: Cache) -> None:
        port = free_port()
        for _ in range(2):
            server = cache.serve_metrics(port=port)
            server.close()
            server.close()

    def test_closing_the_cache_closes_its_servers(self) -> None:
        cache = Cache()
        server = cache.serve_metrics(port=0)
        cache.close()
        with pytest.raises(ConnectionRefusedError):
            ask(server)

    def test_the_port_of_the_settings_is_taken(self) -> None:
        port = free_port()
        with Cache(CacheSettings(monitor={"metrics_port": port})) as cache, cache.serve_metrics() as server:
            assert server.url == f"http://127.0.0.1:{port}"

    def test_connections_that_say_nothing_do_not_keep_others_out_for_long(self, server: MetricsServer) -> None:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
        try:
            wait_until(lambda: _answers(server), deadline=15, what="an answer beside silent connections")
        finally:
            for one in silent:
                one.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_does_not_keep_the_port(self, cache: Cache) -> None:
        server = cache.serve_metrics(port=0)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os.close(read)
        try:
            server.close()
            cache.serve_metrics(port=server.port).close()
        finally:
            os.close(write)
            os.waitpid(pid, 0)


def _answers(server: MetricsServer) -> bool:
    try:
        return ask(server)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


class TestMounted:
    @staticmethod
    def wsgi(app: Any, path: str = "/health", **environ: str) -> tuple[str, bytes]:
        given: dict[str, Any] = {}
        setup_testing_defaults(given)
        given |= {"PATH_INFO": path, "QUERY_STRING": "", "REMOTE_ADDR": "127.0.0.1", **environ}
        told: list[str] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            told.append(status)
            return lambda data: None

        answer = validator(app)(given, start_response)
        body = b"".join(answer)
        answer.close()
        return told[0], body

    def test_wsgi(self, cache: Cache) -> None:
        status, body = self.wsgi(wsgi_app(cache))
        assert (status, json.loads(body)["status"]) == ("200 OK", "healthy")
        assert self.wsgi(wsgi_app(cache), "/metrics")[0] == "200 OK"

    def test_wsgi_keeps_to_this_machine_unless_there_is_a_token(self, cache: Cache) -> None:
        assert self.wsgi(wsgi_app(cache), REMOTE_ADDR="192.0.2.1")[0] == "403 Forbidden"
        assert self.wsgi(wsgi_app(cache), HTTP_HOST="shop.example")[0] == "421 Misdirected Request"
        app = wsgi_app(cache, token=TOKEN, hosts=["shop.example"])
        given = {"REMOTE_ADDR": "192.0.2.1", "HTTP_HOST": "shop.example"}
        assert self.wsgi(app, **given)[0] == "401 Unauthorized"
        assert self.wsgi(app, HTTP_AUTHORIZATION=f"Bearer {TOKEN}", **given)[0] == "200 OK"

    @staticmethod
    async def asgi(app: Any, path: str, client: str = "127.0.0.1", **more: Any) -> tuple[int, bytes]:
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        scope = {
            "type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")],
            "client": (client, 1234), **more,
        }  # fmt: skip
        await app(scope, receive, send)
        return told[0]["status"], told[1]["body"]

    async def test_asgi(self, cache: Cache) -> None:
        app = asgi_app(cache)
        status, body = await self.asgi(app, "/health")
        assert (status, json.loads(body)["status"]) == (200, "healthy")
        assert (await self.asgi(app, "/cache/metrics", root_path="/cache"))[0] == 200
        assert (await self.asgi(app, "/health", client="192.0.2.1"))[0] == 403

    async def test_asgi_takes_part_in_the_lifespan(self, cache: Cache) -> None:
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        told: list[str] = []

        async def receive() -> dict[str, Any]:
            return next(messages)

        async def send(message: dict[str, Any]) -> None:
            told.append(message["type"])

        await asyncio.wait_for(asgi_app(cache)({"type": "lifespan"}, receive, send), 5)
        assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
