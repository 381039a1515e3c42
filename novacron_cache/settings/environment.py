"""The environment as a second way to write the tree: which variable sets what, and what the set ones describe.

The table of variables follows from the tree itself, so that a new setting is one in the environment too and cannot be
forgotten in the documentation. No setting is judged here: what was read goes through the same constructor as arguments
do, and its origin travels beside it, so that a message can name the variable instead of the setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import SettingsError

PREFIX: Final = "NOVACRON_CACHE_"
"""What every environment variable of the framework starts with."""

NESTED: Final = "__"
"""What separates the levels in a variable's name."""

MODELS: Final = "models"
"""The one section whose parts have names of the user's own, which keep their case in a variable's name."""


class Variable(NamedTuple):
    """One row of the table of environment variables.

    Attributes:
        name: the variable; `<name>` in it stands for the name of a model or function.
        sets: the setting, as a dotted path.
        example: a value it may have.
    """

    name: str
    sets: str
    example: str


def section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the class of the section that a field holds; for `models` it is the class of each of its values."""
    kind: object = None if field is None else field.annotation
    if get_origin(kind) is dict:
        _, kind = get_args(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def rows(kind: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Variable]:
    """Yield a row for each setting of a tree, or of the section that stands at a path in it."""
    for name, field in kind.model_fields.items():
        here = (*path, name)
        if section := section_of(field):
            yield from rows(section, (*here, "<name>") if name == MODELS else here)
        else:
            yield Variable(variable_name(here), ".".join(here), str((field.examples or [""])[0]))


def variable_name(path: tuple[str, ...]) -> str:
    """Return the variable that sets what stands at a path in the tree."""
    parts = (part if place == 1 and path[0] == MODELS else part.upper() for place, part in enumerate(path))
    return PREFIX + NESTED.join(parts)


GENERIC: Final = (
    Variable("REDIS_MASTER_ADDR", "redis.url", "redis-master:6379"),
    Variable("REDIS_SLAVE_ADDRS", "redis.replica_addresses", "redis-replica-1:6380,redis-replica-2:6381"),
    Variable("SENTINEL_ADDRS", "redis.addresses", "sentinel-1:26379,sentinel-2:26379,sentinel-3:26379"),
    Variable("SENTINEL_MASTER_NAME", "redis.sentinel_master", "mymaster"),
    Variable("METRICS_PORT", "monitor.metrics_port", "9100"),
    Variable("WEBUI_PORT", "monitor.webui_port", "8090"),
    Variable("LOG_LEVEL", "monitor.log_level", "debug"),
    Variable("HEALTH_CHECK_INTERVAL", "monitor.health_check_interval", "10s"),
    Variable("PROMETHEUS_MULTIPROC_DIR", "monitor.directory", "/run/shop/metrics"),
)
"""The variables whose names are not the framework's own."""


class Origin(NamedTuple):
    """Where a value came from: its variable, and the variable's text unless nobody may see it."""

    variable: str
    text: str | None


Origins = dict[tuple[str, ...], Origin]


def read(kind: type[BaseModel], environ: Mapping[str, str]) -> tuple[dict[str, Any], Origins]:
    """Return the tree that the variables describe, and the origin of each of its values.

    Args:
        kind: the class of the tree, which tells settings from sections.
        environ: the variables; empty ones count as unset.

    Raises:
        SettingsError: a variable stands for a whole section and its text is no JSON object.
    """
    tree: dict[str, Any] = {}
    origins: Origins = {}
    ours = (name for name in environ if name.upper().startswith(PREFIX) and environ[name])
    for name in sorted(ours, key=lambda name: name.count(NESTED)):  # whole sections before what refines them
        path, is_section = _path(kind, name[len(PREFIX) :])
        value = _object(name, environ[name]) if is_section else environ[name]
        _put(tree, path, value)
        origins[path] = Origin(name, None if is_section else environ[name])
    for path, name, text in _generic(environ, tree.get("redis", {})):
        if text and not _has(tree, path):
            _put(tree, path, text)
            origins[path] = Origin(name, environ[name])
    return tree, origins


def _path(tree: type[BaseModel], suffix: str) -> tuple[tuple[str, ...], bool]:
    """Return the path that a variable names, and whether a whole section is there."""
    kind: type[BaseModel] | None = tree
    path: tuple[str, ...] = ()
    for part in suffix.split(NESTED):
        if path == (MODELS,):  # the names of models keep their case
            path = (MODELS, part)
        elif kind is None:  # deeper than the tree: an unknown setting, and reported as such
            return (suffix.lower(),), False
        else:
            path = (*path, part.lower())
            kind = section_of(kind.model_fields.get(part.lower()))
    return path, kind is not None


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SettingsError(f"{name}: expected a JSON object; one setting of it is {name}{NESTED}...", variable=name)
    return value


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[path[-1]] = value


def _has(tree: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _generic(environ: Mapping[str, str], redis: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield (path, variable, value) for the generic variables that apply beside what `redis` says already."""
    located = bool(redis.get("url") or redis.get("addresses"))
    mode = redis.get("mode")
    if mode is None and not located and environ.get("SENTINEL_ADDRS"):
        mode = "sentinel"
        yield ("redis", "mode"), "SENTINEL_ADDRS", mode
    master = environ.get("REDIS_MASTER_ADDR")
    for name, sets, _ in GENERIC:
        text = environ.get(name, "")
        if name.startswith("SENTINEL_") and mode != "sentinel":
            continue
        if name == "REDIS_MASTER_ADDR":
            if located or not master or mode in ("sentinel", "embedded"):
                continue
            text = f"redis://{master}"
        yield tuple(sets.split(".")), name, text
