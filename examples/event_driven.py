"""Lifecycle events drive the invalidation: many readers, few questions, and no stale answer after an event.

A hypervisor is simulated that changes by itself and tells of it, as real ones do. Readers ask all the time; each answer
is compared with what the hypervisor said last. Run it with `python examples/event_driven.py`.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable

from novacron_cache import Cache
from novacron_cache.vm import CachedVMManager, VMCacheManager, VMCacheSettings, VMState, VMStatus

VMS = [f"vm-{number}" for number in range(200)]
ROUND = [VMStatus.RUNNING, VMStatus.PAUSED, VMStatus.RUNNING, VMStatus.STOPPED]


class Hypervisor:
    """Changes by itself and tells whoever has subscribed: as much of a `VMManager` as is used, with events."""

    def __init__(self) -> None:
        self.turn = dict.fromkeys(VMS, 0)
        self.asked = 0
        self.listening: list[VMCacheManager] = []

    def subscribe(self, entries: VMCacheManager) -> Callable[[], None]:
        self.listening.append(entries)
        return lambda: self.listening.remove(entries)

    def status(self, vm_id: str) -> VMStatus:
        return ROUND[self.turn[vm_id] % len(ROUND)]

    def get_vm_state(self, vm_id: str) -> VMState | None:
        self.asked += 1
        time.sleep(0.002)
        return VMState(vm_id=vm_id, node_id="node-1", status=self.status(vm_id))

    def list_vm_states(self, node_id: str) -> Iterable[VMState]:
        self.asked += 1
        time.sleep(0.02)
        return [VMState(vm_id=vm_id, node_id=node_id, status=self.status(vm_id)) for vm_id in VMS]

    def change(self, vm_id: str) -> None:
        """Something happens to a VM; when this returns, everybody has been told."""
        old = self.status(vm_id)
        self.turn[vm_id] += 1
        for entries in self.listening:
            entries.on_vm_state_change(vm_id, old, self.status(vm_id), node_id="node-1")


def main() -> None:
    hypervisor = Hypervisor()
    # An hour: what is current here is so because of events, not because it has expired.
    settings = VMCacheSettings(vm_state_ttl="1h", listing_ttl="1h")
    reads = stale = 0
    over = threading.Event()
    lock = threading.Lock()

    with Cache() as cache, CachedVMManager(hypervisor, cache, settings) as vms:

        def read(seed: int) -> None:
            nonlocal reads, stale
            chosen = random.Random(seed)  # noqa: S311
            while not over.is_set():
                vm_id = VMS[min(int(chosen.expovariate(0.05)), len(VMS) - 1)]  # some are asked for more than others
                earlier = hypervisor.turn[vm_id]
                state = vms.get_vm_state(vm_id)
                assert state is not None
                later = hypervisor.turn[vm_id]
                # A change may come while the answer is on its way; both it and what was before are right then. One
                # turn earlier is too, while the change is made and not told yet.
                right = {ROUND[turn % len(ROUND)] for turn in range(max(0, earlier - 1), later + 1)}
                with lock:
                    reads += 1
                    stale += state.status not in right
                time.sleep(0.0002)

        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for reader in readers:
            reader.start()
        changes = random.Random(7)  # noqa: S311
        for _ in range(150):
            vm_id = changes.choice(VMS)
            hypervisor.change(vm_id)
            told = vms.get_vm_state(vm_id)
            assert told is not None
            assert told.status is hypervisor.status(vm_id), "an event had returned, and an old state was served"
            time.sleep(0.005)
        over.set()
        for reader in readers:
            reader.join()

        assert [one.status for one in vms.list_vm_states("node-1")] == [hypervisor.status(vm_id) for vm_id in VMS]
        rate = cache.stats().hit_rate
        print(f"{reads} reads beside 150 changes: {hypervisor.asked} questions, hit rate {rate:.1%}, {stale} stale")
        assert stale == 0
        assert rate > 0.8


if __name__ == "__main__":
    main()
