"""`durability="replicated"`: an invalidation that waits for a replica."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from servers import PATIENT, ServerProcess, redis_binary, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings, InvalidationPending
from novacron_cache.errors import DeclarationError

pytestmark = pytest.mark.servers


@pytest.fixture(params=["valkey", "redis7"])
def binary(request: pytest.FixtureRequest) -> Path:
    return required(valkey_binary() if request.param == "valkey" else redis_binary(), request.param)


def opened(master: ServerProcess) -> Cache:
    return Cache(CacheSettings.connect(master.url, namespace="durable", redis=PATIENT))


def test_a_server_without_a_replica_says_so(binary: Path) -> None:
    with running(binary) as master, opened(master) as cache:
        assert cache.invalidate_tags("t").replicated is None
        alone = cache.invalidate_tags("t", durability="replicated")
        assert alone.done
        assert alone.replicated is False
        with pytest.raises(InvalidationPending, match="no replica has said so"):
            cache.invalidate_tags("t", durability="replicated", wait=True)


async def test_the_receipt_says_whether_a_replica_has_it(binary: Path) -> None:
    with running(binary) as master, running(binary) as replica:
        replica.command("REPLICAOF", "127.0.0.1", str(master.port))
        wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
        with opened(master) as cache:
            # A replica that is kept waiting for a core may be late, so each is asked until it is not.
            wait_until(lambda: cache.invalidate("k", durability="replicated").replicated)
            wait_until(lambda: cache.invalidate_pattern("a*:b", durability="replicated").replicated)
            wait_until(lambda: cache.clear(durability="replicated").replicated)
            while not (await cache.ainvalidate_tags("t", durability="replicated")).replicated:
                continue
            with contextlib.suppress(InvalidationPending):
                assert cache.invalidate_tags("t", durability="replicated", wait=True).replicated
            replica.pause()
            late = cache.invalidate("k", durability="replicated")
            assert late.done
            assert late.replicated is False
            replica.resume()


def test_where_there_are_no_replicas_to_wait_for_it_is_replicated_at_once(tmp_path: Path) -> None:
    with Cache.connect(namespace="durable", disk=tmp_path) as cache:
        assert cache.invalidate("k", durability="replicated", wait=True).replicated is True


def test_another_word_for_it_is_refused() -> None:
    with Cache() as cache, pytest.raises(DeclarationError, match="expected 'acknowledged' or 'replicated'"):
        cache.invalidate("k", durability="quorum")  # type: ignore[arg-type]  # refused at run time too
