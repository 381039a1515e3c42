"""Applications that are asked without a server, and one whose pages are cached."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from novacron_cache import Cache, invalidates
from novacron_cache.integrations.fastapi import cached_response


class VM(BaseModel):
    vm_id: str
    status: str
    secret: str = "hidden"


class PublicVM(BaseModel):
    vm_id: str
    status: str
    note: str | None = None


class Client:
    """Requests to an application, one after the other, each on a loop of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with client_of(self.app) as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def head(self, path: str) -> httpx.Response:
        return self.request("HEAD", path)

    def post(self, path: str) -> httpx.Response:
        return self.request("POST", path)


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


def with_state(app: Any, state: Any) -> Any:
    """Return the application as a server calls it whose lifespan has yielded a state."""

    async def called(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return called


def vms(cache: Cache, calls: Counter[str]) -> FastAPI:
    """An API over one dict, whose pages are cached."""
    app, statuses = FastAPI(), {"1": "running", "2": "running"}

    @app.get("/vms/{vm_id}", response_model=PublicVM, response_model_exclude_none=True)
    @cached_response(key="vm:<vm_id>", tags=["vm:<vm_id>"], ttl="1m", cache=cache)
    async def read(vm_id: str) -> Any:
        calls[vm_id] += 1
        await asyncio.sleep(0)
        if vm_id not in statuses:
            raise HTTPException(404, "no such VM")
        return VM(vm_id=vm_id, status=statuses[vm_id])

    @app.post("/vms/{vm_id}/stop", status_code=204)
    @invalidates(tags=["vm:<vm_id>"], cache=cache)
    async def stop(vm_id: str) -> None:
        if vm_id not in statuses:
            raise HTTPException(404)
        statuses[vm_id] = "stopped"

    return app
