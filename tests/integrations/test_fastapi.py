"""Responses of FastAPI: kept once, gone when what they show changes, and declared without mistakes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request, Response
from integrations.asgi import VM, Client, client_of, vms
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from novacron_cache import Cache, DeclarationError, invalidates
from novacron_cache.integrations.fastapi import cached_response


class TestKeeping:
    def test_a_second_request_gets_the_same_bytes_and_runs_nothing(self, cache: Cache, calls: Counter[str]) -> None:
        client = Client(vms(cache, calls))
        first, second = client.get("/vms/1"), client.get("/vms/1")
        assert first.json() == {"vm_id": "1", "status": "running"}, "through the response model"
        assert second.content == first.content
        assert second.headers["content-type"] == "application/json"
        assert (first.headers["cache-status"], second.headers["cache-status"]) == (
            "novacron_cache; fwd=miss; stored", "novacron_cache; hit",
        )  # fmt: skip
        assert (calls["1"], client.get("/vms/2").json()["vm_id"]) == (1, "2")

    def test_a_write_is_seen_by_the_next_read(self, cache: Cache, calls: Counter[str]) -> None:
        client = Client(vms(cache, calls))
        assert client.get("/vms/1").json()["status"] == "running"
        assert client.post("/vms/1/stop").status_code == 204
        assert client.get("/vms/1").json()["status"] == "stopped"
        assert calls["1"] == 2

    def test_a_write_that_fails_invalidates_nothing(self, cache: Cache, calls: Counter[str]) -> None:
        client = Client(vms(cache, calls))
        client.get("/vms/1")
        assert client.post("/vms/9/stop").status_code == 404
        client.get("/vms/1")
        assert calls["1"] == 1

    async def test_of_many_requests_at_once_one_runs_the_endpoint(self, cache: Cache, calls: Counter[str]) -> None:
        async with client_of(vms(cache, calls)) as client:
            found = await asyncio.gather(*(client.get(f"/vms/{1 + number % 2}") for number in range(64)))
        assert calls == {"1": 1, "2": 1}
        assert {response.json()["vm_id"] for response in found} == {"1", "2"}
        assert all(response.json()["vm_id"] == str(1 + number % 2) for number, response in enumerate(found))

    async def test_readers_beside_a_writer_never_see_the_state_before_its_answer(
        self, cache: Cache, calls: Counter[str]
    ) -> None:
        app, state = FastAPI(), {"value": 0}

        @app.get("/value")
        @cached_response(key="value", tags=["value"], cache=cache)
        async def read() -> int:
            value = state["value"]
            await asyncio.sleep(0)
            return value

        @app.put("/value")
        @invalidates(tags=["value"], cache=cache)
        async def write() -> int:
            state["value"] += 1
            return state["value"]

        async with client_of(app) as client:
            known = 0

            async def reading() -> None:
                for _ in range(40):
                    least = known
                    assert (await client.get("/value")).json() >= least

            async def writing() -> None:
                nonlocal known
                for _ in range(40):
                    known = (await client.put("/value")).json()

            await asyncio.gather(*(reading() for _ in range(4)), writing())
            assert (await client.get("/value")).json() == 40

    def test_a_synchronous_endpoint_is_kept_too(self, cache: Cache, calls: Counter[str]) -> None:
        app = FastAPI()

        @app.get("/text", response_class=PlainTextResponse)
        @cached_response(key="text", cache=cache)
        def text() -> str:
            calls["text"] += 1
            return "hello"

        client = Client(app)
        assert [client.get("/text").text for _ in range(2)] == ["hello"] * 2
        assert client.get("/text").headers["content-type"] == "text/plain; charset=utf-8"
        assert calls["text"] == 1

    def test_headers_and_status_of_the_endpoint_are_kept(self, cache: Cache, calls: Counter[str]) -> None:
        app, ran = FastAPI(), []

        @app.get("/made")
        @cached_response(key="made", statuses=[201], cache=cache)
        async def made(response: Response, tasks: BackgroundTasks) -> dict[str, int]:
            tasks.add_task(ran.append, 1)
            response.status_code = 201
            response.headers["X-Total"] = "7"
            return {"made": 1}

        client = Client(app)
        for _ in range(2):
            answer = client.get("/made")
            assert (answer.status_code, answer.headers["x-total"], answer.json()) == (201, "7", {"made": 1})
        assert ran == [1], "what runs in the background runs with the endpoint"

    def test_without_a_key_it_is_the_name_and_every_parameter(self, cache: Cache, calls: Counter[str]) -> None:
        app = FastAPI()

        @app.get("/list")
        @cached_response(cache=cache)
        async def listed(node: str, page: int = 1) -> list[Any]:
            calls[f"{node}/{page}"] += 1
            return [node, page]

        client = Client(app)
        for _ in range(2):
            assert client.get("/list?node=a").json() == ["a", 1]
            assert client.get("/list?node=a&page=2&utm_source=x").json() == ["a", 2]
            assert client.get("/list", params={"node": "a:1"}).json() == ["a:1", 1]
        assert calls == {"a/1": 1, "a/2": 1, "a:1/1": 1}

    def test_two_calls_whose_key_reads_alike_share_nothing(self, cache: Cache, calls: Counter[str]) -> None:
        app = FastAPI()

        @app.get("/pair")
        @cached_response(key="pair:<a>:<b>", cache=cache)
        async def pair(a: str, b: str) -> list[str]:
            return [a, b]

        client = Client(app)
        assert client.get("/pair", params={"a": "1:2", "b": "3"}).json() == ["1:2", "3"]
        assert client.get("/pair", params={"a": "1", "b": "2:3"}).json() == ["1", "2:3"]

    def test_the_cached_function_is_at_hand(self, cache: Cache, calls: Counter[str]) -> None:
        app = FastAPI()

        @app.get("/n/{n}")
        @cached_response(key="n:<n>", cache=cache)
        async def number(n: int) -> int:
            calls["n"] += 1
            return n

        client = Client(app)
        client.get("/n/1")
        assert cache.invalidate("n:1").done
        client.get("/n/1")
        assert (calls["n"], number.cached.key(n=1)) == (2, "n:1")

    def test_an_endpoint_may_stand_on_a_router_under_several_paths(self, cache: Cache, calls: Counter[str]) -> None:
        router, app = APIRouter(), FastAPI()

        @router.get("/n/{n}")
        @router.get("/numbers/{n}")
        @cached_response(key="n:<n>", cache=cache)
        async def number(n: int) -> VM:
            calls["n"] += 1
            return VM(vm_id=str(n), status="running")

        app.include_router(router, prefix="/v1")
        app.include_router(router, prefix="/v2")
        client = Client(app)
        paths = ["/v1/numbers/7", "/v2/numbers/7", "/v1/n/7"]
        assert [client.get(path).json()["vm_id"] for path in paths] == ["7"] * 3
        assert calls["n"] == 1

    def test_routes_that_show_different_parts_of_a_result_cannot_share_it(self, cache: Cache) -> None:
        app = FastAPI()

        @app.get("/public", response_model_exclude={"secret"})
        @app.get("/internal")
        @cached_response(key="vm", cache=cache)
        async def vm() -> VM:
            return VM(vm_id="1", status="running")

        client = Client(app)
        assert "secret" in client.get("/internal").json()
        for _ in range(2):
            with pytest.raises(DeclarationError, match="a function of its own"):
                client.get("/public")

    def test_the_schema_of_the_api_stays_what_it_was(self, cache: Cache, calls: Counter[str]) -> None:
        operation = vms(cache, calls).openapi()["paths"]["/vms/{vm_id}"]["get"]
        assert [one["name"] for one in operation["parameters"]] == ["vm_id"]
        assert "requestBody" not in operation


class TestClientsCopies:
    def test_a_client_that_has_it_is_told_so(self, cache: Cache, calls: Counter[str]) -> None:
        client = Client(vms(cache, calls))
        first = client.get("/vms/1")
        etag = first.headers["etag"]
        for condition in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
            again = client.get("/vms/1", headers={"If-None-Match": condition})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert client.get("/vms/1", headers={"If-None-Match": '"other"'}).status_code == 200
        client.post("/vms/1/stop")
        changed = client.get("/vms/1", headers={"If-None-Match": etag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != etag

    def test_by_default_it_asks_each_time(self, cache: Cache, calls: Counter[str]) -> None:
        assert Client(vms(cache, calls)).get("/vms/1").headers["cache-control"] == "public, no-cache"

    def test_what_the_endpoint_says_of_clients_stands(self, cache: Cache) -> None:
        app = FastAPI()

        @app.get("/said")
        @cached_response(key="said", max_age="1m", cache=cache)
        async def said(response: Response) -> int:
            response.headers["cache-control"] = "public, max-age=5"
            response.headers["etag"] = '"mine"'
            return 1

        @app.get("/short")
        @cached_response(key="short", max_age="1h", ttl="10s", cache=cache)
        async def short() -> int:
            return 1

        client = Client(app)
        for _ in range(2):
            answer = client.get("/said")
            assert (answer.headers["cache-control"], answer.headers["etag"]) == ("public, max-age=5", '"mine"')
        longest = int(client.get("/short").headers["cache-control"].removeprefix("public, max-age="))
        assert longest <= 10, "no longer than it is kept here"


class TestDeclaring:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"key": "vm:<vmid>"}, "vm_id"),
            ({"key": "fixed"}, "vm_id"),
            ({"key": "vm:<vm_id>", "tags": "vm:<vm_id>"}, "list"),
            ({"key": "vm:<vm_id>", "vary": "accept"}, "list"),
            ({"key": "vm:<vm_id>", "vary": ["*"]}, "no two responses"),
            ({"key": "vm:<vm_id>", "tags": ["node:<node>"]}, "node"),
            ({"key": "vm:<vm_id>", "ttl": 0}, "ttl"),
        ],
    )
    def test_a_mistake_is_told_when_the_endpoint_is_declared(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(DeclarationError, match=said):

            @cached_response(**options)
            async def read(vm_id: str) -> None: ...

    def test_what_the_endpoint_may_read_is_named_or_ignored(self) -> None:
        with pytest.raises(DeclarationError, match="request"):

            @cached_response(key="page")
            async def page(request: Request) -> None: ...

    def test_a_stream_cannot_be_cached(self) -> None:
        with pytest.raises(DeclarationError, match="stream"):

            @cached_response(key="page")
            async def page() -> AsyncIterator[str]:
                yield "x"

    def test_an_endpoint_of_starlettes_is_pointed_to_its_own(self, cache: Cache) -> None:
        @cached_response(key="page", cache=cache)
        async def page() -> int:
            return 1

        async def bare(request: Request) -> Response:
            answered: Response = await page(novacron_request=request, novacron_response=Response())
            return answered

        with pytest.raises(DeclarationError, match=r"integrations\.starlette"):
            Client(Starlette(routes=[Route("/page", bare)])).get("/page")
