"""The entries of one model in one scope, as four cached functions: one or many at once, blocking or not.

The loader is an argument that the key leaves out, so that one compiled function serves every caller, with any loader or
none. Each function is made when it is first needed: a program that is asynchronous pays for no blocking twins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from novacron_cache import MISSING, Cache, DeclarationError, KeyTemplate

V = TypeVar("V")


class Kind(Generic[V]):
    """The entries of one model, whose key has one placeholder, `<id_>`, or none where there is only one entry.

    Args:
        cache: where they are kept.
        type_: the type of each.
        key: the template of their key.
        tags: their tags: templates over `<id_>` and the fields of the value.
        ttl: seconds.
        negative_ttl: seconds for which "there is none" is kept.
        name: the name of the entries; None takes the model's.
    """

    def __init__(
        self,
        cache: Cache,
        type_: Any,
        *,
        key: str,
        tags: tuple[str, ...],
        ttl: float,
        negative_ttl: float,
        name: str | None = None,
    ) -> None:
        self._cache = cache
        self._type = type_
        self._declared: dict[str, Any] = {
            "key": key,
            "tags": tags,
            "ttl": ttl,
            "negative_ttl": negative_ttl,
            "name": name,
            "ignore": ["load"] if KeyTemplate.parse(key).roots else ["load", "id_"],
        }

    @cached_property
    def one(self) -> Any:
        """The blocking function of one id."""

        def one(id_: str, load: Callable[[str], V | None] | None = None) -> V | None:
            return _given(load)(id_)

        return self._cache.cached(self._type, **self._declared)(one)

    @cached_property
    def aone(self) -> Any:
        """The asynchronous function of one id."""

        async def aone(id_: str, load: Callable[[str], Awaitable[V | None]] | None = None) -> V | None:
            """Load one."""
            return await _given(load)(id_)

        return self._cache.cached(self._type, **self._declared)(aone)

    @cached_property
    def many(self) -> Any:
        """The blocking function of several ids."""

        def many(ids: list[str], load: Callable[[list[str]], Mapping[str, V]] | None = None) -> dict[str, V]:
            return dict(_given(load)(ids))

        return self._cache.cached_many(self._type, each="ids", **self._declared)(many)

    @cached_property
    def amany(self) -> Any:
        """The asynchronous function of several ids."""

        async def amany(
            ids: list[str], load: Callable[[list[str]], Awaitable[Mapping[str, V]]] | None = None
        ) -> dict[str, V]:
            """Load several."""
            return dict(await _given(load)(ids))

        return self._cache.cached_many(self._type, each="ids", **self._declared)(amany)

    # -- what managers do with them ---------------------------------------------------------------------------------

    def get(self, id_: str, load: Callable[[str], V | None] | None) -> V | None:
        """Return the cached value, or what the loader has; without a loader, None where nothing is cached."""
        found: V | None = self.one(id_, load) if load is not None else _known(self.one.get(id_))
        return found

    async def aget(self, id_: str, load: Callable[[str], Awaitable[V | None]] | None) -> V | None:
        """Do what `get` does, asynchronously."""
        found: V | None = await self.aone(id_, load) if load is not None else _known(await self.aone.get(id_))
        return found

    def get_many(self, ids: Iterable[str], load: Callable[[list[str]], Mapping[str, V]] | None) -> dict[str, V]:
        """Return those that are cached or that the loader has; it is called for the misses only, once.

        Raises:
            DeclarationError: it is one id and not several.
        """
        wanted = _several(ids)
        found: dict[str, V] = self.many.get(wanted) if load is None else self.many(wanted, load)
        return found

    async def aget_many(
        self, ids: Iterable[str], load: Callable[[list[str]], Awaitable[Mapping[str, V]]] | None
    ) -> dict[str, V]:
        """Do what `get_many` does, asynchronously."""
        wanted = _several(ids)
        found: dict[str, V] = await (self.amany.get(wanted) if load is None else self.amany(wanted, load))
        return found


def _several(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):  # a text is several texts too, and nobody has VMs called `v` and `m`
        raise DeclarationError(f"{ids!r} is one id where several are asked for; write [{ids!r}]")
    return list(ids)


def _known(found: Any) -> Any:
    return None if found is MISSING else found


L = TypeVar("L", bound=Callable[..., Any])


def _given(load: L | None) -> L:
    if load is None:
        raise DeclarationError("nothing says how to load this; pass `load`, or use CachedVMManager")
    return load
