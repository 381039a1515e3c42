"""The arguments of a cache's methods, checked, and what they name as templates, tags, items and invalidations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, Literal, TypeAlias

from ..declaring import name_of
from ..durations import Duration
from ..errors import DeclarationError, TemplateError, nearest
from ..flows.invalidating import Invalidation
from ..keys import KeyTemplate

Durability: TypeAlias = Literal["acknowledged", "replicated"]
Consistency: TypeAlias = Literal["bounded", "strong"]
ValuesReader: TypeAlias = Callable[[Mapping[str, str] | None], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class CacheItem:
    """A value with its own ttl and tags, for `set_many`.

    Attributes:
        value: the value.
        ttl: its lifetime; None takes the one given to `set_many`.
        tags: its tags, beside those given to `set_many`.
    """

    value: Any
    ttl: Duration | None = None
    tags: Sequence[str] = ()


def checked_keys(keys: Iterable[str]) -> Iterable[str]:
    """Return keys, having refused a text where several are meant."""
    if isinstance(keys, str):
        raise TypeError(f"keys={keys!r}: expected a list of keys")
    return keys


def checked_tags(tags: Iterable[str]) -> Iterable[str]:
    """Return tags, having refused a text where several are meant, and what is no text."""
    if isinstance(tags, str):
        raise TypeError(f"tags={tags!r}: expected a list of tags")
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"a tag is text, not {type(tag).__name__}")
    return tags


def items_of(items: Mapping[str, Any], ttl: Duration | None, tags: Iterable[str]) -> list[tuple[str, CacheItem]]:
    """Return what `set_many` stores, each item with the ttl and the tags that are given for all."""
    shared = tuple(checked_tags(tags))
    result = []
    for key, value in items.items():
        item = value if isinstance(value, CacheItem) else CacheItem(value)
        result.append(
            (key, CacheItem(item.value, ttl if item.ttl is None else item.ttl, (*shared, *checked_tags(item.tags))))
        )
    return result


def rendered(texts: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Return texts, or as templates filled with the values where there are any."""
    templates = templates_of(texts, values)
    return [template.build(values) for template in templates] if values else list(texts)


def templates_of(texts: Sequence[Any], values: Mapping[str, Any]) -> list[KeyTemplate]:
    """Return the templates of what is invalidated, having checked that each value has its place in one of them."""
    for text in texts:
        if not isinstance(text, str):
            fix = "; pass them one by one, or as *names" if isinstance(text, list | tuple | set | frozenset) else ""
            raise TypeError(f"what is invalidated is named by text, not by {type(text).__name__}{fix}")
    if not values:
        return []
    templates = [KeyTemplate.parse(text) for text in texts]
    roots = {root for template in templates for root in template.roots}
    for name in values:
        if name not in roots:
            raise TemplateError(
                f"{name}= has no place in {', '.join(map(repr, texts)) or 'nothing'}{nearest(name, roots)}",
                template=texts[0] if texts else "",
            )
    return templates


def tagged(tags: Sequence[str], values: Mapping[str, Any], match: str) -> Invalidation:
    """Return the invalidation of any of these tags, or of all together."""
    if match not in ("any", "all"):
        raise DeclarationError(f"match={match!r}: expected 'any' or 'all'")
    return Invalidation.tags(rendered(tags, values), match_all=match == "all")


def patterned(pattern: str, values: Mapping[str, Any]) -> Invalidation:
    """Return the invalidation of a pattern, wildcards in the values being literal."""
    templates = templates_of([pattern], values)
    return Invalidation.pattern(templates[0].glob(values) if templates else pattern)


def durable(invalidation: Invalidation, durability: str) -> Invalidation:
    """Return an invalidation that asks for as many replicas as its durability says."""
    if durability not in ("acknowledged", "replicated"):
        raise DeclarationError(f"durability={durability!r}: expected 'acknowledged' or 'replicated'")
    if durability == "replicated":
        invalidation.replicas = 1
    return invalidation


def all_named(
    keys: tuple[str, ...], tags: tuple[str, ...], model: Any, pattern: str | None, values: Mapping[str, Any]
) -> Invalidation:
    """Return one invalidation of everything that a call names, each template filled with the values."""
    patterns = () if pattern is None else (pattern,)
    templates_of((*keys, *tags, *patterns), values)  # each value has its place in one of them
    fill = partial(filled, values=values)
    parts = [Invalidation.keys(map(fill, keys)), Invalidation.tags(map(fill, tags))]
    if model is not None:
        parts.append(Invalidation.model(name_of(model)))
    parts += [Invalidation.pattern(KeyTemplate.parse(text).glob(values) if values else text) for text in patterns]
    named = reduce(add, filter(None, parts), Invalidation("several", ()))
    if not named:
        raise DeclarationError("name what is about to change: keys=[...], tags=[...], model= or pattern='vm:*'")
    return named


def filled(text: str, *, values: Mapping[str, Any]) -> str:
    """Return a text, or as a template filled with the values where there are any."""
    return KeyTemplate.parse(text).build(values) if values else text


def is_strong(consistency: str) -> bool:
    """Return whether a consistency is the strong one."""
    if consistency not in ("bounded", "strong"):
        raise DeclarationError(f"consistency={consistency!r}: expected 'bounded' or 'strong'")
    return consistency == "strong"


def values_reader(model: Any, names: Iterable[str]) -> ValuesReader:
    """Return what reads the values of a model's key fields from their text; None where they do not fit.

    Args:
        model: the model; its fields say the types.
        names: the fields that the key names.
    """
    from pydantic import TypeAdapter, ValidationError

    readers: dict[str, Callable[[str], Any]] = {}
    for name in names:
        field = model.model_fields.get(name)
        if field is None:
            return lambda texts: None
        readers[name] = TypeAdapter(field.annotation).validate_strings

    def read(texts: Mapping[str, str] | None) -> dict[str, Any] | None:
        if texts is None:
            return None
        try:
            return {name: readers[name](text) for name, text in texts.items()}
        except ValidationError:
            return None

    return read
