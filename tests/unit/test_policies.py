"""Which entries leave: S3-FIFO as its paper describes it, and every class of cachetools behind one interface."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.entry import Entry
from novacron_cache.errors import DeclarationError
from novacron_cache.testing import ManualClock
from novacron_cache.tiers import s3fifo
from novacron_cache.tiers.policies import CachetoolsPolicy, Lru, Policy, S3Fifo, make_policy

CLASSES = [
    cachetools.Cache,
    cachetools.FIFOCache,
    cachetools.LFUCache,
    cachetools.LRUCache,
    cachetools.RRCache,
    cachetools.TTLCache,
    cachetools.TLRUCache,
]
POLICIES: list[Any] = ["s3fifo", "lru", *CLASSES]


def entry(key: str, *, size: int = 0, expires: float = float("inf")) -> Entry:
    return Entry(key, key, expires=expires, size=size)


def use(policy: Policy, key: str) -> bool:
    found = policy.get(key)
    if found is None:
        return False
    found.hits += 1
    return True


def keys(entries: list[Entry]) -> list[str]:
    return [one.key for one in entries]


def fill(policy: Policy, *names: str) -> list[str]:
    return [gone.key for name in names for gone in policy.add(entry(name))]


class TestEveryPolicy:
    @pytest.fixture(params=POLICIES, ids=str)
    def kind(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def test_it_holds_what_was_added(self, kind: Any) -> None:
        policy = make_policy(kind, 10)
        one = entry("a", size=7)
        assert policy.add(one) == []
        assert policy.get("a") is one
        assert policy.table["a"] is one
        assert policy.entries() == [one]
        assert (len(policy), policy.bytes) == (1, 7)
        assert policy.get("b") is None

    def test_it_never_holds_more_items_than_allowed_and_reports_each_that_left_once(self, kind: Any) -> None:
        policy = make_policy(kind, 10)
        gone = fill(policy, *map(str, range(100)))
        assert len(policy) == 10
        assert sorted(gone + keys(policy.entries()), key=int) == list(map(str, range(100)))

    def test_it_never_holds_more_bytes_than_allowed(self, kind: Any) -> None:
        policy = make_policy(kind, 1000, 100)
        chosen = random.Random(7)  # noqa: S311 - no secret
        held: set[str] = set()
        for name in map(str, range(200)):
            gone = policy.add(entry(name, size=chosen.randint(1, 60)))
            held = (held | {name}) - set(keys(gone))
            assert policy.bytes == sum(one.size for one in policy.entries()) <= 100
            assert set(keys(policy.entries())) == held

    def test_an_entry_too_large_on_its_own_is_not_taken_in_but_what_it_replaces_goes(self, kind: Any) -> None:
        policy = make_policy(kind, 10, 100)
        policy.add(entry("a", size=10))
        policy.add(entry("b", size=10))
        too_large = entry("a", size=101)
        assert policy.add(too_large) == [too_large]
        assert keys(policy.entries()) == ["b"]
        assert policy.bytes == 10

    def test_replacing_is_not_evicting(self, kind: Any) -> None:
        policy = make_policy(kind, 2, 100)
        fill(policy, "a", "b")
        again = entry("a", size=30)
        assert policy.add(again) == []
        assert policy.table["a"] is again
        assert (len(policy), policy.bytes) == (2, 30)

    def test_a_larger_replacement_makes_others_leave(self, kind: Any) -> None:
        policy = make_policy(kind, 100, 100)
        for name in "abcde":
            policy.add(entry(name, size=20))
        for name in "abcde":
            use(policy, name)
        gone = policy.add(entry("c", size=60))
        assert policy.bytes == sum(one.size for one in policy.entries()) <= 100
        assert len(policy) + len(gone) == 5

    def test_what_was_removed_is_gone_and_its_room_is_free(self, kind: Any) -> None:
        policy = make_policy(kind, 2, 100)
        first = entry("a", size=60)
        policy.add(first)
        assert policy.remove("a") is first
        assert policy.remove("a") is None
        assert (len(policy), policy.bytes, policy.entries()) == (0, 0, [])
        assert policy.add(entry("b", size=60)) == []

    def test_clearing_leaves_nothing(self, kind: Any) -> None:
        policy = make_policy(kind, 10, 100)
        table = policy.table
        for name in "abc":
            policy.add(entry(name, size=5))
        policy.clear()
        assert (len(policy), policy.bytes, policy.entries()) == (0, 0, [])
        assert policy.get("a") is None
        assert fill(policy, "a", "b") == []
        assert policy.table is table

    def test_one_place_is_enough_to_work(self, kind: Any) -> None:
        policy = make_policy(kind, 1)
        assert fill(policy, "a", "b", "c") == ["a", "b"]
        assert use(policy, "c")
        assert fill(policy, "d", "e") == ["c", "d"]


@given(
    kind=st.sampled_from(POLICIES),
    max_bytes=st.sampled_from([None, 40]),
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "use", "remove"]), st.integers(0, 12), st.integers(0, 45)), max_size=120
    ),
)
def test_the_books_balance_whatever_happens(
    kind: Any, max_bytes: int | None, steps: list[tuple[str, int, int]]
) -> None:
    policy = make_policy(kind, 6, max_bytes)
    held: dict[str, Entry] = {}
    for step, number, size in steps:
        key = str(number)
        match step:
            case "add":
                new = entry(key, size=size)
                gone = policy.add(new)
                held[key] = new
                for one in gone:
                    assert held.pop(one.key) is one
            case "use":
                assert use(policy, key) == (key in held)
            case _:
                assert policy.remove(key) is held.pop(key, None)
        assert dict(policy.table) == held
        assert policy.bytes == sum(one.size for one in held.values()) <= (max_bytes or 10**9)
        assert len(policy) == len(held) <= 6


class TestS3Fifo:
    def test_one_hit_wonders_leave_before_what_is_used_again(self) -> None:
        policy = S3Fifo(20)
        fill(policy, "hot")
        for wonder in range(200):
            use(policy, "hot")
            use(policy, "hot")
            fill(policy, f"once-{wonder}")
        assert "hot" in policy.table

    @pytest.mark.parametrize("leaving", ["evicted", "removed", "replaced", "cleared"])
    def test_what_has_left_does_not_wait_for_the_garbage_collector(self, leaving: str) -> None:
        class Value:
            pass

        policy, values = S3Fifo(3), [Value() for _ in range(3)]
        gone = weakref.ref(values[1])
        for number in range(3):
            policy.add(Entry(f"k-{number}", values[number], expires=float("inf")))
        values.clear()
        gc.disable()
        try:
            match leaving:
                case "evicted":
                    policy.add(entry("more"))
                    policy.add(entry("still more"))
                case "removed":
                    policy.remove("k-1")
                case "replaced":
                    policy.add(entry("k-1"))
                case _:
                    policy.clear()
            assert gone() is None
        finally:
            gc.enable()

    def test_one_use_is_not_enough_to_leave_the_small_queue_for_the_main_one(self) -> None:
        policy = S3Fifo(10)
        fill(policy, *"abcdefghij")
        use(policy, "a")
        use(policy, "b")
        use(policy, "b")
        assert fill(policy, "k", "l") == ["a", "c"]
        assert "b" in policy.table

    def test_who_returns_soon_after_leaving_goes_to_the_main_queue(self) -> None:
        policy = S3Fifo(10)
        fill(policy, *"abcdefghij")
        assert fill(policy, "k") == ["a"]
        fill(policy, "a")
        gone = fill(policy, *(f"once-{n}" for n in range(50)))
        assert "a" not in gone
        assert "a" in policy.table

    def test_who_returns_late_is_a_newcomer(self) -> None:
        policy = S3Fifo(10)
        fill(policy, "a", *map(str, range(100)))
        fill(policy, "a")
        assert "a" in fill(policy, *(f"once-{n}" for n in range(20)))

    def test_ghosts_are_bounded(self) -> None:
        policy = S3Fifo(50)
        fill(policy, *map(str, range(5000)))
        assert len(policy._ghost) <= 50

    def test_a_used_entry_of_the_main_queue_gets_at_most_three_more_rounds(self) -> None:
        policy = S3Fifo(10)
        fill(policy, *"abcdefghij")
        for name in "abcdefghij":
            for _ in range(50):
                use(policy, name)
        # Ghosts come back to the main queue, which makes it turn.
        rounds = 0
        while "a" in policy.table and rounds < 1000:
            name = f"x{rounds % 15}"
            fill(policy, name)
            rounds += 1
        assert "a" not in policy.table

    def test_frequency_is_read_from_hits_that_nobody_reported(self) -> None:
        policy = S3Fifo(10)
        fill(policy, *"abcdefghij")
        policy.table["a"].hits += 2
        assert fill(policy, "k") == ["b"]
        assert policy.table["a"].mark == policy.table["a"].hits

    def test_a_replaced_entry_keeps_its_place_and_counts_one_use(self) -> None:
        policy = S3Fifo(10)
        fill(policy, *"abcdefghij")
        policy.table["a"].hits += 1
        again = entry("a")
        policy.add(again)
        assert again.hits - again.mark == 2
        assert fill(policy, "k") == ["b"]

    def test_a_key_invalidated_in_the_main_queue_returns_there(self) -> None:
        policy = S3Fifo(10)
        fill(policy, *"abcdefghij")
        policy.table["a"].hits += 2
        fill(policy, "k")
        policy.remove("a")
        fill(policy, "a")
        assert "a" not in fill(policy, *(f"once-{n}" for n in range(50)))

    def test_one_eviction_looks_at_a_bounded_number_of_used_entries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3fifo, "MAX_REINSERTIONS", 3)
        policy = S3Fifo(10)
        fill(policy, *"abcdefghij")
        for _ in range(4):
            for one in policy.entries():
                one.hits += 3
            fill(policy, *(f"x{n}" for n in range(3)))
            assert len(policy) == 10

    def test_newcomers_get_more_room_where_those_that_left_soon_come_back(self) -> None:
        def hits(policy: Policy) -> int:
            found = 0
            for number in range(5_000):
                # Each key is asked for twice, with more in between than a tenth of the room would keep it for.
                for name in (str(number), str(number - 40)):
                    if use(policy, name):
                        found += 1
                    else:
                        policy.add(entry(name))
            return found

        assert hits(S3Fifo(100)) > 0.9 * hits(Lru(100)) > 4_000

    def test_and_less_again_where_the_main_queue_misses_what_it_let_go(self) -> None:
        policy = S3Fifo(50)
        policy._share = 0.9
        chosen = random.Random(4)  # noqa: S311 - no secret
        for _ in range(20_000):
            name = str(int(chosen.paretovariate(0.7)) % 3_000)
            if not use(policy, name):
                policy.add(entry(name))
        assert policy._share < 0.5

    @given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=300), st.sampled_from([None, 30]))
    def test_the_share_of_newcomers_keeps_within_its_bounds_and_ghosts_are_counted(
        self, steps: list[tuple[int, bool]], max_bytes: int | None
    ) -> None:
        policy = S3Fifo(8, max_bytes)
        for number, removing in steps:
            if removing and number % 5 == 0:
                policy.remove(str(number))
            elif not use(policy, str(number)):
                policy.add(entry(str(number), size=number % 7))
            assert s3fifo.LEAST_SHARE <= policy._share <= s3fifo.MOST_SHARE
            left = list(policy._ghost.values())
            assert policy._small_ghosts == sum(one is s3fifo._Left.SMALL for one in left)
            assert len(left) <= 9

    def test_clearing_begins_anew_with_the_share(self) -> None:
        policy = S3Fifo(10)
        policy._share = 0.5
        policy.clear()
        assert policy._share == s3fifo.SMALL_SHARE

    def test_a_scan_does_less_harm_than_it_does_to_lru(self) -> None:
        chosen = random.Random(1)  # noqa: S311 - no secret
        trace: list[str] = []
        for scan in range(20):
            trace += [f"hot-{int(chosen.paretovariate(1.0)) % 150}" for _ in range(500)]
            trace += [f"scan-{scan}-{n}" for n in range(200)]

        def hit_ratio(policy: Policy) -> float:
            hits = 0
            for key in trace:
                if use(policy, key):
                    hits += 1
                else:
                    policy.add(entry(key))
            return hits / len(trace)

        assert hit_ratio(S3Fifo(60)) > hit_ratio(Lru(60)) + 0.01


class TestCachetools:
    def test_lru_lets_the_least_recently_used_go(self) -> None:
        policy = Lru(3)
        fill(policy, "a", "b", "c")
        use(policy, "a")
        assert fill(policy, "d", "e") == ["b", "c"]

    def test_lfu_lets_the_least_frequently_used_go(self) -> None:
        policy = make_policy("LFUCache", 3)
        fill(policy, "a", "b", "c")
        for name in "aac":
            use(policy, name)
        assert fill(policy, "d") == ["b"]

    def test_looking_at_the_books_is_not_a_use(self) -> None:
        policy = Lru(2)
        fill(policy, "a", "b")
        assert policy.table["a"].key == "a"
        assert len(policy.entries()) == 2
        assert fill(policy, "c") == ["a"]

    def test_a_ttl_cache_given_no_ttl_leaves_expiry_to_the_entries(self) -> None:
        clock = ManualClock()
        policy = make_policy(cachetools.TTLCache, 10, timer=clock.monotonic)
        fill(policy, "a")
        clock.advance(10**9)
        assert policy.get("a") is not None

    def test_a_ttl_cache_given_one_reports_what_it_drops(self) -> None:
        clock = ManualClock()
        policy = CachetoolsPolicy(cachetools.TTLCache, 10, timer=clock.monotonic, ttl=5)
        fill(policy, "a")
        clock.advance(6)
        assert policy.get("a") is None
        assert fill(policy, "b") == ["a"]
        assert keys(policy.entries()) == ["b"]

    def test_an_expired_entry_of_a_cache_with_a_clock_can_be_removed(self) -> None:
        clock = ManualClock()
        policy = CachetoolsPolicy(cachetools.TTLCache, 10, timer=clock.monotonic, ttl=5)
        fill(policy, "a")
        clock.advance(6)
        gone = policy.remove("a")
        assert gone is not None
        assert len(policy) == 0

    def test_room_for_bytes_is_found_although_all_has_expired_by_the_caches_own_clock(self) -> None:
        clock = ManualClock()
        policy = CachetoolsPolicy(cachetools.TTLCache, 10, 100, timer=clock.monotonic, ttl=5)
        policy.add(entry("a", size=60))
        clock.advance(6)
        assert keys(policy.add(entry("b", size=60))) == ["a"]

    def test_a_tlru_cache_drops_what_can_serve_nothing_any_more(self) -> None:
        clock = ManualClock()
        policy = make_policy(cachetools.TLRUCache, 10, timer=clock.monotonic)
        policy.add(entry("a", expires=clock.monotonic() + 5))
        policy.add(entry("b", expires=clock.monotonic() + 50))
        clock.advance(6)
        assert fill(policy, "c") == ["a"]

    def test_a_tlru_cache_does_not_take_in_what_has_expired(self) -> None:
        clock = ManualClock()
        policy = make_policy(cachetools.TLRUCache, 10, timer=clock.monotonic)
        late = entry("a", expires=clock.monotonic() - 1)
        assert policy.add(late) == [late]
        assert len(policy) == 0

    def test_options_of_the_class_are_passed_on(self) -> None:
        policy = CachetoolsPolicy(cachetools.RRCache, 2, choice=lambda known: known[-1])
        assert fill(policy, "a", "b", "c", "d") == ["b", "c"]

    def test_a_class_that_evicts_in_its_own_way_is_found_out(self) -> None:
        class Quiet(cachetools.LRUCache[str, Entry]):
            def __setitem__(self, key: str, value: Entry) -> None:
                while len(self) >= self.maxsize:
                    del self[next(iter(self))]
                super().__setitem__(key, value)

        policy = make_policy(Quiet, 2)
        assert fill(policy, "a", "b", "c") == ["a"]
        assert set(policy.table) == {"b", "c"}

    def test_a_class_that_finds_an_entry_too_large_does_not_get_it(self) -> None:
        class Measured(cachetools.LRUCache[str, Entry]):
            @staticmethod
            def getsizeof(value: Entry) -> float:
                return 100 if value.key == "large" else 1

        policy = make_policy(Measured, 10)
        large = entry("large")
        assert policy.add(large) == [large]
        assert len(policy) == 0


class TestMakingOne:
    @pytest.mark.parametrize(("name", "kind"), [("s3fifo", S3Fifo), ("S3FIFO", S3Fifo), ("lru", Lru)])
    def test_names_are_taken(self, name: str, kind: type) -> None:
        assert isinstance(make_policy(name, 10), kind)

    @pytest.mark.parametrize("cls", CLASSES)
    def test_every_class_of_cachetools_can_be_named(self, cls: type) -> None:
        assert isinstance(make_policy(cls.__name__, 10), CachetoolsPolicy)

    def test_only_s3fifo_needs_no_lock(self) -> None:
        assert make_policy("s3fifo", 10).lockfree
        assert not any(make_policy(cls, 10).lockfree for cls in CLASSES)

    @pytest.mark.parametrize(("name", "hint"), [("s3fif0", "s3fifo"), ("LRUCach", "LRUCache"), ("lrru", "lru")])
    def test_an_unknown_name_is_refused_with_the_nearest(self, name: str, hint: str) -> None:
        with pytest.raises(DeclarationError, match=f"did you mean '{hint}'"):
            make_policy(name, 10)

    @pytest.mark.parametrize("what", [dict, "_TimedCache", "keys", "cached", 5])
    def test_what_is_no_cache_is_refused(self, what: Any) -> None:
        with pytest.raises(DeclarationError, match="policy="):
            make_policy(what, 10)

    def test_a_class_that_wants_more_says_what(self) -> None:
        class Demanding(cachetools.LRUCache[str, Entry]):
            def __init__(self, maxsize: float, region: str) -> None:
                super().__init__(maxsize)

        with pytest.raises(DeclarationError, match="Demanding: its constructor also wants region"):
            make_policy(Demanding, 10)

    @pytest.mark.parametrize(("items", "size"), [(0, None), (-1, None), (1, 0)])
    @pytest.mark.parametrize("kind", ["s3fifo", "lru"])
    def test_a_bound_must_be_positive(self, kind: str, items: int, size: int | None) -> None:
        with pytest.raises(DeclarationError, match="max_"):
            make_policy(kind, items, size)


def test_a_class_that_refuses_its_size_is_refused_with_its_reason() -> None:
    class Picky(cachetools.LRUCache):  # type: ignore[type-arg]  # of anything
        def __init__(self, maxsize: float) -> None:
            raise ValueError("only primes")

    with pytest.raises(DeclarationError, match="Picky: it cannot be built with maxsize=10: only primes"):
        make_policy(Picky, 10)


def test_what_a_class_says_has_left_twice_leaves_once() -> None:
    class Stuttering(cachetools.LRUCache):  # type: ignore[type-arg]  # of anything
        def popitem(self) -> Any:
            found = super().popitem()
            policy._gone.append(found[0])
            return found

    policy: Any = make_policy(Stuttering, 2)
    assert fill(policy, "a", "b") == []
    assert fill(policy, "c") == ["a"]
    assert (len(policy), len(policy.table)) == (2, 2)
