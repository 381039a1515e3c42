"""Live entries: how they come, are found, and go from the table, the indexes and the fronts at once."""

from __future__ import annotations

import gc
import os
import sys
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.effects import Capture, Fetch, Item, Renew, Store, TakeLease
from novacron_cache.entry import Entry, share_ids
from novacron_cache.errors import DeclarationError
from novacron_cache.markers import NAMESPACE, RULES, key_dep, model_dep, new_id, segment_dep, tag_dep
from novacron_cache.testing import ManualClock
from novacron_cache.tiers import entries as entries_module
from novacron_cache.tiers.entries import MAX_FRONTS
from novacron_cache.tiers.memory import MemoryTier

FAR = 10.0**9


def entry(logical: str, *tags: str, name: str = "VM", key: str | None = None, **options: Any) -> Entry:
    return Entry(
        key or f"{name}/{logical}", logical, logical=logical, name=name, tags=tags, **({"expires": FAR} | options)
    )


@pytest.fixture(params=["s3fifo", "lru", cachetools.RRCache], ids=str)
def memory(request: pytest.FixtureRequest) -> MemoryTier:
    return MemoryTier(policy=request.param, max_items=1000)


@pytest.fixture
def fronted() -> MemoryTier:
    return MemoryTier(max_items=1000)


def indexed(memory: MemoryTier) -> tuple[int, int]:
    return len(memory._by_logical), len(memory._by_tag)


class TestLookingUp:
    def test_what_was_inserted_is_found_whether_or_not_it_is_past_its_deadline(self, memory: MemoryTier) -> None:
        fresh, old = entry("vm:1"), entry("vm:2", expires=-FAR)
        assert memory.insert(fresh)
        assert memory.insert(old)
        assert memory.lookup("VM/vm:1") is fresh
        assert memory.lookup("VM/vm:2") is old
        assert len(memory) == 2

    def test_what_is_not_there_is_not_found(self, memory: MemoryTier) -> None:
        assert memory.lookup("VM/vm:1") is None

    def test_a_killed_entry_is_not_found(self, memory: MemoryTier) -> None:
        killed = entry("vm:1")
        memory.insert(killed)
        killed.kill()
        assert memory.lookup(killed.key) is None

    def test_the_default_policy_reads_without_the_lock(self, fronted: MemoryTier) -> None:
        found: list[Entry | None] = []
        fronted.insert(entry("vm:1"))
        with fronted.lock:
            reader = threading.Thread(target=lambda: found.append(fronted.lookup("VM/vm:1")))
            reader.start()
            reader.join(10)
        assert found[0] is not None

    def test_looking_up_counts_as_a_use_where_the_policy_counts_itself(self) -> None:
        memory = MemoryTier(policy="lru", max_items=2)
        memory.insert(entry("a"))
        memory.insert(entry("b"))
        memory.lookup("VM/a")
        memory.insert(entry("c"))
        assert [one.logical for one in memory.entries()] == ["a", "c"]


class TestInserting:
    def test_the_one_it_replaces_is_killed(self, memory: MemoryTier) -> None:
        first, second = entry("vm:1", "old"), entry("vm:1", "new")
        memory.insert(first)
        assert memory.insert(second)
        assert not first.alive
        assert second.alive
        assert memory.lookup(second.key) is second
        assert memory.kill_deps([tag_dep("old")]) == 0
        assert memory.evictions == 0

    def test_nothing_happens_when_it_is_not_admitted(self, memory: MemoryTier) -> None:
        first = entry("vm:1")
        memory.insert(first)
        assert not memory.insert(entry("vm:1"), lambda: False)
        assert memory.lookup(first.key) is first
        assert not memory.insert(entry("vm:2"), lambda: False)
        assert len(memory) == 1

    def test_admission_is_asked_for_under_the_lock(self, memory: MemoryTier) -> None:
        free: list[bool] = []

        def try_lock() -> None:
            got = memory.lock.acquire(blocking=False)
            free.append(got)
            if got:
                memory.lock.release()

        def admit() -> bool:
            other = threading.Thread(target=try_lock)
            other.start()
            other.join(10)
            return True

        assert memory.insert(entry("vm:1"), admit)
        assert free == [False]

    def test_a_killed_entry_is_not_put_in(self, memory: MemoryTier) -> None:
        killed = entry("vm:1")
        killed.kill()
        assert not memory.insert(killed)
        assert len(memory) == 0

    def test_the_same_entry_twice_is_there_once(self, memory: MemoryTier) -> None:
        one = entry("vm:1", "a")
        assert memory.insert(one)
        assert memory.insert(one)
        assert one.alive
        assert memory.kill_deps([tag_dep("a")]) == 1

    def test_what_has_to_leave_is_killed_counted_and_reported_outside_of_the_lock(self, memory: MemoryTier) -> None:
        reported: list[Entry] = []
        locked: list[bool] = []

        def on_evict(gone: Entry) -> None:
            def look() -> None:
                locked.append(not memory.lock.acquire(blocking=False))
                if not locked[-1]:
                    memory.lock.release()

            other = threading.Thread(target=look)
            other.start()
            other.join(10)
            reported.append(gone)

        memory.on_evict = on_evict
        every = [entry(f"vm:{n}", f"tag:{n}") for n in range(1010)]
        for one in every:
            memory.insert(one)
        assert len(reported) == memory.evictions == 10
        assert not any(gone.alive for gone in reported)
        assert locked == [False] * 10
        assert {*reported, *memory.entries()} == set(every)
        assert indexed(memory) == (1000, 1000)

    def test_bytes_are_bounded_by_the_sizes_of_entries(self) -> None:
        memory = MemoryTier(max_bytes=100)
        for n in range(30):
            memory.insert(entry(f"vm:{n}", size=30))
        assert memory.bytes == 90
        too_large = entry("vm:29", size=101)
        assert not memory.insert(too_large)
        assert memory.lookup(too_large.key) is None
        assert not too_large.alive
        assert memory.bytes == 60


class TestKilling:
    @pytest.fixture
    def filled(self, memory: MemoryTier) -> MemoryTier:
        for one in (
            entry("vm:1", "node:a", "rack:1"),
            entry("vm:1", "node:a", name="Metrics"),
            entry("vm:2", "node:b", "rack:1"),
            entry("vm", "node:b"),
            entry("node:a", name="Node"),
        ):
            memory.insert(one)
        return memory

    @pytest.mark.parametrize(
        ("deps", "gone"),
        [
            ([key_dep("vm:1")], {"VM/vm:1", "Metrics/vm:1"}),
            ([key_dep("vm:3")], set()),
            ([tag_dep("rack:1")], {"VM/vm:1", "VM/vm:2"}),
            ([tag_dep("rack:1"), tag_dep("node:a")], {"VM/vm:1", "VM/vm:2", "Metrics/vm:1"}),
            ([model_dep("Metrics")], {"Metrics/vm:1"}),
            ([model_dep("Metrics"), model_dep("Node")], {"Metrics/vm:1", "Node/node:a"}),
            ([segment_dep("vm")], {"VM/vm:1", "Metrics/vm:1", "VM/vm:2", "VM/vm"}),
            ([segment_dep("v")], set()),
            ([segment_dep("node"), key_dep("vm"), tag_dep("rack:1")], {"Node/node:a", "VM/vm", "VM/vm:1", "VM/vm:2"}),
            ([NAMESPACE], {"VM/vm:1", "Metrics/vm:1", "VM/vm:2", "VM/vm", "Node/node:a"}),
            ([tag_dep("rack:1"), NAMESPACE], {"VM/vm:1", "Metrics/vm:1", "VM/vm:2", "VM/vm", "Node/node:a"}),
            ([RULES], set()),
            ([], set()),
        ],
    )
    def test_every_entry_with_one_of_the_dependencies_goes_and_no_other(
        self, filled: MemoryTier, deps: list[str], gone: set[str]
    ) -> None:
        before = {one.key: one for one in filled.entries()}
        assert filled.kill_deps(deps) == len(gone)
        assert {key for key, one in before.items() if not one.alive} == gone
        assert {one.key for one in filled.entries()} == before.keys() - gone
        assert filled.evictions == 0

    def test_a_predicate_sees_logical_keys_and_tags(self, filled: MemoryTier) -> None:
        assert filled.kill_matching(lambda logical, tags: logical.startswith("vm:") and "node:a" in tags) == 2
        assert {one.key for one in filled.entries()} == {"VM/vm:2", "VM/vm", "Node/node:a"}

    def test_removing_returns_what_was_there(self, filled: MemoryTier) -> None:
        removed = filled.remove("VM/vm:2")
        assert removed is not None
        assert not removed.alive
        assert filled.remove("VM/vm:2") is None
        assert filled.kill_deps([tag_dep("rack:1")]) == 1

    def test_clearing_kills_everything(self, filled: MemoryTier) -> None:
        before = filled.entries()
        assert filled.clear() == 5
        assert not any(one.alive for one in before)
        assert len(filled) == filled.bytes == 0
        assert indexed(filled) == (0, 0)
        assert filled.clear() == 0

    def test_the_indexes_keep_nothing_of_what_has_gone(self, filled: MemoryTier) -> None:
        for one in filled.entries():
            filled.remove(one.key)
        assert indexed(filled) == (0, 0)

    def test_a_tag_named_twice_is_one_tag(self, memory: MemoryTier) -> None:
        memory.insert(entry("vm:1", "a", "a"))
        assert memory.kill_deps([tag_dep("a")]) == 1
        assert indexed(memory) == (0, 0)

    def test_many_entries_go_a_few_at_a_time(self, memory: MemoryTier, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(entries_module, "BATCH", 7)
        held: list[int] = []

        class Counted:
            def __init__(self, lock: Any) -> None:
                self.lock, self.count = lock, 0

            def __enter__(self) -> None:
                self.lock.acquire()
                self.count = len(memory)

            def __exit__(self, *_: object) -> None:
                held.append(self.count - len(memory))
                self.lock.release()

        for n in range(100):
            memory.insert(entry(f"vm:{n}", "all"))
        monkeypatch.setattr(memory, "lock", Counted(memory.lock))
        assert memory.kill_deps([tag_dep("all")]) == 100
        assert max(held) == 7

    def test_an_entry_that_came_after_the_search_stays(self, memory: MemoryTier) -> None:
        old, new = entry("vm:1"), entry("vm:1")
        memory.insert(old)

        def replace_meanwhile(_logical: str, _tags: Any) -> bool:
            memory.insert(new)
            return True

        assert memory.kill_matching(replace_meanwhile) == 0
        assert not old.alive
        assert memory.lookup(new.key) is new
        assert memory.kill_deps([key_dep("vm:1")]) == 1


class TestSweeping:
    def test_only_what_can_serve_nothing_any_more_goes(self, memory: MemoryTier) -> None:
        memory.insert(entry("gone", expires=10.0))
        memory.insert(entry("in grace", expires=10.0, grace=20.0))
        memory.insert(entry("fresh", expires=40.0))
        assert memory.sweep(9.9) == 0
        assert memory.sweep(10.0) == 1
        assert memory.sweep(30.0) == 1
        assert [one.logical for one in memory.entries()] == ["fresh"]
        assert memory.evictions == 0


class TestKinds:
    def test_entries_of_one_name_and_the_same_tags_share_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("novacron_cache.entry._shared", {})
        one, other, third = entry("vm:1", "node:a"), entry("vm:2", f"node:{'a'}"), entry("vm:3", "node:b")

        assert one.kind is other.kind
        assert (third.name, third.tags) == ("VM", ("node:b",))

    def test_ids_are_shared_but_for_that_of_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("novacron_cache.entry._shared", {})
        pairs = [(f"{kind}:{'x'}", b"id of " + kind.encode()) for kind in "kmt" for _ in range(2)]
        one, other = share_ids(tuple(pairs[::2])), share_ids(tuple(pairs[1::2]))

        assert one == other
        assert [a is b for a, b in zip(one, other, strict=True)] == [False, True, True]

    def test_ever_new_tags_do_not_fill_the_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("novacron_cache.entry._shared", known := {})
        monkeypatch.setattr("novacron_cache.entry._MOST_SHARED", 8)

        entries = [entry(f"vm:{number}", f"node:{number}") for number in range(100)]

        assert len(known) <= 8
        assert [one.tags for one in entries] == [(f"node:{number}",) for number in range(100)]


class TestFronts:
    @pytest.fixture
    def front(self, fronted: MemoryTier) -> dict[Any, Entry]:
        front: dict[Any, Entry] = {}
        fronted.register_front(front)
        return front

    def attached(self, memory: MemoryTier, front: dict[Any, Entry], logical: str = "vm:1", *tags: str) -> Entry:
        one = entry(logical, *tags)
        memory.insert(one)
        assert memory.attach(front, logical, one)
        return one

    def test_an_attached_entry_is_in_the_front(self, fronted: MemoryTier, front: dict[Any, Entry]) -> None:
        assert front == {"vm:1": self.attached(fronted, front)}

    @pytest.mark.parametrize("way", ["remove", "kill", "matching", "sweep", "clear", "replace", "evict"])
    def test_it_leaves_the_front_however_it_leaves_the_table(
        self, fronted: MemoryTier, front: dict[Any, Entry], way: str
    ) -> None:
        one = self.attached(fronted, front, "vm:1", "a")
        match way:
            case "remove":
                fronted.remove(one.key)
            case "kill":
                fronted.kill_deps([tag_dep("a")])
            case "matching":
                fronted.kill_matching(lambda *_: True)
            case "sweep":
                fronted.sweep(2 * FAR)
            case "clear":
                fronted.clear()
            case "replace":
                fronted.insert(entry("vm:1"))
            case _:
                for n in range(1000):
                    fronted.insert(entry(f"other:{n}"))
        assert front == {}
        assert not one.alive

    def test_only_the_entry_in_the_table_is_attached(self, fronted: MemoryTier, front: dict[Any, Entry]) -> None:
        old, new = entry("vm:1"), entry("vm:1")
        assert not fronted.attach(front, "vm:1", old)
        fronted.insert(old)
        fronted.insert(new)
        assert not fronted.attach(front, "vm:1", old)
        assert front == {}

    def test_attaching_again_does_not_grow(self, fronted: MemoryTier, front: dict[Any, Entry]) -> None:
        one = self.attached(fronted, front)
        for _ in range(100):
            assert fronted.attach(front, "vm:1", one)
            fronted.set_aside()
        assert len(one.fronts) == 2

    def test_one_entry_is_known_under_a_bounded_number_of_raw_keys(
        self, fronted: MemoryTier, front: dict[Any, Entry]
    ) -> None:
        one = self.attached(fronted, front)
        for n in range(100):
            assert fronted.attach(front, n, one)
        assert list(front) == list(range(100 - MAX_FRONTS, 100))
        fronted.remove(one.key)
        assert front == {}

    def test_an_entry_that_took_anothers_place_in_a_front_stays(
        self, fronted: MemoryTier, front: dict[Any, Entry]
    ) -> None:
        first, second = self.attached(fronted, front), self.attached(fronted, front, "vm:2")
        assert fronted.attach(front, "vm:1", second)
        fronted.remove(first.key)
        assert front == {"vm:1": second, "vm:2": second}

    def test_setting_aside_empties_fronts_and_nothing_else(self, fronted: MemoryTier, front: dict[Any, Entry]) -> None:
        one = self.attached(fronted, front)
        fronted.set_aside()
        assert front == {}
        assert one.alive
        assert fronted.lookup(one.key) is one
        assert fronted.attach(front, "vm:1", one)

    def test_a_front_must_be_registered(self, fronted: MemoryTier, front: dict[Any, Entry]) -> None:
        one = self.attached(fronted, front)
        fronted.unregister_front(front)
        assert front == {}
        assert not fronted.attach(front, "vm:1", one)
        fronted.unregister_front(front)

    def test_equal_fronts_are_different_fronts(self, fronted: MemoryTier, front: dict[Any, Entry]) -> None:
        other: dict[Any, Entry] = {}
        fronted.register_front(other)
        one = self.attached(fronted, front)
        assert fronted.attach(other, "vm:1", one)
        fronted.remove(one.key)
        assert front == other == {}

    @pytest.mark.parametrize("policy", ["lru", cachetools.LFUCache])
    def test_a_policy_that_wants_to_see_hits_has_no_fronts(self, policy: Any) -> None:
        memory, front = MemoryTier(policy=policy), dict[Any, Entry]()
        memory.register_front(front)
        one = entry("vm:1")
        memory.insert(one)
        assert not memory.lockfree
        assert not memory.attach(front, "vm:1", one)
        assert front == {}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["insert", "attach", "key", "tag", "model", "segment", "remove", "sweep", "aside"]),
            st.integers(0, 9),
        ),
        max_size=60,
    )
)
def test_table_indexes_and_fronts_agree_whatever_happens(steps: list[tuple[str, int]]) -> None:
    memory, front = MemoryTier(max_items=5), dict[Any, Entry]()
    memory.register_front(front)
    for step, n in steps:
        logical = f"s{n % 3}:{n}"
        match step:
            case "insert":
                memory.insert(entry(logical, f"t{n % 4}", f"t{n % 2}", name=f"M{n % 2}", expires=float(n)))
            case "attach":
                if (one := memory.lookup(f"M{n % 2}/{logical}")) is not None:
                    assert memory.attach(front, n, one)
            case "key":
                memory.kill_deps([key_dep(logical)])
            case "tag":
                memory.kill_deps([tag_dep(f"t{n % 4}")])
            case "model":
                memory.kill_deps([model_dep(f"M{n % 2}")])
            case "segment":
                memory.kill_deps([segment_dep(f"s{n % 3}")])
            case "remove":
                memory.remove(f"M{n % 2}/{logical}")
            case "sweep":
                memory.sweep(float(n))
            case _:
                memory.set_aside()
        held = set(memory.entries())
        assert all(one.alive for one in held)
        assert set(front.values()) <= held
        assert set(memory._by_logical._files) == {one.logical for one in held}
        assert set(memory._by_tag._files) == {tag for one in held for tag in one.tags}
    for n in range(4):
        memory.kill_deps([tag_dep(f"t{n}")])
    assert len(memory) == 0
    assert indexed(memory) == (0, 0)


def test_readers_writers_and_invalidations_do_not_disturb_each_other() -> None:
    memory, front, errors = MemoryTier(max_items=50), dict[Any, Entry](), list[BaseException]()
    memory.register_front(front)
    stop = threading.Event()

    def reader() -> None:
        while not stop.is_set():
            for n in range(100):
                found = memory.lookup(f"VM/vm:{n}")
                if found is not None:
                    found.hits += 1
                    memory.attach(front, n, found)
                front.get(n)

    def writer(start: int) -> None:
        for n in range(1500):
            memory.insert(entry(f"vm:{(n * 7 + start) % 100}", f"tag:{n % 5}"))
            if n % 50 == 0:
                memory.kill_deps([tag_dep(f"tag:{n % 5}"), segment_dep("none")])
            if n % 400 == 0:
                memory.clear()

    def guarded(call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=guarded, args=(reader,)) for _ in range(2)]
    writers = [threading.Thread(target=guarded, args=(writer, n)) for n in range(2)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join(30)
    stop.set()
    for thread in readers:
        thread.join(30)
    assert errors == []
    assert len(memory) <= 50
    memory.kill_deps([segment_dep("vm")])
    assert len(memory) == 0
    assert front == {}
    assert indexed(memory) == (0, 0)


class TestMarkers:
    def test_markers_that_have_expired_take_no_memory_for_ever(self) -> None:
        clock = ManualClock()
        memory = MemoryTier(clock=clock)
        for n in range(5000):
            memory.perform(Capture([tag_dep(str(n))], 1.0))
            clock.advance(0.01)
        assert len(memory._markers) < 3000

    def test_operations_keep_payloads_within_the_bounds(self) -> None:
        memory = MemoryTier(max_items=10, clock=ManualClock())
        memory.perform(Store([Item(str(n), b"x", 5.0) for n in range(50)]))
        assert len(memory) == 10
        memory.perform(Renew([(NAMESPACE, new_id())], 5.0))
        assert sum(payload is not None for payload in memory.perform(Fetch(list(map(str, range(50))))).payloads) == 10


class TestWeighing:
    def test_a_value_weighs_what_it_refers_to_once(self) -> None:
        memory, text = MemoryTier(), "x" * 1000
        assert memory.weigh(text) == sys.getsizeof(text)
        assert memory.weigh((text, text)) == sys.getsizeof((text, text)) + sys.getsizeof(text)
        assert memory.weigh({"a": [text]}) > memory.weigh(text)

    def test_objects_weigh_what_is_in_their_dictionary_and_slots(self) -> None:
        @dataclass(frozen=True)
        class Plain:
            text: str

        @dataclass(frozen=True, slots=True)
        class Slotted:
            text: str

        memory, text = MemoryTier(), "x" * 1000
        assert memory.weigh(Plain(text)) > 1000
        assert memory.weigh(Slotted(text)) > 1000

    def test_what_is_shared_by_all_weighs_nothing(self) -> None:
        class Color(Enum):
            RED = "red"

        assert MemoryTier().weigh(Color.RED) == MemoryTier().weigh(None) == MemoryTier().weigh(int) == 0

    def test_a_circle_has_an_end(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        assert MemoryTier().weigh(circle) == sys.getsizeof(circle)


def test_a_wrong_policy_or_bound_is_refused() -> None:
    with pytest.raises(DeclarationError, match="did you mean 's3fifo'"):
        MemoryTier(policy="s3fif")
    with pytest.raises(DeclarationError, match="max_items"):
        MemoryTier(max_items=0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_can_use_it_although_another_thread_held_the_lock_at_the_fork() -> None:
    memory = MemoryTier()
    memory.insert(entry("vm:1"))
    ready, stop = threading.Event(), threading.Event()

    def hold_often() -> None:
        while not stop.is_set():
            with memory.lock:
                ready.set()

    holder = threading.Thread(target=hold_often)
    holder.start()
    ready.wait(10)
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                done = memory.lock.acquire(timeout=5) and memory.insert(entry("vm:2"))
                os._exit(0 if done else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        holder.join(10)


def test_a_memory_tier_nobody_uses_is_collected() -> None:
    memory = MemoryTier()
    memory.insert(entry("vm:1"))
    before = len(entries_module._alive)
    del memory
    gc.collect()
    assert len(entries_module._alive) < before


class TestTelling:
    def test_what_leaves_and_what_is_killed_is_told_to_whoever_asked(self) -> None:
        memory = MemoryTier(max_items=10)
        one, other = entry("vm:1", "red"), entry("vm:2")
        memory.insert(one), memory.insert(other)
        removed: list[Entry] = []
        killed: list[Entry] = []
        memory.on_remove, memory.on_kill = removed.append, killed.append
        memory.kill_deps([tag_dep("red")])
        memory.sweep(FAR * 10)
        assert killed == [one]
        assert removed == [one, other]

    @pytest.mark.parametrize("policy", ["s3fifo", "lru"])
    def test_whether_any_of_some_keys_is_there_can_be_asked_of_each_policy(self, policy: str) -> None:
        memory = MemoryTier(max_items=10, policy=policy)
        memory.insert(entry("vm:1"))
        assert memory.lacks(["VM/vm:2", "VM/vm:3"])
        assert not memory.lacks(["VM/vm:2", "VM/vm:1"])

    def test_an_entry_may_be_taken_out_of_all_fronts_and_stays_in_the_table(self, fronted: MemoryTier) -> None:
        one, other = entry("vm:1"), entry("vm:2")
        fronts: list[dict[Any, Entry]] = [{}, {}]
        for front in fronts:
            fronted.register_front(front)
        for each in (one, other):
            fronted.insert(each)
            for front in fronts:
                assert fronted.attach(front, each.key, each)
        fronted.detach(one)
        assert fronts == [{other.key: other}] * 2
        assert fronted.lookup(one.key) is one
        assert fronted.attach(fronts[0], one.key, one)

    def test_leases_that_have_run_out_are_let_go_when_there_are_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = ManualClock()
        memory = MemoryTier(clock=clock)
        monkeypatch.setattr("novacron_cache.tiers.memory._MANY_LEASES", 3)
        for number in range(4):
            assert memory.perform(TakeLease(f"k:{number}", b"one", 1.0)) is None
        assert len(memory._leases) == 4
        clock.advance(2.0)
        assert memory.perform(TakeLease("k:9", b"two", 1.0)) is None
        assert list(memory._leases) == ["k:9"]
