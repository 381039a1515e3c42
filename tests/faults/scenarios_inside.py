"""What happens within one process and on its disk: calls are cancelled, files come to harm, time goes by."""

from __future__ import annotations

import json
from typing import Any

from servers import FaultProxy, cluster_topology

from .cancelling import Remains, cancel_at_random
from .damaging import REBUILT
from .report import ANY, Outcome
from .scenario import Stage, at, scenario
from .scenarios_processes import play
from .soaking import BYTES, DISK_BYTES, ITEMS

DELAY = 0.001


@scenario(10, "cancellations", "asynchronous calls are cancelled at random, over a connection with latency")
def cancellations(stage: Stage, outcome: Outcome) -> None:
    with stage.running() as server, FaultProxy(server.port) as proxy:
        proxy.delay(DELAY)
        count = int(stage.seconds(500, 10_000))
        slow = {"url": proxy.url}
        found = [cancel_at_random([server], {"url": server.url}, count, seed, by=slow) for seed in range(2)]
    if stage.long:
        with cluster_topology(stage.binary) as cluster:
            where = {"mode": "cluster", "addresses": cluster.addresses}
            found.append(cancel_at_random(cluster.servers, where, count, 2))
    outcome.figures["finished"] = sum(one.finished for one in found)
    said = [*(one.errors for one in found), *(one.failures for one in found)]
    outcome.notes += [f"{many}x {text}" for one in said for text, many in one.most_common(3)]

    def total(what: str) -> int:
        return sum(getattr(one, what) for one in found)

    outcome.expect("calls cancelled", total("cancelled"), at_least=count * len(found))
    outcome.expect("values of another key", total("wrong"), at_most=0)
    outcome.expect("errors out of cached calls", sum(one.errors.total() for one in found), at_most=0)
    outcome.expect("connections that were not given back", total("lent"), at_most=0)
    outcome.expect("connections that only the server knows of", total("connections"), at_most=0)
    outcome.expect("connections left when the cache is closed", total("left"), at_most=0)
    outcome.expect("flights that nobody flies", total("flights"), at_most=0)
    outcome.expect("leases of loads that are over", total("leases"), at_most=0)
    outcome.expect("tasks left", total("tasks"), at_most=0)
    slowest = max(found, key=_slowest).slowest
    outcome.expect("slowest load of another process afterwards, s", slowest, at_most=0.1, slack=5)


def _slowest(remains: Remains) -> float:
    return remains.slowest


@scenario(
    12, "damaged-disk", "writers are killed, files of the disk tier spoiled, no room, no permission", server=False
)
def damaged_disk(stage: Stage, outcome: Outcome) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    batches, count = (8, 150) if stage.long else (1, 20)
    for seed in range(batches):
        with stage.directory() as directory:
            arguments = ["rounds", str(directory), str(count), str(seed)]
            for kind, reports in play("faults.damaging", arguments, directory, patience=600).items():
                found.setdefault(kind, []).extend(reports)
    said = [(kind, one) for kind, reports in found.items() for one in reports]
    reports = [one for _, one in said if "failed" not in one]
    outcome.notes += [f"{kind}: {one['failed']}" for kind, one in said if "failed" in one]
    outcome.notes += [f"{kind}: {one['errors'][0]}" for kind, one in said if one.get("errors")]

    def total(what: str) -> int:
        return sum(one[what] for one in reports)

    outcome.figures.update(pages=total("reads"), from_disk=total("hits"), first_call_ms=1e3 * _most(reports, "first"))
    outcome.expect("rounds", batches * count, at_least=batches * count)
    outcome.expect("pages that came from the disk", total("hits"), at_least=batches * count)
    outcome.expect("processes that hung, died or gave up", len(said) - len(reports), at_most=0)
    outcome.expect("pages of another key, or not whole", total("wrong"), at_most=0)
    outcome.expect("pages older than what was acknowledged", total("old"), at_most=0)
    outcome.expect("errors out of cached calls", sum(len(one["errors"]) for one in reports), at_most=0)
    # The few rounds of the short form may repair everything before anybody calls again.
    outcome.expect("calls while the disk was skipped", total("skipped"), at_least=1, slack=ANY)
    outcome.expect("longest of them, ms", 1e3 * _most(reports, "slowest_skipped"), at_most=50, slack=20)
    outcome.expect("longest call of all, which may be the one that meets the harm, ms", 1e3 * _most(reports, "slowest"),
                   at_most=300, slack=5)  # fmt: skip
    outcome.expect("seconds until it is of use again", _most(reports, "rebuilt"), at_most=REBUILT)


def _most(reports: list[dict[str, Any]], what: str) -> float:
    return max(float(one[what]) for one in reports)


@scenario(18, "soak", "new keys and tags all the time, in threads, loops, functions and caches that come and go")
def soak(stage: Stage, outcome: Outcome) -> None:
    seconds = stage.soak_seconds or stage.seconds(12, 300)
    with stage.running() as server, stage.directory() as directory:
        settings = {
            **at(server.url), "namespace": "faults", "staleness_bound": stage.bound,
            "memory": {"max_items": ITEMS, "max_bytes": BYTES},
            "disk": {"path": str(directory / "disk"), "size_limit": DISK_BYTES},
        }  # fmt: skip
        options = json.dumps({"settings": settings, "seconds": seconds, "keys": stage.soak_keys})
        found = play("faults.soaking", [options], directory, patience=seconds + 300)
    outcome.figures.update(
        seconds=seconds, keys=found["keys"], invalidations=found["invalidations"], start_mb=found["start_mb"],
        end_mb=found["end_mb"], slope_mb_an_hour=found["slope_mb"],
    )  # fmt: skip
    outcome.notes += found["errors"][:3]
    outcome.expect("different keys", found["keys"], at_least=min(stage.soak_keys, int(20 * seconds)), slack=10)
    outcome.expect("values of another key", found["wrong"], at_most=0)
    outcome.expect("errors out of cached calls", len(found["errors"]), at_most=0)
    # A short run has not filled everything yet when it is first measured.
    grown = found["end_mb"] / found["start_mb"]
    outcome.expect("memory at the end, in that after warming up", grown, at_most=1.03, slack=1.3)
    for what, (got, bound) in found["sizes"].items():
        outcome.expect(what, got, at_most=bound)
    outcome.expect("containers beyond all bounds", len(found["large"]), at_most=0)
    outcome.notes += [f"{way} has {size} elements" for way, size in found["large"].items()]
