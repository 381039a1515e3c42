"""When an HTTP response may be kept, and how a kept one is given: the rules that Starlette and FastAPI share.

A response is kept with its final bytes, so a hit neither runs nor serialises anything. What must not be shared never
reaches the cache: a response that sets a cookie or says `private` or `no-store`, a stream, a status that is not asked
for; nor is a request with `Authorization` answered from it, unless the endpoint says that it may be.

Callers of one key wait for one of them, as for every cached function. Where its response cannot be kept, it belongs to
that caller alone: the cache remembers for a moment that there is nothing to share (a None), and the others, having
waited, run the endpoint themselves. Because an invalidated response is never served from here, none is left to
linger elsewhere either: by default a client keeps it but asks each time, and is told 304 with a few bytes.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from pydantic import BaseModel, ConfigDict

from novacron_cache import AsyncCachedFunction, Cache, DeclarationError, Duration, cached, default_cache, seconds

try:
    from starlette.datastructures import MutableHeaders
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as missing:
    raise ImportError("caching responses needs Starlette: pip install 'novacron-cache[fastapi]'") from missing

VARIANT = "novacron_variant"
"""The placeholder of what tells the variants of one key apart."""

_PASS = 1.0
"""Seconds for which it is remembered that a response is not to be shared, so that its callers do not queue for it."""

_PRIVATE = frozenset({"authorization", "cookie"})
_OF_ONE_MESSAGE = frozenset({"content-length", "connection", "transfer-encoding", "date", "age"})

Produce = Callable[[], Awaitable[Response]]


class StoredResponse(BaseModel):
    """A response as the cache keeps it.

    Attributes:
        status: its status code.
        headers: its headers, names in lower case, without those that belong to one message.
        body: its bytes.
        etag: its entity tag, quotes included.
        created: epoch seconds at which it was made.
    """

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    etag: str
    created: float


@dataclass(frozen=True)
class Policy:
    """What an endpoint says about its responses.

    Attributes:
        vary: the request's headers that tell responses apart, in lower case.
        query: the query parameters that do, where the key does not name them.
        max_age: seconds for which a client may keep a response without asking; zero has it ask each time.
        statuses: the statuses that are kept.
        authorized: whether requests with `Authorization` take part.
        set_cookie: whether a response that sets a cookie is kept, with the cookie.
    """

    vary: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    max_age: float = 0.0
    statuses: Collection[int] = (200,)
    authorized: bool = False
    set_cookie: bool = False
    private: bool = field(init=False)

    def __post_init__(self) -> None:
        personal = not _PRIVATE.isdisjoint(self.vary)
        object.__setattr__(self, "authorized", self.authorized or "authorization" in self.vary)
        object.__setattr__(self, "private", personal or self.authorized)

    @classmethod
    def of(
        cls,
        label: str,
        *,
        vary: Iterable[str],
        query: Iterable[str],
        max_age: Duration,
        statuses: Collection[int],
        authorized: bool,
        set_cookie: bool,
    ) -> Policy:
        """Return the policy of checked arguments.

        Raises:
            DeclarationError: one is wrong.
        """
        for what, value in (("vary", vary), ("query", query)):
            if isinstance(value, str):
                raise DeclarationError(f"`{label}`: {what}={value!r}: expected a list, such as [{value!r}]")
        names = tuple(dict.fromkeys(name.lower() for name in vary))
        if "*" in names:
            raise DeclarationError(f"`{label}`: vary='*' means that no two responses are alike; do not cache it")
        return cls(names, tuple(dict.fromkeys(query)), seconds(max_age), frozenset(statuses), authorized, set_cookie)

    def answers(self, request: Request) -> bool:
        """Return whether the cache may take part in a request."""
        return request.method in ("GET", "HEAD") and (self.authorized or "authorization" not in request.headers)

    def variant(self, request: Request) -> str:
        """Return what tells this request's response from others of its key; a digest, so that it reveals nothing."""
        told = [(name, request.headers.getlist(name)) for name in self.vary]
        asked = [(name, request.query_params.getlist(name)) for name in self.query]
        return blake2b(repr((told, asked)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def stored(self, response: Response) -> StoredResponse | None:
        """Return what to keep of a response, or None where nothing may be kept."""
        body = getattr(response, "body", None)
        body = bytes(body) if isinstance(body, memoryview) else body
        if not isinstance(body, bytes) or hasattr(response, "body_iterator") or hasattr(response, "path"):
            return None
        if response.status_code not in self.statuses:
            return None
        control = {part.strip().lower() for part in response.headers.get("cache-control", "").split(",")}
        if "no-store" in control or ("private" in control and not self.private):
            return None
        if "set-cookie" in response.headers and not self.set_cookie:
            return None
        if any(name.strip() == "*" for name in response.headers.get("vary", "").split(",")):
            return None
        headers = tuple((name, value) for name, value in response.headers.items() if name not in _OF_ONE_MESSAGE)
        etag = response.headers.get("etag") or _etag(response.headers.get("content-type", ""), body)
        return StoredResponse(status=response.status_code, headers=headers, body=body, etag=etag, created=time.time())

    def given(self, request: Request, stored: StoredResponse, *, ttl: float, hit: bool) -> Response:
        """Return the answer to a request: the stored response, or 304 where the client has it already."""
        age = max(0.0, time.time() - stored.created)
        if _known(request.headers.get("if-none-match", ""), stored.etag):
            response = Response(status_code=304)
            kept: Iterable[tuple[str, str]] = (
                (name, value) for name, value in stored.headers if name in ("cache-control", "vary", "expires")
            )
        else:
            response = Response(stored.body, status_code=stored.status)
            kept = stored.headers
        headers = response.headers
        for name, value in kept:
            headers.append(name, value)
        headers["etag"] = stored.etag
        if "cache-control" not in headers:
            headers["cache-control"] = self._control(max(0.0, ttl - age))
        for name in self.vary:
            headers.add_vary_header(name.title())
        if hit:
            headers["age"] = str(int(age))
        headers["cache-status"] = "novacron_cache; hit" if hit else "novacron_cache; fwd=miss; stored"
        return response

    def _control(self, remaining: float) -> str:
        scope = "private" if self.private else "public"
        usable = int(min(self.max_age, remaining))
        return f"{scope}, max-age={usable}" if usable else f"{scope}, no-cache"


_producing: ContextVar[Callable[[], Awaitable[StoredResponse | None]]] = ContextVar("novacron_cache_producing")


class CachedEndpoint:
    """What stands behind one endpoint: the cached function that keeps its responses, and its policy.

    Attributes:
        function: the cached function; its `invalidate`, `explain` and `stats` are those of any other.
    """

    function: AsyncCachedFunction[..., StoredResponse | None]

    def __init__(
        self,
        endpoint: Callable[..., Any],
        parameters: Sequence[str],
        hints: Mapping[str, Any],
        policy: Policy,
        *,
        key: str | None,
        name: str | None,
        ttl: Duration | None,
        tags: Iterable[str],
        cache: Cache | None,
    ) -> None:
        self.policy = policy
        label = f"{endpoint.__module__}.{endpoint.__qualname__}"
        if isinstance(tags, str):
            raise DeclarationError(f"`{label}`: tags={tags!r}: expected a list of templates")
        self._varies = bool(policy.vary or policy.query)
        names, templates = list(parameters), list(tags)
        if key is None:
            text = label.replace("<", "<<").replace(">", ">>")
            key = ":".join([text, *(f"<{parameter}>" for parameter in parameters)])
        if self._varies:
            # Whoever names the key means all its variants.
            templates.append(key)
            key, names = f"{key}|<{VARIANT}>", [*names, VARIANT]

        async def load(**_arguments: Any) -> StoredResponse | None:
            # Its surroundings tell the endpoints of one factory apart.
            assert endpoint is not None  # noqa: S101
            return await _producing.get()()

        load.__module__, load.__name__, load.__qualname__ = (
            endpoint.__module__,
            endpoint.__name__,
            endpoint.__qualname__,
        )
        load.__annotations__ = {one: hints[one] for one in names if one in hints}
        load.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what `inspect.signature` reads
            [inspect.Parameter(one, inspect.Parameter.KEYWORD_ONLY) for one in names]
        )
        self._cache, self._ttl = cache, None if ttl is None else seconds(ttl)
        self.function = cached(
            StoredResponse, key=key, name=name, ttl=ttl, tags=templates, cache=cache, negative_ttl=_PASS
        )(load)

    async def respond(self, request: Request, values: Mapping[str, Any], produce: Produce) -> Response:
        """Answer a request from the cache; without a response there, with what `produce` returns, and keep that."""
        policy = self.policy
        if not policy.answers(request):
            return _bypassed(await produce())
        arguments = {**values, VARIANT: policy.variant(request)} if self._varies else dict(values)
        if request.method == "HEAD":
            found = await self.function.peek(**arguments)
            if not isinstance(found, StoredResponse):
                return _bypassed(await produce())
            return policy.given(request, found, ttl=self._life(), hit=True)
        own: list[Response] = []

        async def load() -> StoredResponse | None:
            """Return what the endpoint answers, as it is kept."""
            response = await produce()
            own.append(response)
            return policy.stored(response)

        token = _producing.set(load)
        try:
            stored = await self.function(**arguments)
        finally:
            _producing.reset(token)
        if stored is None:
            return _bypassed(own[0] if own else await produce())
        response = policy.given(request, stored, ttl=self._life(), hit=not own)
        if own:
            response.background = own[0].background
        return response

    def _life(self) -> float:
        return self._ttl if self._ttl is not None else (self._cache or default_cache()).settings.default_ttl


def _bypassed(response: Response) -> Response:
    response.headers["cache-status"] = "novacron_cache; fwd=bypass"
    return response


def _etag(content_type: str, body: bytes) -> str:
    # Weak: compression on the way to the client changes the bytes and not what they mean.
    digest = blake2b(body, digest_size=12, key=blake2b(content_type.encode(), digest_size=16).digest())
    return f'W/"{digest.hexdigest()}"'


def _known(condition: str, etag: str) -> bool:
    """Return whether `If-None-Match` names an entity tag, comparing weakly as it is meant to be."""
    if not condition:
        return False
    wanted = etag.removeprefix("W/")
    return any(one in ("*", wanted) for one in (part.strip().removeprefix("W/") for part in condition.split(",")))


def merged(response: Response, headers: Iterable[tuple[bytes, bytes]]) -> Response:
    """Return a response with more headers; of those that occur once, its own stay."""
    own: MutableHeaders = response.headers
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == "vary":
            own.add_vary_header(value)
        elif name == "set-cookie" or name not in own:
            own.append(name, value)
    return response
