"""What can be said of a model or a function when it is declared, and how one saying overrides another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict

from . import tiers
from .codecs import Codec, register
from .durations import Duration, seconds
from .errors import DeclarationError, SettingsError, nearest
from .requests import ALL_TIERS


@dataclass(frozen=True, slots=True)
class Options:
    """Declared options; None means that nothing was said.

    Attributes:
        ttl: seconds.
        tags: tag templates.
        grace: seconds past `ttl` for which a value may be served when the loader fails.
        refresh_ahead: share of `ttl` after which a hit starts one refresh in the background.
        jitter: share of `ttl` by which it is shortened at random.
        tiers: the tiers that may hold the value.
        negative_ttl: seconds for which None, or an absent key of a batch, is kept.
        consistency: `"strong"` has every call ask the shared tier; `"bounded"` is the default.
        soft_timeout: seconds after which a value in its grace is returned while the load goes on.
        hard_timeout: seconds that a load may take.
        max_concurrent_loads: how many loads of the function may run at once in a process.
        condition: given arguments of the function by their names, returns whether the call uses the cache.
        skip_if: given a loaded value, returns whether it is not to be stored.
        shadow: share of the calls in which the cache is tried and compared with the loader, without ever answering.
        codec: how values become bytes; None is what the cache's settings say.
    """

    ttl: float | None = None
    tags: tuple[str, ...] | None = None
    grace: float | None = None
    refresh_ahead: float | None = None
    jitter: float | None = None
    tiers: frozenset[str] | None = None
    negative_ttl: float | None = None
    consistency: str | None = None
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    max_concurrent_loads: int | None = None
    condition: Callable[..., Any] | None = None
    skip_if: Callable[[Any], Any] | None = None
    shadow: float | None = None
    codec: Codec | None = None

    def over(self, base: Options) -> Options:
        """Return these options with what they leave open taken from `base`."""
        said = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(base, **said)

    def check_timeouts(self, owner: str) -> None:
        """Refuse time-outs that cannot do what they say.

        Raises:
            DeclarationError: there is nothing to answer with after the soft one, or it comes after the hard one.
        """
        soft, hard = self.soft_timeout, self.hard_timeout
        if soft is not None and not self.grace:
            raise DeclarationError(
                f"{owner}: soft_timeout={soft:g} needs grace: after it a value in its grace is returned, and without "
                f"grace there is none; say how long one may stand in, such as grace='5m'"
            )
        if soft is not None and hard is not None and soft >= hard:
            raise DeclarationError(f"{owner}: soft_timeout={soft:g} must be shorter than hard_timeout={hard:g}")


class OptionKeywords(TypedDict, total=False):
    """The options that every declaration takes, as keywords; `Options` says what they mean."""

    ttl: Duration | None
    tags: Sequence[str] | None
    grace: Duration | None
    refresh_ahead: float | None
    jitter: float | None
    tiers: Iterable[str] | None
    negative_ttl: Duration | None
    consistency: Literal["bounded", "strong"] | None
    soft_timeout: Duration | None
    hard_timeout: Duration | None
    max_concurrent_loads: int | None
    condition: Callable[..., bool] | None
    skip_if: Callable[[Any], bool] | None
    shadow: float | None
    codec: Codec | None


KEYWORDS = tuple(field.name for field in fields(Options))


def parse_options(given: Mapping[str, Any], *, owner: str, also: Iterable[str] = ()) -> Options:
    """Return checked options.

    Args:
        given: the keywords as they were written.
        owner: what is being declared, for the message.
        also: further keywords that the declaration takes itself, for the suggestion.

    Raises:
        DeclarationError: a keyword is unknown or its value is wrong.
    """
    known = (*KEYWORDS, *also)
    for keyword in given:
        if keyword not in KEYWORDS:
            raise DeclarationError(f"{owner}: unknown option {keyword!r}{nearest(keyword, known)}")
    checked: dict[str, Any] = {}
    for keyword, value in given.items():
        if value is not None:
            try:
                checked[keyword] = _CHECKS[keyword](keyword, value)
            except DeclarationError as error:
                raise DeclarationError(f"{owner}: {error}") from error
    return Options(**checked)


def _ttl(what: str, value: Duration) -> float:
    result = seconds(value, what=what)
    if result == 0:
        raise DeclarationError(f"{what}={value!r}: a ttl must be longer than zero; to store nothing, do not decorate")
    return result


def _duration(what: str, value: Duration) -> float:
    return seconds(value, what=what)


def _share(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise DeclarationError(f"{what}={value!r}: expected a share from 0 to less than 1, such as 0.8")
    return float(value)


def _tags(what: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DeclarationError(f"{what}={value!r}: expected a list of templates, such as ['node:<node_id>']")
    tags = tuple(value)
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise DeclarationError(f"{what}: {tag!r} is not a tag template; expected text such as 'node:<node_id>'")
    return tags


def _tiers(what: str, value: Any) -> frozenset[str]:
    if not isinstance(value, Iterable):
        raise DeclarationError(f"{what}={value!r}: expected a list of tiers, such as ['memory', 'redis']")
    names, known = (value,) if isinstance(value, str) else tuple(value), ALL_TIERS | tiers.names()
    for name in names:
        if name not in known:
            raise DeclarationError(f"{what}: no tier is called {name!r}{nearest(str(name), known)}")
    if not names:
        raise DeclarationError(f"{what}: name at least one of {', '.join(sorted(ALL_TIERS))}")
    return frozenset(names)


def _limit(what: str, value: Duration) -> float:
    result = seconds(value, what=what)
    if result == 0:
        raise DeclarationError(f"{what}={value!r}: expected more than zero seconds; leave it out for no time-out")
    return result


def _count(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DeclarationError(f"{what}={value!r}: expected a whole number from 1 on; leave it out for no bound")
    return value


def _shadow(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DeclarationError(
            f"{what}={value!r}: expected the share of calls to try the cache in, above 0 and up to 1; 0 has it answer"
        )
    return float(value)


def _codec(what: str, value: Any) -> Codec:
    if not isinstance(value, Codec):
        hint = f"; give an instance, {value.__qualname__}()" if isinstance(value, type) else ""
        raise DeclarationError(f"{what}={value!r}: expected a codec, such as novacron_cache.codecs.MSGPACK{hint}")
    try:
        return register(value)  # what is read has to be found by the number that travels with it
    except SettingsError as error:
        raise DeclarationError(str(error)) from error


def _condition(what: str, value: Any) -> Callable[..., Any]:
    return _predicate(
        what, value, "the function's arguments by their names, such as condition=lambda vm_id: bool(vm_id)"
    )


def _skip_if(what: str, value: Any) -> Callable[[Any], Any]:
    function = _predicate(what, value, "the loaded value, such as skip_if=lambda state: state.status == 'unknown'")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise DeclarationError(
            f"{what}: `{name_of_callable(function)}` is called with the loaded value: {error}"
        ) from None
    except ValueError:  # a builtin that does not say what it takes
        pass
    return function


def _predicate(what: str, value: Any, takes: str) -> Callable[..., Any]:
    if not callable(value):
        raise DeclarationError(f"{what}={value!r}: expected a function that is given {takes}")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004
        raise DeclarationError(
            f"{what}: `{name_of_callable(value)}` is asynchronous; what it returns would always count as true. "
            f"Use a plain function"
        )
    return value  # type: ignore[no-any-return]  # checked to be callable


def name_of_callable(function: Any) -> str:
    """Return the name of a function as messages give it."""
    return str(getattr(function, "__qualname__", repr(function)))


def _consistency(what: str, value: Any) -> str:
    if value not in ("bounded", "strong"):
        raise DeclarationError(f"{what}={value!r}: expected 'bounded' or 'strong'")
    return str(value)


_CHECKS = {
    "ttl": _ttl,
    "tags": _tags,
    "grace": _duration,
    "refresh_ahead": _share,
    "jitter": _share,
    "tiers": _tiers,
    "negative_ttl": _duration,
    "consistency": _consistency,
    "soft_timeout": _limit,
    "hard_timeout": _limit,
    "max_concurrent_loads": _count,
    "condition": _condition,
    "skip_if": _skip_if,
    "shadow": _shadow,
    "codec": _codec,
}
