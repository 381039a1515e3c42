"""What each event invalidates, row by row of the table in the documentation, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vm import fleet

from novacron_cache import Cache, DeclarationError
from novacron_cache.vm import VMCacheManager, VMState, VMStatus

PAGE = Path(__file__).parents[2] / "docs" / "vm" / "events.md"

PLACES = {"vm-1": "node-1", "vm-2": "node-1", "vm-3": "node-2"}
KINDS = ("state", "resources", "migration", "metrics", "config")
EVERYTHING_OF_VMS = {f"{vm_id} {kind}" for vm_id in PLACES for kind in KINDS}
EVERYTHING_OF_NODES = {f"{node_id} {what}" for node_id in ("node-1", "node-2") for what in ("resources", "listing")}
EVERYTHING = EVERYTHING_OF_VMS | EVERYTHING_OF_NODES | {"list of VMs"}

# The first cell of each row, and the calls that it stands for.
CALLS: dict[str, list[tuple[Any, ...]]] = {
    "on_vm_created(vm_id, node_id)": [("on_vm_created", "vm-1", "node-1")],
    "on_vm_deleted(vm_id, node_id)": [("on_vm_deleted", "vm-1", "node-1")],
    "on_vm_state_change(vm_id, old, new, node_id), active to inactive or back": [
        ("on_vm_state_change", "vm-1", "running", "stopped", "node-1"),
        ("on_vm_state_change", "vm-1", "stopped", "starting", "node-1"),
        ("on_vm_state_change", "vm-1", "unknown", "running", "node-1"),
    ],
    "on_vm_state_change(vm_id, old, new, node_id), otherwise": [
        ("on_vm_state_change", "vm-1", "running", "paused", "node-1"),
        ("on_vm_state_change", "vm-1", VMStatus.CRASHED, VMStatus.STOPPED, "node-1"),
        ("on_vm_state_change", "vm-1", "running", "running", "node-1"),
    ],
    "on_vm_resource_change(vm_id, node_id)": [("on_vm_resource_change", "vm-1", "node-1")],
    "on_vm_rebooted(vm_id, node_id)": [("on_vm_rebooted", "vm-1", "node-1")],
    "on_vm_config_change(vm_id)": [("on_vm_config_change", "vm-1")],
    "on_vm_migration_change(vm_id)": [("on_vm_migration_change", "vm-1")],
    "on_vm_migrated(vm_id, source, target)": [("on_vm_migrated", "vm-1", "node-1", "node-2")],
    "invalidate_vm(vm_id)": [("invalidate_vm", "vm-1")],
    "invalidate_node(node_id)": [("invalidate_node", "node-1")],
    'invalidate_vm_pattern("vm:*")': [("invalidate_vm_pattern", "vm:*")],
    "invalidate_cluster()": [("invalidate_cluster",)],
}


def rows() -> dict[str, set[str]]:
    """The table: what each event invalidates, in the words of this test, for vm-1 on node-1."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    found = {}
    for line in lines:
        event, of_vm, of_node, listed = (cell.strip() for cell in line.strip("|").split("|"))
        call = re.sub(r"`([^`]*)`", r"\1", event)
        vms = {"every VM": ["vm-1", "vm-2", "vm-3"], "every VM on it": ["vm-1", "vm-2"]}
        who, _, kinds = of_vm.rpartition(": ")
        lost = {
            f"{vm_id} {kind}"
            for vm_id in vms.get(who, ["vm-1"])
            for kind in (KINDS if kinds == "everything" else filter(None, kinds.replace("—", "").split(", ")))
        }
        # Every VM on a node has its migration there too, whichever way it goes.
        nodes = {"both": ["node-1", "node-2"], "every node": ["node-1", "node-2"]}
        who, _, kinds = of_node.rpartition(": ")
        lost |= {
            f"{node_id} {kind}"
            for node_id in nodes.get(who, ["node-1"])
            for kind in filter(None, kinds.replace("—", "").split(", "))
        }
        found[call] = lost | ({"list of VMs"} if listed == "yes" else set())
    return found


@pytest.fixture
def vms() -> Iterator[VMCacheManager]:
    with Cache() as cache:
        yield VMCacheManager(cache)


def fill(vms: VMCacheManager) -> None:
    for vm_id, node_id in PLACES.items():
        vms.set_vm_state(fleet.state(vm_id, node_id))
        vms.set_vm_resources(fleet.resources(vm_id, node_id))
        vms.set_vm_migration(fleet.migration(vm_id, node_id, "node-3"))
        vms.set_vm_metrics(fleet.metrics(vm_id, node_id))
        vms.set_vm_config(fleet.config(vm_id, node_id))
    for node_id in ("node-1", "node-2"):
        vms.set_node_resources(fleet.node(node_id))
        vms.list_vm_states(node_id, lambda _: [fleet.state()])
    vms.list_vms(lambda: list(PLACES))


def present(vms: VMCacheManager) -> set[str]:
    found = {
        f"{vm_id} {kind}" for vm_id in PLACES for kind in KINDS if getattr(vms, f"get_vm_{kind}")(vm_id) is not None
    }
    for node_id in ("node-1", "node-2"):
        found |= {f"{node_id} resources"} if vms.get_node_resources(node_id) else set()
        found |= {f"{node_id} listing"} if vms.list_vm_states(node_id) else set()
    return found | ({"list of VMs"} if vms.list_vms() else set())


def test_the_table_has_every_event() -> None:
    assert list(rows()) == list(CALLS)
    events = {name for name in dir(VMCacheManager) if name.startswith(("on_", "invalidate_"))}
    assert {call[0] for calls in CALLS.values() for call in calls} == events


CASES = [pytest.param(row, call, id=f"{call[0]} {i}") for row, calls in CALLS.items() for i, call in enumerate(calls)]


@pytest.mark.parametrize(("row", "call"), CASES)
def test_an_event_invalidates_what_its_row_says_and_nothing_else(
    vms: VMCacheManager, row: str, call: tuple[Any, ...]
) -> None:
    fill(vms)
    assert present(vms) == EVERYTHING
    receipt = getattr(vms, call[0])(*call[1:])
    assert receipt.done
    assert EVERYTHING - present(vms) == rows()[row]


@pytest.mark.parametrize(("row", "call"), CASES)
async def test_an_event_told_asynchronously_does_the_same(vms: VMCacheManager, row: str, call: tuple[Any, ...]) -> None:
    fill(vms)
    receipt = await getattr(vms, f"a{call[0]}")(*call[1:])
    assert receipt.done
    assert EVERYTHING - present(vms) == rows()[row]


@pytest.mark.parametrize(
    "call",
    [
        ("on_vm_created", "vm-1"),
        ("on_vm_deleted", "vm-1"),
        ("on_vm_state_change", "vm-1", "running", "stopped"),
        ("on_vm_resource_change", "vm-1"),
        ("on_vm_migrated", "vm-1", None, None),
    ],
    ids=lambda call: call[0],
)
def test_an_event_that_does_not_say_where_concerns_every_node(vms: VMCacheManager, call: tuple[Any, ...]) -> None:
    fill(vms)
    getattr(vms, call[0])(*call[1:])
    lost = EVERYTHING - present(vms)
    assert lost >= EVERYTHING_OF_NODES
    assert {name for name in lost if name.startswith("vm-")} <= {f"vm-1 {kind}" for kind in KINDS}


def test_events_for_vms_never_seen_are_no_error_and_leave_nothing(vms: VMCacheManager) -> None:
    fill(vms)
    before = vms.cache.stats()
    for call in (call for calls in CALLS.values() for call in calls if call[1:2] == ("vm-1",)):
        assert getattr(vms, call[0])(
            "never-seen", *("node-9" if a in ("node-1", "node-2") else a for a in call[2:])
        ).done
    assert present(vms) == EVERYTHING - {"list of VMs"}
    assert vms.cache.stats().loads == before.loads


@pytest.mark.parametrize("scope", ["", "hv-1"])
@pytest.mark.parametrize(
    ("tag", "event"),
    [
        ("vm:{}vm-1:state", ("on_vm_state_change", "vm-1", "running", "paused", "node-1")),
        ("vm:{}vm-1:metrics", ("on_vm_resource_change", "vm-1", "node-1")),
        ("node:{}node-1:resources", ("on_vm_resource_change", "vm-1", "node-1")),
        ("node:{}node-1:vms", ("on_vm_rebooted", "vm-1", "node-1")),
        ("vm:{}vm-1", ("on_vm_migrated", "vm-1", "node-1", "node-2")),
        ("vms", ("on_vm_created", "vm-1", "node-1")),
    ],
)
def test_entries_of_an_application_may_depend_on_the_same(scope: str, tag: str, event: tuple[Any, ...]) -> None:
    tag = tag.format(f"{scope}/" if scope else "") if "{}" in tag else f"{tag}:{scope}" if scope else tag
    with Cache() as cache:
        vms = VMCacheManager(cache, scope=scope)
        cache.set("mine", 1, tags=[tag])
        cache.set("other", 1, tags=["vm:vm-2:state", "node:node-3:vms", "vm:hv-1/vm-2:state"])
        getattr(vms, event[0])(*event[1:])
        assert (cache.get("mine"), cache.get("other")) == (None, 1)


def test_an_absence_is_forgotten_when_the_vm_is_created(vms: VMCacheManager) -> None:
    answers: list[VMState | None] = [None, fleet.state("vm-9")]
    assert vms.get_vm_state("vm-9", lambda _: answers.pop(0)) is None
    assert vms.get_vm_state("vm-9", lambda _: answers.pop(0)) is None
    assert len(answers) == 1
    vms.on_vm_created("vm-9", "node-1")
    assert vms.get_vm_state("vm-9", lambda _: answers.pop(0)) == fleet.state("vm-9")


def test_an_event_during_a_load_keeps_its_result_from_being_stored(vms: VMCacheManager) -> None:
    def load(vm_id: str) -> VMState:
        vms.on_vm_state_change(vm_id, "running", "stopped", "node-1")
        return fleet.state(vm_id)

    assert vms.get_vm_state("vm-1", load) == fleet.state("vm-1")
    assert vms.get_vm_state("vm-1") is None


async def test_a_status_that_does_not_exist_is_refused_with_those_that_do(vms: VMCacheManager) -> None:
    with pytest.raises(DeclarationError, match="'runing' is not the status of a VM; there are creating, stopped"):
        vms.on_vm_state_change("vm-1", "runing", "stopped")
    with pytest.raises(DeclarationError, match="'halted' is not the status of a VM"):
        await vms.aon_vm_state_change("vm-1", "running", "halted")


@pytest.mark.parametrize("pattern", ["node:*", "*", "vm", ""])
def test_a_pattern_of_something_else_is_refused(vms: VMCacheManager, pattern: str) -> None:
    with pytest.raises(DeclarationError, match="it begins with 'vm:'"):
        vms.invalidate_vm_pattern(pattern)


def test_a_pattern_may_name_some_vms_or_some_kinds(vms: VMCacheManager) -> None:
    fill(vms)
    vms.invalidate_vm_pattern("vm:*:metrics")
    assert EVERYTHING - present(vms) == {f"{vm_id} metrics" for vm_id in PLACES}
    vms.invalidate_vm_pattern("vm:vm-[12]*")
    assert present(vms) & EVERYTHING_OF_VMS == {f"vm-3 {kind}" for kind in KINDS if kind != "metrics"}


def test_events_of_a_block_are_carried_out_together_also_when_it_raises(vms: VMCacheManager) -> None:
    fill(vms)
    told: list[object] = []
    vms.cache.on("invalidated", told.append)

    def half() -> None:
        with vms.events():
            vms.on_vm_rebooted("vm-1", "node-1")
            vms.on_vm_config_change("vm-3")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        half()
    assert len(told) == 1
    assert EVERYTHING - present(vms) == {"vm-1 state", "vm-1 metrics", "node-1 listing", "vm-3 config"}
