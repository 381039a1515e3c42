"""Starlette over the cache: its life with the application's, cached responses, and invalidation by what writes.

FastAPI applications take `cache_lifespan` and `get_cache` from here too, by way of `integrations.fastapi`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from novacron_cache import (
    Cache,
    CacheSettings,
    DeclarationError,
    Duration,
    KeyTemplate,
    TemplateError,
    configure,
    default_cache,
)

from .responses import CachedEndpoint, Policy
from .routed import remember, warn_of_late_decorators

try:
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
except ImportError as missing:
    raise ImportError(
        "novacron_cache.integrations.starlette needs Starlette: pip install 'novacron-cache[fastapi]'"
    ) from missing

__all__ = ["cache_lifespan", "cached_response", "get_cache", "invalidates"]


def cache_lifespan(
    cache: Cache | CacheSettings | Callable[[], Cache] | None = None,
    *,
    default: bool = True,
    then: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Return a lifespan that opens a cache when the application starts and closes it when it ends.

    While it runs the cache is `app.state.cache`, and the default cache too. Each worker process opens its own. An
    endpoint whose `cached_response` stands above its route, where no request comes to it, is warned of at the start.

    Args:
        cache: settings, or a function that makes the cache (such as `Cache.from_env`, which None stands for), or a
            cache that is made already; it is closed all the same.
        default: whether it becomes the default cache, which `@cached` functions and responses use.
        then: another lifespan, inside this one.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        """Have the cache as long as the application runs."""
        if isinstance(cache, Cache):
            opened = cache
        else:
            opened = Cache(cache) if isinstance(cache, CacheSettings) else (cache or Cache.from_env)()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(opened)
            if default:
                configure(opened)
            app.state.cache = opened
            state = await stack.enter_async_context(then(app)) if then is not None else None
            warn_of_late_decorators(getattr(app, "routes", ()))
            yield state

    return lifespan


def get_cache(connection: HTTPConnection) -> Cache:
    """Return the cache of the application that a request or websocket belongs to; a dependency in FastAPI.

    Raises:
        DeclarationError: the application has none.
    """
    found = getattr(connection.app.state, "cache", None)
    if not isinstance(found, Cache):
        raise DeclarationError(
            "the application has no cache: make it with lifespan=cache_lifespan(...), or set app.state.cache"
        )
    return found


def cached_response(
    *,
    key: str,
    query: Iterable[str] = (),
    ttl: Duration | None = None,
    tags: Iterable[str] = (),
    vary: Iterable[str] = (),
    max_age: Duration = 0,
    statuses: Collection[int] = (200,),
    authorized: bool = False,
    set_cookie: bool = False,
    name: str | None = None,
    cache: Cache | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Response]]]:
    """Keep the responses of a Starlette endpoint, a function of the request, to GET requests.

    Args:
        key: the template of their logical key; its placeholders are path parameters, such as `"vm:<vm_id>"`.
        query: the query parameters that tell responses apart; all others are taken to make no difference.
        ttl: how long they are kept; None takes the cache's default.
        tags: templates of their tags, with the same placeholders. With `query` or `vary`, the key is a tag as well.
        vary: headers of the request that tell responses apart; they are named in the header `Vary`.
        max_age: how long a client may use its copy without asking; zero has it ask each time, for a 304 if it is good.
        statuses: the statuses that are kept.
        authorized: whether requests with the header `Authorization` are answered from the cache too, which is right
            where whoever is let in gets the same. Naming the header in `vary` says so as well.
        set_cookie: whether a response that sets a cookie is kept, and the cookie given to everybody.
        name: the name of the entries; None takes the function's qualified name.
        cache: the cache; None takes the default one.

    Raises:
        DeclarationError: an argument is wrong.
    """

    def decorate(endpoint: Callable[..., Any]) -> Callable[..., Awaitable[Response]]:
        label = endpoint.__qualname__
        policy = Policy.of(
            label, vary=vary, query=query, max_age=max_age, statuses=statuses, authorized=authorized,
            set_cookie=set_cookie,
        )  # fmt: skip
        parameters = sorted(_roots(key))
        cached_endpoint = CachedEndpoint(
            endpoint, parameters, {}, policy, key=key, name=name, ttl=ttl, tags=tags, cache=cache
        )

        @functools.wraps(endpoint)
        async def answer(request: Request) -> Response:
            """Answer, from the cache or not."""
            return await cached_endpoint.respond(
                request, _values(request, parameters, label), lambda: _called(endpoint, request)
            )

        answer.cached = cached_endpoint.function  # type: ignore[attr-defined]  # for `page.cached.invalidate(...)`
        remember(answer, endpoint, "cached_response")
        return answer

    return decorate


def invalidates(
    *,
    tags: Iterable[str] = (),
    keys: Iterable[str] = (),
    cache: Cache | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Response]]]:
    """Invalidate after a Starlette endpoint has answered with a status below 400, and before the answer is sent.

    FastAPI endpoints take `novacron_cache.invalidates`.

    Args:
        tags: templates of tags; their placeholders are path parameters.
        keys: templates of logical keys.
        cache: the cache; None takes the default one.
    """
    given_tags, given_keys = tuple(tags), tuple(keys)
    if isinstance(tags, str) or isinstance(keys, str) or not (given_tags or given_keys):
        raise DeclarationError("invalidates(): name what changes: tags=['vm:<vm_id>'] or keys=[...]")
    parameters = sorted({root for text in (*given_tags, *given_keys) for root in _roots(text)})
    templates = [KeyTemplate.parse(text) for text in (*given_tags, *given_keys)]

    def decorate(endpoint: Callable[..., Any]) -> Callable[..., Awaitable[Response]]:
        @functools.wraps(endpoint)
        async def answer(request: Request) -> Response:
            """Answer, from the cache or not."""
            values = _values(request, parameters, endpoint.__qualname__)
            texts = [template.build(values) for template in templates]
            response = await _called(endpoint, request)
            if response.status_code < 400:
                used = cache or default_cache()
                async with used.deferred_invalidation():
                    if given_tags:
                        await used.ainvalidate_tags(*texts[: len(given_tags)])
                    if given_keys:
                        await used.ainvalidate(*texts[len(given_tags) :])
            return response

        remember(answer, endpoint, "invalidates")
        return answer

    return decorate


async def _called(endpoint: Callable[..., Any], request: Request) -> Response:
    if inspect.iscoroutinefunction(endpoint):
        response = await endpoint(request)
    else:
        response = await run_in_threadpool(endpoint, request)
    if not isinstance(response, Response):
        raise DeclarationError(
            f"`{endpoint.__qualname__}` returned {type(response).__name__}, not a Response; for a FastAPI endpoint use "
            f"novacron_cache.integrations.fastapi"
        )
    return response


def _roots(text: str) -> frozenset[str]:
    return frozenset(KeyTemplate.parse(text).roots)


def _values(request: Request, parameters: Iterable[str], label: str) -> dict[str, Any]:
    found = request.path_params
    missing = [one for one in parameters if one not in found]
    if missing:
        raise TemplateError(
            f"`{label}`: the path has no parameter {missing[0]!r}; it has {', '.join(map(repr, found)) or 'none'}",
            template=missing[0],
        )
    return {one: found[one] for one in parameters}
