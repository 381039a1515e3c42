"""`invalidating()` where the shared tier fails, in a forked child, and while its hold is being prolonged."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novacron_cache import Cache, InvalidationPending
from novacron_cache.effects import Hold
from novacron_cache.errors import TierUnavailableError
from novacron_cache.holding import InvalidatingBlock


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache.connect(disk=tmp_path, namespace="shop") as cache:
        yield cache


@pytest.fixture
def asked(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the directory is asked; whatever is in `refused` fails."""
    (tier,) = cache.engine.shared
    original, asked = tier.perform, Asked()

    def perform(operation: Any) -> Any:
        asked.append(operation)
        if isinstance(operation, asked.refused):
            raise TierUnavailableError("the directory is gone", tier="disk")
        return original(operation)

    monkeypatch.setattr(tier, "perform", perform)
    return asked


class Asked(list[Any]):
    refused: tuple[type, ...] = ()


async def test_a_block_that_waits_is_not_run_where_nobody_can_hold_and_leaves_nothing_held(
    cache: Cache, asked: Asked
) -> None:
    asked.refused = (Hold,)
    with pytest.raises(InvalidationPending, match="nothing was written yet"), cache.invalidating(keys=["k"], wait=True):
        pytest.fail("the block must not run")
    with pytest.raises(InvalidationPending, match="nothing was written yet"):
        async with cache.invalidating(keys=["k"], wait=True):
            pytest.fail("the block must not run")
    cache.set("k", 2)
    assert cache.get("k") == 2, "nothing is held any more"


def test_a_hold_that_cannot_be_prolonged_is_told_of(
    cache: Cache, asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    with cache.invalidating(keys=["k"], hold="10m") as block:
        block.prolong()
        assert "could not be prolonged" not in caplog.text
        asked.refused = (Hold,)
        block.prolong()
        assert "could not be prolonged" in caplog.text
        assert not block.over()
        asked.refused = ()
    assert block.receipt is not None
    assert block.receipt.done


async def test_a_block_ends_no_sooner_than_what_prolongs_it(cache: Cache) -> None:
    for asynchronous in (False, True):
        block = cache.invalidating(keys=["k"], hold="10m")
        if asynchronous:
            await block.__aenter__()
            block.idle.clear()
            ended = asyncio.ensure_future(block.__aexit__(None, None, None))
            await asyncio.sleep(0)
            assert not ended.done()
            block.idle.set()
            await ended
        else:
            block.__enter__()
            block.idle.clear()
            thread = threading.Thread(target=block.__exit__, args=(None, None, None))
            thread.start()
            assert block.receipt is None
            block.idle.set()
            thread.join(10)
        assert block.receipt is not None
        assert block.receipt.done


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_a_forked_child_leaves_the_block_to_its_parent(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.set("k", 1)
    with cache.invalidating(keys=["k"], hold="10m") as block:
        async with cache.invalidating(keys=["k"], hold="10m") as other:
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: -1)  # as it is in a child
                block.__exit__(None, None, None)
                await InvalidatingBlock.__aexit__(other, None, None, None)
            assert (block.receipt, other.receipt) == (None, None)
            cache.set("k", 2)
            assert cache.get("k") is None, "it is held still"
    assert block.receipt is not None
    assert other.receipt is not None


async def test_a_receipt_of_what_no_replica_confirms_raises_only_for_who_waits(
    cache: Cache, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = cache.invalidate("k", durability="replicated")
    assert receipt.replicated is True
    monkeypatch.setattr(type(receipt), "replicated", False)
    assert receipt.check(wait=False) is receipt
    with pytest.raises(InvalidationPending, match="no replica has said so in time"):
        receipt.check(wait=True)
