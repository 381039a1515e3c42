"""A small API of VMs over FastAPI: what hypervisors say is cached, a whole page is too, and a POST is seen at once.

Run it with `python examples/fastapi_vm_api.py`, which sends requests to itself, or serve it:

    uvicorn --app-dir examples fastapi_vm_api:app

With `NOVACRON_CACHE_REDIS__URL` and `NOVACRON_CACHE_NAMESPACE` set, any number of processes share what one has asked.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from novacron_cache import Cache
from novacron_cache.vm import (
    CachedVMManager,
    HypervisorError,
    NodeResources,
    UnknownVMError,
    VMResources,
    VMState,
    VMStatus,
)

GIB = 1 << 30
T = TypeVar("T")


class Hypervisors:
    """VMs on nodes, simulated: as much of an `AsyncVMManager` as is used, each answer as slow as a real one."""

    def __init__(self, nodes: int = 4, vms_of_node: int = 10, seconds: float = 0.01) -> None:
        self.states = {
            f"vm-{number}": VMState(vm_id=f"vm-{number}", node_id=f"node-{number % nodes}", status=VMStatus.RUNNING)
            for number in range(nodes * vms_of_node)
        }
        self.seconds = seconds
        self.asked: Counter[str] = Counter()

    async def _ask(self, what: str) -> None:
        self.asked[what] += 1
        await asyncio.sleep(self.seconds)

    async def get_vm_state(self, vm_id: str) -> VMState | None:
        await self._ask(vm_id)
        return self.states.get(vm_id)

    async def get_vm_resources(self, vm_id: str) -> VMResources | None:
        await self._ask(f"{vm_id} resources")
        state = self.states.get(vm_id)
        return None if state is None else VMResources(
            vm_id=vm_id, node_id=state.node_id, vcpus=2, vcpus_max=8, memory_bytes=4 * GIB, memory_max_bytes=8 * GIB
        )  # fmt: skip

    async def list_vm_states(self, node_id: str) -> Iterable[VMState]:
        await self._ask(f"{node_id} VMs")
        return [state for state in self.states.values() if state.node_id == node_id]

    async def get_node_resources(self, node_id: str) -> NodeResources | None:
        await self._ask(node_id)
        here = [state for state in self.states.values() if state.node_id == node_id]
        active = sum(state.status.active for state in here)
        return None if not here else NodeResources(
            node_id=node_id, cpus=32, memory_bytes=256 * GIB, vcpus_allocated=2 * active,
            memory_allocated_bytes=4 * GIB * active, vms_active=active, vms_defined=len(here),
        )  # fmt: skip

    async def _become(self, vm_id: str, status: VMStatus) -> None:
        if vm_id not in self.states:
            raise UnknownVMError(f"there is no VM {vm_id!r}", vm_id=vm_id)
        await asyncio.sleep(self.seconds)
        self.states[vm_id] = self.states[vm_id].to(status)

    async def start_vm(self, vm_id: str) -> None:
        await self._become(vm_id, VMStatus.RUNNING)

    async def stop_vm(self, vm_id: str, *, force: bool = False) -> None:
        await self._become(vm_id, VMStatus.STOPPED)

    async def pause_vm(self, vm_id: str) -> None:
        if vm_id in self.states and not self.states[vm_id].status.active:
            raise HypervisorError(f"{vm_id} is not active", vm_id=vm_id)
        await self._become(vm_id, VMStatus.PAUSED)

    async def resume_vm(self, vm_id: str) -> None:
        await self._become(vm_id, VMStatus.RUNNING)


class Action(StrEnum):
    """What can be done to a VM."""

    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"


def _vms(request: Request) -> Any:
    return request.app.state.vms


def _page(request: Request) -> Any:
    return request.app.state.page


VMs = Annotated[CachedVMManager, Depends(_vms)]
Page = Annotated[Any, Depends(_page)]


def create_app(hypervisors: Hypervisors) -> FastAPI:
    """Return the API over some hypervisors; its cache lives as long as the application runs."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        async with Cache.from_env() as cache, CachedVMManager(hypervisors, cache) as vms:
            # A response of its own, put together from others: it takes the tags of what it is made of.
            tags = ["node:<node_id>", "node:<node_id>:vms", "node:<node_id>:resources", "nodes", "cluster"]

            @cache.cached(str, key="page:<node_id>", name="page", ttl="30s", tags=tags)
            async def page(node_id: str) -> str:
                node, states = await asyncio.gather(vms.aget_node_resources(node_id), vms.alist_vm_states(node_id))
                return json.dumps(
                    {
                        "node": None if node is None else node.model_dump(mode="json"),
                        "vms": {state.vm_id: state.status for state in states},
                    }
                )

            app.state.cache, app.state.vms, app.state.page = cache, vms, page
            yield

    app = FastAPI(title="VMs", lifespan=running)

    @app.get("/vms/{vm_id}")
    async def vm_state(vm_id: str, vms: VMs) -> VMState:
        return found(await vms.aget_vm_state(vm_id), vm_id)

    @app.get("/vms/{vm_id}/resources")
    async def vm_resources(vm_id: str, vms: VMs) -> VMResources:
        return found(await vms.aget_vm_resources(vm_id), vm_id)

    @app.get("/nodes/{node_id}")
    async def node_page(node_id: str, page: Page) -> Response:
        return Response(await page(node_id), media_type="application/json")

    @app.post("/vms/{vm_id}/{action}", status_code=204)
    async def act(vm_id: str, action: Action, vms: VMs) -> None:
        state = found(await vms.aget_vm_state(vm_id), vm_id)
        changes = {
            Action.START: vms.astart_vm, Action.STOP: vms.astop_vm,
            Action.PAUSE: vms.apause_vm, Action.RESUME: vms.aresume_vm,
        }  # fmt: skip
        try:
            await changes[action](vm_id, node_id=state.node_id)
        except UnknownVMError as error:
            raise HTTPException(404, str(error)) from error  # gone since it was read
        except HypervisorError as error:
            raise HTTPException(409, str(error)) from error

    @app.get("/cache")
    async def cache_stats(request: Request) -> dict[str, float]:
        stats = request.app.state.cache.stats()
        return {"calls": stats.calls, "loads": stats.loads, "hit_rate": stats.hit_rate}

    return app


def found(value: T | None, what: str) -> T:
    """Return a value, or answer that there is none."""
    if value is None:
        raise HTTPException(404, f"there is no {what}")
    return value


app = create_app(Hypervisors())


async def main() -> None:
    hypervisors = Hypervisors()
    app = create_app(hypervisors)
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        for times in ("first", "second"):
            started = time.perf_counter()
            page = (await http.get("/nodes/node-1")).json()
            print(f"a node's page, the {times} time: {1000 * (time.perf_counter() - started):6.2f} ms")
        print(f"  {page['node']['vms_active']} of {page['node']['vms_defined']} VMs are active")

        asked = hypervisors.asked.total()
        answers = await asyncio.gather(*(http.get(f"/vms/vm-{number % 20}") for number in range(400)))
        assert {answer.status_code for answer in answers} == {200}
        print(f"400 requests at once for 20 VMs: {hypervisors.asked.total() - asked} questions to hypervisors")

        stopped = await http.post("/vms/vm-1/stop")
        page = (await http.get("/nodes/node-1")).json()
        assert (stopped.status_code, page["vms"]["vm-1"]) == (204, "stopped")
        print(f"after a stop: {page['node']['vms_active']} are active, and vm-1 is {page['vms']['vm-1']}")

        refused, unknown = await http.post("/vms/vm-1/pause"), await http.get("/vms/vm-99")
        assert (await http.get("/vms/vm-99")).status_code == unknown.status_code == 404
        assert hypervisors.asked["vm-99"] == 1  # that there is none is cached too
        for answer in refused, unknown:
            print(f"{answer.status_code}: {answer.json()['detail']}")
        print((await http.get("/cache")).json())


if __name__ == "__main__":
    asyncio.run(main())
