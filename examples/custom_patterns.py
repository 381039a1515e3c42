"""Keys and patterns of your own beside those of the VM domain, such as the VMs of a user: `user:vms:<user_id>`.

Run it with `python examples/custom_patterns.py`.
"""

from novacron_cache import MISSING, Cache, CacheModel
from novacron_cache.vm import CachedVMManager, VMState, VMStatus

OWNERS = {"ada": ["vm-1", "vm-3"], "bob": ["vm-2"]}
STATUS = {"vm-1": "running", "vm-2": "running", "vm-3": "stopped"}


class Manager:
    """Where states come from; as much of a manager as this program uses."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_vm_states(self, vm_ids: list[str]) -> dict[str, VMState]:
        self.asked += vm_ids
        return {one: VMState(vm_id=one, node_id="node-1", status=VMStatus(STATUS[one])) for one in vm_ids}

    def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        STATUS[vm_id] = "stopped"


class Quota(CacheModel, key="user:quota:<user_id>", ttl="10m", tags=["user:<user_id>"]):
    """A model of one's own: what a user may have."""

    user_id: str
    vms: int


def main() -> None:
    manager, queried = Manager(), []
    with Cache() as cache, CachedVMManager(manager, cache) as vms:

        @cache.cached(tuple[str, ...], key="user:vms:<user_id>", ttl="5m", tags=["user:<user_id>"])
        def vms_of(user_id: str) -> tuple[str, ...]:
            queried.append(user_id)  # a database, say
            return tuple(OWNERS[user_id])

        @cache.cached(Quota)
        def quota(user_id: str) -> Quota:
            return Quota(user_id=user_id, vms=2 * len(OWNERS[user_id]))

        # Only what belongs together is kept together: which VMs are ada's, and what each VM is doing. So a VM that
        # stops invalidates one state, whoever's lists it is in.
        def dashboard(user_id: str) -> dict[str, str]:
            return {vm_id: state.status.value for vm_id, state in vms.get_vm_states(vms_of(user_id)).items()}

        print("ada:", dashboard("ada"), "bob:", dashboard("bob"))
        assert dashboard("ada") == {"vm-1": "running", "vm-3": "stopped"}
        assert (queried, manager.asked) == (["ada", "bob"], ["vm-1", "vm-3", "vm-2"])

        vms.stop_vm("vm-1")
        assert dashboard("ada")["vm-1"] == "stopped"
        assert (queried, manager.asked[3:]) == (["ada", "bob"], ["vm-1"])
        print("after a stop, one state was asked for again, and no list")

        OWNERS["bob"].append("vm-3")
        cache.invalidate("user:vms:<user_id>", user_id="bob")  # by key
        assert list(dashboard("bob")) == ["vm-2", "vm-3"]

        quota("ada")
        quota("bob")
        cache.invalidate_tags("user:<user_id>", user_id="ada")  # everything of one user
        assert quota.peek("ada") is MISSING
        assert quota.peek("bob") is not MISSING

        cache.invalidate_pattern("user:*")  # everything of every user: one marker, however many there are
        assert quota.peek("bob") is MISSING
        assert vms_of.peek("bob") is MISSING
        assert vms.entries.get_vm_state("vm-2") is not None
        print("a pattern has invalidated every user's entries, and no VM's")


if __name__ == "__main__":
    main()
