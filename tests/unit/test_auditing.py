"""The auditor: what it compares, what it counts as stale, what it leaves alone, and that nothing notices it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from servers import wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, DeclarationError
from novacron_cache.auditing import AuditReport, HitSampler
from novacron_cache.auditing.rounds import Limiter
from novacron_cache.entry import Entry
from novacron_cache.errors import CacheClosedError, CacheError
from novacron_cache.events import StaleFound
from novacron_cache.explaining import serves_unasked
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.memory import MemoryTier

QUICK = 1_000.0
BOUND = 0.1


class Machine(CacheModel, key="machine:<machine_id>", ttl="1m", tags=["node:<node>"]):
    machine_id: str
    node: str = "n1"
    status: str = "up"


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache(CacheSettings(staleness_bound=BOUND)) as cache:
        yield cache


def audited(cache: Cache, **options: Any) -> AuditReport:
    return cache.audit(sample=1.0, max_per_second=QUICK, **options).run_once()


def twice(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Have a value loaded and then hit."""
    call(*args, **kwargs)
    return call(*args, **kwargs)


# -- what is compared --------------------------------------------------------------------------------------------------


def test_values_that_are_what_the_source_says_match(cache: Cache) -> None:
    @cache.cached(Machine, key="machine:<machine_id>")
    def machine(machine_id: str) -> Machine:
        return Machine(machine_id=machine_id)

    for number in range(5):
        twice(machine, f"m{number}")
    report = audited(cache)
    assert (report.checked, report.matched, report.stale, report.rate) == (5, 5, 0, 0.0)
    assert report.by_name["Machine"].matched == 5
    assert report.ages is None


def test_an_audit_disturbs_nothing(cache: Cache) -> None:
    @cache.cached(int, key="n:<n>")
    def load(n: int) -> int:
        return n

    twice(load, 1)
    (entry,) = cache.engine.memory.entries() if cache.engine.memory else []
    seen: list[Any] = []
    before = cache.stats(), entry.hits, entry.deadline, entry.value
    cache.on("*", seen.append)
    assert audited(cache).matched == 1
    after = cache.stats()
    assert (entry.hits, entry.deadline, entry.value) == before[1:]
    assert (after.hits, after.misses, after.loads) == (before[0].hits, before[0].misses, before[0].loads)
    assert after.audited == 1
    assert seen == []


def test_arguments_of_every_kind_find_their_way_back(cache: Cache) -> None:
    calls: list[Any] = []

    @cache.cached(str, key="k:<a>:<b>:<rest>:<c>:<more>", ignore=["trace"])
    def load(a: Any, /, b: Any = 2, *rest: int, c: Any, trace: str = "no", **more: str) -> str:
        calls.append((a, b, rest, c, trace, more))
        return "value"

    twice(load, None, 1.5, 7, 8, c=("x", 1), trace="yes", y="why", x="ex")
    report = audited(cache)
    assert (report.matched, report.skipped) == (1, {})
    assert calls[0] == (None, 1.5, (7, 8), ("x", 1), "yes", {"x": "ex", "y": "why"})
    assert calls[1] == (None, 1.5, (7, 8), ("x", 1), "no", {"x": "ex", "y": "why"})


def test_a_method_is_called_on_the_instance_that_uses_it(cache: Cache) -> None:
    class Fleet:
        def __init__(self) -> None:
            self.called = 0

        @cache.cached(int, key="size:<name>")
        def size(self, name: str) -> int:
            self.called += 1
            return len(name)

        @classmethod
        @cache.cached(str, key="kind:<name>", ignore=["cls"])
        def kind(cls, name: str) -> str:
            return name

    fleet = Fleet()
    twice(fleet.size, "abc")
    assert audited(cache).matched == 1
    assert fleet.called == 2
    del fleet
    report = audited(cache)
    assert report.checked == 0
    assert set(report.skipped) <= {"needs an instance"}


@pytest.mark.parametrize("scope", ["key", "cache_scope", "ignored"])
def test_a_key_that_does_not_lead_to_an_instance_is_skipped(cache: Cache, scope: str) -> None:
    text = {"key": "size:<self.region>:<name>"}.get(scope, "size:<name>")

    class Fleet:
        region = "eu"
        cache_scope = "eu" if scope == "cache_scope" else None

        @cache.cached(int, key=text, ignore=["self"] if scope == "ignored" else [])
        def size(self, name: str) -> int:
            return len(name)

    fleet = Fleet()
    twice(fleet.size, "abc")
    assert audited(cache).skipped == {"needs an instance": 1}


def test_a_batch_loader_is_called_with_a_list(cache: Cache) -> None:
    calls: list[list[str]] = []
    known = {"a": 1, "b": 2}

    @cache.cached_many(int, key="n:<name>", each="names", negative_ttl="1m")
    def numbers(names: list[str]) -> dict[str, int]:
        calls.append(names)
        return {name: known[name] for name in names if name in known}

    twice(numbers, ["a", "b", "absent"])
    calls.clear()
    report = audited(cache)
    assert report.matched == 3
    assert sorted(calls) == [["a"], ["absent"], ["b"]]
    known["a"] = 5
    numbers(["a"])
    assert audited(cache).stale == 1


def test_a_model_is_read_by_its_loader(cache: Cache) -> None:
    class Rack(CacheModel, key="rack:<rack_id>", name="test_auditing.Rack"):
        rack_id: int
        machines: int

    sizes = {1: 10}

    @Rack.entries.loader
    def rack(rack_id: int) -> Rack:
        return Rack(rack_id=rack_id, machines=sizes[rack_id])

    racks = Rack.entries.using(cache)
    twice(racks.load, 1)
    assert audited(cache).matched == 1
    racks.set(Rack(rack_id=1, machines=99))
    racks.get(1)
    assert audited(cache).stale == 1


def test_none_sets_and_dicts_are_compared_by_value(cache: Cache) -> None:
    turn = [["a", "b", "c", "d"], ["d", "c", "b", "a"]]

    @cache.cached(dict[str, set[str]], key="groups")
    def groups() -> dict[str, set[str]]:
        turn.reverse()
        return {name: set(turn[0]) for name in turn[0]}

    @cache.cached(str | None, key="nobody:<name>")
    def nobody(name: str) -> str | None:
        return None

    twice(groups)
    twice(nobody, "x")
    report = audited(cache)
    assert (report.matched, report.stale) == (2, 0)


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("no function is known to load it", lambda cache: partial(cache.get_or_load, "plain", int)),
        ("its key is too long to be read back", lambda cache: partial(_echo(cache), "x" * 400)),
        ("its key leaves out `token`", lambda cache: partial(_secret(cache), "a", "secret")),
        ("its key has only `vm.name`", lambda cache: partial(_attribute(cache), threading.current_thread())),
        ("needs an event loop", lambda cache: partial(_run, _awaited(cache), "a")),
    ],
)
def test_what_cannot_be_compared_is_skipped_with_its_reason(cache: Cache, reason: str, make: Any) -> None:
    call = make(cache)  # a function that nobody holds would be forgotten
    twice(call)
    report = audited(cache)
    assert report.skipped == {reason: 1}
    assert report.checked == 0


def _echo(cache: Cache) -> Any:
    return cache.cached(str, key="echo:<text>", name="echo")(lambda text: text)


def _secret(cache: Cache) -> Any:
    def load(name: str, token: str) -> str:
        return name

    return cache.cached(str, key="secret:<name>", ignore=["token"], name="secret")(load)


def _attribute(cache: Cache) -> Any:
    def load(vm: Any) -> str:
        return "x"

    return cache.cached(str, key="vm:<vm.name>", name="vm")(load)


def _awaited(cache: Cache) -> Any:
    async def load(name: str) -> str:
        return name

    return cache.cached(str, key="awaited:<name>", name="awaited")(load)


def _run(function: Any, argument: str) -> Any:
    return asyncio.run(function(argument))


# -- what counts as stale ----------------------------------------------------------------------------------------------


class Source:
    """A value behind a cached function, and a chance to act when an audit reads it."""

    def __init__(self, cache: Cache, value: int = 1) -> None:
        self.value = value
        self.reads = 0
        self.on_read: Callable[[int], None] = lambda _: None
        self.auditing = False

        @cache.cached(int, key="n:<name>", name="source", ttl="1h")
        def load(name: str) -> int:
            if self.auditing:
                self.reads += 1
                self.on_read(self.reads)
            return self.value

        self.load = load
        twice(load, "secret-name")
        self.auditing = True


def test_a_value_that_stays_wrong_is_still_stale(cache: Cache) -> None:
    source = Source(cache)
    source.value = 2
    found: list[StaleFound] = []
    told: list[StaleFound] = []
    cache.on(StaleFound, found.append)
    report = audited(cache, on_stale=told.append)
    assert (report.checked, report.stale, report.still_stale, report.rate) == (1, 1, 1, 1.0)
    assert report.ages is not None
    assert BOUND + 1 <= report.ages.p50 == report.ages.p99 == report.ages.max < 10
    assert found == told == [StaleFound("source", "n:secret-name", "memory", report.ages.max, still=True)]
    stats = cache.stats("source")
    assert (stats.audited_stale, stats.audited_age) == (1, report.ages.max)
    assert stats.audited == source.reads


def test_the_age_ends_when_the_cache_serves_something_else(cache: Cache) -> None:
    source = Source(cache)
    source.value = 2

    def correct(reads: int) -> None:
        if reads == 3:
            cache.invalidate("n:secret-name")

    source.on_read = correct
    report = audited(cache, settle=0.01)
    assert (report.stale, report.still_stale) == (1, 0)
    assert report.ages is not None
    assert 0.05 <= report.ages.max < BOUND + 1


def test_a_change_in_flight_is_not_stale(cache: Cache) -> None:
    source = Source(cache)

    def change(reads: int) -> None:
        source.value = 2
        cache.invalidate("n:secret-name")

    source.on_read = change
    report = audited(cache)
    assert (report.checked, report.in_flight, report.stale, report.rate) == (1, 1, 0, 0.0)


def test_a_source_that_comes_back_to_the_value_within_the_time_to_settle_is_not_stale(cache: Cache) -> None:
    source = Source(cache)

    def flicker(reads: int) -> None:
        source.value = 2 if reads == 1 else 1

    source.on_read = flicker
    report = audited(cache, settle=5)
    assert (report.in_flight, report.stale) == (1, 0)


def test_a_source_that_never_gives_the_same_value_twice_is_not_compared(cache: Cache) -> None:
    source = Source(cache)
    source.on_read = lambda reads: setattr(source, "value", 100 + reads)
    report = audited(cache)
    assert report.skipped == {"its source never gives the same value twice": 1}
    assert (report.checked, source.reads) == (0, 3)


@pytest.mark.parametrize("error", [TimeoutError("secret"), None])
def test_a_source_that_cannot_be_read_is_unknown(cache: Cache, error: Exception | None) -> None:
    source = Source(cache)

    def fail(reads: int) -> None:
        if error is not None:
            raise error
        source.value = "no number"  # type: ignore[assignment]  # what a broken loader returns

    source.on_read = fail
    report = audited(cache)
    assert report.unknown == {"TimeoutError" if error else "CachedValueError": 1}
    assert report.checked == 0
    assert "secret" not in str(report.as_dict())


def test_keys_are_redacted_unless_they_are_asked_for(cache: Cache) -> None:
    source = Source(cache)
    source.value = 2
    (hidden,) = audited(cache).examples
    assert hidden.key.startswith("n:<name> #")
    source.load("secret-name")
    (shown,) = audited(cache, show_keys=True).examples
    assert shown.key == "n:secret-name"
    assert shown.stored_ago >= 0


def test_what_on_stale_raises_is_only_logged(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    source = Source(cache)
    source.value = 2

    def fail(event: StaleFound) -> None:
        raise ValueError

    assert audited(cache, on_stale=fail).stale == 1
    assert "on_stale failed" in caplog.text


def test_an_entry_that_a_lost_link_vouched_for_is_not_served_unasked(cache: Cache) -> None:
    cache.set("n", 1)
    engine = cache.engine
    assert engine.memory is not None
    (entry,) = engine.memory.entries()
    assert serves_unasked(engine, entry)
    entry.epoch = engine.epoch
    assert serves_unasked(engine, entry)
    engine.horizon.valid_until = 0.0
    assert not serves_unasked(engine, entry)
    engine.horizon.valid_until = float("inf")
    entry.epoch = engine.epoch + 1
    assert not serves_unasked(engine, entry)


# -- the sample --------------------------------------------------------------------------------------------------------


def memory_with(hits: dict[str, int]) -> tuple[MemoryTier, dict[str, Entry]]:
    memory = MemoryTier(clock=ManualClock())
    entries = {key: Entry(key, 1, logical=key, name="n", expires=float("inf")) for key in hits}
    for key, entry in entries.items():
        memory.insert(entry)
        entry.hits += hits[key]
    return memory, entries


def test_hits_since_the_last_look_are_sampled() -> None:
    memory, entries = memory_with({"a": 3, "b": 0})
    sampler = HitSampler(memory, 1.0)
    assert [(one.key, one.weight) for one in sampler.pick(10)] == [("a", 3)]
    assert sampler.pick(10) == []
    entries["a"].hits += 2
    entries["b"].hits += 1
    assert {one.key: one.weight for one in sampler.pick(10)} == {"a": 2, "b": 1}


def test_an_entry_that_took_the_place_of_another_starts_anew() -> None:
    memory, _ = memory_with({"a": 5})
    sampler = HitSampler(memory, 1.0)
    sampler.pick(10)
    other = Entry("a", 2, logical="a", name="n", expires=float("inf"))
    memory.insert(other)
    other.hits = 4
    assert [one.weight for one in sampler.pick(10)] == [4]


def test_the_weight_is_the_share_of_the_hits() -> None:
    memory, _ = memory_with({f"k{number}": 10 for number in range(1000)})
    sampled = HitSampler(memory, 0.05).pick(10_000)
    # Each of 1000 entries is chosen with one half: 500 on average, with a standard deviation of 16.
    assert 400 < len(sampled) < 600
    assert {one.weight for one in sampled} == {1}


def test_what_does_not_fit_is_drawn_by_weight() -> None:
    memory, _ = memory_with({"hot": 100_000, **{f"cold{number}": 1 for number in range(50)}})
    sampled = {one.key: one.weight for one in HitSampler(memory, 1.0).pick(10)}
    assert sum(sampled.values()) == 10
    assert sampled["hot"] >= 8


def test_the_rate_is_that_of_hits_not_of_values(cache: Cache) -> None:
    truth = {"hot": 1, "cold": 1}

    @cache.cached(int, key="n:<name>", name="rated")
    def load(name: str) -> int:
        return truth[name]

    for _ in range(10):
        load("hot")
    twice(load, "cold")
    truth["hot"] = 2
    report = audited(cache)
    assert (report.checked, report.stale) == (2, 1)
    assert (report.hits, report.stale_hits, report.rate) == (10, 9, 0.9)


def test_sources_are_read_no_more_often_than_allowed() -> None:
    clock = ManualClock()
    limiter = Limiter(10, clock.monotonic)
    taken = 0
    for _ in range(1000):
        taken += limiter.take()
        clock.advance(0.001)
    assert 9 <= taken <= 11
    assert 0 <= limiter.wait() <= 0.1


# -- running -----------------------------------------------------------------------------------------------------------


async def test_coroutine_functions_are_called_on_the_loop_and_others_in_threads(cache: Cache) -> None:
    threads: set[str] = set()

    @cache.cached(int, key="a:<n>", name="a")
    async def aload(n: int) -> int:
        threads.add(f"a {threading.current_thread().name}")
        return n

    @cache.cached(int, key="b:<n>", name="b")
    def load(n: int) -> int:
        threads.add(f"b {threading.current_thread().name}")
        return n

    await aload(1)
    await aload(1)
    twice(load, 1)
    main = threading.current_thread().name
    assert threads == {f"a {main}", f"b {main}"}
    report = await cache.audit(sample=1.0, max_per_second=QUICK).arun_once()
    assert report.matched == 2
    assert f"a {main}" in threads
    assert len(threads) == 3


def test_a_context_audits_in_a_thread_until_it_ends(cache: Cache) -> None:
    source = Source(cache)
    with cache.audit(sample=1.0, interval=0.01, max_per_second=QUICK) as audit:
        wait_until(lambda: audit.report.matched >= 1, what="a first round")
        source.load("secret-name")
        wait_until(lambda: audit.report.matched >= 2, what="another one")
        with pytest.raises(CacheError, match="running already"), audit:
            pass
        threads = [one for one in threading.enumerate() if one.name == "novacron_cache audit"]
        assert len(threads) == 1
    assert not threads[0].is_alive()
    reads = source.reads
    source.load("secret-name")
    assert audit.report.matched == reads


async def test_an_asynchronous_context_audits_in_a_task(cache: Cache) -> None:
    truth = 1

    @cache.cached(int, key="a", name="a")
    async def load() -> int:
        return truth

    await load()
    await load()
    truth = 2
    found = asyncio.Event()
    async with cache.audit(
        sample=1.0, interval=0.01, max_per_second=QUICK, on_stale=lambda _: found.set()
    ) as audit:  # fmt: skip
        await asyncio.wait_for(found.wait(), 10)
    assert audit.report.stale == 1


def test_the_end_of_a_context_ends_a_watch(cache: Cache) -> None:
    source = Source(cache)
    source.value = 2
    with cache.audit(sample=1.0, settle=0, max_per_second=QUICK) as audit:
        wait_until(lambda: source.reads >= 2, what="a second reading")
    assert audit.report.still_stale == 1
    assert audit.report.ages is not None
    assert audit.report.ages.max < BOUND + 1


def test_an_audit_ends_with_its_cache(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache()
    with cache.audit(interval=0.01):
        (thread,) = [one for one in threading.enumerate() if one.name == "novacron_cache audit"]
        cache.close()
        wait_until(lambda: not thread.is_alive(), what="the end of the thread")
    assert "failed" not in caplog.text
    with pytest.raises(CacheClosedError):
        cache.audit()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0}, "sample=0"),
        ({"sample": 1.5}, "sample=1.5"),
        ({"sample": True}, "sample=True"),
        ({"max_per_second": 0}, "max_per_second=0"),
        ({"interval": "soon"}, "interval"),
        ({"settle": -1}, "settle"),
    ],
)
def test_a_wrong_argument_is_refused(cache: Cache, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        cache.audit(**options)


def test_a_cache_without_process_memory_names_the_command(tmp_path: Any) -> None:
    settings = CacheSettings(namespace="audit", memory={"enabled": False}, disk={"path": tmp_path})
    with Cache(settings) as cache, pytest.raises(DeclarationError, match="novacron-cache audit"):
        cache.audit()
