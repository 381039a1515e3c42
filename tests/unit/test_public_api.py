"""What the package exports, and that importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import novacron_cache
from novacron_cache import MISSING, Cache

PROMISED = [
    "Cache", "CacheModel", "cached", "cached_many", "invalidates", "configure", "CacheSettings", "CacheItem",
    "CacheScopeWarning", "KeyValueError", "CachedValueError", "CacheClosedError", "InvalidationPending", "MISSING",
    "CacheError", "DeclarationError", "TemplateError", "SchemaError", "PatternLogFull", "Receipt", "Stats",
]  # fmt: skip


@pytest.mark.parametrize("name", PROMISED)
def test_what_the_contract_names_is_importable(name: str) -> None:
    assert name in novacron_cache.__all__
    assert getattr(novacron_cache, name) is not None


def test_everything_exported_exists_and_is_documented() -> None:
    assert sorted(novacron_cache.__all__, key=str.casefold)
    assert set(novacron_cache.__all__) <= set(dir(novacron_cache))
    for name in novacron_cache.__all__:
        value = getattr(novacron_cache, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, name


def test_all_errors_have_one_root() -> None:
    errors = [value for name in novacron_cache.__all__ if isinstance(value := getattr(novacron_cache, name), type)]
    for error in errors:
        if issubclass(error, Exception) and not issubclass(error, Warning):
            assert issubclass(error, novacron_cache.CacheError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        novacron_cache.nothing  # noqa: B018


def test_the_package_is_typed() -> None:
    from importlib.resources import files

    assert files("novacron_cache").joinpath("py.typed").is_file()


def test_importing_the_package_loads_neither_servers_nor_command_line() -> None:
    source = (
        "import sys, novacron_cache; from novacron_cache import cached, CacheModel;"
        "print(*[name for name in ('redis', 'diskcache', 'click', 'rich', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_missing_is_no_truth_and_says_its_name() -> None:
    assert not MISSING
    assert (str(MISSING), repr(MISSING)) == ("MISSING", "MISSING")


def test_a_listener_that_fails_is_logged_and_keeps_nobody_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []

    def fail(event: Any) -> None:
        raise LookupError("not my day")

    with Cache() as cache:
        cache.on("*", fail)
        cache.on("*", heard.append)
        assert cache.get_or_load("k", lambda: 1) == 1
    assert heard
    assert "not my day" in caplog.text
