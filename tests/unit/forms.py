"""Both forms of the cache's methods, called alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from novacron_cache import Cache

Call = Callable[..., Awaitable[Any]]
Form = Literal["sync", "async"]


def calling(cache: Cache, form: Form) -> Call:
    """Return what calls a method of the cache by its blocking name, in one of its two forms."""

    async def run(name: str, *args: Any, **kwargs: Any) -> Any:
        if form == "sync":
            return getattr(cache, name)(*args, **kwargs)
        return await getattr(cache, f"a{name}")(*args, **kwargs)

    return run
