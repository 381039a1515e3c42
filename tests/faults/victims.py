"""Writers that are killed in the middle; the arguments are the options, how many, and their hold in seconds.

This process has neither threads nor a cache. For each round it forks a child that opens a cache, begins a write, and is
killed with SIGKILL at some step of it. From the moment at which the hold of the dead writer has run out, or at which
its invalidation had been sent, nobody may be served anything older than what it wrote.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from novacron_cache import Cache, CacheSettings
from novacron_cache.effects import Hold, Release, Renew

from .database import Database
from .worker import Options

STEPS = ("hold sent", "before the write", "after the write", "before the release", "release sent", "sent", "any moment")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _perform(perform: Callable[[Any], Any], kind: type, *, before: bool) -> Callable[[Any], Any]:
    def performing(operation: Any) -> Any:
        if before and isinstance(operation, kind):
            die()
        reply = perform(operation)
        if isinstance(operation, kind):
            die()
        return reply

    return performing


def write(cache: Cache, database: Database, n: int, step: str, hold: float) -> None:
    """Write a key and do not survive it."""
    tier: Any = cache.engine.authority
    tag = f"{'late' if n % 2 else 'row'}:{n}"
    if step == "sent":
        tier.perform = _perform(tier.perform, Renew, before=False)
        database.commit(n)
        cache.invalidate_tags(tag)
    elif step == "hold sent":
        tier.perform = _perform(tier.perform, Hold, before=False)
    elif step in {"before the release", "release sent"}:
        tier.perform = _perform(tier.perform, Release, before=step == "before the release")
    while True:
        with cache.invalidating(tags=[tag], hold=hold):
            if step == "before the write":
                die()
            version = database.commit(n)
            if step == "after the write":
                die()
        database.announce(n, version)


def play(options: Options, database: Database, n: int, step: str, hold: float) -> bool:
    """Have a child write a key and die; return whether it died as it should."""
    before = database.version(n)
    pid = os.fork()
    if not pid:
        try:
            write(Cache(CacheSettings(**options.settings)), database, n, step, hold)
        finally:
            os._exit(1)
    if step == "any moment":
        time.sleep(random.uniform(0.05, 0.25))  # noqa: S311 - any moment will do
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        return False
    told = time.monotonic_ns() + (0 if step == "sent" else int(hold * 1e9))
    for version in range(before + 1, database.version(n) + 1):
        if not database.announced(n, version):
            database.announce(n, version, told)
    return True


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    rounds, hold = int(sys.argv[2]), float(sys.argv[3])
    database = Database(Path(options.database), options.keys)
    keys = range(options.number, options.keys, options.count)
    killed = dict.fromkeys(STEPS, 0)
    for number in range(rounds):
        step = STEPS[number % len(STEPS)]
        killed[step] += play(options, database, keys[number % len(keys)], step, hold)
    print(json.dumps(killed))  # noqa: T201 - the answer to whoever started it
