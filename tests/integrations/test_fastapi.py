"""Responses of FastAPI and Starlette: kept once, given to whoever may have them, gone when what they show changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from servers import PATIENT, ServerProcess
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from novacron_cache import Cache, CacheSettings, DeclarationError, TemplateError, default_cache, invalidates
from novacron_cache.integrations import starlette as on_starlette
from novacron_cache.integrations.fastapi import CacheDependency, cache_lifespan, cached_response


class VM(BaseModel):
    vm_id: str
    status: str
    secret: str = "hidden"


class PublicVM(BaseModel):
    vm_id: str
    status: str
    note: str | None = None


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as opened:
        yield opened


@pytest.fixture
def calls() -> Counter[str]:
    return Counter()


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


def guard(response: Response, x_token: Annotated[str, Header()]) -> str:
    if x_token not in ("ann", "bob"):
        raise HTTPException(401)
    response.headers["x-seen"] = x_token
    return x_token


class TestWhatIsNotShared:
    @pytest.mark.parametrize(
        "headers",
        [
            {"set-cookie": "id=7"},
            {"cache-control": "no-store"},
            {"cache-control": "private, max-age=60"},
            {"vary": "*"},
        ],
        ids=str,
    )
    async def test_a_response_of_one_reader_is_that_readers_alone(self, cache: Cache, headers: dict[str, str]) -> None:
        app, served = FastAPI(), 0

        @app.get("/own")
        @cached_response(key="own", cache=cache)
        async def own(response: Response) -> int:
            nonlocal served
            served += 1
            mine = served
            await asyncio.sleep(0)
            for name, value in headers.items():
                response.headers[name] = value.replace("7", str(mine))
            return mine

        async with client_of(app) as client:
            found = await asyncio.gather(*(client.get("/own") for _ in range(8)))
        assert sorted(response.json() for response in found) == list(range(1, 9))
        if "set-cookie" in headers:
            assert all(one.headers.get_list("set-cookie") == [f"id={one.json()}"] for one in found)
        assert {one.headers["cache-status"] for one in found} == {"novacron_cache; fwd=bypass"}

    def test_a_cookie_is_kept_where_it_is_asked_for(self, cache: Cache) -> None:
        app, served = FastAPI(), []

        @app.get("/own")
        @cached_response(key="own", set_cookie=True, cache=cache)
        async def own(response: Response) -> int:
            served.append(1)
            response.set_cookie("theme", "dark")
            return len(served)

        client = Client(app)
        assert [(r.json(), "theme" in r.cookies) for r in (client.get("/own"), client.get("/own"))] == [(1, True)] * 2

    def test_requests_with_authorization_pass_by_unless_asked(self, cache: Cache) -> None:
        app, served = FastAPI(), Counter[str]()

        @app.get("/plain")
        @cached_response(key="plain", cache=cache)
        async def plain() -> int:
            served["plain"] += 1
            return served["plain"]

        @app.get("/asked")
        @cached_response(key="asked", authorized=True, cache=cache)
        async def asked() -> int:
            served["asked"] += 1
            return served["asked"]

        @app.get("/each")
        @cached_response(key="each", vary=["Authorization"], ignore=["token"], cache=cache)
        async def each(token: Annotated[str, Header(alias="authorization")] = "") -> int:
            served["each"] += 1
            return served["each"]

        client = Client(app)
        ann, bob = {"Authorization": "Bearer ann"}, {"Authorization": "Bearer bob"}
        assert [client.get("/plain", headers=who).json() for who in ({}, ann, ann, {})] == [1, 2, 3, 1]
        assert [client.get("/asked", headers=who).json() for who in (ann, bob)] == [1, 1]
        assert [client.get("/each", headers=who).json() for who in (ann, bob, ann, {})] == [1, 2, 1, 3]

    def test_each_variant_is_kept_for_itself_and_all_go_together(self, cache: Cache) -> None:
        app, served = FastAPI(), Counter[str]()

        @app.get("/page/{page_id}")
        @cached_response(key="page:<page_id>", vary=["Accept-Language"], ignore=["request"], cache=cache)
        async def page(page_id: str, request: Request) -> str:
            language = request.headers.get("accept-language", "")
            served[language] += 1
            return f"{language} {served[language]}"

        client = Client(app)

        def read(language: str) -> httpx.Response:
            return client.get("/page/1", headers={"Accept-Language": language})

        assert [read(one).json() for one in ("en", "de", "en", "de")] == ["en 1", "de 1"] * 2
        assert read("en").headers["vary"] == "Accept-Language"
        assert "en" not in page.cached.key(page_id="1", novacron_variant="x")
        cache.invalidate_tags("page:1")
        assert [read(one).json() for one in ("en", "de")] == ["en 2", "de 2"]

    def test_what_depends_on_credentials_is_private_to_a_client(self, cache: Cache) -> None:
        app = FastAPI()

        @app.get("/mine")
        @cached_response(key="mine", vary=["Authorization"], max_age=10, cache=cache)
        async def mine() -> int:
            return 1

        assert (
            Client(app)
            .get("/mine", headers={"Authorization": "x"})
            .headers["cache-control"]
            .startswith("private, max-age=")
        )

    def test_dependencies_guard_what_is_cached(self, cache: Cache) -> None:
        app, served = FastAPI(), []

        @app.get("/guarded", dependencies=[Depends(guard)])
        @cached_response(key="guarded", cache=cache)
        async def guarded() -> int:
            served.append(1)
            return len(served)

        @app.get("/personal")
        @cached_response(key="personal:<who>", cache=cache)
        async def personal(who: Annotated[str, Depends(guard)]) -> str:
            return who

        client = Client(app)
        answers = [client.get("/guarded", headers={"X-Token": who}) for who in ("ann", "bob", "eve")]
        assert [one.status_code for one in answers] == [200, 200, 401]
        assert [one.headers.get("x-seen") for one in answers] == ["ann", "bob", None], "of each request, not kept"
        assert len(served) == 1
        assert [client.get("/personal", headers={"X-Token": who}).json() for who in ("ann", "bob")] == ["ann", "bob"]

    def test_other_statuses_errors_streams_and_writes_are_not_kept(self, cache: Cache) -> None:
        app, served = FastAPI(), Counter[str]()

        def count(what: str) -> str:
            served[what] += 1
            return str(served[what])

        @app.get("/teapot")
        @cached_response(key="teapot", cache=cache)
        async def teapot() -> Response:
            return PlainTextResponse(count("teapot"), status_code=418)

        @app.get("/absent")
        @cached_response(key="absent", cache=cache)
        async def absent() -> Response:
            raise HTTPException(404, count("absent"))

        @app.get("/stream")
        @cached_response(key="stream", cache=cache)
        async def stream() -> Response:
            return StreamingResponse(iter([count("stream")]))

        @app.post("/written")
        @cached_response(key="written", cache=cache)
        async def written() -> str:
            return count("written")

        client = Client(app)
        for path in ("/teapot", "/stream"):
            assert [client.get(path).text for _ in range(2)] == ["1", "2"]
        assert [client.get("/absent").json()["detail"] for _ in range(2)] == ["1", "2"]
        assert [client.post("/written").json() for _ in range(2)] == ["1", "2"]

    def test_an_answer_that_fails_its_model_is_an_error_each_time(self, cache: Cache) -> None:
        from fastapi.exceptions import ResponseValidationError

        app = FastAPI()

        @app.get("/wrong", response_model=VM)
        @cached_response(key="wrong", cache=cache)
        async def wrong() -> Any:
            return {"vm_id": 7}

        client = Client(app)
        for _ in range(2):
            with pytest.raises(ResponseValidationError):
                client.get("/wrong")


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
