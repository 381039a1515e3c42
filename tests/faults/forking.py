"""What a forked child of a worker does: read what its parent reads, over whatever it has inherited."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker import Worker

PATIENCE = 20.0
_RIGHT, _WRONG, _FAILED = b"r", b"w", b"f"


def fork_children(worker: Worker, count: int, reads: int) -> dict[str, int]:
    """Fork children while other threads read and write; return how many were right, wrong, failed and hung."""
    children = [_fork(worker, reads) for _ in range(count)]
    found = {"right": 0, "wrong": 0, "failed": 0, "hung": 0}
    end = time.monotonic() + PATIENCE
    for pid, pipe in children:
        ready, _, _ = select.select([pipe], [], [], max(end - time.monotonic(), 0.0))
        said = os.read(pipe, 1) if ready else b""
        if not ready:
            os.kill(pid, signal.SIGKILL)
        os.close(pipe)
        os.waitpid(pid, 0)
        name = {_RIGHT: "right", _WRONG: "wrong"}.get(said, "failed") if ready else "hung"
        found[name] += 1
    return found


def _fork(worker: Worker, reads: int) -> tuple[int, int]:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    said = _FAILED
    try:
        said = _RIGHT if _read(worker, reads) else _WRONG
    finally:
        os.write(theirs, said)
        os._exit(0)


def _read(worker: Worker, reads: int) -> bool:
    """Read in a child; return whether every value was the one that was asked for, and none older than the bound."""
    bound = worker.cache.settings.staleness_bound
    for number in range(reads):
        n = number % worker.options.keys
        began = time.monotonic_ns()
        key, loader, model = worker.strong_read(n)
        if number % 5 == 0:
            value = worker.cache.get_or_load(key, loader, model=model, consistency="strong")
            allowed = 0.0
        else:
            value = worker.functions[n % 2](n)
            allowed = bound + 0.5
        if value.n != n or worker.database.age(n, value.version, began) > allowed * 1e9:
            return False
        if number % 50 == 49:
            time.sleep(0.005)
    return worker.cache.invalidate("nothing:1").done
