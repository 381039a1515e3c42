"""Who may see the page: the address, the name, the origin, the token and the cookie that stands for it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlencode

import pytest

from novacron_cache.dashboard.guard import SESSIONS, Guard
from novacron_cache.observe.access import Access

TOKEN = "a-token-that-is-long-enough"


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"immutable")]})
    await send({"type": "http.response.body", "body": repr(scope["what"]).encode()})


def guard(token: str | None = None, **more: Any) -> Guard:
    return Guard(application, Access(token=token, **more), {"what": 7}, "cookie")


def ask(
    guarded: Guard,
    path: str = "/",
    method: str = "GET",
    *,
    kind: str = "http",
    client: str = "127.0.0.1",
    body: bytes = b"",
    **headers: str,
) -> list[MutableMapping[str, Any]]:
    """Ask; return what was sent."""
    known = {"host": "127.0.0.1:8082", **headers}
    plain = [(name.replace("_", "-").encode(), value.encode()) for name, value in known.items()]
    scope = {"type": kind, "path": path, "headers": plain, "client": (client, 1)}
    if kind == "http":
        scope["method"] = method
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guarded(scope, receive, send))
    return sent


def status(guarded: Guard, *args: Any, **more: Any) -> int:
    return int(ask(guarded, *args, **more)[0]["status"])


def header(sent: list[MutableMapping[str, Any]], name: bytes) -> str:
    return " ".join(value.decode() for known, value in sent[0]["headers"] if known == name)


def signed_in(guarded: Guard, token: str = TOKEN) -> list[MutableMapping[str, Any]]:
    return ask(guarded, "/sign-in", "POST", body=urlencode({"token": token}).encode(), origin="http://127.0.0.1:8082")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("novacron_cache.dashboard.guard._PAUSE", 0.0)


class TestWithoutAToken:
    def test_this_machine_is_answered(self) -> None:
        sent = ask(guard())
        assert sent[0]["status"] == 200
        assert sent[1]["body"] == b"7"

    def test_another_machine_is_not(self) -> None:
        assert status(guard(), client="10.1.2.3") == 403

    def test_a_page_whose_name_leads_here_is_not(self) -> None:
        assert status(guard(), host="evil.example:8082") == 421

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    def test_nothing_can_be_changed(self, method: str) -> None:
        assert status(guard(), method=method) == 405

    @pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/sign-in", "/_other", "/etc/passwd"])
    def test_there_is_nothing_but_the_page(self, path: str) -> None:
        assert status(guard(), path) == 404

    def test_a_websocket_of_this_page_is_let_through(self) -> None:
        (said,) = ask(guard(), "/_nicegui_ws/socket.io/", kind="websocket", origin="http://127.0.0.1:8082")
        assert said["type"] == "websocket.accept"

    @pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "null"])
    def test_one_of_another_site_is_not(self, origin: str) -> None:
        (said,) = ask(guard(), "/_nicegui_ws/socket.io/", kind="websocket", origin=origin)
        assert said["type"] == "websocket.close"

    def test_the_page_may_load_nothing_from_elsewhere_and_not_be_framed_or_kept(self) -> None:
        sent = ask(guard())
        policy = header(sent, b"content-security-policy")
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert header(sent, b"cache-control") == "no-store"

    def test_what_never_changes_may_be_kept(self) -> None:
        assert header(ask(guard(), "/_nicegui/x.js"), b"cache-control") == "immutable"


class TestWithAToken:
    def test_whoever_has_none_is_asked_for_it(self) -> None:
        sent = ask(guard(TOKEN), client="10.1.2.3")
        assert sent[0]["status"] == 401
        assert b"<form method=post" in sent[1]["body"]

    def test_what_belongs_to_the_page_is_refused_too(self) -> None:
        assert status(guard(TOKEN), "/_nicegui/x.js") == 401
        (said,) = ask(guard(TOKEN), "/_nicegui_ws/", kind="websocket")
        assert said["type"] == "websocket.close"

    def test_signing_in_gives_a_cookie_that_is_let_through(self) -> None:
        guarded = guard(TOKEN)
        sent = signed_in(guarded)
        assert (sent[0]["status"], header(sent, b"location")) == (303, "/")
        cookie = header(sent, b"set-cookie")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert status(guarded, cookie=cookie.partition(";")[0]) == 200
        (said,) = ask(guarded, "/_nicegui_ws/", kind="websocket", cookie=cookie.partition(";")[0])
        assert said["type"] == "websocket.accept"

    def test_a_wrong_token_gives_none_and_says_so(self) -> None:
        sent = signed_in(guard(TOKEN), "another-token-that-is-long")
        assert sent[0]["status"] == 401
        assert b"not the token" in sent[1]["body"]
        assert not header(sent, b"set-cookie")

    @pytest.mark.parametrize("cookie", ["cookie=made-up", "cookie=", "=;;;", "cookie=\x01"])
    def test_a_cookie_that_was_not_given_out_is_worth_nothing(self, cookie: str) -> None:
        assert status(guard(TOKEN), cookie=cookie) == 401

    def test_another_site_cannot_sign_in(self) -> None:
        body = urlencode({"token": TOKEN}).encode()
        assert status(guard(TOKEN), "/sign-in", "POST", body=body, origin="http://evil.example") == 403

    def test_a_program_sends_the_header(self) -> None:
        assert status(guard(TOKEN), authorization=f"Bearer {TOKEN}") == 200

    def test_a_form_without_end_is_refused(self) -> None:
        assert status(guard(TOKEN), "/sign-in", "POST", body=b"token=" + b"x" * 10_000) == 401

    def test_only_so_many_browsers_stay_signed_in(self) -> None:
        guarded = guard(TOKEN)
        first, *_, last = [header(signed_in(guarded), b"set-cookie").partition(";")[0] for _ in range(SESSIONS + 1)]
        assert (status(guarded, cookie=first), status(guarded, cookie=last)) == (401, 200)

    def test_an_address_outside_the_list_is_refused_with_the_token_too(self) -> None:
        guarded = guard(TOKEN, allow=["10.0.0.0/8"])
        assert status(guarded, authorization=f"Bearer {TOKEN}") == 403
        assert status(guarded, client="10.1.2.3", authorization=f"Bearer {TOKEN}") == 200
