"""Settings made from values or from an environment, and the errors of those that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from novacron_cache.errors import SettingsError
from novacron_cache.settings import PREFIX, CacheSettings

KEY = "k" * 16
OTHER_KEY = "o" * 16


def problem(**values: Any) -> SettingsError:
    """Return the error that constructing settings from these values raises."""
    with pytest.raises(SettingsError) as caught:
        CacheSettings(**values)
    return caught.value


def env(**variables: str) -> CacheSettings:
    """Return the settings of an environment; names without the prefix get it."""
    return CacheSettings.from_env({PREFIX + name: value for name, value in variables.items()})


def env_problem(environ: Mapping[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        CacheSettings.from_env(environ)
    return caught.value


def at(settings: object, path: str) -> Any:
    """Return what a dotted path leads to."""
    for part in path.split("."):
        settings = settings[part] if isinstance(settings, dict) else getattr(settings, part)
    return settings
