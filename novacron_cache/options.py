"""What can be said of a model or a function when it is declared, and how one saying overrides another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .durations import Duration, seconds
from .errors import DeclarationError, nearest
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
    """

    ttl: float | None = None
    tags: tuple[str, ...] | None = None
    grace: float | None = None
    refresh_ahead: float | None = None
    jitter: float | None = None
    tiers: frozenset[str] | None = None
    negative_ttl: float | None = None
    consistency: str | None = None

    def over(self, base: Options) -> Options:
        """Return these options with what they leave open taken from `base`."""
        said = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(base, **said)


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
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if name not in ALL_TIERS:
            raise DeclarationError(f"{what}: no tier is called {name!r}{nearest(str(name), ALL_TIERS)}")
    if not names:
        raise DeclarationError(f"{what}: name at least one of {', '.join(sorted(ALL_TIERS))}")
    return frozenset(names)


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
}
