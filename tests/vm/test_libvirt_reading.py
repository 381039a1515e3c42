"""What libvirt's numbers and XML mean; no libvirt is needed for this."""

from __future__ import annotations

import sys

import pytest
from vm import fleet

from novacron_cache import DeclarationError
from novacron_cache.vm import DiskAllocation, MigrationStatus, VMStatus
from novacron_cache.vm import libvirt_reading as reading
from novacron_cache.vm.libvirt import LibvirtVMManager

XML = """
<domain type='kvm'>
  <name>web-1</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <title>The web</title><description>serves it</description>
  <memory unit='GiB'>2</memory><currentMemory unit='KiB'>1048576</currentMemory>
  <vcpu placement='static' current='2'>4</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file'><source file='/images/web-1.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='network'><source protocol='rbd' name='pool/web-1'/><target dev='vdb'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <disk type='file'/>
    <interface type='network'><target dev='vnet3'/></interface>
    <interface type='network'/>
  </devices>
</domain>
"""


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (1, 1, (VMStatus.RUNNING, "booted")),
        (2, 0, (VMStatus.RUNNING, "")),
        (3, 1, (VMStatus.PAUSED, "user")),
        (3, 2, (VMStatus.MIGRATING, "migration")),
        (3, 5, (VMStatus.PAUSED, "io error")),
        (4, 1, (VMStatus.STOPPING, "")),
        (5, 2, (VMStatus.STOPPED, "destroyed")),
        (6, 1, (VMStatus.CRASHED, "panicked")),
        (7, 0, (VMStatus.SUSPENDED, "")),
        (0, 0, (VMStatus.UNKNOWN, "")),
        (99, 99, (VMStatus.UNKNOWN, "")),
        (1, 99, (VMStatus.RUNNING, "")),
        (-1, -1, (VMStatus.UNKNOWN, "")),
    ],
)
def test_states_and_reasons_have_names(state: int, reason: int, expected: tuple[VMStatus, str]) -> None:
    assert reading.status(state, reason) == expected


def test_a_description_becomes_a_configuration() -> None:
    config = reading.config("node-1", XML, persistent=True, autostart=False)
    assert (config.vm_id, config.node_id, config.uuid) == ("web-1", "node-1", "6695eb01-f6a4-8304-79aa-97f2502e193f")
    assert (config.hypervisor, config.architecture, config.machine) == ("kvm", "x86_64", "q35")
    assert (config.title, config.description) == ("The web", "serves it")
    assert (config.vcpus, config.memory_bytes) == (4, 2 << 30)
    assert config.definition == XML


def test_disks_and_interfaces_are_found_whatever_is_behind_them() -> None:
    description = reading.parse(XML)
    assert reading.disks(description) == [("vda", "/images/web-1.qcow2"), ("vdb", "pool/web-1"), ("sda", "")]
    assert reading.interfaces(description) == ["vnet3"]
    assert reading.allocation("vda", "", None) == DiskAllocation(device="vda")
    assert reading.allocation("vda", "x", [10, 5, 7]).allocated_bytes == 5


def test_a_configuration_becomes_a_description_that_says_the_same() -> None:
    given = fleet.config().model_copy(
        update={"title": "a <b> & 'c'", "architecture": "x86_64", "hypervisor": "kvm", "machine": "q35"}
    )
    again = reading.config("node-1", reading.definition(given, default_type="test"), persistent=True, autostart=False)
    assert again.model_copy(update={"definition": ""}) == given
    assert 'type="test"' in reading.definition(fleet.config(), default_type="test")
    assert reading.definition(given.model_copy(update={"definition": XML}), default_type="test") == XML


def test_a_job_becomes_a_migration() -> None:
    job = {
        "type": 2, "operation": 5, "time_elapsed": 1500, "downtime": 40,
        "data_total": 1000, "data_processed": 700, "data_remaining": 300,
    }  # fmt: skip
    moving = reading.migration("vm-1", "node-1", job)
    assert moving is not None
    assert (moving.source_node, moving.target_node, moving.status) == ("node-1", "", MigrationStatus.COPYING)
    assert (moving.progress, moving.elapsed_seconds, moving.downtime_milliseconds) == (0.7, 1.5, 40)
    incoming = reading.migration("vm-1", "node-1", {**job, "operation": 4, "type": 3})
    assert incoming is not None
    assert (incoming.source_node, incoming.target_node, incoming.progress) == ("", "node-1", 1.0)


@pytest.mark.parametrize("job", [{}, {"type": 0}, {"type": 2, "operation": 2}])
def test_another_job_is_no_migration(job: dict[str, int]) -> None:
    assert reading.migration("vm-1", "node-1", job) is None


def test_without_libvirt_python_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(DeclarationError, match=r"pip install 'novacron-cache\[libvirt\]'"):
        LibvirtVMManager("test:///default")
