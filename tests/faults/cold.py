"""Processes that want one key at the same moment; the arguments are the server, how many, and a file.

This process has neither threads nor a cache; it forks those that have. Whoever loads says so in the file. The first one
that does is killed in the middle of its load.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from novacron_cache import Cache
from novacron_cache.link import LinkState

LOADER = 0.5
PATIENCE = 60.0


def want(url: str, ready: int, go: int, said: int, loads: Path) -> None:
    """Read the key once everybody is ready, and say how long that took."""
    cache = Cache.connect(url, namespace="faults")
    cache.get("anything")
    link = cache.engine.link
    while link is not None and link.state is not LinkState.UP:
        time.sleep(0.01)
    os.write(ready, b"x")
    os.read(go, 1)

    def load() -> int:
        with loads.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(LOADER)
        return 1

    began = time.monotonic()
    value = cache.get_or_load("cold", load)
    os.write(said, f"{value} {time.monotonic() - began}\n".encode())


def main() -> None:
    url, count, loads = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    loads.touch()
    (ready, ready_end), (go, go_end), (said, said_end) = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            try:
                os.close(go_end)
                want(url, ready_end, go, said_end, loads)
            finally:
                os._exit(0)
        children.append(pid)
    os.close(said_end)
    for _ in range(count):
        os.read(ready, 1)
    os.close(go_end)  # everybody's read ends
    while not (first := loads.read_text().split()):
        time.sleep(0.005)
    time.sleep(LOADER / 4)
    os.kill(int(first[0]), signal.SIGKILL)
    answers, end = b"", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if select.select([said], [], [], 1.0)[0]:
            if not (more := os.read(said, 65536)):
                break
            answers += more
    for pid in children:
        os.kill(pid, signal.SIGKILL)  # those that hang; the others are waited for below, so their ids are theirs still
        os.waitpid(pid, 0)
    lines = [line.split() for line in answers.decode().splitlines()]
    print(  # noqa: T201 - the answer to whoever started it
        json.dumps({
            "loads": len(loads.read_text().split()),
            "right": sum(value == "1" for value, _ in lines),
            "slowest": max((float(seconds) for _, seconds in lines), default=0.0),
            "loader": LOADER,
        })
    )  # fmt: skip
