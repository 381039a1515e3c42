"""Responses of FastAPI are given to whoever may have them, and to nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from integrations.asgi import VM, Client, client_of
from starlette.responses import PlainTextResponse

from novacron_cache import Cache
from novacron_cache.integrations.fastapi import cached_response


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
