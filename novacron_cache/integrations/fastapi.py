"""FastAPI over the cache: its life with the application's, a dependency, and cached responses.

A cached endpoint is a cached function: its key is made of its arguments, each of which is named by the key or ignored
in so many words. Its dependencies run for each request, before the cache is asked, so whoever may not see a response is
turned away as ever. What is kept are the bytes that FastAPI has made of the result: it validates, filters and
serialises once.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Annotated, Any

from novacron_cache import Cache, DeclarationError, Duration

from .responses import CachedEndpoint, Policy, merged
from .routed import remember

try:
    from fastapi import Depends
    from fastapi.routing import APIRoute
    from starlette.background import BackgroundTasks
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as missing:
    raise ImportError(
        "novacron_cache.integrations.fastapi needs FastAPI: pip install 'novacron-cache[fastapi]'"
    ) from missing

from .starlette import cache_lifespan, get_cache

__all__ = ["CacheDependency", "cache_lifespan", "cached_response", "get_cache"]

CacheDependency = Annotated[Cache, Depends(get_cache)]
"""The application's cache, as the annotation of a parameter."""

_RESULT = "novacron_cache.result"
Handler = Callable[[Request], Awaitable[Response]]


def cached_response(
    *,
    key: str | None = None,
    ttl: Duration | None = None,
    tags: Iterable[str] = (),
    ignore: Iterable[str] = (),
    vary: Iterable[str] = (),
    max_age: Duration = 0,
    statuses: Collection[int] = (200,),
    authorized: bool = False,
    set_cookie: bool = False,
    name: str | None = None,
    cache: Cache | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Keep the responses of a FastAPI endpoint to GET requests; it stands under `@app.get(...)`.

    Args:
        key: the template of their logical key, such as `"vm:<vm_id>"` or `"cart:<user.id>"`; None takes the qualified
            name and all parameters.
        ttl: how long they are kept; None takes the cache's default.
        tags: templates of their tags. With `vary`, the key is a tag as well.
        ignore: parameters that make no difference to the response, such as a session of the database; a parameter of
            the type `Request` makes none only if the endpoint reads nothing from it that the key leaves out.
        vary: headers of the request that tell responses apart; they are named in the header `Vary`.
        max_age: how long a client may use its copy without asking; zero has it ask each time, for a 304 if it is good.
        statuses: the statuses that are kept.
        authorized: whether requests with the header `Authorization` are answered from the cache too, which is right
            where the key names what the response depends on. Naming the header in `vary` says so as well.
        set_cookie: whether a response that sets a cookie is kept, and the cookie given to everybody.
        name: the name of the entries; None takes the function's qualified name.
        cache: the cache; None takes the default one.

    Raises:
        DeclarationError: an argument is wrong, or a parameter is neither named by the key nor ignored.
    """

    def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        label = endpoint.__qualname__
        if inspect.isasyncgenfunction(endpoint) or inspect.isgeneratorfunction(endpoint):
            raise DeclarationError(f"`{label}` streams its response, which cannot be cached")
        policy = Policy.of(
            label, vary=vary, query=(), max_age=max_age, statuses=statuses, authorized=authorized,
            set_cookie=set_cookie,
        )  # fmt: skip
        signature = inspect.signature(endpoint)
        try:
            hints = typing.get_type_hints(endpoint, include_extras=True)
        except NameError as error:
            raise DeclarationError(
                f"`{label}`: {error}; annotations name what the module defines or imports"
            ) from error
        parameters = [
            parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
            for parameter in signature.parameters.values()
        ]
        request_name = _named(parameters, Request)
        response_name = _named(parameters, Response)
        if unknown := [one for one in ignore if one not in signature.parameters]:
            raise DeclarationError(f"`{label}`: ignore={unknown[0]!r}: there is no such parameter")
        left_out = {*ignore, response_name, _named(parameters, BackgroundTasks)}
        told = [one.name for one in parameters if one.name not in left_out]
        cached_endpoint = CachedEndpoint(
            endpoint, told, hints, policy,
            key=key, name=name, ttl=ttl, tags=tags, cache=cache,
        )  # fmt: skip

        serializer = functools.lru_cache(maxsize=8)(functools.partial(_serializer, label, []))

        @functools.wraps(endpoint)
        async def answer(**arguments: Any) -> Response:
            """Answer from the cache, or by the endpoint."""
            request: Request = arguments[request_name or _REQUEST]
            shared: Response = arguments[response_name or _RESPONSE]
            values = {name: value for name, value in arguments.items() if name not in (_REQUEST, _RESPONSE)}
            serialise = serializer(_SameRoute(request.scope.get("route")))
            # What dependencies have set is of this request; what the endpoint sets belongs to its response.
            before = list(shared.headers.raw)

            async def produce() -> Response:
                """Return what the endpoint answers."""
                del shared.headers.raw[:]
                response = await _response(endpoint, values, request, shared, serialise)
                own, shared.headers.raw[:] = list(shared.headers.raw), before
                return merged(response, own)

            named = {name: values[name] for name in told}
            return merged(await cached_endpoint.respond(request, named, produce), before)

        extra = [
            inspect.Parameter(reserved, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            for reserved, kind, known in ((_REQUEST, Request, request_name), (_RESPONSE, Response, response_name))
            if known is None
        ]
        answer.__signature__ = signature.replace(  # type: ignore[attr-defined]  # what FastAPI reads
            parameters=[one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters] + extra,
            return_annotation=hints.get("return", signature.return_annotation),
        )
        del answer.__wrapped__  # this function is asynchronous, whatever the endpoint is
        answer.cached = cached_endpoint.function  # type: ignore[attr-defined]  # for `get_vm.cached.invalidate(...)`
        remember(answer, endpoint, "cached_response")
        return answer

    return decorate


_REQUEST, _RESPONSE = "novacron_request", "novacron_response"


def _named(parameters: Sequence[inspect.Parameter], kind: type) -> str | None:
    """Return the parameter of a type, or None."""
    for parameter in parameters:
        annotation = parameter.annotation
        if isinstance(annotation, type) and issubclass(annotation, kind):
            return parameter.name
    return None


async def _response(
    endpoint: Callable[..., Any],
    values: dict[str, Any],
    request: Request,
    shared: Response,
    serialise: Handler,
) -> Response:
    """Return the response that FastAPI makes of what the endpoint returns."""
    if inspect.iscoroutinefunction(endpoint):
        result = await endpoint(**values)
    else:
        result = await run_in_threadpool(endpoint, **values)
    if isinstance(result, Response):
        return result
    request.scope[_RESULT] = result
    try:
        response = await serialise(request)
    finally:
        del request.scope[_RESULT]
    if shared.status_code:  # None until the endpoint sets it
        response.status_code = shared.status_code
    return response


class _SameRoute:
    """A route that can be looked up: routes are compared by identity here, and have no hash of their own."""

    def __init__(self, route: Any) -> None:
        self.route = route

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameRoute) and other.route is self.route

    def __hash__(self) -> int:
        return id(self.route)


def _serializer(label: str, known: list[dict[str, Any]], same: _SameRoute) -> Handler:
    """Return the handler of a route that serialises as the endpoint's does, and returns what the request carries.

    Raises:
        DeclarationError: it is no route of FastAPI's, or it serialises otherwise than one before it: what one route
            leaves out of a response, the other would show.
    """
    route = same.route
    if not isinstance(route, APIRoute):
        raise DeclarationError(
            f"`{label}` is no route of FastAPI's; for one of Starlette's use novacron_cache.integrations.starlette"
        )
    options = {name: getattr(route, name) for name in _SERIALISING}
    known.append(options)
    if options != known[0]:
        raise DeclarationError(
            f"`{label}` stands under two routes that make different responses of its result, but it has one key; "
            f"give each route a function of its own"
        )

    async def give(request: Request) -> Any:
        return request.scope[_RESULT]

    return APIRoute("/", give, **options).get_route_handler()


_SERIALISING = (
    "response_model", "status_code", "response_class", "response_model_include", "response_model_exclude",
    "response_model_by_alias", "response_model_exclude_unset", "response_model_exclude_defaults",
    "response_model_exclude_none",
)  # fmt: skip
