"""What libvirt's answers mean in the models of this package: pure functions of numbers and XML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree as Xml

from .models import DiskAllocation, MigrationStatus, VMConfig, VMMigration, VMStatus

KIB = 1024

# The numbers of virDomainState, in libvirt's order.
_STATUS = (
    VMStatus.UNKNOWN,
    VMStatus.RUNNING,
    VMStatus.RUNNING,  # blocked on a resource: of no interest to anybody but Xen
    VMStatus.PAUSED,
    VMStatus.STOPPING,
    VMStatus.STOPPED,
    VMStatus.CRASHED,
    VMStatus.SUSPENDED,
)
_PAUSED_MIGRATION = 2  # VIR_DOMAIN_PAUSED_MIGRATION

_REASONS: dict[VMStatus, tuple[str, ...]] = {
    VMStatus.RUNNING: (
        "", "booted", "migrated", "restored", "from snapshot", "unpaused", "migration canceled", "save canceled",
        "wakeup", "crashed", "postcopy", "postcopy failed",
    ),
    VMStatus.PAUSED: (
        "", "user", "migration", "save", "dump", "io error", "watchdog", "from snapshot", "shutting down", "snapshot",
        "crashed", "starting up", "postcopy", "postcopy failed", "api error",
    ),
    VMStatus.STOPPED: (
        "", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot", "daemon",
    ),
    VMStatus.CRASHED: ("", "panicked"),
}  # fmt: skip


def status(state: int, reason: int) -> tuple[VMStatus, str]:
    """Return the status and the words for libvirt's state and reason; numbers of a newer libvirt are unknown."""
    found = _STATUS[state] if 0 <= state < len(_STATUS) else VMStatus.UNKNOWN
    reasons = _REASONS.get(found, ())
    words = reasons[reason] if 0 <= reason < len(reasons) else ""
    if found is VMStatus.PAUSED and reason == _PAUSED_MIGRATION:
        found = VMStatus.MIGRATING
    return found, words


def parse(xml: str) -> Xml.Element:
    """Return a domain's description."""
    return Xml.fromstring(xml)  # noqa: S314 - the hypervisor's own words, over the connection it is trusted on


def disks(description: Xml.Element) -> list[tuple[str, str]]:
    """Return device and source of each disk."""
    return [
        (target.get("dev", ""), _source(disk.find("source")))
        for disk in description.iterfind("devices/disk")
        if (target := disk.find("target")) is not None
    ]


def _source(source: Xml.Element | None) -> str:
    if source is None:
        return ""
    return next((source.get(name, "") for name in ("file", "dev", "name", "volume") if source.get(name)), "")


def interfaces(description: Xml.Element) -> list[str]:
    """Return the device of each network interface that has one."""
    found = (target.get("dev", "") for target in description.iterfind("devices/interface/target"))
    return [device for device in found if device]


def allocation(device: str, source: str, info: Iterable[int] | None) -> DiskAllocation:
    """Return a disk, with what `blockInfo` says of it: capacity, allocation, physical size."""
    capacity, allocated, _ = info if info is not None else (None, None, None)
    return DiskAllocation(device=device, source=source, capacity_bytes=capacity, allocated_bytes=allocated)


_UNITS = {"b": 1, "bytes": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}
_UNITS |= {"k": KIB, "kib": KIB, "m": KIB**2, "mib": KIB**2, "g": KIB**3, "gib": KIB**3, "t": KIB**4, "tib": KIB**4}


def _bytes(amount: Xml.Element | None) -> int:
    if amount is None or not amount.text:
        return 0
    return int(amount.text) * _UNITS[amount.get("unit", "KiB").lower()]


def config(node_id: str, xml: str, *, persistent: bool, autostart: bool) -> VMConfig:
    """Return how a domain was defined."""
    description = parse(xml)
    kind = description.find("os/type")
    vcpus = description.findtext("vcpu") or "1"
    return VMConfig(
        vm_id=description.findtext("name") or "",
        node_id=node_id,
        uuid=description.findtext("uuid") or "",
        hypervisor=description.get("type", ""),
        architecture="" if kind is None else kind.get("arch", ""),
        machine="" if kind is None else kind.get("machine", ""),
        title=description.findtext("title") or "",
        description=description.findtext("description") or "",
        vcpus=int(vcpus),
        memory_bytes=_bytes(description.find("memory")),
        persistent=persistent,
        autostart=autostart,
        definition=xml,
    )


def definition(given: VMConfig, *, default_type: str) -> str:
    """Return the description of a new domain: the one given, or the least that libvirt takes."""
    if given.definition:
        return given.definition
    domain = Xml.Element("domain", type=given.hypervisor or default_type)
    for tag in ("title", "description", "uuid"):
        if text := getattr(given, tag):
            Xml.SubElement(domain, tag).text = text
    Xml.SubElement(domain, "name").text = given.vm_id
    Xml.SubElement(domain, "memory", unit="KiB").text = str(given.memory_bytes // KIB)
    Xml.SubElement(domain, "vcpu").text = str(given.vcpus)
    kind = Xml.SubElement(Xml.SubElement(domain, "os"), "type")
    kind.text = "hvm"
    if given.architecture:
        kind.set("arch", given.architecture)
    if given.machine:
        kind.set("machine", given.machine)
    return Xml.tostring(domain, encoding="unicode")


def migration(vm_id: str, node_id: str, job: dict[str, Any]) -> VMMigration | None:
    """Return the migration that a domain's job is, or None where there is no such job.

    Args:
        vm_id: the VM.
        node_id: the node that it leaves.
        job: what `jobStats` says.
    """
    kind, operation = job.get("type", 0), job.get("operation")
    if not kind or operation not in (None, _MIGRATION_OUT, _MIGRATION_IN):
        return None
    outgoing = operation != _MIGRATION_IN
    downtime = job.get("downtime")
    return VMMigration(
        vm_id=vm_id,
        source_node=node_id if outgoing else "",
        target_node="" if outgoing else node_id,
        status=_JOBS.get(kind, MigrationStatus.COPYING),
        total_bytes=job.get("data_total", 0),
        copied_bytes=job.get("data_processed", 0),
        remaining_bytes=job.get("data_remaining", 0),
        elapsed_seconds=job.get("time_elapsed", 0) / 1000,
        downtime_milliseconds=downtime,
    )


_MIGRATION_IN, _MIGRATION_OUT = 4, 5  # VIR_DOMAIN_JOB_OPERATION_...
_JOBS = {  # VIR_DOMAIN_JOB_...
    1: MigrationStatus.COPYING,
    2: MigrationStatus.COPYING,
    3: MigrationStatus.COMPLETED,
    4: MigrationStatus.FAILED,
    5: MigrationStatus.CANCELLED,
}
