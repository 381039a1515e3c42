"""A tier that misbehaves: how often, in which way, and that no caller is told a lie or an error because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novacron_cache import CacheModel, DeclarationError, TierUnavailableError, cached
from novacron_cache.effects import Capture, Fetch, Item, ReturnLease, Store, TakeLease, Together
from novacron_cache.effects import Ending as LeaseEnding
from novacron_cache.events import Corrupt, TierFailed
from novacron_cache.markers import NAMESPACE, new_id
from novacron_cache.testing import ChaosTier, IsolatedCache, LeaseSuite, ManualClock, TierSuite, isolated
from novacron_cache.testing.chaos import FAULTS
from novacron_cache.tiers.memory import MemoryTier

LIFE = 60.0


class TestACalmOneIsTheTierItStandsBefore(TierSuite, LeaseSuite):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def tier(self, clock: ManualClock) -> ChaosTier:
        return ChaosTier(MemoryTier(clock=clock))

    @pytest.fixture
    def other_namespace(self, clock: ManualClock) -> ChaosTier:
        return ChaosTier(MemoryTier(clock=clock))


def chaos(**options: Any) -> ChaosTier:
    return ChaosTier(MemoryTier(), **options)


def outcomes(tier: ChaosTier, count: int = 200) -> list[bool]:
    found = []
    for _ in range(count):
        try:
            tier.perform(Fetch(["a"]))
        except TierUnavailableError:
            found.append(False)
        else:
            found.append(True)
    return found


class TestFaults:
    def test_one_that_fails_has_done_nothing(self) -> None:
        tier = chaos(fail=1)
        with pytest.raises(TierUnavailableError, match="refused"):
            tier.perform(Store([Item("a", b"1", LIFE)]))
        assert tier.tier.perform(Fetch(["a"])).payloads == [None]
        assert tier.counts == {"fail": 1}

    def test_one_whose_answer_is_lost_has_done_its_work(self) -> None:
        tier = chaos(lose=1)
        with pytest.raises(TierUnavailableError, match="answer is lost"):
            tier.perform(Store([Item("a", b"1", LIFE)]))
        assert tier.tier.perform(Fetch(["a"])).payloads == [b"1"]
        assert tier.counts == {"lose": 1}

    def test_one_that_hangs_fails_after_its_patience_and_blocks_no_loop(self) -> None:
        tier = chaos(hang=1, patience=0.05)

        async def run() -> int:
            ticks = 0
            task = asyncio.ensure_future(tier.aperform(Fetch(["a"])))
            while not task.done():
                ticks += 1
                await asyncio.sleep(0.005)
            with pytest.raises(TierUnavailableError, match=r"no answer within 0\.05 s"):
                await task
            return ticks

        assert asyncio.run(run()) > 1
        with pytest.raises(TierUnavailableError, match="no answer"):
            tier.perform(Fetch(["a"]))

    def test_a_slow_one_answers(self) -> None:
        tier = chaos(slow=1, delay=0.001)
        assert tier.perform(Store([Item("a", b"1", LIFE)])) is True
        assert asyncio.run(tier.aperform(Fetch(["a"]))).payloads == [b"1"]
        assert tier.counts == {"slow": 2}

    def test_a_damaged_payload_is_never_the_one_that_was_stored(self) -> None:
        tier = chaos(corrupt=1)
        tier.perform(Store([Item("a", b"some payload", LIFE)]))
        found = {tier.perform(Fetch(["a", "none"])).payloads[0] for _ in range(50)}
        assert b"some payload" not in found
        assert len(found) > 10
        assert tier.counts == {"corrupt": 50}
        assert tier.tier.perform(Fetch(["a"])).payloads == [b"some payload"]

    def test_what_has_no_payload_cannot_be_damaged(self) -> None:
        tier = chaos(corrupt=1)
        assert tier.perform(Fetch(["a"])).payloads == [None]
        assert tier.perform(Capture([NAMESPACE], LIFE))[0] is not None
        assert tier.counts == {}

    def test_a_read_that_travels_with_a_lease_can_be_damaged_too(self) -> None:
        tier = chaos(corrupt=1)
        tier.perform(Store([Item("a", b"some payload", LIFE)]))
        holder = new_id()
        fetched, taken = tier.perform(Together(Fetch(["a"]), TakeLease("a", holder, LIFE)))
        assert fetched.payloads != [b"some payload"]
        assert taken is None
        assert tier.perform(ReturnLease("a", holder, LeaseEnding.STORED)) is True


class TestRates:
    def test_the_same_seed_causes_the_same_faults(self) -> None:
        assert outcomes(chaos(seed=3, fail=0.5)) == outcomes(chaos(seed=3, fail=0.5))
        assert outcomes(chaos(seed=3, fail=0.5)) != outcomes(chaos(seed=4, fail=0.5))

    def test_a_rate_is_the_share_of_operations(self) -> None:
        assert 60 < outcomes(chaos(fail=0.4)).count(False) < 100
        assert all(outcomes(chaos()))
        assert not any(outcomes(chaos(fail=1)))

    def test_one_fault_more_does_not_move_the_others(self) -> None:
        assert outcomes(chaos(seed=9, fail=0.3)) == outcomes(chaos(seed=9, fail=0.3, slow=0.5, delay=0.0))

    def test_it_can_be_calmed_and_stirred_up_again(self) -> None:
        tier = chaos(fail=1)
        tier.calm()
        assert all(outcomes(tier))
        tier.rates["fail"] = 1.0
        assert not any(outcomes(tier))
        assert repr(tier) == "<ChaosTier before memory: fail=1.0>"

    def test_a_fault_that_there_is_not_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(DeclarationError, match="there is no fault 'corupt'; did you mean 'corrupt'"):
            chaos(corupt=0.5)

    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
    def test_a_rate_is_from_none_to_all(self, fault: str, rate: float) -> None:
        with pytest.raises(DeclarationError, match="a rate is from 0"):
            chaos(**{fault: rate})


class Disk(CacheModel, key="disk:<disk_id>", ttl="1m", tags=["host:<host>"]):
    disk_id: str
    host: str
    version: int


class TestInACache:
    @pytest.fixture
    def here(self, tmp_path: Path) -> Iterator[IsolatedCache]:
        with isolated(namespace="t", disk={"path": tmp_path / "d"}) as here:
            yield here

    def test_callers_get_right_answers_whatever_fails(self, here: IsolatedCache) -> None:
        truth = {str(n): 0 for n in range(5)}

        @cached(Disk, cache=here.cache)
        def disk(disk_id: str) -> Disk:
            return Disk(disk_id=disk_id, host="h", version=truth[disk_id])

        memory = here.cache.engine.memory
        assert memory is not None
        tier = here.disturb(seed=11, fail=0.1, lose=0.1, corrupt=0.3)
        for number in range(150):
            disk_id = str(number % 5)
            assert disk(disk_id).version == truth[disk_id]
            if number % 7 == 0:
                truth[disk_id] += 1
                disk.invalidate(disk_id)
                assert disk(disk_id).version == truth[disk_id]
            memory.clear()  # so that the disk is read
            here.advance(0.4)
        assert {"fail", "lose", "corrupt"} <= set(tier.counts)
        assert here.events.of(TierFailed)

    def test_a_damaged_payload_is_a_miss_and_an_event(self, here: IsolatedCache) -> None:
        here.cache.set("a", "value")
        assert here.cache.engine.memory is not None
        here.cache.engine.memory.clear()
        here.disturb(corrupt=1)
        assert here.cache.get("a") is None
        assert here.events.of(Corrupt)

    def test_when_it_ends_the_tier_is_the_cache_s_own_again(self, here: IsolatedCache) -> None:
        engine = here.cache.engine
        tier = engine.shared[0]
        stand_in = here.disturb("disk", fail=1)
        assert engine.shared == [stand_in]
        assert engine.authority is stand_in
        here.close()
        assert engine.shared == [tier]
        assert engine.authority is tier

    def test_process_memory_has_nothing_that_could_fail(self) -> None:
        with isolated() as here, pytest.raises(DeclarationError, match="disk=True"):
            here.disturb(fail=1)

    def test_another_tier_than_the_cache_has_is_refused(self, here: IsolatedCache) -> None:
        with pytest.raises(DeclarationError, match=r"no shared tier 'redis'.*\['disk'\]"):
            here.disturb("redis", fail=1)

    def test_what_the_tier_alone_can_do_is_still_there(self, here: IsolatedCache) -> None:
        stand_in = here.disturb(fail=0)
        assert stand_in.newest_change() is not None
        with pytest.raises(AttributeError):
            stand_in.nothing_of_the_kind  # noqa: B018
        assert stand_in.encounters() == 0
        assert stand_in.confirmed_at() > 0
        stand_in.renew_connections()
