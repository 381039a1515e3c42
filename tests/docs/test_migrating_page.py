"""The tables of equivalents name what exists: on the left in the other library, on the right here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiocache  # type: ignore[import-untyped]  # it has no stubs
import cashews
import dogpile.cache
import pytest
from aiocache import plugins, serializers
from aiocache.lock import OptimisticLock, RedLock  # type: ignore[import-untyped]  # likewise
from django.conf import global_settings
from django.core.cache.backends.base import BaseCache as DjangoCache
from django.core.cache.utils import make_template_fragment_key
from django.views.decorators.cache import cache_page
from dogpile.cache import util
from dogpile.cache.api import NO_VALUE, DefaultSerialization
from dogpile.cache.proxy import ProxyBackend
from dogpile.cache.region import CacheRegion

import novacron_cache
from novacron_cache import Cache, CacheSettings, KeyTemplate, cached
from novacron_cache.integrations import starlette
from novacron_cache.options import KEYWORDS

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "migrating.md"

aio_function = aiocache.cached()(lambda: None)
dogpile_function = dogpile.cache.make_region().configure("dogpile.cache.memory").cache_on_arguments()(lambda x: x)

LIBRARIES: dict[str, dict[str, Any]] = {
    "cashews": {**vars(cashews), "cache": cashews.cache},
    "aiocache": {
        **vars(aiocache),
        **vars(serializers),
        **vars(plugins),
        "OptimisticLock": OptimisticLock,
        "RedLock": RedLock,
        "cache": aiocache.BaseCache,
    },
    "dogpile.cache": {
        **vars(dogpile.cache),
        **vars(util),
        "NO_VALUE": NO_VALUE,
        "ProxyBackend": ProxyBackend,
        "DefaultSerialization": DefaultSerialization,
        "region": CacheRegion,
        "fn": dogpile_function,
    },
    "Django's cache": {
        "CACHES": global_settings.CACHES,
        "cache": DjangoCache,
        "cache_page": cache_page,
        "make_template_fragment_key": make_template_fragment_key,
    },
}

# What is a parameter, or a key of a dictionary of settings, and stands alone in a cell.
KEYWORDS_OF_OTHERS = {
    "cashews": {"condition", "time_condition", "noself", "key_context"},
    "aiocache": {"alias", "fn"},
    "dogpile.cache": {"key_mangler", "async_creation_runner"},
    "Django's cache": {"KEY_PREFIX", "TIMEOUT", "timeout", "version", "KEY_FUNCTION"},
}


@cached(key="double:<n>")
def double(n: int) -> int:
    return 2 * n


OURS: dict[str, Any] = {
    **{name: getattr(novacron_cache, name) for name in novacron_cache.__all__},
    "cache": Cache,
    "fn": double,
    "cached_response": starlette.cached_response,
}

# What a cell on the right may say besides: words of Python, values, and names of the other library.
NO_NAMES = {"def", "async def", "self", "a", "json", "msgpack", "add", "incr", "cache_page", "register_tag"}

DOTTED = re.compile(r"@?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
KEYWORD = re.compile(r"([a-z_]+)=")


def rows(section: str) -> Iterator[tuple[str, str]]:
    """Yield the two cells of each row of a section's table."""
    text = PAGE.read_text().split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 2 and "`" in cells[0]:
            yield cells[0], cells[1]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def resolve(name: str, world: dict[str, Any]) -> Any:
    """Return what a dotted name stands for; LookupError or AttributeError when it stands for nothing."""
    first, *rest = name.split(".")
    found = world[first]
    for part in rest:
        found = getattr(found, part)
    return found


def takes(function: Any, keyword: str) -> bool:
    """Return whether a callable has a parameter of this name, or passes on what it does not know."""
    if not callable(function):
        return False
    candidates: list[Callable[..., Any]] = [function]
    if isinstance(function, type):
        candidates += [vars(base)["__init__"] for base in function.__mro__[:-1] if "__init__" in vars(base)]
        candidates += [function.decorator] if hasattr(function, "decorator") else []
    elif not inspect.isroutine(function):
        candidates += [type(function).__call__]
    return any(keyword in inspect.signature(one).parameters for one in candidates)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_left_column_names_what_the_library_has(library: str) -> None:
    world, checked = LIBRARIES[library], 0
    for left, _ in rows(library):
        for span in spans(left):
            if span.startswith("{"):
                continue  # a piece of a template
            name = DOTTED.match(span)
            assert name, span
            alone = span.rstrip("=").partition("=")[0]
            if alone in KEYWORDS_OF_OTHERS[library] or name[1] in KEYWORDS_OF_OTHERS[library]:
                if library == "aiocache" and name[1] == "fn":
                    (keyword,) = KEYWORD.findall(span)
                    assert takes(aiocache.cached, keyword), span
                checked += 1
                continue
            function = resolve(name[1], world)
            for keyword in KEYWORD.findall(span):
                assert keyword == "client_side" or takes(function, keyword), f"{span}: {name[1]} takes no {keyword}"
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_right_column_names_what_is_here(library: str) -> None:
    settings, checked = set(CacheSettings.model_fields), 0
    for left, right in rows(library):
        assert right, left
        for span in spans(right):
            if span[0] in '"<' or span in NO_NAMES:
                continue
            name = DOTTED.match(span.removeprefix("with "))
            assert name, span
            word = name[1]
            if word in {*KEYWORDS, *settings, "key", "each"} or span == "cache=":
                checked += 1
                continue
            resolve(word, OURS)
            checked += 1
    assert checked > 10


def test_a_name_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(AttributeError):
        resolve("cache.delete_everything", LIBRARIES["cashews"])
    with pytest.raises((AttributeError, KeyError)):
        resolve("cache.invalidate_all", OURS)
    assert not takes(cashews.cache.cache, "lifetime")
    assert takes(aiocache.multi_cached, "keys_from_attr")
    assert KeyTemplate.parse("order:<order.cache_key>").build(order=SimpleNamespace(cache_key="o-1")) == "order:o-1"
