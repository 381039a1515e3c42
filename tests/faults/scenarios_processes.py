"""Processes die, stop and fork."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from .fleet import fleet
from .nursery import nursery
from .recording import Totals
from .report import ANY, Outcome
from .scenario import Stage, at, scenario

HOLD = 0.5


def play(program: str, arguments: list[str], directory: Path, *, patience: float = 300.0) -> Any:
    """Run a program that says one thing, and return that."""
    with nursery() as place:
        child = place.start(program, arguments, directory / f"{program}.log")
        try:
            return json.loads(child.line("its findings", patience))
        finally:
            child.close()


@scenario(9, "killed-writer", "writers are killed at each step of an invalidation")
def killed_writer(stage: Stage, outcome: Outcome) -> None:
    rounds = int(stage.seconds(14, 203))
    with (
        stage.running() as server,
        fleet([at(server.url)] * 3, bound=stage.bound, slow=0.0, writes=5.0, count=4) as processes,
    ):
        processes.traffic(0)
        victim = replace(processes.workers[0].options, number=3)
        killed = play("faults.victims", [victim.as_json(), str(rounds), str(HOLD)], processes.directory)
        processes.traffic(HOLD + 0.5)
        processes.settle()
        totals = processes.outcome(outcome)
    outcome.figures["killed"] = sum(killed.values())
    outcome.notes.append("killed: " + ", ".join(f"{step} {count}" for step, count in killed.items()))
    outcome.expect("writers killed as planned", sum(killed.values()), at_least=rounds)
    outcome.expect("reads staler than 50 ms after the hold", outcome.figures["stale"], at_most=0, slack=ANY)
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound)
    outcome.expect("stale strong reads", len(totals.stale(strong=True)), at_most=0)


@scenario(
    13, "shared-disk", "processes share a directory, without a server; one is stopped mid-transaction", server=False
)
def shared_disk(stage: Stage, outcome: Outcome) -> None:
    count = int(stage.seconds(3, 8))
    with stage.directory() as directory:
        disk = directory / "shared"
        settings = [{"disk": {"path": str(disk)}}] * count
        with fleet(settings, bound=stage.bound, slow=0.0, rate=500.0, writes=5.0, two_phase=0.1) as processes:
            processes.traffic(stage.seconds(1, 20))
            stopped = processes.workers[-1]
            stopped.ask(f"lock {disk / 'cache.db'}")
            stopped.stop()
            processes.traffic(stage.seconds(1, 10), phase=2)
            stopped.go_on()
            stopped.ask("unlock")
            processes.traffic(stage.seconds(0.5, 10), phase=3)
            processes.settle()
            totals = processes.outcome(outcome)
            running = [report for report in processes.reports if report is not processes.reports[-1]]
    before, during = (Totals(running, {phase}) for phase in (1, 2))
    outcome.figures["call_before_ms"] = before.most("longest") / 1e6
    outcome.figures["read_p99_before_ms"] = before.percentile(0.99) * 1e3
    outcome.figures["read_p99_stopped_ms"] = during.percentile(0.99) * 1e3
    outcome.figures["writes_pending_meanwhile"] = during.sum("pending")
    outcome.expect("longest call while one is stopped, ms", during.most("longest") / 1e6, at_most=50, slack=20)
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)
    outcome.expect("stale strong reads", len(totals.stale(strong=True)), at_most=0)


@scenario(14, "fork", "processes fork while their threads read and write")
def fork(stage: Stage, outcome: Outcome) -> None:
    each = int(stage.seconds(3, 16))
    with (
        stage.running() as server,
        fleet([at(server.url)] * 3, bound=stage.bound, slow=0.0, rate=500.0) as processes,
    ):
        processes.traffic(stage.seconds(0.5, 5))
        found = [worker.ask(f"fork {each} 200", patience=60) for worker in processes.workers[:2]]
        processes.traffic(stage.seconds(0.5, 10))
        processes.settle()
        processes.outcome(outcome)
    children = {name: sum(one[name] for one in found) for name in found[0]}
    outcome.figures["children"] = sum(children.values())
    outcome.expect("children that hung", children["hung"], at_most=0)
    outcome.expect("children that got an error", children["failed"], at_most=0)
    outcome.expect("children that got another's reply or an old value", children["wrong"], at_most=0)
    outcome.expect("reads staler than 50 ms", outcome.figures["stale"], at_most=0, slack=ANY)
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound)


@scenario(16, "cold-key", "many processes want one cold key, and the one that loads it is killed")
def cold_key(stage: Stage, outcome: Outcome) -> None:
    count = int(stage.seconds(12, 100))
    with stage.running() as server, stage.directory() as directory:
        found = play("faults.cold", [server.url, str(count), str(directory / "loads")], directory)
    outcome.figures.update(clients=count, loads=found["loads"], recovery_s=found["slowest"])
    outcome.expect("loads", found["loads"], at_most=2, slack=3)
    outcome.expect("clients that got the value", found["right"], at_least=count - 1)
    outcome.expect("seconds until the last one had it", found["slowest"], at_most=found["loader"] * 2 + 2.0, slack=5)
