"""A cache that lives as long as an application of Starlette's or FastAPI's, and responses of Starlette."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from integrations.asgi import Client, client_of, vms, with_state
from servers import PATIENT, ServerProcess
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from novacron_cache import Cache, CacheSettings, DeclarationError, TemplateError, default_cache
from novacron_cache.integrations import starlette as on_starlette
from novacron_cache.integrations.fastapi import CacheDependency, cache_lifespan, cached_response


class TestLife:
    async def test_the_cache_lives_as_long_as_the_application(self) -> None:
        seen: list[str] = []

        @asynccontextmanager
        async def own(app: FastAPI) -> AsyncIterator[dict[str, int]]:
            seen.append("opened")
            yield {"answer": 42}
            seen.append("closed")

        app = FastAPI(lifespan=cache_lifespan(CacheSettings(namespace="app"), then=own))

        @app.get("/cache")
        async def which(request: Request, cache: CacheDependency) -> list[Any]:
            return [cache.settings.namespace, cache is default_cache(), cache.closed, request.state.answer]

        async with app.router.lifespan_context(app) as state, client_of(with_state(app, state)) as client:
            assert (await client.get("/cache")).json() == ["app", True, False, 42]
            opened = app.state.cache
        assert opened.closed
        assert default_cache() is not opened
        assert seen == ["opened", "closed"]

    async def test_it_comes_from_the_environment_where_nothing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", "from-env")
        app = FastAPI(lifespan=cache_lifespan())
        async with app.router.lifespan_context(app):
            assert app.state.cache.settings.namespace == "from-env"

    def test_an_application_without_one_is_told(self) -> None:
        app = FastAPI()

        @app.get("/cache")
        async def which(cache: CacheDependency) -> None: ...

        with pytest.raises(DeclarationError, match="cache_lifespan"):
            Client(app).get("/cache")

    @pytest.mark.servers
    async def test_processes_share_responses_and_their_end(self, valkey_server: ServerProcess) -> None:
        url, calls = f"redis://127.0.0.1:{valkey_server.port}", Counter[str]()
        async with (
            Cache.connect(url, namespace="web", redis=PATIENT) as one,
            Cache.connect(url, namespace="web", redis=PATIENT) as two,
            client_of(vms(one, calls)) as first,
            client_of(vms(two, calls)) as second,
        ):
            made = await first.get("/vms/1")
            shared = await second.get("/vms/1")
            assert (shared.content, shared.headers["etag"]) == (made.content, made.headers["etag"])
            assert calls["1"] == 1
            await first.post("/vms/1/stop")
            async with asyncio.timeout(20):
                while True:
                    answer = await second.get("/vms/1")
                    if answer.headers["cache-status"] == "novacron_cache; fwd=miss; stored":
                        break
                    await asyncio.sleep(0.001)
            assert calls["1"] == 2


@asynccontextmanager
async def started(app: Any) -> AsyncIterator[None]:
    async with cache_lifespan(CacheSettings())(app):
        yield


class TestTheOrderOfDecorators:
    """A route goes on calling what it was given: what is decorated above it is asked by nobody."""

    LATE = r"calls `.*read` itself.*@cached_response\(\.\.\.\) stands under the route"

    async def test_above_the_route_it_is_told_when_the_application_starts(self, cache: Cache) -> None:
        app = FastAPI()

        @cached_response(key="page", cache=cache)
        @app.get("/page")
        async def read() -> int:
            return 1

        with pytest.warns(UserWarning, match=self.LATE) as told:
            async with started(app):
                pass
        (one,) = told
        assert (one.filename, read.__qualname__ in str(one.message)) == (__file__, True)

    @pytest.mark.parametrize("where", ["router", "router of a router", "mounted"])
    async def test_also_where_the_route_is_of_something_that_the_application_includes(
        self, cache: Cache, where: str
    ) -> None:
        app, router = FastAPI(), APIRouter()

        @cached_response(key="page", cache=cache)
        @router.get("/page")
        def read() -> int:
            return 1

        if where == "router":
            app.include_router(router, prefix="/v1")
        else:
            outer = APIRouter() if where == "router of a router" else FastAPI()
            outer.include_router(router)
            if isinstance(outer, APIRouter):
                app.include_router(outer)
            else:
                app.mount("/v1", outer)
        with pytest.warns(UserWarning, match=self.LATE):
            async with started(app):
                pass

    async def test_an_endpoint_that_is_routed_both_ways_or_wrapped_once_more_is_no_mistake(self, cache: Cache) -> None:
        async def read() -> int:
            return 1

        kept = cached_response(key="page", cache=cache)(read)

        @functools.wraps(kept)
        async def noted(**arguments: Any) -> Any:
            return await kept(**arguments)

        for endpoint in (kept, noted):
            app, inner = FastAPI(), FastAPI()
            app.get("/raw")(read)
            inner.get("/kept")(endpoint)
            app.mount("/inner", inner)
            async with started(app):  # where a warning is an error
                pass

    async def test_what_is_routed_while_the_application_starts_counts(self, cache: Cache) -> None:
        async def read() -> int:
            return 1

        @asynccontextmanager
        async def then(app: FastAPI) -> AsyncIterator[None]:
            app.get("/kept")(cached_response(key="page", cache=cache)(read))
            yield

        app = FastAPI(lifespan=cache_lifespan(CacheSettings(), then=then))
        app.get("/raw")(read)
        async with app.router.lifespan_context(app):
            pass

    async def test_starlettes_own_are_told_of_by_their_names(self, cache: Cache) -> None:
        async def read(request: Request) -> Response:
            return Response()

        async def stop(request: Request) -> Response:
            return Response()

        made = (
            on_starlette.cached_response(key="page", cache=cache)(read),
            on_starlette.invalidates(tags=["page"], cache=cache)(stop),
        )
        with pytest.warns(UserWarning, match="stands under the route") as told:
            async with started(Starlette(routes=[Route("/page", read), Route("/stop", stop, methods=["POST"])])):
                pass
        assert [one.__qualname__.split(".")[-1] for one in made] == ["read", "stop"]
        said = sorted(str(one.message) for one in told)
        assert ["read` itself" in said[0], "@cached_response" in said[0]] == [True, True]
        assert ["stop` itself" in said[1], "@invalidates" in said[1]] == [True, True]


class TestStarlette:
    def app(self, cache: Cache, calls: Counter[str]) -> Starlette:
        statuses = {"1": "running"}

        @on_starlette.cached_response(key="vm:<vm_id>", query=["full"], ttl="1m", cache=cache)
        async def read(request: Request) -> Response:
            calls[request.method] += 1
            full = request.query_params.get("full")
            return JSONResponse([statuses[request.path_params["vm_id"]], full])

        @on_starlette.invalidates(tags=["vm:<vm_id>"], keys=["vms"], cache=cache)
        def stop(request: Request) -> Response:
            if request.path_params["vm_id"] not in statuses:
                return PlainTextResponse("no such VM", status_code=404)
            statuses[request.path_params["vm_id"]] = "stopped"
            return Response(status_code=204)

        @on_starlette.cached_response(key="vm:<vm>", cache=cache)
        async def wrong(request: Request) -> Response:
            return Response()

        routes = [
            Route("/vms/{vm_id}", read), Route("/vms/{vm_id}/stop", stop, methods=["POST"]),
            Route("/wrong/{vm_id}", wrong),
        ]  # fmt: skip
        return Starlette(routes=routes)

    def test_a_response_is_kept_by_its_path_and_the_named_parameters(self, cache: Cache, calls: Counter[str]) -> None:
        client = Client(self.app(cache, calls))
        assert client.get("/vms/1?tracked=7").json() == ["running", None]
        assert client.get("/vms/1").json() == ["running", None]
        assert client.get("/vms/1?full=yes").json() == ["running", "yes"]
        assert calls == {"GET": 2}
        assert client.head("/vms/1").headers["cache-status"] == "novacron_cache; hit"
        assert calls == {"GET": 2}

    def test_a_write_invalidates_and_a_refused_one_does_not(self, cache: Cache, calls: Counter[str]) -> None:
        client = Client(self.app(cache, calls))
        assert [client.get(path).status_code for path in ("/vms/1", "/vms/1?full=1")] == [200, 200]
        assert client.post("/vms/2/stop").status_code == 404
        assert client.get("/vms/1").json() == ["running", None]
        assert client.post("/vms/1/stop").status_code == 204
        assert client.get("/vms/1").json() == ["stopped", None]
        assert client.get("/vms/1?full=1").json() == ["stopped", "1"]

    def test_a_head_request_alone_is_not_kept(self, cache: Cache, calls: Counter[str]) -> None:
        client = Client(self.app(cache, calls))
        assert [client.head("/vms/1").status_code for _ in range(2)] == [200, 200]
        assert calls["HEAD"] == 2
        assert client.get("/vms/1").json() == ["running", None]

    def test_a_placeholder_that_the_path_has_not_is_named(self, cache: Cache, calls: Counter[str]) -> None:
        with pytest.raises(TemplateError, match="no parameter 'vm'"):
            Client(self.app(cache, calls)).get("/wrong/1")

    def test_invalidating_nothing_is_a_mistake(self) -> None:
        with pytest.raises(DeclarationError, match="name what changes"):
            on_starlette.invalidates()
