"""What invalidating costs: time, other clients' time, and the server's memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis
from servers import ServerProcess, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.link import LinkState

from .listening import RAW, Notes
from .nursery import nursery
from .report import ANY, Outcome
from .scenario import Stage, at, scenario

BATCH = 1000


@contextlib.contextmanager
def listener(kind: str, url: str, directory: Path) -> Iterator[Notes]:
    """Run another process that notes times."""
    path = directory / kind
    notes = Notes(path, create=True)
    with nursery() as place:
        child = place.start("faults.listening", [kind, url, str(path)], directory / f"{kind}.log")
        try:
            child.line("a beginning", 30)
            yield notes
        finally:
            child.close()


def cache_on(server: ServerProcess, **settings: object) -> Cache:
    """Open a cache whose link is up."""
    cache = Cache(CacheSettings(namespace="faults", **at(server.url), **settings))
    cache.get("anything")
    link = cache.engine.link
    wait_until(lambda: link is None or link.state is LinkState.UP)
    return cache


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def used(client: redis.Redis) -> int:
    """Return the server's memory in use."""
    return int(client.info("memory")["used_memory"])


@scenario(17, "churn", "markers of many tags, keys and patterns, each invalidated once")
def churn(stage: Stage, outcome: Outcome) -> None:
    count = int(stage.seconds(10_000, 1_000_000))
    with stage.running() as server, cache_on(server) as cache, redis.Redis.from_url(server.url) as client:
        first = [timed(partial(cache.invalidate_tags, f"early:{n}")) for n in range(500)]
        before = used(client)
        for start in range(0, count, BATCH):
            names = [f"tag:{n}" for n in range(start, start + BATCH * 8 // 10)]
            cache.invalidate_tags(*names)
            cache.invalidate(*(f"key:{n}" for n in range(start, start + BATCH // 10)))
            for n in range(start, start + BATCH // 10):
                cache.invalidate_pattern(f"segment-{n}:*")
        each = (used(client) - before) / count
        last = [timed(partial(cache.invalidate_tags, f"late:{n}")) for n in range(500)]
        sampled: list[Any] = [client.execute_command("RANDOMKEY") for _ in range(200)]
        usages = [client.memory_usage(key) or 0 for key in sampled]
        cache.clear()
    outcome.figures.update(
        markers=count,
        memory_usage_bytes=float(statistics.mean(usages)),
        invalidation_first_ms=statistics.median(first) * 1e3,
        invalidation_last_ms=statistics.median(last) * 1e3,
        invalidation_p99_last_ms=statistics.quantiles(last, n=100)[98] * 1e3,
    )
    outcome.expect("memory of the server for a marker, all counted, bytes", each, at_most=200)
    ratio = statistics.median(last) / statistics.median(first)
    outcome.expect("an invalidation after all that, in one before", ratio, at_most=1.5, slack=2)


@scenario(17, "big-tag", "a tag that many values have is invalidated")
def big_tag(stage: Stage, outcome: Outcome) -> None:
    count = int(stage.seconds(20_000, 1_000_000))
    with (
        stage.running("--slowlog-log-slower-than", "2000") as server, stage.directory() as directory,
        cache_on(server) as cache, redis.Redis.from_url(server.url) as client,
    ):  # fmt: skip
        for start in range(0, count, BATCH):
            cache.set_many({f"k:{n}": n for n in range(start, start + BATCH)}, tags=["big"])
        sample = [f"k:{n}" for n in range(0, count, count // 50)]
        assert len(cache.get_many(sample)) == len(sample)
        client.slowlog_reset()
        with listener("bystander", server.url, directory) as notes:
            known = notes.count
            took, raw = _Timed(), _Timed()
            for _ in range(int(stage.seconds(100, 1000))):
                took.time(lambda: cache.invalidate_tags("big"))
                time.sleep(0.005)
                raw.time(lambda: client.incr("counter"))
                time.sleep(0.005)
            stalls = [notes[number] for number in range(known, notes.count)]
        slow = [entry for entry in client.slowlog_get() if b"EVAL" in entry["command"]]
        assert cache.get_many(sample) == {}
    outcome.figures.update(
        keys=count,
        invalidation_ms=took.median * 1e3,
        first_invalidation_ms=(took.spans[0][1] - took.spans[0][0]) / 1e6,
        incr_ms=raw.median * 1e3,
        stalls=len(stalls),
        stalls_in_invalidations=took.hit_by(stalls),
        stalls_in_incrs=raw.hit_by(stalls),
        longest_stall_ms=max((ended - began for began, ended in stalls), default=0) / 1e6,
    )
    outcome.expect("an invalidation in INCRs, p50", took.median / raw.median, at_most=2, slack=3)
    outcome.expect("scripts that ran for more than 2 ms at the server", len(slow), at_most=0, slack=ANY)
    more = took.hit_by(stalls) - raw.hit_by(stalls)
    outcome.expect("stalls of another client over 2 ms, more than in as many INCRs", more, at_most=0, slack=ANY)


class _Timed:
    """When something was done, again and again."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def time(self, action: Callable[[], object]) -> None:
        began = time.monotonic_ns()
        action()
        self.spans.append((began, time.monotonic_ns()))

    @property
    def median(self) -> float:
        return statistics.median(ended - began for began, ended in self.spans) / 1e9

    def hit_by(self, stalls: list[tuple[int, int]]) -> int:
        """Return how many of another client's stalls fell into these times."""
        return sum(any(began < until and at < ended for at, until in self.spans) for began, ended in stalls)


@scenario(17, "push", "an idle process sees what another one invalidates, beside a raw push")
def push(stage: Stage, outcome: Outcome) -> None:
    rounds = int(stage.seconds(100, 1000))
    with (
        stage.running() as server, stage.directory() as directory,
        cache_on(server) as cache, redis.Redis.from_url(server.url) as client,
        listener("cache", server.url, directory) as ours, listener("raw", server.url, directory) as raw,
    ):  # fmt: skip
        pipeline = client.pipeline(transaction=False)

        def signal() -> None:
            pipeline.set(f"{RAW}x", "")
            pipeline.delete(f"{RAW}x")
            pipeline.execute()

        time.sleep(0.5)  # until the listeners' own beginnings are over
        seen: dict[str, list[float]] = {"ours": [], "raw": []}
        returned: dict[str, list[float]] = {"ours": [], "raw": []}
        for _ in range(rounds):
            seen["ours"].append(_until_seen(ours, lambda: cache.invalidate_tags("seen"), returned["ours"]))
            seen["raw"].append(_until_seen(raw, signal, returned["raw"]))
    medians = {name: statistics.median(values) for name, values in seen.items()}
    outcome.figures["seen_ms"], outcome.figures["raw_ms"] = medians["ours"] * 1e3, medians["raw"] * 1e3
    for name, values in returned.items():
        outcome.figures[f"{name}_returned_ms"] = statistics.median(values) * 1e3
    outcome.figures["seen_p99_ms"] = statistics.quantiles(seen["ours"], n=100)[98] * 1e3
    outcome.expect("a write seen elsewhere, in raw pushes, p50", medians["ours"] / medians["raw"], at_most=1.3, slack=4)


def _until_seen(notes: Notes, action: Callable[[], object], returned: list[float]) -> float:
    known, began = notes.count, time.monotonic_ns()
    action()
    returned.append((time.monotonic_ns() - began) / 1e9)
    wait_until(lambda: notes.count > known)
    time.sleep(0.002)
    return (notes[known][0] - began) / 1e9


@scenario(17, "memory", "what an entry without tags takes at the server beside its payload")
def memory(stage: Stage, outcome: Outcome) -> None:
    # Each entry is two keys, and a key has between one slot and two of tables that double when they are full.
    most, steps, text = int(stage.seconds(8_192, 32_768)), int(stage.seconds(2, 8)), "x" * 50
    first, last = most // 2 - BATCH + 64, most - BATCH - 64
    keys = [f"entry:{n}" for n in range(last)]
    with (
        stage.running() as server, redis.Redis.from_url(server.url) as client,
        cache_on(server, memory={"enabled": False}) as cache,
    ):  # fmt: skip
        for _ in range(2):  # grows what connections need
            others = [f"other:{n}" for n in range(BATCH)]
            _warm(cache, others, text)
            cache.invalidate(*others)
        _warm(cache, others, text)
        before, sizes, done = _at_rest(client), [], 0
        for step in range(steps + 1):
            until = first + (last - first) * step // steps
            _warm(cache, keys[done:until], text)
            sizes.append((_at_rest(client) - before) / until)
            done = until
        for names in _batches(keys):
            cache.invalidate(*names)
            _warm(cache, names, text)
        more = (_at_rest(client) - before) / last - sizes[-1]
    payload, mean = len(text) + 2, statistics.fmean([(sizes[0] + sizes[-1]) / 2, *sizes[1:-1]])
    outcome.figures["entries"] = last
    outcome.figures["tables_doubled_bytes"], outcome.figures["tables_full_bytes"] = (
        sizes[0] - payload,
        sizes[-1] - payload,
    )
    for what, size in {"never invalidated": mean, "invalidated once": mean + more}.items():
        outcome.expect(f"bytes beside the payload, {what}", size - payload, at_most=350, slack=1.2)


def _warm(cache: Cache, keys: Sequence[str], text: str) -> None:
    for names in _batches(keys):
        cache.warm(dict.fromkeys(names, lambda: text))


def _batches(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]


def _at_rest(client: redis.Redis) -> int:
    """Return the memory in use once everything that lives for a moment, as leases do, has gone."""
    sizes = [client.dbsize()]

    def unchanged() -> bool:
        time.sleep(0.1)
        sizes.append(client.dbsize())
        return len(sizes) > 12 and len(set(sizes[-5:])) == 1

    wait_until(unchanged, deadline=30, what="a server at rest")
    return used(client)
