"""Alerts: when a rule begins to fire and when it stops, and who is told without holding anybody up."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from servers import free_port, wait_until

from novacron_cache import Cache, SettingsError
from novacron_cache.observe import RULES, Alert, Alerts, CallbackSink, LogSink, Rule, Snapshot, WebhookSink, sign
from novacron_cache.observe.histogram import Histogram


class World:
    """Figures and a clock, moved by hand."""

    def __init__(self, *rules: Rule, **more: Any) -> None:
        self.snapshot = Snapshot("p", facts={"namespace": "shop"})
        self.now = 1000.0
        self.told: list[tuple[str, str]] = []
        self.alerts = Alerts(
            self._figures,
            rules=rules or RULES,
            sinks=[CallbackSink(lambda alert: self.told.append((alert.name, alert.state)))],
            clock=lambda: self.now,
            **more,
        )
        self.alerts.look()

    def _figures(self) -> Snapshot:
        copied = Snapshot.decode(self.snapshot.encode())
        assert copied is not None
        return copied

    def pass_(self, seconds: float, *, step: float = 15.0, **each: float) -> None:
        """Let time pass, adding to figures in each step: `hits=90, misses=10`."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for family, value in each.items():
                self.add(family, value)
            self.alerts.look()

    def add(self, family: str, value: float) -> None:
        labels = {"hits": ("memory", "m"), "misses": ("m", "cold"), "tier_errors": ("redis", "timeout")}
        labels |= {"security_events": ("signature",), "loads": ("m",), "load_errors": ("m",)}
        if family == "slow":
            histograms = self.snapshot.histograms.setdefault("tier_seconds", {})
            histogram = histograms.setdefault(("redis", "fetch"), Histogram())
            for _ in range(int(value)):
                histogram.add(0.2)
        elif family in ("server_bytes", "server_bytes_limit"):
            self.snapshot.values.setdefault(family, {})["redis",] = value
        else:
            self.snapshot.add(family, value, *labels[family])

    def state(self, name: str) -> str:
        return next(alert.state for alert in self.alerts.states() if alert.name == name)


@pytest.mark.parametrize(
    ("name", "well", "ill"),
    [
        ("CacheHitRateLow", {"hits": 90, "misses": 10}, {"hits": 80, "misses": 20}),
        ("CacheResponseSlow", {}, {"slow": 10}),
        ("CacheErrorRateHigh", {"loads": 1000, "load_errors": 5}, {"loads": 900, "load_errors": 20}),
        ("CacheMemoryHigh", {"server_bytes": 80, "server_bytes_limit": 100},
         {"server_bytes": 95, "server_bytes_limit": 100}),
        ("CacheConnectionFailures", {"tier_errors": 1}, {"tier_errors": 3}),
        ("CacheSecurityEvent", {}, {"security_events": 1}),
    ],
)  # fmt: skip
class TestEachRule:
    def test_it_does_not_fire_while_all_is_well(self, name: str, well: dict[str, float], ill: Any) -> None:
        world = World()
        world.pass_(1800, **well)
        assert world.state(name) == "inactive"

    def test_it_fires_when_the_problem_has_lasted_and_is_resolved_when_it_is_over(
        self, name: str, well: dict[str, float], ill: dict[str, float]
    ) -> None:
        world = World()
        world.pass_(900, **ill)
        assert world.state(name) == "firing"
        assert (name, "firing") in world.told
        if name == "CacheResponseSlow":
            world.snapshot.histograms["tier_seconds"]["redis", "store"] = Histogram([100_000, *[0] * 15])
        world.pass_(1200, **well)
        if well or name == "CacheSecurityEvent":
            assert world.state(name) == "resolved"
        assert [state for told, state in world.told if told == name][:1] == ["firing"]


class TestStates:
    RULE = replace(next(rule for rule in RULES if rule.name == "CacheMemoryHigh"), lasting=60.0, calm=30.0)

    def world(self) -> World:
        world = World(self.RULE)
        world.add("server_bytes_limit", 100)
        return world

    def test_a_short_problem_is_pending_and_nobody_is_told(self) -> None:
        world = self.world()
        world.pass_(45, server_bytes=95)
        assert world.state("CacheMemoryHigh") == "pending"
        world.pass_(15, server_bytes=50)
        assert world.state("CacheMemoryHigh") == "inactive"
        assert world.told == []

    def test_it_goes_on_firing_until_the_figure_has_recovered_beyond_the_threshold(self) -> None:
        world = self.world()
        world.pass_(120, server_bytes=95)
        world.pass_(300, server_bytes=89)
        assert world.state("CacheMemoryHigh") == "firing"
        world.pass_(60, server_bytes=87)
        assert world.state("CacheMemoryHigh") == "resolved"
        assert world.told == [("CacheMemoryHigh", "firing"), ("CacheMemoryHigh", "resolved")]

    def test_a_figure_that_goes_up_and_down_tells_once(self) -> None:
        world = self.world()
        for _ in range(20):
            world.pass_(75, server_bytes=95)
            world.pass_(15, server_bytes=80)
        assert world.told == [("CacheMemoryHigh", "firing")]

    def test_a_figure_that_is_missing_neither_begins_nor_ends_anything(self) -> None:
        world = self.world()
        world.pass_(120, server_bytes=95)
        del world.snapshot.values["server_bytes_limit"]
        world.pass_(600)
        assert world.state("CacheMemoryHigh") == "firing"

    def test_it_can_fire_again(self) -> None:
        world = self.world()
        for _ in range(2):
            world.pass_(120, server_bytes=95)
            world.pass_(120, server_bytes=10)
        assert [state for _, state in world.told] == ["firing", "resolved"] * 2

    def test_what_was_counted_before_the_first_look_is_no_news(self) -> None:
        world = World()
        other = Alerts(world._figures, sinks=[], clock=lambda: world.now)
        world.snapshot.add("security_events", 1000, "signature")
        other.look()
        assert {alert.state for alert in other.states()} == {"inactive"}

    def test_few_calls_say_nothing_about_the_hit_rate(self) -> None:
        world = World()
        world.pass_(1800, misses=1)
        assert world.state("CacheHitRateLow") == "inactive"

    def test_a_short_interval_does_not_shorten_the_window(self) -> None:
        world = World()
        world.pass_(700, step=1.0, hits=9, misses=1)
        rule = next(alert for alert in world.alerts.states() if alert.name == "CacheHitRateLow")
        assert rule.value == pytest.approx(0.9)
        world.pass_(150, step=1.0, hits=0, misses=10)
        rule = next(alert for alert in world.alerts.states() if alert.name == "CacheHitRateLow")
        assert rule.value == pytest.approx(0.45, abs=0.02)


def alert(**more: Any) -> Alert:
    given = {
        "name": "CacheHitRateLow", "state": "firing", "severity": "warning", "value": 0.5, "threshold": 0.85,
        "unit": "ratio", "since": 1.0, "says": "Few hits.", "does": "Look.", "namespace": "shop",
    }  # fmt: skip
    return Alert(**{**given, **more})


class TestSinks:
    def test_the_log_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "novacron_cache"):
            LogSink().send(alert())
            LogSink().send(alert(severity="critical"))
            LogSink().send(alert(state="resolved", value=None))
        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", "INFO"]
        assert "CacheHitRateLow is firing (0.5, threshold 0.85 ratio): Few hits." in caplog.text

    def test_a_sink_that_fails_keeps_no_other_from_being_told(self) -> None:
        world = World(replace(TestStates.RULE, lasting=0.0))
        heard: list[Alert] = []

        def fail(_: Alert) -> None:
            raise RuntimeError("no")

        world.alerts._sinks = [CallbackSink(fail), CallbackSink(heard.append)]
        world.add("server_bytes_limit", 100)
        world.pass_(30, server_bytes=99)
        assert [one.name for one in heard] == ["CacheMemoryHigh"]

    def test_in_the_background_a_cache_is_looked_at_until_it_ends(self) -> None:
        told: list[Alert] = []
        rule = replace(next(rule for rule in RULES if rule.name == "CacheSecurityEvent"))
        with (
            Cache() as cache,
            Alerts(cache, rules=[rule], sinks=[CallbackSink(told.append)], interval=0.02) as alerts,
        ):
            wait_until(lambda: alerts._earlier)
            cache.observer.recorder._add("security_events", "signature")
            wait_until(lambda: told)
            assert [one.name for one in alerts.firing()] == ["CacheSecurityEvent"]


class Receiver:
    """A web address that answers as it is told."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.hang = threading.Event()
        self.hang.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
                receiver.hang.wait(20)
                status = receiver.answers.pop(0) if receiver.answers else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    return  # whoever hung up

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class TestWebhook:
    def test_an_alert_arrives_signed(self, receiver: Receiver) -> None:
        sink = WebhookSink(receiver.url, secret="a secret")
        sink.send(alert())
        wait_until(lambda: sink.sent == 1)
        sink.close()
        ((headers, body),) = receiver.received
        assert json.loads(body)["alert"]["name"] == "CacheHitRateLow"
        at, signature = (part.partition("=")[2] for part in headers["x-novacron-signature"].split(","))
        assert hmac.new(b"a secret", at.encode() + b"." + body, hashlib.sha256).hexdigest() == signature
        assert headers["x-novacron-signature"] == sign("a secret", body, int(at))
        assert abs(int(at) - time.time()) < 60

    def test_without_a_secret_it_is_not_signed(self, receiver: Receiver) -> None:
        sink = WebhookSink(receiver.url)
        sink.send(alert())
        wait_until(lambda: sink.sent == 1)
        sink.close()
        assert "x-novacron-signature" not in receiver.received[0][0]

    def test_it_is_tried_again_until_it_is_taken(self, receiver: Receiver) -> None:
        receiver.answers = [500, 429, 503]
        sink = WebhookSink(receiver.url, pause=0.01)
        sink.send(alert())
        wait_until(lambda: sink.sent == 1)
        sink.close()
        assert len(receiver.received) == 4
        assert len({body for _, body in receiver.received}) == 1

    def test_a_refusal_is_final(self, receiver: Receiver) -> None:
        receiver.answers = [403]
        sink = WebhookSink(receiver.url, pause=0.01)
        sink.send(alert())
        wait_until(lambda: sink.dropped == 1)
        sink.close()
        assert len(receiver.received) == 1

    def test_a_redirection_is_not_followed(self, receiver: Receiver) -> None:
        receiver.answers = [302] * 2
        sink = WebhookSink(receiver.url, pause=0.01, attempts=2)
        sink.send(alert())
        wait_until(lambda: sink.dropped == 1)
        sink.close()
        assert len(receiver.received) == 2

    def test_nobody_there_is_given_up_with_a_warning_that_names_no_secret(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = WebhookSink(f"http://127.0.0.1:{free_port()}/hooks/s3cr3t", pause=0.01, attempts=2)
        sink.send(alert())
        wait_until(lambda: sink.dropped == 1)
        sink.close()
        assert "could not be sent to 127.0.0.1" in caplog.text
        assert "s3cr3t" not in caplog.text

    def test_one_that_hangs_holds_nobody_up(self, receiver: Receiver) -> None:
        receiver.hang.clear()
        sink = WebhookSink(receiver.url, timeout=0.2, capacity=5, pause=0.01)
        start = time.monotonic()
        for number in range(100):
            sink.send(alert(name=f"a{number}"))
        assert time.monotonic() - start < 5  # for each its time-out would be 20
        wait_until(lambda: receiver.received)
        assert sink.dropped >= 90
        start = time.monotonic()
        sink.close()
        assert time.monotonic() - start < 10

    def test_when_there_is_no_room_the_oldest_goes(self, receiver: Receiver) -> None:
        receiver.hang.clear()
        sink = WebhookSink(receiver.url, capacity=2)
        sink.send(alert(name="first"))
        wait_until(lambda: receiver.received)
        for name in ("second", "third", "fourth"):
            sink.send(alert(name=name))
        receiver.hang.set()
        wait_until(lambda: sink.sent == 3)
        sink.close()
        assert [json.loads(body)["alert"]["name"] for _, body in receiver.received] == ["first", "third", "fourth"]

    def test_closing_sends_what_waits(self, receiver: Receiver) -> None:
        sink = WebhookSink(receiver.url)
        for number in range(5):
            sink.send(alert(name=f"a{number}"))
        sink.close()
        assert sink.sent == 5

    @pytest.mark.parametrize("url", ["", "ops.example/hook", "ftp://ops.example/", "file:///etc/passwd", "https://"])
    def test_what_is_no_address_is_refused(self, url: str) -> None:
        with pytest.raises(SettingsError, match="begin with https://"):
            WebhookSink(url)
