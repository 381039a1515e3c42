"""A simulated fleet: API processes that read and change what hypervisors know of VMs, through the cache.

    .venv/bin/python benchmarks/fleet.py            # 10,000 VMs, 500 nodes, 20 processes; eight minutes
    .venv/bin/python benchmarks/fleet.py --short    # 1,000 VMs, 50 nodes, 3 processes; a few seconds

The processes, the server, its links and the clock are real; the hypervisors and the users are simulated. The fleet's
clock may run slower or faster than the real one (`--speed`): all rates are multiplied by the speed and all times to
live divided by it, so that what a hit rate depends on, their product, stays the same. Latencies and the staleness bound
are not scaled. Slower is the sound direction on a small machine: times to live are longer then beside the bound, so
that a value which nobody invalidated cannot hide behind its expiry.

Exit codes: 0 when no stale value was seen, 1 when one was, or when a process failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fleet_process import Plan, Process, Seen
from fleet_report import outcome, told
from fleet_server import LinkListener, Server
from fleet_world import World

from novacron_cache.topology.binaries import candidates
from novacron_cache.topology.embedded import EmbeddedServer

LONG = Plan(
    vms=10_000, nodes=500, processes=20, reads=10_000, churn=10, zipf=1.0, speed=0.125, warmup=30, seconds=30,
    bound=3.0, l1_items=10_000, seed=1,
)  # fmt: skip
SHORT = replace(
    LONG, vms=1_000, nodes=50, processes=3, reads=2_000, churn=40, speed=1.0, warmup=1, seconds=2, bound=0.5
)

READY = 120
"""Seconds within which each process has to be ready to start."""

HELP = {
    "vms": "virtual machines",
    "nodes": "nodes",
    "processes": "API processes",
    "reads": "entries read a second by all processes, in the fleet's time",
    "churn": "changes of VMs a second, in the fleet's time",
    "zipf": "exponent of the popularity of VMs and nodes",
    "speed": "fleet seconds that pass in a second",
    "warmup": "fleet seconds before the measurement",
    "seconds": "fleet seconds of the measurement",
    "bound": "staleness bound, real seconds",
    "l1_items": "entries that a process keeps in memory",
    "seed": "of everything that is drawn",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate what the command line asks for; return 1 when a stale value was seen or a process failed."""
    parser = argparse.ArgumentParser(description="Simulate a fleet of VMs whose API processes share a cache.")
    parser.add_argument("--short", action="store_true", help="a small fleet for a few seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file; - for stdout only")
    for one in fields(Plan):
        kind = int if one.type == "int" else float
        help_ = f"{HELP[one.name]} ({getattr(LONG, one.name):g}; short {getattr(SHORT, one.name):g})"
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind, help=help_)
    options = parser.parse_args(arguments)
    given = {one.name: value for one in fields(Plan) if (value := getattr(options, one.name)) is not None}
    plan = replace(SHORT if options.short else LONG, **given)
    for name, least in {"vms": plan.processes, "nodes": 2, "processes": 1, "l1_items": 1}.items():
        if getattr(plan, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    if min(plan.reads, plan.speed, plan.seconds, plan.bound) <= 0 or min(plan.churn, plan.warmup) < 0:
        parser.error("rates and durations must be greater than zero; --churn and --warmup may be zero")
    result = simulate(plan)
    if options.json is None or str(options.json) != "-":
        print(told(result))
    if options.json is not None:
        text = json.dumps(result, indent=2) + "\n"
        sys.stdout.write(text) if str(options.json) == "-" else options.json.write_text(text)
    for error in result["errors"]:
        print(error, file=sys.stderr)
    return 1 if result["errors"] or result["audit"]["stale"] else 0


def simulate(plan: Plan) -> dict[str, Any]:
    """Run a plan and return its outcome as plain data."""
    namespace = f"fleet-{os.getpid()}"
    world = World(plan.vms, plan.nodes, plan.seed)
    context = multiprocessing.get_context("fork")  # the world is shared, and nobody imports everything again
    with ExitStack() as stage:
        # That of the extra where there is one: then it does not depend on the system which server is measured.
        binary = [None, *candidates()][-1]
        embedded = stage.enter_context(EmbeddedServer(memory="2gb", binary=binary))
        crew: list[tuple[Any, Any]] = []
        stage.callback(_end, crew)
        for number in range(plan.processes):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, number, plan, world, embedded.url, namespace), daemon=True
            )
            process.start()
            theirs.close()
            crew.append((process, mine))
        server = stage.enter_context(Server(embedded.url, namespace))
        listener = stage.enter_context(LinkListener(embedded.url.removeprefix("unix://"), f"nc:{namespace}:s:"))
        for _, mine in crew:
            mine.poll(READY)
        start = time.monotonic() + 0.2
        for _, mine in crew:
            with contextlib.suppress(OSError):  # one that has failed has nobody at the other end
                mine.send(start)
        _wait(start + plan.warmup / plan.speed, crew)
        before, heard = server.figures(), listener.figures()
        _wait(start + (plan.warmup + plan.seconds) / plan.speed, crew)
        load, messages = server.figures() - before, listener.figures() - heard
        contents = server.contents()
        seen = [_result(mine, number) for number, (_, mine) in enumerate(crew)]
        return outcome(plan, seen, load, messages, contents, embedded.version)


def _work(theirs: Any, number: int, plan: Plan, world: World, url: str, namespace: str) -> None:
    def started() -> float:
        theirs.send("ready")
        start: float = theirs.recv()
        return start

    with contextlib.suppress(KeyboardInterrupt, EOFError):  # the parent was told too, or has ended
        theirs.send(Process(number, plan, world, url, namespace).run(started))


def _wait(moment: float, crew: Sequence[tuple[Any, Any]]) -> None:
    """Wait for a moment, or until a process has ended, which none should."""
    while (left := moment - time.monotonic()) > 0 and all(process.is_alive() for process, _ in crew):
        time.sleep(min(left, 0.2))


def _result(mine: Any, number: int) -> Seen:
    try:
        while mine.poll(60):
            if isinstance(said := mine.recv(), Seen):
                return said
    except EOFError:
        pass
    return Seen(errors=[f"process {number} ended without a word"])


def _end(crew: Sequence[tuple[Any, Any]]) -> None:
    for process, mine in crew:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        mine.close()


if __name__ == "__main__":
    sys.exit(main())
