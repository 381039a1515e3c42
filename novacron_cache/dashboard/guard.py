"""Who may see the page: the same rules as for the metrics, in front of everything else.

A browser sends no bearer token of its own accord, so whoever needs one signs in with it and gets a cookie that no other
site can use. A page of another site could open a websocket to this machine all the same, so its origin is looked at.
Nothing but GET is answered, but for signing in, and only under the paths that the page needs.
"""

from __future__ import annotations

import asyncio
import html
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

from ..observe.access import Access

__all__ = ["Guard"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SESSIONS: Final = 64
"""How many browsers may be signed in; the one that came first has to do it again."""

_PATHS: Final = ("/_nicegui/", "/_nicegui_ws/")
_MAX_FORM: Final = 4096
_PAUSE: Final = 0.5

# Templates are compiled in the browser, which is what 'unsafe-eval' is for; nothing comes from elsewhere.
_POLICY: Final = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    b"form-action 'self'"
)

HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

_STYLE: Final = Path(__file__).with_name("sign_in.css")


class Guard:
    """Stands in front of an application.

    Args:
        app: what is guarded.
        access: who may ask.
        extra: what is entered into the scope of each request that is let through.
        cookie: the name of the cookie; those of two ports of one host are not kept apart by browsers.
    """

    def __init__(self, app: App, access: Access, extra: dict[str, Any], cookie: str) -> None:
        self._app = app
        self._access = access
        self._extra = extra
        self._cookie = cookie
        self._sessions: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        signing_in = scope["type"] == "http" and scope["path"] == "/sign-in" and self._access.has_token
        method = scope.get("method", "GET")
        authorization = self._authorization(headers)
        if signing_in and method == "POST":
            authorization = await self._form(receive)
            method = "GET"
        refused = self._access.refuse(
            method=method, client=str((scope.get("client") or ("",))[0]), host=headers.get("host", ""),
            authorization=authorization,
        )  # fmt: skip
        status = None if refused is None else refused.status
        text = "" if refused is None else refused.text
        if status in (None, 401) and not self._same_origin(scope, headers):
            status, text = 403, "a page of another site may not read this one"
        if status is None and not signing_in and not self._known(scope["path"]):
            status, text = 404, "there is nothing here"
        if scope["type"] == "websocket":
            if status is not None:
                await send({"type": "websocket.close", "code": 1008})
                return
        elif status is not None or signing_in:
            await self._answer(scope, send, status, text, authorization, signing_in=signing_in)
            return
        scope.update(self._extra)
        await self._app(scope, receive, self._with_headers(scope, send))

    # -- what is looked at -------------------------------------------------------------------------------------------

    def _authorization(self, headers: dict[str, str]) -> str:
        given = headers.get("authorization", "")
        if given or not self._access.has_token:
            return given
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if morsel is None else self._sessions.get(morsel.value, "")

    @staticmethod
    def _same_origin(scope: Scope, headers: dict[str, str]) -> bool:
        if scope["type"] == "http" and scope.get("method") in ("GET", "HEAD"):
            return True  # a page of another site may ask, and is not given the answer by its browser
        origin = headers.get("origin")
        return origin is None or urlsplit(origin).netloc == headers.get("host")

    @staticmethod
    def _known(path: str) -> bool:
        return path in ("/", "/favicon.ico") or path.startswith(_PATHS)

    # -- signing in --------------------------------------------------------------------------------------------------

    async def _form(self, receive: Receive) -> str:
        """Return the token of a form as it would be in the header."""
        body = b""
        while len(body) <= _MAX_FORM:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
                return f"Bearer {token}"
        return ""

    async def _answer(
        self, scope: Scope, send: Send, status: int | None, text: str, authorization: str, *, signing_in: bool
    ) -> None:
        more: list[tuple[bytes, bytes]] = []
        body = f"{text}\n".encode()
        kind = b"text/plain; charset=utf-8"
        if status is None:
            session = secrets.token_urlsafe()
            self._sessions[session] = authorization
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
            status, body = 303, b""
            cookie = f"{self._cookie}={session}; HttpOnly; SameSite=Strict; Path=/"
            more = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
        elif status == 401 and (scope["path"] == "/" or signing_in):
            wrong = signing_in and scope.get("method") == "POST"
            if wrong:
                await asyncio.sleep(_PAUSE)
            body, kind = _sign_in_page(wrong=wrong), b"text/html; charset=utf-8"
        elif status == 405:
            more = [(b"allow", b"GET, HEAD")]
        headers = [
            (b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store"),
            *HEADERS, *more,
        ]  # fmt: skip
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else body})

    @staticmethod
    def _with_headers(scope: Scope, send: Send) -> Send:
        page = scope["type"] == "http" and scope["path"] == "/"

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                known = [(name, value) for name, value in message["headers"] if not (page and name == b"cache-control")]
                message["headers"] = [*known, *HEADERS, *([(b"cache-control", b"no-store")] if page else [])]
            await send(message)

        return sending


def _sign_in_page(*, wrong: bool) -> bytes:
    said = "<p class=wrong role=alert>That is not the token.</p>" if wrong else ""
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>Sign in · novacron_cache</title><style>{_STYLE.read_text(encoding="utf-8")}</style></head>
<body><main><h1>novacron_cache</h1><p>This dashboard is open to whoever has the token of the monitor.</p>{said}
<form method=post action="/sign-in"><label for=token>Token</label>
<input id=token name=token type=password autocomplete=current-password required autofocus>
<button type=submit>Sign in</button></form>
<p class=hint>{html.escape("It is the setting monitor.token, NOVACRON_CACHE_MONITOR__TOKEN.")}</p></main></body></html>
""".encode()
