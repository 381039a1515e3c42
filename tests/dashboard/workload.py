"""An application under load: a process of its own, until its standard input is closed.

It takes its settings from the environment. With `--dashboard` it serves a dashboard itself, and prints where; else it
prints `ready`.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import threading
import time
from bisect import bisect

from novacron_cache import Cache, CacheModel

chance = random.Random()  # noqa: S311 - a load


class VMState(CacheModel, key="vm:<vm_id>", ttl="10m", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str
    status: str


class VMMetrics(CacheModel, key="metrics:<vm_id>", ttl="1m"):
    vm_id: str
    cpu: float


class NodeResources(CacheModel, key="resources:<node_id>", ttl="1m", tags=["node:<node_id>"]):
    node_id: str
    free: int


class Tenant(CacheModel, key="tenant:<name>", ttl="5m"):
    name: str
    quota: int


def work(median: float) -> None:
    """Take about as long as a database would."""
    time.sleep(median * chance.lognormvariate(0.0, 0.55))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dashboard", action="store_true")
    parser.add_argument("--show-keys", action="store_true")
    parser.add_argument("--idle", action="store_true", help="make no calls")
    parser.add_argument("--pause", type=float, default=0.002)
    options = parser.parse_args()
    cache = Cache.from_env()

    @cache.cached(VMState)
    def get_vm_state(vm_id: str) -> VMState:
        work(0.004)
        return VMState(vm_id=vm_id, node_id=f"node-{int(vm_id[3:]) % 40}", status="running")

    @cache.cached(VMMetrics)
    def get_vm_metrics(vm_id: str) -> VMMetrics:
        work(0.0015)
        return VMMetrics(vm_id=vm_id, cpu=0.5)

    @cache.cached(NodeResources)
    def get_node(node_id: str) -> NodeResources:
        work(0.008)
        return NodeResources(node_id=node_id, free=8)

    @cache.cached(Tenant)
    def get_tenant(name: str) -> Tenant:
        work(0.02)
        return Tenant(name=name, quota=10)

    @cache.cached(list[str], key="node:<node_id>:vms", name="list_vms", ttl="2m", tags=["node:<node_id>"])
    def list_vms(node_id: str) -> list[str]:
        work(0.012)
        return [f"vm-{number}" for number in range(20)]

    @cache.cached(list[str], key="search:<text>", name="search_images", ttl="1m")
    def search_images(text: str) -> list[str]:
        work(0.03)
        return [text]

    bounds = list(itertools.accumulate((rank + 1) ** -0.95 for rank in range(6_000)))
    ended = threading.Event()

    def call() -> None:
        machine = f"vm-{bisect(bounds, chance.random() * bounds[-1])}"
        node = f"node-{chance.randrange(40)}"
        kind = chance.random()
        if kind < 0.62:
            get_vm_state(machine)
        elif kind < 0.72:
            get_vm_metrics(f"vm-{bisect(bounds, chance.random() * bounds[300])}")
        elif kind < 0.8:
            get_node(node)
        elif kind < 0.9:
            get_tenant(f"tenant-{chance.randrange(80)}")
        elif kind < 0.985:
            list_vms(node)
        else:
            search_images(f"image-{int(chance.paretovariate(0.7)) % 4000}")

    def run() -> None:
        while not ended.is_set():
            for _ in range(12):
                call()
            if chance.random() < 0.0006:
                cache.invalidate_tags(f"node:node-{chance.randrange(40)}")
            elif chance.random() < 0.006:
                cache.invalidate(f"vm:vm-{chance.randrange(3000)}")
            elif chance.random() < 0.0005:
                cache.invalidate_pattern("search:*")
            ended.wait(options.pause)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(0 if options.idle else 3)]
    for thread in threads:
        thread.start()
    where = cache.serve_dashboard(port=0, show_keys=options.show_keys).url if options.dashboard else "ready"
    sys.stdout.write(where + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join(5)
    cache.close()


if __name__ == "__main__":
    main()
