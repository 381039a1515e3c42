"""Markers on a server of a fixed size: what it gives up costs misses, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import PATIENT, redis_binary, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings

pytestmark = pytest.mark.servers

MEGABYTES = 8
KEYS = 24_000


@pytest.fixture(params=["valkey", "redis7"])
def binary(request: pytest.FixtureRequest) -> Path:
    return required(valkey_binary() if request.param == "valkey" else redis_binary(), request.param)


def test_markers_of_values_on_disk_do_not_outgrow_the_server(binary: Path, tmp_path: Path) -> None:
    limits = ("--maxmemory", f"{MEGABYTES}mb", "--maxmemory-policy", "volatile-lru")
    with running(binary, args=limits) as server:
        settings = CacheSettings.connect(
            server.url,
            namespace="small",
            disk=tmp_path / "l3",
            memory={"enabled": False},
            default_ttl="1d",
            redis=PATIENT,
        )
        with Cache(settings) as cache:
            failures: list[object] = []
            cache.on("tier_failed", failures.append)
            for first in range(0, KEYS, 1000):
                keys = range(first, first + 1000)
                if first + 1000 == KEYS:
                    # The server counts idleness in whole seconds: of one second, it may give up what is newest.
                    server.command("SET", "old", "1")
                    wait_until(lambda: int(server.command("OBJECT", "IDLETIME", "old")[1:]) >= 2, what="idle keys")
                cache.set_many({f"k{n}": n for n in keys}, tags=["all", f"tag{first // 1000}"])
            report = dict(line.split(b":", 1) for line in server.command("INFO", "all").splitlines() if b":" in line)
            assert int(report[b"evicted_keys"]) > 0
            assert int(report[b"used_memory"]) < 1.1 * MEGABYTES * 2**20
            # What still has its marker is served, from the disk where the server has given it up; never an older value.
            sample = [f"k{n}" for n in range(0, KEYS, 37)]
            found = cache.get_many(sample)
            assert found == {key: int(key[1:]) for key in found}
            newest = [f"k{n}" for n in range(KEYS - 200, KEYS)]
            assert cache.get_many(newest) == {key: int(key[1:]) for key in newest}
            assert cache.invalidate_tags(f"tag{KEYS // 1000 - 1}").done
            assert cache.get_many(newest) == {}
            assert cache.invalidate_tags("all").done
            assert cache.get_many(sample) == {}
            assert failures == []
