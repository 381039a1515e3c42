"""Endpoints that were given to a route before they were decorated, and so are never asked for by way of the cache.

A route keeps the function that it was given. What stands above it in a list of decorators is made later, of the same
function, and no request comes to it; nothing fails. Which of the two a route has is known for certain once all routes
are there, which is when the application starts.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, ref

__all__ = ["remember", "warn_of_late_decorators"]

Function: TypeAlias = Callable[..., Any]

_made: WeakKeyDictionary[Function, tuple[ref[Function], str]] = WeakKeyDictionary()
"""What decorators have made, each with what it was made of and the decorator's name."""


def remember(made: Function, endpoint: Function, decorator: str) -> None:
    """Remember what a decorator has made of an endpoint, for as long as that exists.

    Args:
        made: the function to give to a route.
        endpoint: what it was made of.
        decorator: the name of the decorator.
    """
    _made[made] = (ref(endpoint), decorator)


def warn_of_late_decorators(routes: Iterable[Any]) -> None:
    """Warn of each endpoint that these routes call itself, while none of them calls what a decorator made of it.

    Args:
        routes: the routes of an application that has all of them; those of what is mounted are looked at too.
    """
    routed = list(_endpoints(routes))
    called = {_Same(endpoint) for endpoint in routed}
    reached = {_Same(inner) for endpoint in routed for inner in _layers(endpoint)}
    for made, (known, decorator) in list(_made.items()):
        endpoint = known()
        if endpoint is None or _Same(endpoint) not in called or _Same(made) in reached:
            continue
        message = (
            f"a route calls `{made.__qualname__}` itself, and none calls what @{decorator} has made of it, so that has "
            f"no effect; @{decorator}(...) stands under the route: @app.get(...) first, then @{decorator}(...)"
        )
        code = getattr(inspect.unwrap(endpoint), "__code__", None)
        if code is None:
            warnings.warn(message, stacklevel=2)
        else:  # shown with the line where the decorators are
            warnings.warn_explicit(message, UserWarning, code.co_filename, code.co_firstlineno, endpoint.__module__)


def _endpoints(routes: Iterable[Any]) -> Iterator[Function]:
    for route in routes:
        if (endpoint := getattr(route, "endpoint", None)) is not None:
            yield endpoint
        # A router that is included may stand there as one route, depending on the release.
        for inner in (route, getattr(route, "original_router", None)):
            yield from _endpoints(getattr(inner, "routes", None) or ())


def _layers(endpoint: Function | None) -> Iterator[Function]:
    """Yield an endpoint, what it wraps, what that wraps, and so on."""
    while endpoint is not None:
        yield endpoint
        endpoint = getattr(endpoint, "__wrapped__", None)


class _Same:
    """A function by its identity; wrapped ones may pass for what they wrap, and be equal to it."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.function is self.function

    def __hash__(self) -> int:
        return id(self.function)
