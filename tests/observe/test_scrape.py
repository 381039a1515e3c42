"""A real Prometheus scrapes a cache that runs, and an alert of the rules file fires there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from observe.scraping import TOKEN, get, prometheus, query
from servers import wait_until

from novacron_cache import Cache, CacheSettings


@pytest.mark.timeout(150)
def test_it_reads_everything_and_the_hit_rate_alert_fires_and_ends(tmp_path: Path) -> None:
    with (
        Cache(CacheSettings(namespace="shop", monitor={"token": TOKEN})) as cache,
        cache.serve_metrics(port=0) as server,
        prometheus(tmp_path, f"127.0.0.1:{server.port}") as port,
    ):

        @cache.cached(int, key="n:<n>", name="numbers")
        def get_number(n: int) -> int:
            return n

        state = {"next": 0}

        def call(hits: int) -> None:
            for _ in range(10):
                for _ in range(hits + 1):
                    get_number(state["next"])
                state["next"] += 1

        def firing(name: str) -> bool:
            return bool(query(port, f'ALERTS{{alertname="{name}",alertstate="firing"}}'))

        def with_calls(hits: int, condition: bool) -> bool:
            call(hits)
            return firing("CacheHitRateLow") is condition

        assert wait_until(lambda: query(port, 'up{job="cache"} == 1'), deadline=20)
        wait_until(lambda: with_calls(1, True), deadline=30, what="the alert")
        (alert,) = wait_until(lambda: query(port, 'ALERTS{alertname="CacheHitRateLow",alertstate="firing"}'))
        assert (alert["metric"]["cache"], alert["metric"]["severity"]) == ("shop", "warning")
        wait_until(lambda: with_calls(20, False), deadline=40, what="the end of the alert")
        (hits,) = wait_until(lambda: query(port, "sum(novacron_cache_hits_total)"))
        assert 0 < float(hits["value"][1]) <= cache.stats().hits["memory"]

        def healthy() -> bool:
            target = json.loads(get(port, "/api/v1/targets")[1])["data"]["activeTargets"][0]
            return (target["health"], target["lastError"]) == ("up", "")

        wait_until(healthy, what="a scrape in time")
