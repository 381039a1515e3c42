"""`LibvirtVMManager`: the VMs of a real hypervisor, through libvirt, which tells of every change by itself.

The id of a VM is the name of its domain. Reads return None for a domain that does not exist, and leave it out of
listings when it goes while they are made. It needs the extra `libvirt`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from . import libvirt_reading as reading
from .errors import HypervisorError, UnknownVMError
from .libvirt_connection import Connection
from .libvirt_library import translated
from .manager import VMCacheManager
from .models import NodeResources, VMConfig, VMMetrics, VMMigration, VMResources, VMState

__all__ = ["LibvirtVMManager"]

KIB = 1024

_FEW = 8
"""Up to so many domains are asked about one by one, at two calls each; for more, all are asked for in one call."""


class LibvirtVMManager:
    """Manages the VMs of one host through libvirt; a `VMManager` and a `VMEventSource`.

    Calls block and may come from several threads. A connection that is lost is made anew in the background; until then
    calls raise, and everything of the host has been invalidated. It may not be used in a forked child.

    Args:
        uri: libvirt's, such as `qemu:///system`, `qemu+ssh://hv-1/system` or, for tests, `test:///default`.
        node_id: what the host is called in models and tags; None takes what it calls itself.
        migration_uri: the URI of a target, by its node id, for `migrate_vm`.

    Raises:
        HypervisorUnavailableError: there is no connection to be had now.
        DeclarationError: libvirt-python is not installed.
    """

    def __init__(
        self,
        uri: str,
        *,
        node_id: str | None = None,
        migration_uri: Callable[[str], str] = "qemu+ssh://{}/system".format,
    ) -> None:
        self.uri = uri
        self._connection = Connection(uri, node_id)
        self._libvirt = self._connection.libvirt
        self._migration_uri = migration_uri

    @property
    def node_id(self) -> str:
        """What the host is called."""
        return self._connection.node_id

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection.connected

    def subscribe(self, entries: VMCacheManager) -> Callable[[], None]:
        """Invalidate these entries by the host's events from now on; return a function that ends it.

        Everything of their scope is invalidated at once: nobody may have listened before.
        """
        return self._connection.subscribe(entries)

    def close(self) -> None:
        """End the connection and its thread."""
        self._connection.close()

    def __enter__(self) -> LibvirtVMManager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LibvirtVMManager {self.uri}{'' if self.connected else ' not connected'}>"

    # -- finding ----------------------------------------------------------------------------------------------------

    def _calling(self, what: str, vm_id: str = "") -> AbstractContextManager[None]:
        return translated(self._libvirt, f"{self.uri}: {what}", vm_id=vm_id)

    def _domain(self, vm_id: str) -> Any:
        return self._connection.handle.lookupByName(vm_id)

    def _optional(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return what a call says, or None where the domain is not active or the driver has no such thing."""
        libvirt = self._libvirt
        try:
            return call(*args)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (
                libvirt.VIR_ERR_NO_SUPPORT,
                libvirt.VIR_ERR_OPERATION_INVALID,
                libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
                libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
                libvirt.VIR_ERR_INVALID_ARG,
                libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
            ):
                return None
            raise

    # -- reads ------------------------------------------------------------------------------------------------------

    def list_vms(self) -> list[str]:
        """Return the names of all domains, sorted."""
        with self._calling("listing"):
            return sorted(domain.name() for domain in self._connection.handle.listAllDomains())

    def list_vm_states(self, node_id: str) -> list[VMState]:
        """Return the states of all domains by name, in one call to the host; of another node there are none here."""
        if node_id != self.node_id:
            return []
        with self._calling("listing"):
            found = self._connection.handle.getAllDomainStats(self._libvirt.VIR_DOMAIN_STATS_STATE)
        return [
            self._state(name, stats["state.state"], stats.get("state.reason", 0))
            for name, stats in sorted(((domain.name(), stats) for domain, stats in found), key=itemgetter(0))
            # A domain that went while the host was making the list has no state any more.
            if "state.state" in stats
        ]

    def get_vm_states(self, vm_ids: Sequence[str]) -> dict[str, VMState]:
        """Return the states of several domains by name; those that do not exist are left out."""
        if len(vm_ids) > _FEW:
            wanted = set(vm_ids)
            return {state.vm_id: state for state in self.list_vm_states(self.node_id) if state.vm_id in wanted}
        found = ((vm_id, self.get_vm_state(vm_id)) for vm_id in vm_ids)
        return {vm_id: state for vm_id, state in found if state is not None}

    def get_vm_state(self, vm_id: str) -> VMState | None:
        """Return what a domain is doing."""
        with contextlib.suppress(UnknownVMError), self._calling("state", vm_id):
            return self._state(vm_id, *self._domain(vm_id).state())
        return None

    def _state(self, vm_id: str, state: int, reason: int) -> VMState:
        status, words = reading.status(state, reason)
        return VMState(vm_id=vm_id, node_id=self.node_id, status=status, reason=words)

    def get_vm_resources(self, vm_id: str) -> VMResources | None:
        """Return what a domain has been given."""
        with contextlib.suppress(UnknownVMError), self._calling("resources", vm_id):
            domain = self._domain(vm_id)
            _, max_kib, kib, vcpus, _ = domain.info()
            max_vcpus = self._optional(domain.vcpusFlags, self._libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
            disks = tuple(
                reading.allocation(device, source, self._optional(domain.blockInfo, device))
                for device, source in reading.disks(reading.parse(domain.XMLDesc()))
            )
            return VMResources(
                vm_id=vm_id,
                node_id=self.node_id,
                vcpus=vcpus,
                vcpus_max=max(vcpus, max_vcpus or 0),
                memory_bytes=kib * KIB,
                memory_max_bytes=max_kib * KIB,
                disks=disks,
            )
        return None

    def get_vm_migration(self, vm_id: str) -> VMMigration | None:
        """Return a domain's migration that is under way; None where there is none, or the driver cannot say."""
        with contextlib.suppress(UnknownVMError), self._calling("migration", vm_id):
            job = self._optional(self._domain(vm_id).jobStats)
            return None if job is None else reading.migration(vm_id, self.node_id, job)
        return None

    def get_vm_metrics(self, vm_id: str) -> VMMetrics | None:
        """Return a sample of what a domain uses; None where it is not active."""
        with contextlib.suppress(UnknownVMError), self._calling("metrics", vm_id):
            domain = self._domain(vm_id)
            vcpus = domain.info()[3]
            total = self._optional(domain.getCPUStats, True)
            if total is None or not domain.isActive():
                return None
            description = reading.parse(domain.XMLDesc())
            memory = self._optional(domain.memoryStats) or {}
            available = memory.get("available", memory.get("actual"))
            unused = memory.get("unused", memory.get("usable"))
            blocks = [self._optional(domain.blockStats, at) for at, _ in reading.disks(description)]
            links = [self._optional(domain.interfaceStats, at) for at in reading.interfaces(description)]
            return VMMetrics(
                vm_id=vm_id,
                node_id=self.node_id,
                sampled_at=datetime.now(UTC),
                vcpus=vcpus,
                cpu_seconds=total[0].get("cpu_time", 0) / 1e9,
                memory_used_bytes=None if unused is None or available is None else max(0, available - unused) * KIB,
                memory_available_bytes=None if available is None else available * KIB,
                disk_read_bytes=sum(max(0, block[1]) for block in blocks if block),
                disk_written_bytes=sum(max(0, block[3]) for block in blocks if block),
                network_received_bytes=sum(max(0, link[0]) for link in links if link),
                network_sent_bytes=sum(max(0, link[4]) for link in links if link),
            )
        return None

    def get_vm_config(self, vm_id: str) -> VMConfig | None:
        """Return how a domain was defined."""
        with contextlib.suppress(UnknownVMError), self._calling("configuration", vm_id):
            domain = self._domain(vm_id)
            return reading.config(
                self.node_id,
                domain.XMLDesc(self._libvirt.VIR_DOMAIN_XML_INACTIVE if domain.isPersistent() else 0),
                persistent=bool(domain.isPersistent()),
                autostart=bool(self._optional(domain.autostart)),
            )
        return None

    def get_node_resources(self, node_id: str) -> NodeResources | None:
        """Return what the host has, and what its active domains were promised; None for another node."""
        if node_id != self.node_id:
            return None
        with self._calling("node"):
            handle = self._connection.handle
            _, memory_mib, cpus, mhz, *_ = handle.getInfo()
            active = []
            domains = handle.listAllDomains()
            for domain in domains:
                with contextlib.suppress(UnknownVMError), self._calling("node", domain.name()):
                    if domain.isActive():
                        active.append(domain.info())
            return NodeResources(
                node_id=node_id,
                cpus=cpus,
                cpu_mhz=mhz,
                memory_bytes=memory_mib * KIB * KIB,
                memory_free_bytes=self._optional(handle.getFreeMemory),
                vcpus_allocated=sum(info[3] for info in active),
                memory_allocated_bytes=sum(info[2] for info in active) * KIB,
                vms_active=len(active),
                vms_defined=len(domains),
            )

    # -- changes ----------------------------------------------------------------------------------------------------

    def create_vm(self, config: VMConfig) -> None:
        """Define a domain, or start it where it is not persistent, from its definition or from the fields."""
        with self._calling("create", config.vm_id):
            handle = self._connection.handle
            xml = reading.definition(config, default_type=handle.getType().lower())
            if config.persistent:
                domain = handle.defineXML(xml)
                if config.autostart:
                    domain.setAutostart(1)
            else:
                handle.createXML(xml)

    def delete_vm(self, vm_id: str) -> None:
        """Take a domain's power away and forget it; its disks stay."""
        with self._calling("delete", vm_id):
            domain = self._domain(vm_id)
            persistent = domain.isPersistent()
            if domain.isActive():
                domain.destroy()
            if persistent:
                domain.undefine()

    def start_vm(self, vm_id: str) -> None:
        """Start a domain."""
        with self._calling("start", vm_id):
            self._domain(vm_id).create()

    def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        """Ask a domain to shut down, which it does in its own time; with `force`, take its power away."""
        with self._calling("stop", vm_id):
            domain = self._domain(vm_id)
            if force:
                domain.destroy()
            else:
                domain.shutdown()

    def pause_vm(self, vm_id: str) -> None:
        """Stop a domain's CPUs."""
        with self._calling("pause", vm_id):
            self._domain(vm_id).suspend()

    def resume_vm(self, vm_id: str) -> None:
        """Have a paused domain's CPUs go on."""
        with self._calling("resume", vm_id):
            self._domain(vm_id).resume()

    def reboot_vm(self, vm_id: str) -> None:
        """Ask a domain to start again."""
        with self._calling("reboot", vm_id):
            self._domain(vm_id).reboot()

    def resize_vm(self, vm_id: str, *, vcpus: int | None = None, memory_bytes: int | None = None) -> None:
        """Give a domain other CPUs or memory: of an active one as it runs, within what it was defined with."""
        with self._calling("resize", vm_id):
            domain, now = self._domain(vm_id), self._libvirt.VIR_DOMAIN_AFFECT_CURRENT
            if memory_bytes is not None:
                domain.setMemoryFlags(memory_bytes // KIB, now)
            if vcpus is not None:
                domain.setVcpusFlags(vcpus, now)

    def migrate_vm(self, vm_id: str, target: str) -> None:
        """Move a running domain to another host, which this one connects to by `migration_uri`.

        Raises:
            HypervisorError: the target is this host, or libvirt refuses.
        """
        if target == self.node_id:
            raise HypervisorError(f"{vm_id} is on {target} already", vm_id=vm_id)
        libvirt = self._libvirt
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST
        with self._calling("migrate", vm_id):
            self._domain(vm_id).migrateToURI3(
                self._migration_uri(target), {}, flags | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
            )
