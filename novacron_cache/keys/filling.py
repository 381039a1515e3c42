"""Keys that differ in one value: what stands around it is written once, and each value put between.

A batch asks for a thousand keys of one template. Written one by one they take longer than it takes to read what they
stand for. Where all values are text that nothing has to be escaped in, or all are whole numbers, that is seen by one
look at all of them; for anything else there is no short way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .stored import MAX_STORED_LENGTH, stored_name
from .templates import KeyTemplate
from .values import is_plain

__all__ = ["Filled", "Texts", "fill"]


class Texts(NamedTuple):
    """The texts of several values of one type.

    Attributes:
        kind: the type.
        plain: as users see them.
        injective: as they stand in stored keys.
    """

    kind: type
    plain: list[str]
    injective: list[str]

    @classmethod
    def of(cls, values: Collection[Any]) -> Texts | None:
        """Return the texts of values; None where they have to be looked at one by one."""
        kinds = set(map(type, values))
        if kinds == {str}:
            plain = list(values)
            return cls(str, plain, plain) if is_plain("".join(plain)) else None
        if kinds == {int}:
            try:
                plain = list(map(str, values))
            except ValueError:  # more digits than the interpreter writes
                return None
            return cls(int, plain, ["~i" + text for text in plain])
        return None


class Filled(NamedTuple):
    """Keys that differ in one value.

    Attributes:
        keys: the stored keys.
        logical: the texts around each place of the value in the logical key, all else filled in.
    """

    keys: list[str]
    logical: list[str]


def fill(name: str, template: KeyTemplate, root: str, texts: Texts, values: Mapping[str, Any]) -> Filled | None:
    """Return the keys of values; None where they have to be written one by one.

    Args:
        name: the name of the model or function, as for `stored_key`.
        template: the key's template.
        root: what the values are for.
        texts: the values.
        values: what fills the other placeholders.

    Raises:
        KeyValueError: one of those has no stable text, or is not what its converter takes.
    """
    around = template.around(root, texts.kind, values)
    if around is None:
        return None
    plain, injective = around
    injective[0] = stored_name(name) + injective[0]
    longest = max(map(len, texts.injective)) * (len(injective) - 1) + sum(map(len, injective))
    if longest > MAX_STORED_LENGTH:
        return None
    return Filled([text.join(injective) for text in texts.injective], plain)
