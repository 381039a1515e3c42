"""A real Prometheus scrapes a cache that runs, and an alert of the rules file fires there."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from servers import free_port, required, wait_until

from novacron_cache import Cache, CacheSettings

RULES = Path(__file__).parents[2] / "compose" / "prometheus" / "alerts.yml"
TOKEN = "a-token-that-is-long-enough"


def faster(rules: str) -> str:
    """The same rules for those who cannot wait: minutes become seconds."""
    rules = re.sub(r"\[300s\]|\[60s\]", "[5s]", rules)
    rules = re.sub(r"for: \d+s", "for: 1s", rules)
    return rules.replace(" > 0.3333", " > 1")


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[int]:
    binary = required(Path(found) if (found := shutil.which("prometheus")) else None, "prometheus (Debian: prometheus)")
    (directory / "alerts.yml").write_text(faster(RULES.read_text()))
    (directory / "prometheus.yml").write_text(
        f"""
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: cache
    authorization: {{ credentials: {TOKEN} }}
    static_configs: [{{ targets: ["{target}"] }}]
"""
    )
    port = free_port()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: ready(port, process, directory), deadline=30, what="prometheus")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def ready(port: int, process: subprocess.Popen[bytes], directory: Path) -> bool:
    if process.poll() is not None:
        pytest.fail((directory / "log").read_text())
    try:
        return get(port, "/-/ready")[0] == 200
    except OSError:
        return False


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def query(port: int, expression: str) -> list[Any]:
    found: list[Any] = json.loads(get(port, f"/api/v1/query?query={quote(expression)}")[1])["data"]["result"]
    return found


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
        (alert,) = query(port, 'ALERTS{alertname="CacheHitRateLow",alertstate="firing"}')
        assert (alert["metric"]["cache"], alert["metric"]["severity"]) == ("shop", "warning")
        wait_until(lambda: with_calls(20, False), deadline=40, what="the end of the alert")
        (hits,) = query(port, "sum(novacron_cache_hits_total)")
        assert 0 < float(hits["value"][1]) <= cache.stats().hits["memory"]
        health = json.loads(get(port, "/api/v1/targets")[1])["data"]["activeTargets"][0]
        assert (health["health"], health["lastError"]) == ("up", "")
