"""What the entries of the VM domain are called, and what each lifecycle event invalidates: rules as data.

A *scope* is one hypervisor, or one manager of several, among others that share a cache. It becomes part of every key
and tag, in front of the id: `vm:vm-1` without a scope, `vm:hv-1/vm-1` in scope `hv-1`. So two hypervisors share no
entry, an event of one invalidates nothing of the other, and `vm:*` still means all of them. Without a scope the keys
are those that the models declare, and `VMState.entries` sees the same entries.

An event names entries one by one where it can, so that a VM that is paused keeps its configuration: by key, and by a
tag of the same meaning for what else depends on them. What a
node has and lists follows from its VMs. An event that says which node it concerns invalidates that node's entries;
one that does not, those of every node in the scope (tag `nodes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from novacron_cache import DeclarationError, KeyTemplate

from .models import VMStatus

VM_KEYS = {
    "state": "vm:{}<id_>",
    "resources": "vm:{}<id_>:resources",
    "migration": "vm:{}<id_>:migration",
    "metrics": "vm:{}<id_>:metrics",
    "config": "vm:{}<id_>:config",
}
NODE_KEYS = {"resources": "node:{}<id_>", "vms": "node:{}<id_>:vms"}

VM_TAG, NODE_TAG = "vm:{}<id_>", "node:{}<id_>"
"""The tag of everything that depends on a VM or a node; with the kind behind it (`vm:vm-1:state`), of what depends on
that alone. The entries here need no tag for their kind, for they have a key; those of an application may use it."""


@dataclass(frozen=True, slots=True)
class Affected:
    """What an event invalidates, as text: logical keys and tags."""

    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __or__(self, other: Affected) -> Affected:
        return Affected(
            tuple(dict.fromkeys((*self.keys, *other.keys))), tuple(dict.fromkeys((*self.tags, *other.tags)))
        )


class Names:
    """The key and tag templates of one scope, and what events mean in it.

    Args:
        scope: the name of a hypervisor; empty where there is only one.

    Raises:
        DeclarationError: the scope is no text.
    """

    def __init__(self, scope: str = "") -> None:
        if not isinstance(scope, str):
            raise DeclarationError(f"scope={scope!r}: expected text that names a hypervisor, such as 'hv-1'")
        self.scope = scope
        self._prefix = f"{scope}/".replace("<", "<<").replace(">", ">>") if scope else ""
        self.listing = self._whole("vms")
        self.nodes = self._whole("nodes")
        self.cluster = self._whole("cluster")

    def _whole(self, name: str) -> str:
        return f"{name}:{self.scope}" if self.scope else name

    def literal(self, text: str) -> str:
        """Return a text as a template that renders it."""
        return text.replace("<", "<<").replace(">", ">>")

    def template(self, pattern: str) -> str:
        """Return a template of `VM_KEYS` or `NODE_KEYS`, or of a tag, in this scope."""
        return pattern.replace("{}", self._prefix)

    def render(self, pattern: str, id_: str) -> str:
        """Return such a template filled with an id."""
        return KeyTemplate.parse(self.template(pattern)).build({"id_": id_})

    def vm(self, vm_id: str, *kinds: str) -> Affected:
        """Return some entries of one VM, by the names in `VM_KEYS`."""
        return self._some(VM_KEYS, VM_TAG, vm_id, kinds)

    def _some(self, keys: Mapping[str, str], tag: str, id_: str, kinds: Iterable[str]) -> Affected:
        named = [(self.render(keys[kind], id_), self.render(f"{tag}:{kind}", id_)) for kind in kinds]
        return Affected(tuple(key for key, _ in named), tuple(tag for _, tag in named))

    def whole_vm(self, vm_id: str) -> Affected:
        """Return everything that depends on one VM, what is remembered of its absence included."""
        return Affected(tags=(self.render(VM_TAG, vm_id),))

    def whole_node(self, node_id: str) -> Affected:
        """Return everything that depends on one node: its own entries and those of the VMs on it."""
        return Affected(tags=(self.render(NODE_TAG, node_id),))

    def everything(self) -> Affected:
        """Return everything in this scope."""
        return Affected(tags=(self.cluster,))

    def node(self, node_id: str | None, *kinds: str) -> Affected:
        """Return some entries of one node, by the names in `NODE_KEYS`; of all nodes where it is not known which."""
        if node_id is None:
            return Affected(tags=(self.nodes,))
        return self._some(NODE_KEYS, NODE_TAG, node_id, kinds)

    # -- events -----------------------------------------------------------------------------------------------------

    def came_or_went(self, vm_id: str, node_id: str | None) -> Affected:
        """A VM was created or deleted: everything of it, "there is none" included, the list of VMs, and its node."""
        listing = Affected((self.listing,), (self.listing,))
        return self.whole_vm(vm_id) | listing | self.node(node_id, "resources", "vms")

    def migrated(self, vm_id: str, source: str | None, target: str | None) -> Affected:
        """A VM has moved: everything of it, and both nodes."""
        nodes = (self.node(node_id, "resources", "vms") for node_id in (source, target))
        return joined((self.whole_vm(vm_id), *nodes))

    def state_changed(self, vm_id: str, old: VMStatus, new: VMStatus, node_id: str | None) -> Affected:
        """A VM has another status; what it is given and uses changes only when it begins or ceases to be active."""
        if VMStatus.UNKNOWN in (old, new) or old.active is not new.active:
            return self.vm(vm_id, "state", "resources", "metrics") | self.node(node_id, "resources", "vms")
        return self.vm(vm_id, "state") | self.node(node_id, "vms")

    def resources_changed(self, vm_id: str, node_id: str | None) -> Affected:
        """A VM was given more or less: CPUs, memory, a device."""
        return self.vm(vm_id, "resources", "config", "metrics") | self.node(node_id, "resources")

    def rebooted(self, vm_id: str, node_id: str | None) -> Affected:
        """A VM was started again without having been stopped."""
        return self.vm(vm_id, "state", "metrics") | self.node(node_id, "vms")

    def config_changed(self, vm_id: str) -> Affected:
        """How a VM is defined has changed, and nothing that it was given."""
        return self.vm(vm_id, "config")

    def migration_changed(self, vm_id: str) -> Affected:
        """A migration has begun, gone on or failed."""
        return self.vm(vm_id, "migration")


def status_of(value: VMStatus | str) -> VMStatus:
    """Return the status of this name.

    Raises:
        DeclarationError: there is none; the message lists those there are.
    """
    try:
        return VMStatus(value)
    except ValueError:
        known = ", ".join(VMStatus)
        raise DeclarationError(f"{value!r} is not the status of a VM; there are {known}") from None


def joined(several: Iterable[Affected]) -> Affected:
    """Return all of these as one."""
    found = Affected()
    for one in several:
        found |= one
    return found
