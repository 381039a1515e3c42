"""The promises hold under each fault: the short form of every scenario of the fault runner, which would notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.fleet import fleet
from faults.nursery import nursery
from faults.report import Outcome
from faults.scenario import BINARIES, SCENARIOS, Stage, at
from faults.scenarios import ALL
from servers import ServerProcess, required

pytestmark = pytest.mark.servers

ON_REDIS = ("restart", "failover")
"""What depends most on how the server keeps and names its history; `python -m faults` plays everything on either."""

CASES = [(name, "valkey") for name in ALL] + [(name, "redis7") for name in ON_REDIS]


@pytest.fixture(scope="module", autouse=True)
def _processes() -> Iterator[None]:
    with nursery():
        yield


@pytest.mark.parametrize(("name", "server"), CASES, ids=lambda value: str(value))
def test_promises_are_kept(name: str, server: str) -> None:
    binary = required(BINARIES[server](), server)
    outcome = SCENARIOS[name].play(Stage(server, binary))
    assert outcome.broken == [], outcome.notes


def test_the_runner_notices_processes_that_never_hear_of_each_other(valkey_server: ServerProcess) -> None:
    outcome = Outcome(0, "deaf", "each process has a namespace of its own", "valkey")
    settings = [{**at(valkey_server.url), "namespace": f"deaf-{number}"} for number in range(3)]
    with fleet(settings, bound=0.3, slow=0.0) as processes:
        processes.traffic(1.0)
        processes.settle()
        totals = processes.outcome(outcome)
    assert [bound.what for bound in outcome.bounds if not bound.kept] == ["lost invalidations"]
    assert outcome.figures["stale"] > 0
    assert totals.stale(strong=True)
