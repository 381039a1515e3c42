"""Sequences of keys that a cache is asked for: made by rule, or recorded somewhere.

Made ones are the families that eviction policies are usually judged by, in the form in which they are published: *Zipf*
(independent requests whose popularity falls with a power of the rank; web and key-value studies report exponents around
1), Zipf *polluted by scans* that never come back, a *loop* a little longer than the cache (the case against LRU),
and *services*, where keys come up, are asked for in bursts, are popular for a while and are forgotten, and a batch
reads much of it once in a while.

Recorded ones are read from a directory in the formats in which two collections are published: text with a number a line
(`*.trace.gz` of the LIRS authors), and binary with a big-endian integer a request (`*.trace.xz` of cache2k and of
CloudPhysics, 4 bytes; `trace_vaultservice*.gz` of Corda and `scarab*.xz`, 8 bytes). None is part of this repository.
"""

from __future__ import annotations

import bisect
import gzip
import itertools
import lzma
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workload:
    """Requests, and how large a cache is tried on them.

    Attributes:
        family: what kind it is; promises are about the mean of a family.
        name: which of the family.
        requests: the keys, in order.
        sizes: numbers of items.
    """

    family: str
    name: str
    requests: list[int]
    sizes: tuple[int, ...]


def _ranks(chance: random.Random, count: int, exponent: float) -> Callable[[], int]:
    """Return a function that draws ranks whose frequency falls with a power of the rank."""
    sums = list(itertools.accumulate(1 / (rank + 1) ** exponent for rank in range(count)))
    total = sums[-1]
    return lambda: bisect.bisect_left(sums, chance.random() * total)


def zipf(length: int, exponent: float) -> Workload:
    """Return independent requests for a tenth as many keys as there are requests."""
    count = max(100, length // 10)
    draw = _ranks(random.Random(1), count, exponent)  # noqa: S311 - a workload that is the same in every run
    return Workload("Zipf", f"{exponent:g}", [draw() for _ in range(length)], _shares(count))


def polluted(length: int) -> Workload:
    """Return Zipf requests, of which every tenth stretch is a scan of keys that nobody asks for again."""
    count = max(100, length // 10)
    draw = _ranks(random.Random(2), count, 1.0)  # noqa: S311
    stretch, fresh, requests = max(20, count // 20), itertools.count(count), list[int]()
    while len(requests) < length:
        for _ in range(9 * stretch):
            requests.append(draw())
        requests += itertools.islice(fresh, stretch)
    return Workload("scans", "Zipf 1, a tenth scans", requests[:length], _shares(count))


def loop(length: int) -> Workload:
    """Return the same keys over and over, with one in ten requests drawn at random."""
    count = max(100, length // 40)
    chance = random.Random(3)  # noqa: S311
    around = itertools.cycle(range(count))
    requests = [chance.randrange(count) if chance.random() < 0.1 else next(around) for _ in range(length)]
    return Workload("loop", "with a tenth random", requests, (count // 4, count // 2, count * 9 // 10))


def service(length: int, *, seed: int, churn: float) -> Workload:
    """Return what a service sees: bursts, popularity that moves on, and now and then a batch job.

    Two in five requests are for something asked for lately, at distances whose frequency falls with a power: with
    that, LRU comes as close to Belady as it does on the recorded requests of services, some 0.83.

    Args:
        length: the number of requests.
        seed: of what is random.
        churn: which share of the popular keys is replaced in the course of one day.
    """
    chance = random.Random(seed)  # noqa: S311
    count = max(100, length // 20)
    draw = _ranks(chance, count, 1.0)
    holders = list(range(count))
    fresh = itertools.count(count)
    day = length // 5
    replace_every = max(1, int(day / (churn * count)))
    requests: list[int] = []
    next_replaced, next_batch = replace_every, day
    while len(requests) < length:
        back = int(chance.paretovariate(0.6)) if chance.random() < 0.4 else 0
        requests.append(requests[-back] if 0 < back <= len(requests) else holders[draw()])
        if len(requests) >= next_replaced:
            # New keys come up anywhere in the order of popularity, most of them far from the top.
            holders[draw() if chance.random() < 0.2 else chance.randrange(count)] = next(fresh)
            next_replaced += replace_every
        if len(requests) >= next_batch:
            requests += holders[: count // 4]
            next_batch += day
    return Workload("services, made", f"churn {churn:g} a day", requests[:length], _shares(count))


def made(length: int) -> Iterator[Workload]:
    """Yield the workloads that are made by rule."""
    for exponent in (0.9, 1.0, 1.1):
        yield zipf(length, exponent)
    yield polluted(length)
    yield loop(length)
    yield service(length, seed=4, churn=0.2)
    yield service(length, seed=5, churn=1.0)


def _shares(count: int) -> tuple[int, ...]:
    return tuple(max(10, count * share // 100) for share in (1, 5, 20))


FAMILIES = {
    "LIRS traces": ("lirs/*.trace.gz", ""),
    "cache2k traces": ("cache2k/*.trace.xz", ">i"),
    "CloudPhysics traces": ("cloud_physics/*.trace.xz", ">I"),
    "Corda traces": ("corda/*.gz", ">q"),
    "Scarab traces": ("scarab/*.trace.xz", ">q"),
}


def recorded(directory: Path, most: int) -> Iterator[Workload]:
    """Yield the recorded workloads of a directory.

    Args:
        directory: has a directory for each collection.
        most: of longer ones only so many requests are taken.
    """
    for family, (pattern, form) in FAMILIES.items():
        for path in sorted(directory.glob(pattern)):
            requests = _read(path, form, most)
            distinct = len(set(requests))
            # Where nearly nothing comes back, or everything fits, policies cannot differ.
            if len(requests) > 1.2 * distinct and distinct >= 100:
                yield Workload(family, path.name.partition(".")[0], requests, _shares(distinct))


def _read(path: Path, form: str, most: int) -> list[int]:
    with (gzip.open if path.suffix == ".gz" else lzma.open)(path, "rb") as stream:
        if not form:
            lines = (line.strip() for line in stream)
            return [int(line) for line in itertools.islice((one for one in lines if one not in (b"", b"*")), most)]
        data = stream.read(most * struct.calcsize(form))
    data = data[: len(data) - len(data) % struct.calcsize(form)]
    return [one for (one,) in struct.iter_unpack(form, data)]
