"""What an item costs beside its value: bytes of the process, and how long the garbage collector stops everybody.

Each contender fills a process of its own with 100,000 values and is asked how much the process has grown and how long a
full collection takes. The reference is a dictionary of pydantic models, which is what one has without a cache.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import OURS, Area, Case, Effort, Figure, Row

DICT = "dict of models"


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _dict(count: int) -> tuple[Any, Callable[[str], Any]]:
    from l2_world import ids, machine

    held = {key: machine(key) for key in ids(count)}
    return held, held.__getitem__


def _cachebox(count: int) -> tuple[Any, Callable[[str], Any]]:
    import cachebox
    from l2_world import TTL, ids, machine

    held: Any = cachebox.TTLCache(count, TTL)
    for key in ids(count):
        held[key] = machine(key)
    return held, held.__getitem__


def _cachetools(count: int) -> tuple[Any, Callable[[str], Any]]:
    import cachetools
    from l2_world import TTL, ids, machine

    held: Any = cachetools.TTLCache(count, TTL)
    for key in ids(count):
        held[key] = machine(key)
    return held, held.__getitem__


def _theine(count: int) -> tuple[Any, Callable[[str], Any]]:
    from datetime import timedelta

    import theine
    from l2_world import TTL, ids, machine

    # Its filter may turn away what has been asked for once; with room to spare it takes everything.
    held: Any = theine.Cache(count * 2)
    for key in ids(count):
        held.set(key, machine(key), timedelta(seconds=TTL))
    return held, lambda key: held.get(key)[0]


def _dogpile(count: int) -> tuple[Any, Callable[[str], Any]]:
    from dogpile.cache import make_region
    from l2_world import TTL, ids, machine

    region: Any = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    for key in ids(count):
        region.set(key, machine(key))
    return region, region.get


def _ours(count: int, *, front: bool = False) -> tuple[Any, Callable[[str], Any]]:
    from l2_world import Machine, ids, machine

    from novacron_cache import Cache
    from novacron_cache.settings import CacheSettings, MemorySettings

    cache = Cache(CacheSettings(memory=MemorySettings(max_items=count)))
    if not front:
        for key in ids(count):
            Machine.entries.using(cache).set(machine(key))
        return cache, Machine.entries.using(cache).get

    @cache.cached(Machine, key="machine:<machine_id>")
    def get(machine_id: str) -> Machine:
        return machine(machine_id)

    for key in ids(count):
        get(key)
    return (cache, get), get


def _ours_called(count: int) -> tuple[Any, Callable[[str], Any]]:
    return _ours(count, front=True)


CONTENDERS: dict[str, tuple[Callable[[int], tuple[Any, Callable[[str], Any]]], str]] = {
    DICT: (_dict, "no ttl, no eviction, no tags"),
    OURS: (_ours, "entries.set: ttl, eviction, tags"),
    f"{OURS}, function": (_ours_called, "a decorated function, with its arguments as a second key"),
    "cachebox": (_cachebox, "TTLCache"),
    "cachetools": (_cachetools, "TTLCache"),
    "theine": (_theine, "ttl"),
    "dogpile.cache": (_dogpile, "memory backend; it has no bound"),
}


def _fill(name: str, count: int) -> dict[str, float]:
    """Return what one contender takes; the process is its own."""
    from l2_world import ids, machine

    make = CONTENDERS[name][0]
    make(100)  # imports, and what is made once
    gc.collect()
    gc.disable()
    before = _resident()
    held, get = make(count)
    grown = _resident() - before
    pauses = []
    for _ in range(3):
        start = time.perf_counter()
        gc.collect()
        pauses.append(time.perf_counter() - start)
    gc.freeze()
    start = time.perf_counter()
    gc.collect()
    frozen = time.perf_counter() - start
    keys = ids(count)
    if [get(key) for key in keys[:: max(1, count // 100)]] != [machine(key) for key in keys[:: max(1, count // 100)]]:
        raise AssertionError("a key gave another one's value")
    del held
    return {"bytes": grown / count, "pause": min(pauses) * 1e9, "frozen": frozen * 1e9}


def _measure(name: str, count: int) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603
        [sys.executable, __file__, name, str(count)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def run(effort: Effort) -> Area:
    """Measure bytes and pauses."""
    count = effort.of(100_000, 20_000, 2_000)
    sizes = Case(f"memory for each of {count:,} items", unit="bytes")
    pauses = Case(f"full garbage collection with {count:,} items")
    frozen = Case("the same after gc.freeze()")
    reference: dict[str, float] = {}
    ours: dict[str, float] = {}
    measured: dict[str, dict[str, float] | str] = {}
    for name in CONTENDERS:
        try:
            measured[name] = found = _measure(name, count)
        except Exception as error:
            measured[name] = f"{type(error).__name__}: {error}"
            continue
        reference = found if name == DICT else reference
        ours = found if name == OURS else ours
    for case, what in ((sizes, "bytes"), (pauses, "pause"), (frozen, "frozen")):
        for name, (_, note) in CONTENDERS.items():
            one = measured[name]
            if isinstance(one, str):
                case.rows.append(Row(name, failed=one, note=note))
                continue
            case.rows.append(
                Row(
                    name, one[what], one[what] / reference[what] if reference else None,
                    one[what] / ours[what] if ours else None, note,
                )
            )  # fmt: skip
    size = sizes.row(OURS)
    return Area(
        "item_memory",
        [sizes, pauses, frozen],
        [
            Figure("memory of an L1 item / of a model in a dict", size.ratio, 0.55, 0.55),
            Figure(
                "memory of 1,000 items",
                None if size.value is None else size.value * 1000 / 2**20,
                10.0,
                unit=" MB",
                floor=True,
            ),
        ],
    )


if __name__ == "__main__":
    print(json.dumps(_fill(sys.argv[1], int(sys.argv[2]))))
