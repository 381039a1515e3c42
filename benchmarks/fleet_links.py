"""What telling of changes costs: the server for each link, and a process for each name it hears.

    .venv/bin/python benchmarks/fleet_links.py

`fleet.py` has as many links as a machine can carry; what thousands of them cost follows from these two constants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from fleet_server import LinkListener, Server

from novacron_cache import Cache
from novacron_cache.topology.binaries import candidates
from novacron_cache.topology.embedded import EmbeddedServer
from novacron_cache.vm import VMCacheManager, VMState, VMStatus

LINKS = (0, 20, 40)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what telling of changes costs.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (4)")
    parser.add_argument("--rate", type=float, default=200.0, help="changes a second (200)")
    options = parser.parse_args(arguments)
    namespace = f"links-{os.getpid()}"
    context = multiprocessing.get_context("fork")
    with ExitStack() as stage:
        server = stage.enter_context(EmbeddedServer(binary=[None, *candidates()][-1]))
        mine, theirs = context.Pipe()
        process = context.Process(target=_listen, args=(theirs, server.url, namespace), daemon=True)
        process.start()
        mine.recv()
        stage.callback(process.join)
        stage.callback(mine.send, "end")
        cache = stage.enter_context(Cache.connect(server.url, namespace=namespace))
        figures = stage.enter_context(Server(server.url, namespace))
        vms = VMCacheManager(cache)
        idle, _ = _cpu_of(mine, partial(_change, vms, 0, options.seconds))
        costs = []
        for links in LINKS:
            with ExitStack() as listening:
                path, prefix = server.url.removeprefix("unix://"), f"nc:{namespace}:s:"
                listeners = [listening.enter_context(LinkListener(path, prefix)) for _ in range(max(links, 1))]
                heard, before = listeners[0].figures(), figures.figures()
                cpu, changes = _cpu_of(mine, partial(_change, vms, options.rate, options.seconds))
                cost = figures.figures() - before
                names = (listeners[0].figures() - heard)["names"]
                costs.append((len(listeners), cost["cpu us"] / max(names, 1)))
            print(
                f"{len(listeners) + 2:3} links, {changes / options.seconds:.0f} changes a second, "
                f"{names / changes:.2f} names each: {costs[-1][1]:.2f} us of the server's CPU for a name, "
                f"{1e6 * (cpu - idle) / names:.2f} us of a process's"
            )
    (few, low), (many, high) = costs[0], costs[-1]
    print(f"each link more costs the server {(high - low) / (many - few):.3f} us for a name")
    return 0


def _change(vms: VMCacheManager, rate: float, seconds: float) -> int:
    """Tell of changes at a rate, and return of how many."""
    start, count = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < seconds:
        if count < elapsed * rate:
            vms.on_vm_state_change(f"vm-{count % 5_000:05}", VMStatus.RUNNING, VMStatus.STOPPED, f"node-{count % 250}")
            count += 1
        else:
            time.sleep(0.001)
    return count


def _cpu_of(process: Any, act: Callable[[], int]) -> tuple[float, int]:
    """Return the seconds of processor time that the other process takes while this one acts, and what came of it."""
    process.send("cpu")
    before: float = process.recv()
    result = act()
    process.send("cpu")
    after: float = process.recv()
    return after - before, result


def _state(vm_id: str) -> VMState:
    return VMState(vm_id=vm_id, node_id=f"node-{int(vm_id[3:]) % 250}", status=VMStatus.RUNNING)


def _listen(theirs: Any, url: str, namespace: str) -> None:
    with Cache.connect(url, namespace=namespace) as cache:
        vms = VMCacheManager(cache)
        for number in range(5_000):
            vms.get_vm_state(f"vm-{number:05}", _state)
        theirs.send("ready")
        while theirs.recv() == "cpu":
            used = resource.getrusage(resource.RUSAGE_SELF)
            theirs.send(used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    sys.exit(main())
