"""The server forgets, remembers too much, hangs, or refuses."""

from __future__ import annotations

import time

from servers import ServerProcess

from .fleet import fleet
from .recording import LATE, Totals
from .report import ANY, Outcome
from .scenario import Stage, at, scenario


@scenario(7, "restart", "restarted from an old snapshot, emptied, restarted empty; a disk sleeps through it")
def restart(stage: Stage, outcome: Outcome) -> None:
    part = stage.seconds(0.5, 6)
    with stage.running() as server, stage.directory() as disk:
        settings = [at(server.url)] * 3 + [{**at(server.url), "disk": {"path": str(disk)}}]
        with fleet(settings, bound=stage.bound, slow=0.0) as processes:
            processes.traffic(part)
            assert server.command("SAVE").startswith(b"+OK")
            processes.traffic(part)
            asleep = processes.leave(3)
            processes.traffic(part)
            server.restart()
            restored = time.monotonic_ns()
            processes.traffic(part)
            processes.rest()
            resurrected = len(processes.join(asleep).ask("sweep"))
            processes.traffic(part)
            server.flush()
            flushed = time.monotonic_ns()
            processes.traffic(part)
            (server.directory / "dump.rdb").unlink()
            server.restart()
            emptied = time.monotonic_ns()
            processes.traffic(part + stage.bound)
            processes.settle()
            totals = processes.outcome(outcome)
    patience = int((stage.bound + 0.5) * 1e9)
    outcome.figures["resurrected_by_disk"] = resurrected
    outcome.expect("values that a disk brought back", resurrected, at_most=0)
    back = [began for at_ in (restored, emptied) for began, age in totals.stale(since=at_ + patience) if age > patience]
    outcome.expect("reads staler than S + 0.5 s later than that after a restart", len(back), at_most=0)
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)
    after = totals.stale(since=flushed, until=flushed + int(part * 1e9))
    outcome.expect("stale reads after FLUSHALL", sum(age > LATE for _, age in after), at_most=0, slack=ANY)
    outcome.expect("stale strong reads", outcome.figures["stale_strong"], at_most=0)


@scenario(8, "hang", "the server hangs under load on hot keys")
def hang(stage: Stage, outcome: Outcome) -> None:
    rate = stage.seconds(500, 2500)
    with (
        stage.running() as server,
        fleet(
            [at(server.url)] * stage.workers, bound=stage.bound, slow=0.0, rate=rate, writes=2.0, strong=0.0
        ) as processes,
    ):
        processes.traffic(stage.seconds(1, 10), phase=1)
        server.pause()
        processes.traffic(stage.bound, phase=2)
        processes.traffic(stage.seconds(2, 10) - stage.bound, phase=3)
        server.resume()
        processes.traffic(stage.seconds(1, 2), phase=4)
        processes.traffic(stage.seconds(0.5, 10), phase=5)
        processes.settle()
        totals = processes.outcome(outcome)
        first, later, before = (Totals(processes.reports, {phase}) for phase in (2, 5, 1))
    figures = outcome.figures
    figures["held_share"] = first.sum("held") / (stage.workers * rate * stage.bound)
    figures["p99_before_ms"], figures["p99_after_ms"] = before.percentile(0.99) * 1e3, later.percentile(0.99) * 1e3
    figures["reads_per_s"] = before.sum("reads") / stage.seconds(1, 10)
    outcome.expect("longest call, s", totals.most("longest") / 1e9, at_most=0.3, slack=3)
    outcome.expect("share of reads at the speed of memory for the bound", figures["held_share"], at_least=0.95, slack=2)
    outcome.expect(
        "p99 from 2 s after, ms (twice that of before)", figures["p99_after_ms"],
        at_most=max(2 * figures["p99_before_ms"], 5.0), slack=ANY,
    )  # fmt: skip
    outcome.expect("oldest read, s", figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)


@scenario(8, "hang-served", "the same, for caches that serve by ttl alone meanwhile; nobody writes")
def hang_served(stage: Stage, outcome: Outcome) -> None:
    rate, pause = stage.seconds(500, 2500), stage.seconds(2, 10)
    with (
        stage.running() as server,
        fleet(
            [{**at(server.url), "on_outage": "serve"}] * stage.workers,
            bound=stage.bound, slow=0.0, rate=rate, writes=2.0, strong=0.0,
        ) as processes,
    ):  # fmt: skip
        processes.traffic(stage.seconds(1, 10), phase=1)
        processes.rest()
        for worker in processes.workers:
            worker.ask("sweep")
        server.pause()
        processes.traffic(pause, phase=2, writing=False)
        server.resume()
        processes.traffic(stage.seconds(1, 2), phase=3)
        processes.traffic(stage.seconds(0.5, 10), phase=4)
        processes.settle()
        totals = processes.outcome(outcome)
        before, meanwhile, later = (Totals(processes.reports, {phase}) for phase in (1, 2, 4))
    figures = outcome.figures
    figures["held_share"] = meanwhile.sum("held") / (stage.workers * rate * pause)
    figures["p99_before_ms"], figures["p99_after_ms"] = before.percentile(0.99) * 1e3, later.percentile(0.99) * 1e3
    outcome.expect("longest call, s", totals.most("longest") / 1e9, at_most=0.3, slack=3)
    outcome.expect("share of reads at the speed of memory all the while", figures["held_share"], at_least=0.95, slack=2)
    outcome.expect("loads meanwhile", meanwhile.sum("loads"), at_most=0)
    outcome.expect(
        "p99 from 2 s after, ms (twice that of before)", figures["p99_after_ms"],
        at_most=max(2 * figures["p99_before_ms"], 5.0), slack=ANY,
    )  # fmt: skip
    outcome.expect("oldest read, s", figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)


@scenario(11, "refusals", "out of memory, scripts flushed and connections killed, again and again")
def refusals(stage: Stage, outcome: Outcome) -> None:
    with (
        stage.running("--maxmemory-policy", "noeviction") as server,
        fleet([at(server.url)] * stage.workers, bound=stage.bound, slow=0.0) as processes,
    ):
        processes.traffic(stage.seconds(0.5, 5))
        _fill(server)
        processes.traffic(0, phase=2)
        end = time.monotonic() + stage.seconds(2, 30)
        killed = 0
        while time.monotonic() < end:
            server.command("SCRIPT", "FLUSH")
            killed += int(server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")[1:-2])
            time.sleep(0.25)
        server.command("CONFIG", "SET", "maxmemory", "0")
        processes.traffic(stage.seconds(0.5, 5), phase=3)
        processes.settle()
        totals = processes.outcome(outcome)
    outcome.figures["connections_killed"] = killed
    outcome.expect("connections killed", killed, at_least=1)
    outcome.expect("oldest read, s", outcome.figures["oldest_ms"] / 1e3, at_most=stage.bound + 0.5)
    outcome.expect("stale strong reads", len(totals.stale(strong=True)), at_most=0)


def _fill(server: ServerProcess) -> None:
    """Leave a server no memory: from here on it refuses whatever may be refused."""
    assert server.command("CONFIG", "SET", "maxmemory", "1").startswith(b"+OK")
    assert server.command("SET", "anything", "x").startswith(b"-OOM")
