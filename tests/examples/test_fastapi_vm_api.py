"""The API of the FastAPI example under load: what hypervisors are asked, and when a change is seen."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_vm_api.py"
STATUS_AFTER = {"start": "running", "stop": "stopped"}


@pytest.fixture(scope="module")
def example() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("fastapi_vm_api", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # FastAPI looks names of annotations up there
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        yield client


async def test_many_requests_at_once_load_each_entry_once(example: Any) -> None:
    hypervisors = example.Hypervisors(nodes=4, vms_of_node=5)
    paths = [f"/vms/vm-{number}" for number in range(20)]
    paths += [f"/vms/vm-{number}/resources" for number in range(20)]
    paths += [f"/nodes/node-{number}" for number in range(4)]
    async with serving(example.create_app(hypervisors)) as client:
        answers = await asyncio.gather(*(client.get(path) for path in paths * 12))

        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == len(paths)
        # A page is one load of its own, which asks for the node and for its VMs.
        assert set(hypervisors.asked.values()) == {1}
        assert hypervisors.asked.total() == 20 + 20 + 2 * 4
        stats = (await client.get("/cache")).json()
        assert stats["loads"] == 20 + 20 + 3 * 4

        for path in paths:
            await client.get(path)
        assert hypervisors.asked.total() == 20 + 20 + 2 * 4


async def test_a_post_is_seen_at_once_by_everybody_who_asks_afterwards(example: Any) -> None:
    hypervisors = example.Hypervisors(nodes=2, vms_of_node=3, seconds=0.002)
    over = asyncio.Event()
    told = {f"vm-{number}": 0 for number in range(6)}  # how many changes of a VM have been answered
    begun = dict(told)
    reads = 0

    def status_after(changes: int) -> str:
        return "stopped" if changes % 2 else "running"

    async with serving(example.create_app(hypervisors)) as client:

        async def read(vm_id: str) -> None:
            nonlocal reads
            node = f"node-{int(vm_id.removeprefix('vm-')) % 2}"
            while not over.is_set():
                least = told[vm_id]
                state, page = await asyncio.gather(client.get(f"/vms/{vm_id}"), client.get(f"/nodes/{node}"))
                right = {status_after(changes) for changes in range(least, begun[vm_id] + 1)}
                assert state.json()["status"] in right
                assert page.json()["vms"][vm_id] in right
                reads += 1

        async def change(vm_id: str) -> None:
            for action in ["stop", "start"] * 4:
                begun[vm_id] += 1
                answer = await client.post(f"/vms/{vm_id}/{action}")
                told[vm_id] += 1
                assert answer.status_code == 204, answer.text
                assert (await client.get(f"/vms/{vm_id}")).json()["status"] == STATUS_AFTER[action]

        readers = [asyncio.create_task(read(vm_id)) for vm_id in list(told) * 3]
        await asyncio.gather(*(change(vm_id) for vm_id in told))
        over.set()
        await asyncio.gather(*readers)
    assert reads > len(readers)


async def test_a_change_asks_again_for_what_it_concerns_and_for_nothing_else(example: Any) -> None:
    hypervisors = example.Hypervisors(nodes=2, vms_of_node=2, seconds=0)
    paths = [f"/vms/vm-{number}" for number in range(4)] + ["/nodes/node-0", "/nodes/node-1"]
    async with serving(example.create_app(hypervisors)) as client:
        for path in paths:
            await client.get(path)
        hypervisors.asked.clear()
        assert (await client.post("/vms/vm-2/pause")).status_code == 204
        for path in paths:
            await client.get(path)

    # A paused VM keeps its share of the node, whose resources have not changed.
    assert hypervisors.asked == {"vm-2": 1, "node-0 VMs": 1}


async def test_what_does_not_exist_is_asked_for_once_and_what_is_refused_changes_nothing(example: Any) -> None:
    hypervisors = example.Hypervisors(nodes=1, vms_of_node=2, seconds=0)
    async with serving(example.create_app(hypervisors)) as client:
        answers = await asyncio.gather(*(client.get("/vms/vm-9") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {404}
        assert hypervisors.asked == {"vm-9": 1}

        await client.post("/vms/vm-0/stop")
        assert (await client.post("/vms/vm-0/pause")).status_code == 409
        assert (await client.post("/vms/vm-9/stop")).status_code == 404
        assert (await client.post("/vms/vm-0/explode")).status_code == 422
        assert (await client.get("/vms/vm-0")).json()["status"] == "stopped"
