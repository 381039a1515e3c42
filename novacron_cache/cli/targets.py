"""How a command finds the cache it is about, and what it says when there is none.

Three ways, the same for every command. `--app` names a module of the application, or a cache in it, and so brings its
functions and models along. `--url`, `--namespace` and `--disk` say where the data is. Without any, the environment
does, as for the application itself; the options above come before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from .. import Cache, CacheSettings

__all__ = [
    "MAX_SCANNED",
    "CannotStart",
    "Target",
    "cache_of",
    "controllers_of",
    "default_of_environment",
    "directory_of",
    "explained",
    "found_at",
    "imported",
    "json_option",
    "opened",
    "require_answer",
    "said",
    "settings_of",
    "target_options",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_PREFIX: Final = "NOVACRON_CACHE_"
_ELSEWHERE: Final = ("REDIS__ADDRESSES", "REDIS__SENTINEL_MASTER", "REDIS__ENABLED")


MAX_SCANNED: Final = 1_000_000
"""How many keys of a tier are gone through unless more are asked for."""


class CannotStart(click.ClickException):
    """The command cannot do its work; the message says what to do."""

    exit_code = 2


class Target(NamedTuple):
    """What the options say about where the cache is.

    Attributes:
        app: `module` or `module:attribute`.
        url: of a server.
        namespace: of the application.
        disk: the directory of the disk tier.
        environ: the environment.
    """

    app: str | None = None
    url: str | None = None
    namespace: str | None = None
    disk: Path | None = None
    environ: Mapping[str, str] = os.environ


def target_options(command: _Command) -> _Command:
    """Give a command the options that say where the cache is; it gets them as one `Target`, called `target`."""
    from functools import update_wrapper

    def gathered(*args: Any, **kwargs: Any) -> Any:
        target = Target(*(kwargs.pop(name) for name in ("app", "url", "namespace", "disk")))
        return command(*args, target=target, **kwargs)

    decorated: Any = update_wrapper(gathered, command)
    for option in (
        click.option("--disk", type=click.Path(path_type=Path), help="The directory of the disk tier."),
        click.option("--namespace", help="The application's namespace.  [env: NOVACRON_CACHE_NAMESPACE]"),
        click.option("--url", help="The server: redis://, rediss:// or unix://.  [env: NOVACRON_CACHE_REDIS__URL]"),
        click.option("--app", metavar="MODULE[:CACHE]", help="The application's module, or a cache in it."),
    ):
        decorated = option(decorated)
    wrapped: _Command = decorated
    return wrapped


def json_option(command: _Command) -> _Command:
    """Give a command `--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")(command)


def said(error: BaseException) -> str:
    """Return what an error says, on one line, and without what could speak to a terminal."""
    from ..keys import printable

    return printable(" ".join(str(error).split())) or type(error).__name__


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error of the cache into one line and the exit code 2."""
    from ..errors import CacheError

    try:
        yield
    except CacheError as error:
        raise CannotStart(said(error)) from error


# -- the cache --------------------------------------------------------------------------------------------------------


def settings_of(target: Target) -> CacheSettings:
    """Return the settings that the options and the environment describe.

    Raises:
        SettingsError: a setting is wrong, or nothing says where the cache is.
    """
    from .. import CacheSettings, SettingsError

    environ = dict(target.environ)

    def say(name: str, value: str) -> None:
        environ[_PREFIX + name] = value

    if target.url is not None:
        for name in _ELSEWHERE:
            environ.pop(_PREFIX + name, None)
        if environ.get(_PREFIX + "REDIS__MODE") != "cluster":
            environ.pop(_PREFIX + "REDIS__MODE", None)
        if "@" in target.url:  # it brings its own credentials
            environ.pop(_PREFIX + "REDIS__USERNAME", None)
            environ.pop(_PREFIX + "REDIS__PASSWORD", None)
        say("REDIS__URL", target.url)
    if target.disk is not None:
        environ.pop(_PREFIX + "DISK__ENABLED", None)
        say("DISK__PATH", str(target.disk))
    if target.namespace is not None:
        say("NAMESPACE", target.namespace)
    settings = CacheSettings.from_env(environ)
    if not settings.redis_on and not settings.disk_on:
        raise SettingsError(
            "nothing says where the cache is: give --url and --namespace, --disk and --namespace, or --app, or set "
            "NOVACRON_CACHE_REDIS__URL and NOVACRON_CACHE_NAMESPACE"
        )
    return settings


@contextmanager
def opened(target: Target, *, reachable: bool = True) -> Iterator[Cache]:
    """Open the cache that the options name, for the length of a block; what goes wrong with it ends the command.

    Args:
        target: what the options say.
        reachable: whether the tier that keeps the markers has to answer.

    Raises:
        CannotStart: there is no such cache, or it does not answer.
    """
    from .. import Cache

    with explained():
        if target.app is not None:
            if target.url or target.namespace or target.disk:
                raise CannotStart("--app brings its own settings; leave out --url, --namespace and --disk")
            cache = cache_of(target.app, "--app")
        else:
            cache = Cache(_without_missing_disk(settings_of(target)))
        with cache:
            if cache.engine.authority is None:
                raise CannotStart("the cache is process memory alone, which no other process can see into")
            if reachable:
                require_answer(cache.engine.authority)
            yield cache


def _without_missing_disk(settings: CacheSettings) -> CacheSettings:
    """Return the settings without a directory that is not there: to look into it must not create it.

    Raises:
        CannotStart: there is nothing else to look into.
    """
    directory = directory_of(settings)
    if not settings.disk_on or directory.is_dir():
        return settings
    if not settings.redis_on:
        raise CannotStart(f"there is no directory {directory}; name the one the application uses")
    click.echo(f"there is no directory {directory}; this is about the server alone", err=True)
    return settings.model_copy(update={"disk": type(settings.disk)()})


def directory_of(settings: CacheSettings) -> Path:
    """Return the directory of the disk tier as the tier itself reads its setting, with variables filled in."""
    return Path(os.path.expandvars(Path(settings.disk.path or "").expanduser()))


def require_answer(authority: Any) -> None:
    """Raise TierError where the tier does not answer: a command must not take that for an empty one."""
    from ..effects import Fetch
    from ..markers import NAMESPACE

    authority.perform(Fetch([], [NAMESPACE]))


def cache_of(target: str, hint: str) -> Cache:
    """Return the cache of `module` or `module:attribute`, with the functions bound to it that load its values.

    Args:
        target: a module whose functions or models share a cache, or a cache in a module.
        hint: the option or argument that messages name.

    Raises:
        click.BadParameter: there is no such module or cache.
        CannotStart: the functions do not share a cache.
    """
    from .. import Cache
    from ..declaring import all_controllers, declared, models_with_loaders
    from ..errors import CacheError

    name = target.partition(":")[0]
    found = found_at(target, hint)
    if not isinstance(found, Cache) and type(found).__name__ != "module":
        raise click.BadParameter(
            f"{target} is neither a module nor a Cache, but of type {type(found).__name__}", param_hint=hint
        )
    inside = getattr(found, "__name__", "")
    default = default_of_environment()
    chosen: dict[int, tuple[Cache, Any]] = {}
    models = models_with_loaders()
    try:
        for controller in all_controllers():
            if controller.given_cache is not None and controller.given_cache.closed:
                continue
            if isinstance(found, Cache):
                if (controller.given_cache or default) is found:
                    controller.bind()
            elif within(controller.function.__module__, inside):
                cache = controller.bind()
                chosen[id(cache)] = cache, controller
        if not isinstance(found, Cache):
            models = [model for model in models if within(model.__module__, inside)]
    except CacheError as error:
        raise CannotStart(said(error)) from error
    if isinstance(found, Cache):
        cache = found
    elif len(chosen) > 1:
        labels = " and ".join(controller.label for _, controller in chosen.values())
        raise CannotStart(f"{labels} use different caches; name one of them: {name}:CACHE")
    elif chosen:
        ((cache, _),) = chosen.values()
    elif models:
        cache = default
    else:
        raise CannotStart(f"{name} has no cached function and no model with a loader")
    for model in models:
        cache.plan(declared(model))
    return cache


def controllers_of(cache: Cache, app: str | None) -> list[Any]:
    """Return what stands behind each cached function of a cache that the application's module brought along."""
    from ..declaring import all_controllers

    if app is None:
        return []
    found = [one for one in all_controllers() if one.cache is cache]
    return sorted(found, key=lambda controller: str(controller.label))


def found_at(target: str, hint: str) -> Any:
    """Return the module, or what is in it, that `module` or `module:attribute` names.

    Raises:
        click.BadParameter: there is none; the message says which part is missing.
    """
    from ..errors import nearest

    name, _, attribute = target.partition(":")
    found: Any = imported(name, hint)
    for part in attribute.split(".") if attribute else ():
        if not hasattr(found, part):
            known = [one for one in dir(found) if not one.startswith("_")]
            text = f"{getattr(found, '__name__', found)} has no attribute {part!r}{nearest(part, known)}"
            raise click.BadParameter(text, param_hint=hint)
        found = getattr(found, part)
    return found


def imported(name: str, hint: str) -> Any:
    """Import a module, also from the current directory, as the interpreter does for `python -m`."""
    import sys
    from importlib import import_module

    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return import_module(name)
    except Exception as error:
        text = f"{name!r} cannot be imported: {type(error).__name__}: {said(error)}"
        raise click.BadParameter(text, param_hint=hint) from error


def within(module: str | None, package: str) -> bool:
    """Return whether a module is a package or inside it; what was made outside of any module is in none."""
    return module is not None and (module == package or module.startswith(package + "."))


def default_of_environment() -> Cache:
    """Return the default cache; where the module has not configured one with a server, that of the environment."""
    from .. import Cache, CacheSettings, SettingsError, configure, default_cache

    cache = default_cache()
    if not cache.engine.shared:
        try:
            settings = CacheSettings.from_env()
            if settings.redis.on or settings.disk.on:
                cache = configure(Cache(settings))
        except SettingsError as error:
            raise CannotStart(said(error)) from error
    return cache
