"""Nothing goes wrong; wall clocks are wrong; the way to the server is."""

from __future__ import annotations

import time
from typing import Any

from servers import FaultProxy

from .fleet import fleet
from .recording import LATE
from .report import ANY, Outcome
from .scenario import Stage, at, scenario

SOON = 100_000_000


@scenario(2, "quiet", "nothing fails; 2 % of the loaders take 250 ms")
def quiet(stage: Stage, outcome: Outcome) -> None:
    with stage.running() as server:
        _undisturbed(stage, outcome, [at(server.url)] * stage.workers)


@scenario(15, "clocks", "wall clocks an hour apart, in both directions")
def clocks(stage: Stage, outcome: Outcome) -> None:
    with stage.running() as server:
        _undisturbed(
            stage, outcome, [at(server.url)] * stage.workers, shift=[3600.0, -3600.0, 0.0, 60.0][: stage.workers]
        )


def _undisturbed(stage: Stage, outcome: Outcome, settings: list[dict[str, Any]], **options: Any) -> None:
    with fleet(settings, bound=stage.bound, **options) as processes:
        processes.traffic(stage.seconds(2, 60))
        processes.settle()
        totals = processes.outcome(outcome)
    figures = outcome.figures
    figures["hits_share"] = 1 - totals.sum("loads") / max(totals.sum("reads"), 1)
    figures["read_p99_ms"] = totals.percentile(0.99) * 1e3
    outcome.expect("reads staler than 50 ms", figures["stale"], at_most=0, slack=ANY)
    outcome.expect("oldest read, s", figures["oldest_ms"] / 1e3, at_most=stage.bound)
    outcome.expect("share of stale reads", figures["stale"] / max(figures["reads"], 1), at_most=0.001, slack=10)
    outcome.expect("stale strong reads", figures["stale_strong"], at_most=0)


@scenario(3, "black-hole", "one process's way to the server swallows everything, then breaks")
def black_hole(stage: Stage, outcome: Outcome) -> None:
    hole = stage.seconds(2, 6)
    with (
        stage.running() as server,
        FaultProxy(server.port) as proxy,
        fleet([at(server.url), at(server.url), at(proxy.url)], bound=stage.bound, slow=0.0) as processes,
    ):
        processes.traffic(stage.seconds(0.5, 5))
        proxy.hold()
        processes.traffic(hole, phase=2)
        proxy.reset()
        healed = time.monotonic_ns()
        proxy.heal()
        processes.traffic(stage.seconds(1, 5), phase=3)
        processes.settle()
        totals = processes.outcome(outcome)
    up = next(iter(totals.events("link_up", since=healed)), 0)
    outcome.figures["recovery_s"] = (up - healed) / 1e9 if up else float("inf")
    after = totals.stale(since=healed + SOON) if up else []
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)
    outcome.expect("stale reads from 100 ms after the heal on", _late(after), at_most=0, slack=ANY)
    outcome.expect("the same after the link is up", _late(totals.stale(since=up + SOON)), at_most=0, slack=ANY)
    outcome.expect("seconds until the link is up", outcome.figures["recovery_s"], at_most=1.0, slack=3)
    outcome.expect("stale strong reads", outcome.figures["stale_strong"], at_most=0)


def _late(stale: list[tuple[int, int]]) -> int:
    return sum(age > LATE for _, age in stale)
