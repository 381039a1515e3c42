"""Tiers and codecs that a cache is given: where they stand, what they keep, and what is said of those it cannot use."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conformance.parts import NOTED, ArchiveTier, NotedCodec, Shelf

from novacron_cache import Cache, CacheModel, CacheSettings, DeclarationError, SettingsError, cached
from novacron_cache.codecs import MSGPACK, PICKLE
from novacron_cache.effects import Delete, Ending, Fetch, KeepLeases, ReturnLease, TakeLease
from novacron_cache.errors import TierError
from novacron_cache.events import TierFailed
from novacron_cache.testing import ManualClock
from novacron_cache.tiers import Tier
from novacron_cache.tiers.given import GivenTier
from novacron_cache.tiers.memory import MemoryTier

KEY = bytes(range(32))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def caches() -> Iterator[list[Cache]]:
    opened: list[Cache] = []
    yield opened
    for cache in opened:
        cache.close()


def over(shelf: Shelf, clock: ManualClock, caches: list[Cache], **settings: Any) -> Cache:
    """Return a cache with a tier over the shelf, as one more process would have it."""
    cache = Cache(CacheSettings(namespace="shop", **settings), tiers=[ArchiveTier(shelf, clock=clock)], clock=clock)
    caches.append(cache)
    return cache


class TestBehindADirectory:
    def test_a_value_is_stored_there_too_and_found_when_nothing_nearer_has_it(
        self, tmp_path: Path, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        first = over(shelf, clock, caches, disk={"path": tmp_path / "a"})
        assert first.get_or_load("price", lambda: 12, ttl=60) == 12
        (key,) = shelf.payloads
        first.engine.shared[0].perform(Delete([key]))  # the directory is small, and has let go of it
        second = over(shelf, clock, caches, disk={"path": tmp_path / "a"})
        assert second.get_or_load("price", lambda: 0) == 12
        assert second.stats().hits == {"archive": 1}

    def test_what_was_invalidated_is_not_served_from_there(
        self, tmp_path: Path, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        first = over(shelf, clock, caches, disk={"path": tmp_path / "a"})
        first.set("price", 12, tags=["sku:1"])
        (key,) = shelf.payloads
        first.engine.shared[0].perform(Delete([key]))
        assert first.invalidate_tags("sku:1").done
        assert list(shelf.payloads) == [key]  # it is there, and nobody believes it
        second = over(shelf, clock, caches, disk={"path": tmp_path / "a"})
        assert second.get_or_load("price", lambda: 13) == 13

    def test_it_keeps_payloads_and_is_never_asked_for_markers(
        self, tmp_path: Path, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        tier = ArchiveTier(shelf, clock=clock)
        with Cache(CacheSettings(namespace="shop", disk={"path": tmp_path / "a"}), tiers=[tier], clock=clock) as cache:
            cache.set("price", 12)
            cache.get_or_load("stock", lambda: 3, tags=["sku:1"])
            cache.invalidate("price")
            cache.invalidate_pattern("*:1")
            cache.clear(purge=True)
        assert set(tier.asked) <= {"Fetch", "Store", "Delete", "Purge"}
        assert not shelf.markers
        assert not shelf.payloads


class TestInTheirPlace:
    def test_processes_share_it_and_obey_an_invalidation_within_the_bound(
        self, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        first, second = (over(shelf, clock, caches, staleness_bound=3) for _ in range(2))
        assert first.get_or_load("price", lambda: 12, tags=["sku:1"]) == 12
        assert second.get_or_load("price", lambda: 0, tags=["sku:1"]) == 12
        assert first.invalidate_tags("sku:1").done
        assert first.get("price") is None
        clock.advance(3)
        assert second.get("price") is None
        assert second.get_or_load("price", lambda: 13) == 13

    def test_an_invalidation_by_pattern_reaches_it(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        first, second = (over(shelf, clock, caches) for _ in range(2))
        first.set_many({"a:1": 1, "a:2": 2})
        assert first.invalidate_pattern("*:1").done
        assert second.get_many(["a:1", "a:2"]) == {"a:2": 2}

    def test_asynchronous_calls_use_it_too(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        async def use() -> None:
            async with over(shelf, clock, caches) as cache:
                assert await cache.aget_or_load("price", lambda: 12) == 12
            assert over(shelf, clock, caches).get("price") == 12

        asyncio.run(use())

    def test_it_is_the_first_of_several_that_keeps_the_markers(self, shelf: Shelf, clock: ManualClock) -> None:
        class Attic(ArchiveTier):
            name = "attic"

        near, far = ArchiveTier(shelf, clock=clock), Attic(Shelf(), clock=clock)
        with Cache(CacheSettings(namespace="shop"), tiers=[near, far], clock=clock) as cache:
            cache.set("price", 12)
            assert repr(cache) == "<Cache shop: memory, archive, attic>"
        assert near.shelf.markers
        assert not far.shelf.markers
        assert near.shelf.payloads.keys() == far.shelf.payloads.keys()

    def test_values_with_tags_from_the_result_stay_where_they_were_loaded(
        self, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        cache = over(shelf, clock, caches)

        @cache.cached(Noted, tags=["parity:<parity>"])
        def load(n: int) -> Noted:
            return Noted(n=n, parity=n % 2)

        assert load(1).parity == 1
        assert load.explain(1).tier == "memory"
        assert not shelf.payloads

    def test_process_memory_may_be_off(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        cache = over(shelf, clock, caches, memory={"enabled": False})
        cache.set("price", 12)
        assert cache.get("price") == 12


class TestWhatAnyTierHas:
    def test_declarations_may_name_it(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        cache = over(shelf, clock, caches)

        @cache.cached(int, key="here:<n>", tiers=["memory"])
        def here(n: int) -> int:
            return n

        @cache.cached(int, key="there:<n>", tiers=["archive"])
        def there(n: int) -> int:
            return n

        assert (here(1), there(1)) == (1, 1)
        assert [key for key in shelf.payloads if "here" in key and "there" not in key] == []
        assert here.explain(1).tier == "memory"
        assert there.explain(1).tier == "archive"

    def test_nothing_stays_in_it_longer_than_its_ttl(
        self, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        tier = ArchiveTier(shelf, clock=clock)
        tier.ttl = 20.0
        with Cache(CacheSettings(namespace="shop"), tiers=[tier], clock=clock) as cache:
            cache.set("long", 1, ttl=1000)
            cache.set("short", 2, ttl=5)
        assert sorted(until - clock.time() for _, until in shelf.payloads.values()) == pytest.approx([5, 20])

    def test_health_figures_and_events_call_it_by_its_name(
        self, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        cache = over(shelf, clock, caches)
        assert [tier.name for tier in cache.health().tiers] == ["memory", "archive"]
        cache.set("price", 12)
        other = over(shelf, clock, caches)
        assert other.get("price") == 12
        assert 'tier="archive"' in other.export_prometheus()

    def test_it_is_closed_with_the_cache(self, shelf: Shelf, clock: ManualClock) -> None:
        tiers = [ArchiveTier(shelf, clock=clock) for _ in range(2)]
        Cache(CacheSettings(namespace="shop"), tiers=[tiers[0]], clock=clock).close()

        async def use() -> None:
            async with Cache(CacheSettings(namespace="shop"), tiers=[tiers[1]], clock=clock):
                pass

        asyncio.run(use())
        assert all(tier.closed for tier in tiers)

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_whatever_it_raises_costs_a_call_nothing_but_the_value(
        self, shelf: Shelf, clock: ManualClock, caches: list[Cache], asynchronous: bool
    ) -> None:
        class Broken(ArchiveTier):
            name = "broken"

            def fetch(self, operation: Fetch) -> Any:
                raise LookupError("the shelf has moved")

        cache = Cache(CacheSettings(namespace="shop"), tiers=[Broken(shelf, clock=clock)], clock=clock)
        caches.append(cache)
        failures: list[TierFailed] = []
        cache.on("tier_failed", failures.append)
        if asynchronous:
            assert asyncio.run(cache.aget_or_load("price", lambda: 12)) == 12
        else:
            assert cache.get_or_load("price", lambda: 12) == 12
        assert {failure.tier for failure in failures} == {"broken"}
        assert str(failures[0].error) == "broken: Fetch raised LookupError: the shelf has moved"
        assert isinstance(failures[0].error.__cause__, LookupError)


class Nameless(ArchiveTier):
    name = "Two words"


class Taken(ArchiveTier):
    name = "disk"


class Eternal(ArchiveTier):
    name = "eternal"
    ttl = math.inf


class TestTiersThatCannotBeUsed:
    @pytest.mark.parametrize(
        ("tiers", "says"),
        [
            (lambda: ArchiveTier(Shelf()), "expected a list of tiers, such as tiers=[MyTier()]"),
            (lambda: 1, "tiers=1: expected a list of tiers"),
            (lambda: [ArchiveTier], "ArchiveTier is the class; give an instance, ArchiveTier(...)"),
            (lambda: ["archive"], "'archive' is not a tier; inherit novacron_cache.tiers.Tier, or BlockingTier"),
            (lambda: [object()], "<object> is not a tier"),
            (lambda: [Nameless(Shelf())], "Nameless.name is 'Two words'; expected 1 to 32 lower-case letters"),
            (lambda: [Taken(Shelf())], "Taken.name='disk' is the name of a tier of the package"),
            (lambda: [MemoryTier()], "MemoryTier.name='memory' is the name of a tier of the package"),
            (lambda: [ArchiveTier(Shelf()), ArchiveTier(Shelf())], "'archive' is the name of another tier"),
            (lambda: [Eternal(Shelf())], "Eternal.ttl is inf; expected seconds, more than zero and not for ever"),
        ],
    )
    def test_the_error_says_what_would_do(self, tiers: Any, says: str) -> None:
        with pytest.raises(SettingsError) as raised:
            Cache(CacheSettings(namespace="shop"), tiers=tiers())
        assert says in str(raised.value)

    @pytest.mark.parametrize("ttl", [0, -1, True, "1m", math.nan])
    def test_a_ttl_that_is_no_time(self, ttl: Any) -> None:
        tier = ArchiveTier(Shelf())
        tier.ttl = ttl
        with pytest.raises(SettingsError, match="expected seconds"):
            Cache(CacheSettings(namespace="shop"), tiers=[tier])

    def test_a_shared_tier_needs_a_namespace(self) -> None:
        with pytest.raises(SettingsError, match="the archive tier is shared") as raised:
            Cache(tiers=[ArchiveTier(Shelf())])
        assert raised.value.variable == "namespace"

    def test_a_name_that_no_tier_has_is_an_error_at_the_declaration(self) -> None:
        with pytest.raises(DeclarationError, match="no tier is called 'archiv'; did you mean 'archive'"):
            cached(int, key="n:<n>", tiers=["memory", "archiv"])

    def test_an_abstract_tier_cannot_be_made(self) -> None:
        class Unfinished(Tier):
            name = "unfinished"

        with pytest.raises(TypeError, match="abstract"):
            Unfinished()  # type: ignore[abstract]  # that is what is tested


class Noted(CacheModel, key="noted:<n>", codec=NOTED):
    n: int
    parity: int = 0


class TestACodecOfOnesOwn:
    def test_a_function_says_it(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        loads = []

        def numbers(n: int) -> list[int]:
            loads.append(n)
            return [n]

        for _ in range(2):  # the second process reads what the first one wrote
            cache = over(shelf, clock, caches)
            assert cache.cached(list[int], key="numbers:<n>", codec=NotedCodec())(numbers)(1) == [1]
        (payload,) = [payload for payload, _ in shelf.payloads.values()]
        assert b"shop/1 [1]" in payload
        assert loads == [1]

    def test_a_batch_says_it(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        cache = over(shelf, clock, caches)

        @cache.cached_many(int, key="n:<n>", each="ns", codec=NOTED)
        def loaded(ns: list[int]) -> dict[int, int]:
            return {n: n for n in ns}

        assert loaded([1, 2]) == {1: 1, 2: 2}
        assert all(b"shop/1 " in payload for payload, _ in shelf.payloads.values())

    def test_a_model_says_it_for_all_its_functions(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        cache = over(shelf, clock, caches)

        @cache.cached(Noted)
        def load(n: int) -> Noted:
            return Noted(n=n)

        assert load(1) == Noted(n=1)
        assert b'shop/1 {"n":1,' in next(iter(shelf.payloads.values()))[0]
        assert Noted.entries.using(over(shelf, clock, caches)).get(1) == Noted(n=1)

    def test_a_function_overrides_the_model(self, shelf: Shelf, clock: ManualClock, caches: list[Cache]) -> None:
        cache = over(shelf, clock, caches)

        @cache.cached(Noted, codec=MSGPACK)
        def load(n: int) -> Noted:
            return Noted(n=n)

        load(1)
        assert b"shop/1" not in next(iter(shelf.payloads.values()))[0]

    def test_two_codecs_of_one_name_never_read_each_other_s_values(self, clock: ManualClock) -> None:
        class Basket(CacheModel, key="basket:<n>"):
            n: int
            skus: list[str]

        with Cache(clock=clock) as cache:

            @cache.cached(Basket)
            def one(n: int) -> Basket:
                return Basket(n=n, skus=["one"])

            @cache.cached(Basket, codec=NOTED)
            def two(n: int) -> Basket:
                return Basket(n=n, skus=["two"])

            assert (one(1).skus, two(1).skus, one(1).skus, two(1).skus) == (["one"], ["two"], ["one"], ["two"])
            cache.invalidate("basket:1")  # and one invalidation reaches both
            assert (one.explain(1).tier, two.explain(1).tier) == (None, None)

    def test_settings_name_the_place_of_one_for_everything(
        self, shelf: Shelf, clock: ManualClock, caches: list[Cache], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = ModuleType("shop_codecs")
        module.NOTED = NOTED  # type: ignore[attr-defined]  # that is what a module is
        monkeypatch.setitem(sys.modules, "shop_codecs", module)
        settings = CacheSettings.from_env({"NOVACRON_CACHE_SERIALIZATION": "shop_codecs:NOTED"})
        assert settings.serialization == "shop_codecs:NOTED"
        cache = over(shelf, clock, caches, serialization="shop_codecs:NOTED")

        @cache.cached(list[int], key="numbers:<n>")
        def numbers(n: int) -> list[int]:
            return [n]

        numbers(1)
        assert b"shop/1 [1]" in next(iter(shelf.payloads.values()))[0]

    @pytest.mark.parametrize(
        ("codec", "says"),
        [
            ("noted", "codec='noted': expected a codec, such as novacron_cache.codecs.MSGPACK"),
            (NotedCodec, "give an instance, NotedCodec()"),
            (1, "codec=1: expected a codec"),
        ],
    )
    def test_what_is_no_codec_is_an_error_at_the_declaration(self, codec: Any, says: str) -> None:
        with pytest.raises(DeclarationError) as raised:
            cached(int, key="n:<n>", codec=codec)
        assert says in str(raised.value)

    def test_a_number_that_is_taken_is_an_error_at_the_declaration(self) -> None:
        class Same(NotedCodec):
            name = "same"
            format_id = 1

        with pytest.raises(DeclarationError, match="taken by 'json'"):
            cached(int, key="n:<n>", codec=Same())

    def test_a_type_that_nobody_declared_is_an_error_at_the_declaration(self) -> None:
        with pytest.raises(DeclarationError, match="codec 'noted' writes values of a declared type; annotate"):

            @cached(key="n:<n>", codec=NOTED)
            def load(n):  # type: ignore[no-untyped-def]  # that is what is tested
                return n

    def test_what_is_dangerous_to_read_needs_a_signing_key(self, clock: ManualClock) -> None:
        with Cache(clock=clock) as cache:

            @cache.cached(int, key="n:<n>", codec=PICKLE)
            def load(n: int) -> int:
                return n

            with pytest.raises(DeclarationError, match="codec 'pickle' runs code from whatever it reads"):
                load(1)
        with Cache(CacheSettings(signing_keys=[KEY]), clock=clock) as cache:
            assert cache.cached(int, key="n:<n>", codec=PICKLE)(abs_of)(-1) == 1

    @pytest.mark.parametrize(
        ("serialization", "says"),
        [
            ("jsn", "did you mean 'json'"),
            ("shop codecs:X", "or the place of a codec of your own, such as 'shop.codecs:PLIST'"),
            (":NOTED", "or the place of a codec"),
        ],
    )
    def test_settings_say_what_would_do(self, serialization: str, says: str) -> None:
        with pytest.raises(SettingsError, match="serialization") as raised:
            CacheSettings(serialization=serialization)
        assert says in str(raised.value)

    @pytest.mark.parametrize(
        ("serialization", "says"),
        [
            ("novacron_no_such_module:X", "No module named 'novacron_no_such_module'"),
            ("novacron_cache.codecs:X", "has no attribute 'X'"),
            ("novacron_cache.codecs:JsonCodec", "not an instance of novacron_cache.codecs.Codec"),
        ],
    )
    def test_a_place_without_a_codec_is_an_error_of_the_cache(self, serialization: str, says: str) -> None:
        with pytest.raises(SettingsError, match=serialization) as raised:
            Cache(CacheSettings(serialization=serialization))
        assert says in str(raised.value)
        assert raised.value.variable == "serialization"


def abs_of(n: int) -> int:
    return abs(n)


class TestInTheWay:
    async def test_a_failure_that_a_tier_explains_itself_is_passed_on_as_it_is(self, clock: ManualClock) -> None:
        class Refusing(ArchiveTier):
            def perform(self, operation: Any) -> Any:
                raise TierError("the shelf is locked", tier="archive", partial=True)

            async def aperform(self, operation: Any) -> Any:
                raise TierError("the shelf is locked", tier="archive", partial=True)

        with Cache(CacheSettings(namespace="shop"), tiers=[Refusing(Shelf(), clock=clock)], clock=clock) as cache:
            failures: list[TierFailed] = []
            cache.on(TierFailed, failures.append)
            assert cache.get_or_load("price", lambda: 12) == 12
            assert await cache.aget_or_load("stock", lambda: 3) == 3
            assert {str(failure.error) for failure in failures} == {"the shelf is locked"}
            assert all(failure.error.partial for failure in failures)

    def test_it_is_told_to_renew_its_connections_when_the_link_is_lost(
        self, shelf: Shelf, clock: ManualClock, caches: list[Cache]
    ) -> None:
        renewed: list[bool] = []
        cache = over(shelf, clock, caches)
        given = cache.engine.authority
        assert isinstance(given, GivenTier)
        given.tier.renew_connections = lambda: renewed.append(True)  # type: ignore[method-assign]  # of this test alone
        cache.engine.link_lost("gone")
        assert renewed == [True]

    @pytest.mark.parametrize(
        "operation", [TakeLease("k", b"h", 1.0), KeepLeases([("k", b"h")], 1.0), ReturnLease("k", b"h", Ending.STORED)]
    )
    def test_a_tier_without_leases_says_so_when_it_is_asked_for_one(self, shelf: Shelf, operation: Any) -> None:
        tier = ArchiveTier(shelf)
        for name in ("take_lease", "keep_leases", "return_lease"):
            with pytest.raises(NotImplementedError, match="the archive tier has no leases"):
                getattr(tier, name)(operation)
