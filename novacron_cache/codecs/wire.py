"""The declared type as it goes over the wire: the same type, minus what loses information there.

A pydantic model is configured for its users: aliases, computed fields, NaN as null, bytes as text. In a cache each of
these costs a value or a round trip. So the type's own schema is taken and, in a copy, fields are known by name alone,
computed fields are dropped, bytes travel as base64, and infinities and spans of time in a form that can be read back.
The copy makes real instances of the declared classes; the classes themselves are not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeGuard

from pydantic import TypeAdapter
from pydantic_core import SchemaSerializer, SchemaValidator

Node = dict[str, Any]
"""One node of a pydantic core schema."""

_CONFIG: Final[Node] = {
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "constants",
    "ser_json_timedelta": "iso8601",
    "ser_json_temporal": "iso8601",
    # What a validation error says ends in logs, where cached values have no business.
    "hide_input_in_errors": True,
}
_CONFIGURED: Final = frozenset({"model", "dataclass", "typed-dict"})
_ALIASES: Final = frozenset({"validation_alias", "serialization_alias"})
_OPAQUE: Final = frozenset({"default", "metadata", "expected", "members"})
"""Keys of a node that hold the user's own objects."""


def is_node(part: Any) -> TypeGuard[Node]:
    """Return whether a part of a core schema is a node, and not a mapping of names to nodes."""
    return type(part) is dict and isinstance(part.get("type"), str)


def rewrite(part: Any, change: Callable[[Node], Node]) -> Any:
    """Return a copy of a core schema in which each node is replaced by what `change` makes of it, innermost first."""
    if is_node(part):
        return change({key: each if key in _OPAQUE else rewrite(each, change) for key, each in part.items()})
    if type(part) is dict:
        return {key: rewrite(each, change) for key, each in part.items()}
    if type(part) is list or type(part) is tuple:
        return type(part)([rewrite(each, change) for each in part])
    return part


def _by_name(node: Node) -> Node:
    if node["type"].endswith("-field"):
        return {key: each for key, each in node.items() if key not in _ALIASES}
    if "computed_fields" in node:
        node["computed_fields"] = []
    if node["type"] in _CONFIGURED:
        node["config"] = {**node.get("config", {}), **_CONFIG}
    return node


def _instances(node: Node) -> Node:
    if node["type"] == "json":
        inner: Node = node.get("schema", {"type": "any"})
        return inner
    if node["type"] not in {"model", "dataclass"}:
        return node
    return {"type": "is-instance", "cls": node["cls"], **({"ref": node["ref"]} if "ref" in node else {})}


class Wire:
    """A declared type as codecs see it.

    Attributes:
        schema: the type's own core schema, unchanged.
        serializer: writes values.
        validator: reads values.
        by_name: whether the schema could be copied; else the type's own serializer and validator are used, and
            round trips have to be checked value by value.
    """

    __slots__ = ("_checker", "by_name", "schema", "serializer", "validator")

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self.schema: Node = dict(adapter.core_schema)
        self._checker: SchemaValidator | None = None
        self.serializer: Any = adapter.serializer
        self.validator: Any = adapter.validator
        self.by_name = False
        copy = rewrite(self.schema, _by_name)
        try:
            # Without the flag the core would take the classes' own, unchanged parts from its store.
            self.serializer = SchemaSerializer(copy, _core_config(), _use_prebuilt=False)
            self.validator = SchemaValidator(copy, _core_config(), _use_prebuilt=False)
        except TypeError:
            return
        self.by_name = True

    def check(self, value: Any) -> None:
        """Raise pydantic's ValidationError unless a value is of the declared type already, by strict rules.

        Models and dataclasses must be instances; unlike pydantic's strict mode, a dict does not stand for one.
        """
        checker = self._checker
        if checker is None:
            checker = self._checker = SchemaValidator(rewrite(self.schema, _instances), _core_config())
        checker.validate_python(value, strict=True, by_alias=False, by_name=True)


def _core_config() -> Any:
    return dict(_CONFIG)
